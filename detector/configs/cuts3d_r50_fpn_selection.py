# Ablation, row 2: the surest masks are pasted, unblended; nothing in the loss.
# Row 1, nothing of the confidence, is cutler_r50_fpn; row 4, all three uses, is cuts3d_r50_fpn.
_base_ = ["cuts3d_r50_fpn.py"]
model = dict(roi_head=dict(mask_head=dict(use_confidence=False)))
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(_base_.train_pipeline[2], blend=False),
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
