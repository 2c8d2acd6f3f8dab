# self_train_r50_fpn for one GPU: 4 images per step instead of 16.
# By the linear scaling rule the learning rate is a quarter, and all numbers of iterations are four times those: every
# image is seen as often. (`--batch-size 4` does the same.)
_base_ = ["self_train_r50_fpn.py"]
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_iters=320000, val_interval=320000)
optim_wrapper = dict(optimizer=dict(lr=0.00125))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=4000),
]
auto_scale_lr = dict(base_batch_size=4)
