"""A depth model of transformers, small and with random weights."""

from typing import Any

from transformers import Dinov2Config, DPTConfig, DPTForDepthEstimation, DPTImageProcessor


def dpt() -> tuple[Any, Any]:
    """Model and processor; the weights are torch's next random numbers."""
    config = DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 16, 16],
        fusion_hidden_size=16,
    )
    return DPTForDepthEstimation(config), DPTImageProcessor(size={"height": 32, "width": 32})


def dpt_on_dinov2() -> tuple[Any, Any]:
    """As facebook/dpt-dinov2-small-nyu: metres, and photos padded to multiples of 14."""
    backbone: Any = Dinov2Config(  # type: ignore[call-arg]
        image_size=56,
        patch_size=14,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = DPTConfig(backbone_config=backbone, neck_hidden_sizes=[16, 16, 16, 16], fusion_hidden_size=16)
    processor = DPTImageProcessor(
        do_resize=False,
        do_rescale=False,
        do_pad=True,
        size_divisor=14,
        image_mean=[123.675, 116.28, 103.53],
        image_std=[58.395, 57.12, 57.375],
    )
    return DPTForDepthEstimation(config), processor
