"""Depth under one convention, whatever the model's; the ONNX back end on models made here and on real ones."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from stages.depth import relative_depth, to_grid
from stages.depth_onnx import OnnxDepth, OnnxDepthSpec

SIDECAR = {
    "model": "first channel",
    "input": "x",
    "layout": "NCHW",
    "colour": "RGB",
    "range": [0, 1],
    "size": [8, 12],
    "output": "y",
    "output_kind": "depth",
}


def first_channel_model(batch: int | str) -> bytes:
    """An ONNX model whose output is the first channel of its input, of a fixed or a dynamic batch size."""
    weight = np.zeros((1, 3, 1, 1), np.float32)
    weight[0, 0] = 1
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "first channel",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 1, "h", "w"])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def photo(H: int, W: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)


class TestRelativeDepth:
    @given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.floats(0.1, 100), st.floats(-100, 100))
    def test_order_and_range_survive_any_scale_and_shift(self, values: list[float], scale: float, shift: float) -> None:
        raw = np.array(values)[None]
        depth = relative_depth(raw * scale + shift, "depth")
        assert depth.dtype == np.float32
        order = np.argsort(raw[0], kind="stable")
        assert (np.diff(depth[0][order]) >= 0).all()
        if raw.max() - raw.min() > 1e-3:
            assert depth.min() == 0
            assert depth.max() == 1

    def test_inverse_depth_is_turned_round(self) -> None:
        raw = np.array([[1.0, 2.0, 5.0]])
        np.testing.assert_allclose(relative_depth(raw, "inverse_depth"), [[1.0, 0.75, 0.0]])
        np.testing.assert_allclose(relative_depth(raw, "depth"), [[0.0, 0.25, 1.0]])

    @pytest.mark.parametrize("kind", ["depth", "inverse_depth"])
    def test_constant_map_is_zeros(self, kind: str) -> None:
        assert not relative_depth(np.full((3, 4), 7.0), kind).any()  # type: ignore[arg-type]

    def test_integers_do_not_wrap(self) -> None:
        raw = np.array([[0, 65535]], np.uint16)
        np.testing.assert_array_equal(relative_depth(raw, "inverse_depth"), [[1, 0]])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_non_finite_values_are_named(self, bad: float) -> None:
        with pytest.raises(ValueError, match="a: 1 of 4 depth values are NaN or infinite"):
            relative_depth(np.array([[0, 1], [2, bad]]), "depth", "a")

    def test_shape_and_kind_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"\(height, width\)"):
            relative_depth(np.zeros((2, 2, 3)), "depth")
        with pytest.raises(ValueError, match="use one of depth, inverse_depth"):
            relative_depth(np.zeros((2, 2)), "disparity")  # type: ignore[arg-type]


class TestToGrid:
    def test_a_ramp_stays_a_ramp_whatever_the_resolution(self) -> None:
        ramps = [np.tile(np.linspace(0, 1, w, dtype=np.float32), (w // 2, 1)) for w in (6, 60, 640)]
        depth_BHW = to_grid(ramps, 5, 12)
        assert depth_BHW.shape == (3, 5, 12)
        assert depth_BHW.dtype == torch.float32
        assert (depth_BHW.diff(dim=2) >= 0).all()
        torch.testing.assert_close(depth_BHW.amin(dim=(1, 2)), torch.zeros(3))
        torch.testing.assert_close(depth_BHW.amax(dim=(1, 2)), torch.ones(3))
        torch.testing.assert_close(depth_BHW[1], depth_BHW[2], atol=0.02, rtol=0)

    def test_every_pixel_counts_when_shrinking(self) -> None:
        # Stripes finer than the grid: sampling single pixels would give stripes, averaging gives a flat field.
        stripes = np.tile(np.array([0, 1], np.float32), (64, 32))
        stripes[:, :32] += 4
        depth = to_grid([stripes / 5], 4, 4)[0]
        assert (depth[:, 0] > 0.95).all()
        assert (depth[:, 3] < 0.05).all()

    def test_constant_map_is_zeros(self) -> None:
        assert not to_grid([np.full((5, 5), 0.4, np.float32)], 3, 3).any()

    def test_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one depth map"):
            to_grid([], 3, 3)


class TestOnnxDepthSpec:
    def test_shared_sidecars_parse(self, assets: Path) -> None:
        specs = [
            OnnxDepthSpec.parse(json.loads((assets / "weights" / name).read_text()))
            for name in ("fastdepth.json", "pydnet_v2.json")
        ]
        assert [spec.kind for spec in specs] == ["depth", "inverse_depth"]
        assert specs[0].input_size(480, 640) == (224, 224)
        assert specs[1].input_size(480, 640) == (512, 640)
        assert specs[1].input_size(100, 2000) == (64, 640)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"output_kind": "metres"}, "output_kind is 'metres'"),
            ({"long_side": 64}, "exactly one of the two"),
            ({"size": None, "long_side": 8, "multiple_of": 16}, "long_side is 8"),
            ({"size": [8]}, r"size is \(8,\)"),
            ({"keep_aspect": True}, "keep_aspect"),
            ({"colour": "HSV"}, "colour is 'HSV'"),
            ({"layout": "NHWC"}, "only NCHW"),
            ({"range": [1, 0]}, "low < high"),
            ({"std": [1, 0, 1]}, "std above 0"),
            ({"input": None}, "lacks input"),
            ({"widht": 3}, "unknown fields widht"),
        ],
    )
    def test_wrong_sidecars_are_refused_by_field(self, change: dict, message: str) -> None:
        sidecar = {key: value for key, value in {**SIDECAR, **change}.items() if value is not None}
        with pytest.raises(ValueError, match=message):
            OnnxDepthSpec.parse(sidecar)


class TestOnnxDepth:
    @pytest.mark.parametrize("batch", [1, "batch"])
    def test_each_image_gets_its_own_depth_in_order(self, batch: int | str) -> None:
        sidecar = {key: value for key, value in SIDECAR.items() if key != "size"} | {"long_side": 32, "multiple_of": 8}
        model = OnnxDepth(first_channel_model(batch), OnnxDepthSpec.parse(sidecar))
        images = [photo(64, 32, 1), photo(32, 64, 2), photo(64, 32, 3)]
        depths = model.predict(images, ["a", "b", "c"])
        assert [depth.shape for depth in depths] == [(32, 16), (16, 32), (32, 16)]
        for image, depth in zip(images, depths, strict=True):
            h, w = depth.shape
            red = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC), np.float64)[..., 0]
            np.testing.assert_allclose(depth, (red - red.min()) / (red.max() - red.min()), atol=1e-6)
            assert depth.dtype == np.float32

    def test_colour_order_and_direction(self) -> None:
        image = np.zeros((8, 12, 3), np.uint8)
        image[:, :6, 0], image[:, 6:, 2] = 255, 255  # red left, blue right
        bytes_ = first_channel_model(1)
        red = OnnxDepth(bytes_, OnnxDepthSpec.parse(SIDECAR)).predict([image], ["a"])[0]
        blue = OnnxDepth(bytes_, OnnxDepthSpec.parse({**SIDECAR, "colour": "BGR"})).predict([image], ["a"])[0]
        nearer = OnnxDepth(bytes_, OnnxDepthSpec.parse({**SIDECAR, "output_kind": "inverse_depth"}))
        np.testing.assert_array_equal(red, image[..., 0] / 255)
        np.testing.assert_array_equal(blue, image[..., 2] / 255)
        np.testing.assert_array_equal(nearer.predict([image], ["a"])[0], 1 - red)

    def test_pixels_are_scaled_then_normalised(self) -> None:
        spec = OnnxDepthSpec.parse({**SIDECAR, "range": [-1, 1], "mean": [0.5, 0, 0], "std": [2, 1, 1]})
        pixels = OnnxDepth(first_channel_model(1), spec)._prepare(np.full((8, 12, 3), 255, np.uint8), (8, 12))
        np.testing.assert_allclose(pixels[:, 0, 0], [0.25, 1, 1])

    def test_fingerprint_follows_weights_and_preprocessing(self) -> None:
        fixed, dynamic = first_channel_model(1), first_channel_model("batch")
        spec, other = OnnxDepthSpec.parse(SIDECAR), OnnxDepthSpec.parse({**SIDECAR, "size": [16, 16]})
        prints = {OnnxDepth(*pair).fingerprint for pair in ((fixed, spec), (dynamic, spec), (fixed, other))}
        assert len(prints) == 3
        assert OnnxDepth(fixed, spec).fingerprint in prints

    def test_names_that_the_model_has_not_are_refused(self) -> None:
        with pytest.raises(ValueError, match="the model has inputs x and outputs y"):
            OnnxDepth(first_channel_model(1), OnnxDepthSpec.parse({**SIDECAR, "input": "image"}))

    def test_broken_model_names_the_image(self) -> None:
        model = onnx.load_model_from_string(first_channel_model(1))
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((1, 3, 1, 1), np.nan, np.float32), "w"))
        depth = OnnxDepth(model.SerializeToString(), OnnxDepthSpec.parse(SIDECAR))
        with pytest.raises(ValueError, match="b: depth by first channel"):
            depth.predict([photo(8, 8)], ["b"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("pydnet_v2", 0.68), ("fastdepth", 0.6)])
def test_real_models_see_objects_in_front_of_their_surroundings(assets: Path, name: str, least: float) -> None:
    spec = OnnxDepthSpec.parse(json.loads((assets / "weights" / f"{name}.json").read_text()))
    model = OnnxDepth((assets / "weights" / f"{name}.onnx").read_bytes(), spec)
    coco = COCO(str(assets / "coco" / "instances.json"))
    nearer = []
    for image_id in sorted(coco.imgs)[:24]:
        info = coco.imgs[image_id]
        rgb = np.asarray(Image.open(assets / "coco" / "images" / info["file_name"]).convert("RGB"))
        (depth,) = model.predict([rgb], [info["file_name"]])
        depth = np.asarray(Image.fromarray(depth).resize((info["width"], info["height"]), Image.Resampling.BILINEAR))
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation).astype(bool)
            if annotation.get("iscrowd") or not 0.01 < mask.mean() < 0.5:
                continue
            width = max(5, round(0.15 * np.sqrt(mask.sum())))
            ring = ndimage.maximum_filter(mask, 2 * width + 1) & ~mask
            nearer.append(np.median(depth[mask]) < np.median(depth[ring]))
    assert len(nearer) > 50
    # Chance is 0.5.
    assert np.mean(nearer) > least
