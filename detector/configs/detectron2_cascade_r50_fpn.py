# What import-detector makes of Detectron2's checkpoints: CutLER's model, used as there.
# To train, take another: what differs here is of use to weights that Detectron2 has trained.
_base_ = ["cutler_r50_fpn.py"]
model = dict(
    backbone=dict(init_cfg=None),
    roi_head=dict(type="DetectronCascade"),  # [D2] scores are means of probabilities, one mask head
)
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type="Resize", scale=(1333, 800), keep_ratio=True, backend="pillow"),  # [D2] smooths what it makes smaller
    _base_.test_pipeline[2],
]
