"""A depth model of transformers, small and with random weights."""

from typing import Any

from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor


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
