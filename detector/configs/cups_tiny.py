# CUPS at a size that trains in minutes on two cores, without any weights.
# What CI trains, and a first run through everything; no detector to use. Without DropLoss: decision 36 says why.
_base_ = ["cups_r50_fpn.py"]

channels = 48
model = dict(
    data_preprocessor=dict(
        scales=[(2 * short, short) for short in (128, 160, 192)],
        photometric=dict(blur=(0.1, 0.5), kernel=3),
    ),
    backbone=dict(
        depth=18,
        base_channels=32,
        stem_channels=32,
        norm_cfg=dict(type="BN"),
        init_cfg=None,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels, norm_cfg=dict(type="BN")),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=[
            dict(head, in_channels=channels, fc_out_channels=128, drop_threshold=None)
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(num_convs=2, in_channels=channels, conv_out_channels=channels),
    ),
    semantic_head=dict(in_channels=channels, inner_channels=32, norm_cfg=dict(num_groups=8)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=300),
        rcnn=[dict(stage, sampler=dict(stage.sampler, num=32)) for stage in _base_.model.train_cfg.rcnn],
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=300)),
)

train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type="Resize", scale=(320, 160), keep_ratio=True),
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=train_pipeline))
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type="Resize", scale=(320, 160), keep_ratio=True),
    _base_.test_pipeline[2],
]

train_cfg = dict(max_iters=200, val_interval=200)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=50))
custom_hooks = [
    *_base_.custom_hooks[:2],
    dict(type="PreciseBN", batches=20),
    dict(_base_.custom_hooks[2], start=100, min_side=8),
]
