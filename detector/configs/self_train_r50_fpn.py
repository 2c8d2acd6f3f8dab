# A round of self-training by CutS3D's recipe, from the detector of the round before.
# On that detector's own masks, and from its weights (--init-from). The settings are CutLER's for it:
# [CutLER] cascade_mask_rcnn_R_50_FPN_self_train.yaml. 8 GPUs × 2 images.
_base_ = ["cuts3d_r50_fpn.py"]
model = dict(
    backbone=dict(init_cfg=None),
    roi_head=dict(
        bbox_head=[dict(head, drop_threshold=None) for head in _base_.model.roi_head.bbox_head]  # [CutLER] no DropLoss
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=1000, nms=dict(iou_threshold=0.7))),  # [CutLER] detectron2's own
    test_cfg=dict(rpn=dict(nms=dict(iou_threshold=0.7))),
)
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(_base_.train_pipeline[2], ratio=(0.5, 1.0)),  # [CutLER]
    *_base_.train_pipeline[3:],
]
# [CutLER] all that the round keeps: what a detector is sure of, and what of the masks before it does not contradict
filters = dict(max_per_image=None)
train_dataloader = dict(dataset=dict(filters=filters, pipeline=train_pipeline))
train_cfg = dict(max_iters=80000, val_interval=80000)  # [CutLER]
optim_wrapper = dict(optimizer=dict(lr=0.005, weight_decay=1e-4))  # [CutLER], the second by detectron2's default
param_scheduler = [dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000)]  # [CutLER] no decay
custom_hooks = [dict(type="StartFrom", checkpoint=None), *_base_.custom_hooks]
