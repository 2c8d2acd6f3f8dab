# cuts3d_r50_fpn for one GPU: 4 images per step instead of 16.
# By the linear scaling rule the learning rate is a quarter, and all numbers of iterations are four times those: every
# image is seen as often. (`--batch-size 4` does the same.)
_base_ = ["cuts3d_r50_fpn.py"]
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_iters=640000, val_interval=640000)
optim_wrapper = dict(optimizer=dict(lr=0.0025))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=4000),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=640000, milestones=[320000], gamma=0.02),
]
auto_scale_lr = dict(base_batch_size=4)
