# CUPS: self-training of a panoptic detector by a momentum teacher. CVPR 2025, stage 3.
# From that detector's weights (--init-from), on the photos of a run alone: the teacher makes the labels. [CUPS] its
# released configuration and code. `cuts3d self-train` does this in rounds.
_base_ = ["cups_r50_fpn.py"]
model = dict(
    heads_only=True,  # [CUPS] of heads what is no norm
    data_preprocessor=dict(crop=(512, 1024), min_pixels=5),  # [CUPS] of photos 1024 high; the same size for a batch
    backbone=dict(init_cfg=None),
    roi_head=dict(
        bbox_head=[dict(head, drop_threshold=None) for head in _base_.model.roi_head.bbox_head]  # [CUPS] no DropLoss
    ),
)
train_pipeline = [
    dict(type="LoadPhoto"),
    dict(type="Resize", scale=(2048, 1024), keep_ratio=True),  # [CUPS]
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(only_non_empty=False, pipeline=train_pipeline))
train_cfg = dict(max_iters=500, val_interval=500)  # [CUPS] a round
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # [CUPS]
custom_hooks = [
    dict(type="StartFrom", checkpoint=None),
    *_base_.custom_hooks[:2],
    dict(
        type="MomentumTeacher",
        momentum=0.999,  # [CUPS]
        scales=(0.5, 0.75, 1.0),  # [CUPS] of the loaded photo, each mirrored, too
        min_score=0.7,  # [CUPS] its YAML; 0.5 is its code's default
        max_per_image=100,  # [D2]
        nms_iou=0.5,  # [D2]
        max_cover=0.5,  # [CUPS]
        class_share=0.5,  # [CUPS]
    ),
    dict(_base_.copy_paste, start=None),  # [CUPS] of the teacher's labels of the batch
]
