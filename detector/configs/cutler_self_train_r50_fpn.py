# A round of self-training by CutLER's recipe: plain copy-paste, nothing of the confidence.
_base_ = ["self_train_r50_fpn.py"]
model = dict(roi_head=dict(mask_head=dict(use_confidence=False)))
train_pipeline = [
    dict(type="LoadPhoto"),
    dict(type="LoadConfidenceMasks", floor=0.0),
    dict(type="PlainCopyPaste", ratio=(0.5, 1.0)),
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
