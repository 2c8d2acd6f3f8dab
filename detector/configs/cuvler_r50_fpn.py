# CuVLER's class-agnostic detector: CutLER's, which believes a mask as far as it was voted for.
# On a run of recipe votecut. arXiv 2403.07700, 8 GPUs × 2 images, half of CutLER's steps at one learning rate. A mask's
# score by the best of its image is the soft target of the class, and weighs its box and mask losses.
_base_ = ["cutler_r50_fpn.py"]
model = dict(
    roi_head=dict(
        bbox_head=[dict(head, use_scores=True) for head in _base_.model.roi_head.bbox_head],
        mask_head=dict(use_scores=True),
    )
)
train_pipeline = [
    *_base_.train_pipeline[:5],
    dict(_base_.train_pipeline[5], type="FilterScored"),
    dict(type="PackScored"),
]
filters = dict(max_per_image=None)  # [CuVLER] all masks: those that few voted for count little
train_dataloader = dict(dataset=dict(filters=filters, pipeline=train_pipeline))
train_cfg = dict(max_iters=80000, val_interval=80000)  # [CuVLER] its YAML
param_scheduler = [dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000)]  # [CuVLER] no decay
