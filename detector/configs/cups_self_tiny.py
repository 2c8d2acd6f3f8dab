# Self-training of what cups_tiny leaves, at its size.
_base_ = ["cups_tiny.py"]
model = dict(
    heads_only=True,
    data_preprocessor=dict(crop=(80, 160), min_pixels=5),
)
train_pipeline = [
    dict(type="LoadPhoto"),
    dict(type="Resize", scale=(320, 160), keep_ratio=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(only_non_empty=False, pipeline=train_pipeline))
train_cfg = dict(max_iters=50, val_interval=50)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
custom_hooks = [
    dict(type="StartFrom", checkpoint=None),
    *_base_.custom_hooks[:2],
    dict(type="MomentumTeacher", momentum=0.99),  # a copy as slow as the published one would stand still
    dict(_base_.custom_hooks[3], start=None),
]
