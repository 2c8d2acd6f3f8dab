"""What `make install-detector` installs, against the torch it was compiled for."""

import torch


def test_mmcv_operators_are_compiled_against_this_torch() -> None:
    from mmcv.ops import nms, roi_align

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]
    ramp = torch.arange(64.0).reshape(1, 1, 8, 8)
    pooled = roi_align(ramp, torch.tensor([[0.0, 0, 0, 8, 8]]), (2, 2), 1.0, 2, "avg", True)
    # the quadrants' means: 16 pixels each
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[13.5, 17.5], [45.5, 49.5]]))


def test_cascade_mask_rcnn_builds_and_gives_losses() -> None:
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules()
    assert MODELS.get("CascadeRCNN") is not None
    assert MODELS.get("FCNMaskHead") is not None
    head = MODELS.build(
        {"type": "FCNMaskHead", "num_convs": 1, "in_channels": 8, "conv_out_channels": 8, "num_classes": 1}
    )
    assert head(torch.zeros(2, 8, 14, 14)).shape == (2, 1, 28, 28)
