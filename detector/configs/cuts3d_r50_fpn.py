# CutS3D's class-agnostic detector: CutLER's, with the Spatial Confidence put to three uses.
# arXiv 2411.16319, 8 GPUs × 2 images. The paper gives neither the share that is pasted nor the floor: docs/detector.md.
_base_ = ["cutler_r50_fpn.py"]
model = dict(roi_head=dict(mask_head=dict(use_confidence=True)))  # (iii) the soft-target loss
train_pipeline = [
    dict(type="LoadPhoto"),
    dict(type="LoadConfidenceMasks", floor=0.5),
    # (i) the surest masks are pasted, (ii) and blended in by the confidence of each pixel
    dict(type="ConfidentCopyPaste", ratio=(0.3, 1.0), share=0.5, blend=True),
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
