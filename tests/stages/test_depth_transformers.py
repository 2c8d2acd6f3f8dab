"""The transformers back end on tiny, randomly initialised models of each family."""

from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_depth import dpt, dpt_on_dinov2
from transformers import (
    BeitConfig,
    CHMv2Config,
    CHMv2ImageProcessor,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DepthProConfig,
    DepthProImageProcessor,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DPTConfig,
    DPTImageProcessor,
    GLPNConfig,
    GLPNImageProcessor,
    PromptDepthAnythingConfig,
    PromptDepthAnythingImageProcessor,
    Swinv2Config,
    Tipsv2DptConfig,
    Tipsv2DptImageProcessor,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
    ZoeDepthImageProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES
from transformers.utils import ModelOutput

from stages.depth_transformers import TransformersDepth, reading_of

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
    assert reading_of(zoedepth()[0].config).kind == "depth"
    assert reading_of(dpt()[0].config).kind == "inverse_depth"
    assert reading_of(depth_anything()[0].config).kind == "inverse_depth"
    assert reading_of(depth_anything(depth_estimation_type="metric", max_depth=20)[0].config).kind == "depth"
    with pytest.raises(ValueError, match=r"type 'beit', .*say it with --depth-kind depth "):
        reading_of(BeitConfig())


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


class Brightness(torch.nn.Module):
    """In place of a model: each pixel's brightness is its depth, 1 (black) to 9 (white), as the model type puts it."""

    def __init__(self, config: Any, processor: Any, inverse: bool = False, scale: float = 1) -> None:
        super().__init__()
        self.config, self.inverse, self.scale = config, inverse, scale
        normalises = getattr(processor, "do_normalize", False)
        self.mean, self.std = (
            torch.tensor(value if normalises else default).reshape(-1, 1, 1)
            for value, default in ((processor.image_mean, [0.0]), (processor.image_std, [1.0]))
        )
        # An exception to the rule: pixels of these processors are not brought to 0..1.
        self.white = 255.0 if not processor.do_rescale else 1.0

    def forward(self, pixel_values: torch.Tensor) -> Any:
        bright = ((pixel_values * self.std + self.mean) / self.white).mean(dim=1, keepdim=True)
        if self.scale != 1:
            bright = torch.nn.functional.interpolate(bright, scale_factor=self.scale, mode="bilinear")
        depth = 1 + 8 * bright[:, 0]
        return ModelOutput(
            predicted_depth=1 / depth if self.inverse else depth, field_of_view=torch.full((len(depth),), 60.0)
        )


DINOV2_PIXELS: dict[str, Any] = {"image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}

# Type, configuration, processor, whether the raw output is inverse, pixels of the map per pixel of the input.
TYPES: list[tuple[str, Any, Any, bool, float]] = [
    ("chmv2", CHMv2Config, CHMv2ImageProcessor(), True, 1),
    ("depth_anything", DepthAnythingConfig, DPTImageProcessor(keep_aspect_ratio=True, ensure_multiple_of=14), True, 1),
    (
        "depth_anything",
        lambda: DepthAnythingConfig(depth_estimation_type="metric"),
        DPTImageProcessor(size={"height": 56, "width": 56}),
        False,
        1,
    ),
    ("depth_pro", DepthProConfig, DepthProImageProcessor(size={"height": 96, "width": 96}), True, 1),
    ("dpt", DPTConfig, DPTImageProcessor(), True, 1),
    ("dpt", lambda: DPTConfig(is_hybrid=True), DPTImageProcessor(), True, 1),
    ("dpt", lambda: DPTConfig(backbone_config=Swinv2Config()), DPTImageProcessor(), True, 1),
    (
        "dpt",
        lambda: DPTConfig(backbone_config=Dinov2Config()),
        DPTImageProcessor(do_resize=False, do_rescale=False, do_pad=True, size_divisor=14, **DINOV2_PIXELS),
        False,
        16 / 14,
    ),
    ("glpn", GLPNConfig, GLPNImageProcessor(), False, 1),
    (
        "prompt_depth_anything",
        PromptDepthAnythingConfig,
        PromptDepthAnythingImageProcessor(size={"height": 70, "width": 70}, do_pad=True, size_divisor=16),
        False,
        1,
    ),
    ("tipsv2_dpt", Tipsv2DptConfig, Tipsv2DptImageProcessor(), False, 1),
    ("zoedepth", ZoeDepthConfig, ZoeDepthImageProcessor(), False, 1),
]


def test_the_table_has_every_type_of_the_library() -> None:
    assert {type_ for type_, *_ in TYPES} == set(MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES)


@pytest.mark.parametrize(("type_", "config", "processor", "inverse", "scale"), TYPES)
@pytest.mark.parametrize("size", [(100, 141), (97, 64)])
def test_a_ramp_through_the_processor_becomes_a_ramp(
    type_: str, config: Any, processor: Any, inverse: bool, scale: float, size: tuple[int, int]
) -> None:
    """Farther to the right, and nothing but the photo in the map: what is padded is black or mirrored."""
    made = config()
    assert made.model_type == type_
    ramp = np.linspace(40, 255, size[1]).round().astype(np.uint8)
    photo = np.broadcast_to(ramp[None, :, None], (*size, 3)).copy()
    model = TransformersDepth(Brightness(made, processor, inverse, scale), processor)
    (found,) = model.predict([photo], ["a.jpg"])
    column = found.mean(axis=0)
    x = (np.arange(len(column)) + 0.5) / len(column)
    expected = np.interp(x, (np.arange(size[1]) + 0.5) / size[1], 1 + 8 * (ramp / 255))
    if inverse and type_ != "depth_pro":  # known up to a shift only, so that 1 - minmax is all that can be made of it
        expected = -1 / expected
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(column, expected, atol=0.04)
    assert np.abs(found - column).max() < 0.04, "rows differ: something else than the photo is in the map"
    assert abs(found.shape[1] / found.shape[0] / (size[1] / size[0]) - 1) < 0.4 or found.shape[0] == found.shape[1]


def test_sky_of_depth_pro_does_not_flatten_the_rest() -> None:
    processor = DepthProImageProcessor(size={"height": 96, "width": 96})

    class Sky(Brightness):
        def forward(self, pixel_values: torch.Tensor) -> Any:
            output = super().forward(pixel_values)
            output.predicted_depth[:, :30] = 1e-7  # 10 km after post-processing
            return output

    photo = np.broadcast_to(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], (96, 96, 3)).copy()
    (found,) = TransformersDepth(Sky(DepthProConfig(), processor, True), processor).predict([photo], ["a.jpg"])
    assert found[:30].min() == 1
    assert 0.09 < found[40:].max() - found[40:].min() < 0.11  # 8 of 79 m


def test_a_kind_that_is_given_reads_the_raw_output() -> None:
    processor = DepthProImageProcessor(size={"height": 96, "width": 96})
    model = Brightness(DepthProConfig(), processor, inverse=True)
    photo = np.broadcast_to(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], (96, 96, 3)).copy()
    (found,) = TransformersDepth(model, processor, kind="inverse_depth").predict([photo], ["a.jpg"])
    np.testing.assert_allclose(found[0], 1 - (1 / (1 + 8 * (photo[0, :, 0] / 255)) - 1 / 9) * 9 / 8, atol=1e-3)


def test_a_small_dpt_on_dinov2_gives_metres_without_borders() -> None:
    model, processor = dpt_on_dinov2()
    depth = TransformersDepth(spread(model), processor)
    assert depth.kind == "depth"
    photo = np.random.default_rng(0).integers(0, 256, (50, 71, 3), dtype=np.uint8)  # padded to 56 x 84
    (found,) = depth.predict([photo], ["a.jpg"])
    assert found.shape == (56, 81)  # 16 / 14 of the photo, pixels that lie in it wholly


def test_dpt_on_another_backbone_asks() -> None:
    with pytest.raises(ValueError, match=r"type 'dpt on dinov2_with_registers', .*--depth-kind depth"):
        reading_of(DPTConfig(backbone_config=Dinov2WithRegistersConfig()))


def test_a_processor_that_crops_photos_is_refused() -> None:
    model, _ = dpt()
    processor = DPTImageProcessor(do_center_crop=True, crop_size={"height": 32, "width": 32})
    with pytest.raises(ValueError, match="set do_center_crop to false"):
        TransformersDepth(model, processor)
