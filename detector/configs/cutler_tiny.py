# CutLER's recipe at the size of tiny, to hold tiny against (benchmarks/train_detectors.py).
_base_ = ["tiny.py"]
model = dict(roi_head=dict(mask_head=dict(use_confidence=False)))
train_pipeline = [
    dict(type="LoadPhoto"),
    dict(type="LoadConfidenceMasks", floor=0.0),
    dict(type="PlainCopyPaste", ratio=(0.3, 1.0)),
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
