# CUPS: panoptic labels of runs, for which a class is a thing or stuff. CVPR 2025, stage 2.
# Things by the cascade of the other configurations, stuff by a semantic head. [CUPS] its released configuration and
# code; what is not said here is in the files below it.
_base_ = [
    "_base_/cascade_panoptic_r50_fpn.py",
    "_base_/panoptic_store.py",
    "_base_/schedule_cups.py",
    "_base_/runtime.py",
]
model = dict(
    data_preprocessor=dict(type="PanopticPreprocessor", scales=_base_.scales, photometric=_base_.photometric),
)
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type="Resize", scale=(2048, 1024), keep_ratio=True),  # [CUPS] street scenes as they are
    _base_.test_pipeline[2],
]
default_hooks = dict(checkpoint=dict(interval=500, save_param_scheduler=False))  # there is no schedule to keep
custom_hooks = [
    dict(type="PlainCheckpoints"),
    dict(type="CheckLoss"),
    _base_.copy_paste,
]
