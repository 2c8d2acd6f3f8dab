# What every training does beside learning: logs, checkpoints, hooks.
default_scope = "mmdet"
# Registers all that these files name and MMDetection does not have. It is all that a configuration of one's own needs.
custom_imports = dict(imports=["detector.components"], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # Never one alone: the older one is deleted before the newer one is written.
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=5000, max_keep_ckpts=3),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = [
    dict(type="PlainCheckpoints"),  # checkpoints that torch.load reads as they are
    dict(type="CheckLoss"),
    dict(type="PreciseBN", batches=200),  # [CutLER] TEST.PRECISE_BN
]
env_cfg = dict(
    cudnn_benchmark=False,  # photos come in all sizes
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
# Losses go to vis_data/scalars.json, a line of JSON each time, and to TensorBoard.
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(type="DetLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)
