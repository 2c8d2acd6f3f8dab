"""The transformers back end on tiny, randomly initialised models of each family."""

from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_depth import dpt
from transformers import (
    BeitConfig,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessor,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
    ZoeDepthImageProcessor,
)

from stages.depth_transformers import TransformersDepth, detect_kind

PHOTOS = [
    np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    for seed, size in enumerate([(48, 64), (48, 64), (64, 48)])
]
IDS = ["a.jpg", "b.jpg", "c.jpg"]


def zoedepth() -> tuple[Any, Any]:
    backbone: Any = BeitConfig(  # type: ignore[call-arg]
        image_size=64,
        patch_size=16,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        use_relative_position_bias=True,
    )
    config = ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[16, 16, 16, 16],
        fusion_hidden_size=16,
        bottleneck_features=16,
        num_relative_features=8,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    )
    return ZoeDepthForDepthEstimation(config), ZoeDepthImageProcessor(size={"height": 64, "width": 64})


def depth_anything(**changes: Any) -> tuple[Any, Any]:
    backbone: Any = Dinov2Config(  # type: ignore[call-arg]
        image_size=56,
        patch_size=14,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[16, 16, 16, 16],
        fusion_hidden_size=16,
        head_hidden_size=8,
        **changes,
    )
    size = {"height": 56, "width": 56}
    return DepthAnythingForDepthEstimation(config), DPTImageProcessor(
        size=size, keep_aspect_ratio=True, ensure_multiple_of=14
    )


def spread(model: Any) -> Any:
    """The model with larger weights: as initialised, it answers with a constant but for rounding."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
        if hasattr(model, "head"):  # ends in a ReLU, which must not cut everything off
            for parameter in model.head.parameters():
                parameter.abs_()
    return model


@pytest.fixture(params=[zoedepth, depth_anything, dpt], ids=lambda make: make.__name__)
def model_and_processor(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    model, processor = request.param()
    return spread(model), processor


def test_relative_depth_of_each_photo_in_order(model_and_processor: tuple[Any, Any]) -> None:
    depth = TransformersDepth(*model_and_processor)
    together = depth.predict(PHOTOS, IDS)
    assert len(together) == 3
    for photo, id_, found in zip(PHOTOS, IDS, together, strict=True):
        assert found.dtype == np.float32
        assert found.min() == 0
        assert found.max() == 1
        (alone,) = depth.predict([photo], [id_])
        np.testing.assert_allclose(alone, found, atol=1e-4)
    assert not np.allclose(together[0], together[1], atol=1e-2)


def test_direction_follows_the_family_and_can_be_overridden() -> None:
    model, processor = dpt()
    spread(model)
    nearer = TransformersDepth(model, processor)
    farther = TransformersDepth(model, processor, kind="depth")
    assert (nearer.kind, farther.kind) == ("inverse_depth", "depth")
    (one,), (other,) = nearer.predict(PHOTOS[:1], IDS[:1]), farther.predict(PHOTOS[:1], IDS[:1])
    np.testing.assert_allclose(one, 1 - other, atol=1e-6)
    assert nearer.fingerprint != farther.fingerprint


def test_kinds_of_the_families() -> None:
    assert detect_kind(zoedepth()[0].config) == "depth"
    assert detect_kind(dpt()[0].config) == "inverse_depth"
    assert detect_kind(depth_anything()[0].config) == "inverse_depth"
    assert detect_kind(depth_anything(depth_estimation_type="metric", max_depth=20)[0].config) == "depth"
    with pytest.raises(ValueError, match='say it with kind="depth"'):
        detect_kind(BeitConfig())


def test_zoedepth_padding_is_cut_off() -> None:
    torch.manual_seed(3)
    (found,) = TransformersDepth(*zoedepth()).predict(PHOTOS[:1], IDS[:1])
    assert found.shape == (48, 64)


def test_fingerprint_follows_weights_and_processor() -> None:
    torch.manual_seed(3)
    model, processor = dpt()
    before = TransformersDepth(model, processor).fingerprint
    assert TransformersDepth(model, processor).fingerprint == before
    larger = DPTImageProcessor(size={"height": 64, "width": 64})
    assert TransformersDepth(model, larger).fingerprint != before
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert TransformersDepth(model, processor).fingerprint != before
