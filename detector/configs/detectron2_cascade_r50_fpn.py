# What import-detector --layout makes of Detectron2's checkpoints: CutLER's model, used as Detectron2 uses it.
# To train, take another: these three things are of no use without a detector that was trained by Detectron2.
_base_ = ["cutler_r50_fpn.py"]
model = dict(
    backbone=dict(init_cfg=None),
    roi_head=dict(type="MeanProbabilityCascade"),  # [D2] scores are the mean of probabilities, not of logits
)
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type="Resize", scale=(1333, 800), keep_ratio=True, backend="pillow"),  # [D2] smooths what it makes smaller
    _base_.test_pipeline[2],
]
