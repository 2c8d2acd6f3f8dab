# CUPS' schedule: 4000 steps at one learning rate. [CUPS] its released configuration and code.
train_cfg = dict(type="SeededTrainLoop", max_iters=4000, val_interval=4000)  # [CUPS] 8000 in its YAML for Cityscapes
optim_wrapper = dict(
    type="OptimWrapper",
    clip_grad=dict(max_norm=1.0),  # [CUPS] of all gradients together
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-5),  # [CUPS]
    paramwise_cfg=dict(norm_decay_mult=0.0),  # [CUPS]
)
param_scheduler = []  # [CUPS] no warm-up, no decay
# [CUPS] a process takes 16 images. How many processes the published detector was trained with is not known.
auto_scale_lr = dict(enable=False, base_batch_size=16)
