# CutLER's schedule: 160 000 steps of 16 images. [CutLER] its YAML, [D2] a default of detectron2.
train_cfg = dict(type="SeededTrainLoop", max_iters=160000, val_interval=160000)
optim_wrapper = dict(
    type="ClippingOptimWrapper",
    max_norm=1.0,  # [CutLER] of each parameter's gradient, as detectron2 clips
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-5),  # [CutLER]
    paramwise_cfg=dict(norm_decay_mult=0.0),  # [D2] norms are not decayed
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),  # [D2]
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=160000, milestones=[80000], gamma=0.02),  # [CutLER]
]
# What the learning rate is meant for: 8 GPUs with 2 images each. `cuts3d train` keeps to it on any number of GPUs, and
# its --batch-size changes it by the linear scaling rule. In plain MMDetection, set train_dataloader.batch_size.
auto_scale_lr = dict(enable=False, base_batch_size=16)
