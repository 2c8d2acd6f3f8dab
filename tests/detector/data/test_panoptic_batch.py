"""What a batch goes through in training: one resolution for all, colours for each, and nothing of it elsewhere."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData, PixelData
from scipy import ndimage

from detector.data.confidence_masks import ConfidenceMasks
from detector.data.panoptic_batch import SCALES, PanopticPreprocessor, Photometric
from detector.data.paste import boxes
from pipeline.errors import ConfigError

STOCK: dict[str, Any] = {
    **{"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "bgr_to_rgb": True},
    **{"pad_mask": True, "pad_seg": True, "seg_pad_value": 255, "pad_size_divisor": 32},
}
QUIET = {"blur": (0.1, 0.1), "prob": 0.0, "grey": 0.0}


def sample_of(size: tuple[int, int], seed: int, count: int = 4) -> tuple[torch.Tensor, DetDataSample]:
    """An image, BGR, and disjoint instances of labels 0, 1, ...; what is no instance is stuff 1."""
    numbers = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    ids = numbers.integers(0, count + 1, (4, 4))[rows * 4 // size[0], columns * 4 // size[1]]
    values = np.array([np.where(ids == k + 1, 255, 0) for k in range(count)], np.uint8).reshape(-1, *size)
    sample = DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (0.5, 0.5)})
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(boxes(values)), labels=torch.arange(count), masks=ConfidenceMasks.from_values(values)
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(np.where(ids > 0, 0, 1).astype(np.uint8)[None]))
    return torch.from_numpy(numbers.integers(0, 256, (3, *size), np.uint8)), sample


def batch_of(*sizes: tuple[int, int], **options: Any) -> dict[str, Any]:
    images, samples = zip(*(sample_of(size, seed, **options) for seed, size in enumerate(sizes)), strict=True)
    return {"inputs": list(images), "data_samples": list(samples)}


def seed(number: int) -> None:
    np.random.seed(number)  # noqa: NPY002 - the generator that a step seeds


def augmented(batch: dict[str, Any], number: int = 0, **options: Any) -> dict[str, Any]:
    preprocessor = PanopticPreprocessor(**STOCK, **{"photometric": None} | options)
    seed(number)
    done: dict[str, Any] = preprocessor(batch, True)
    return done


def test_outside_of_training_it_is_the_stock_one() -> None:
    sizes = (64, 96), (80, 64)
    expected = DetDataPreprocessor(**STOCK)(batch_of(*sizes), False)
    done = PanopticPreprocessor(**STOCK, photometric={}, crop=(10, 20))(batch_of(*sizes), False)
    torch.testing.assert_close(done["inputs"], expected["inputs"], rtol=0, atol=0)
    assert [one.metainfo for one in done["data_samples"]] == [one.metainfo for one in expected["data_samples"]]


def test_with_nothing_to_do_in_training_too() -> None:
    sizes = (64, 96), (80, 64)
    expected = DetDataPreprocessor(**STOCK)(batch_of(*sizes), True)
    done = augmented(batch_of(*sizes), scales=None)
    torch.testing.assert_close(done["inputs"], expected["inputs"], rtol=0, atol=0)


def test_the_eleven_resolutions() -> None:
    assert len(SCALES) == 11
    assert (SCALES[0], SCALES[-1]) == ((768, 384), (1408, 704))
    assert {long / short for long, short in SCALES} == {2.0}


def test_one_resolution_for_the_batch() -> None:
    """All occur; a photo of another aspect, or turned, fits into the scale."""
    scales = [(2 * short, short) for short in range(32, 65, 8)]
    found = Counter[int]()
    for number in range(60):
        done = augmented(batch_of((40, 80), (80, 40), (30, 30), count=1), number, scales=scales)
        shapes = [one.img_shape for one in done["data_samples"]]
        short = shapes[0][0]
        assert shapes == [(short, 2 * short), (2 * short, short), (short, short)]
        found[short] += 1
    assert sorted(found) == [32, 40, 48, 56, 64]
    assert min(found.values()) > 4


def test_what_is_to_be_learnt_goes_along() -> None:
    done = augmented(batch_of((40, 80), (80, 40)), scales=[(96, 48)])
    assert done["inputs"].shape == (2, 3, 96, 96)
    for one, before in zip(done["data_samples"], batch_of((40, 80), (80, 40))["data_samples"], strict=True):
        height, width = one.img_shape
        masks, seg = one.gt_instances.masks, one.gt_sem_seg.sem_seg[0].numpy()
        assert masks.masks.shape[1:] == seg.shape == (96, 96)
        assert one.scale_factor == (0.5 * 1.2, 0.5 * 1.2)
        np.testing.assert_array_equal(one.gt_instances.bboxes.numpy(), boxes(masks.values))
        assert one.gt_instances.labels.tolist() == before.gt_instances.labels.tolist()
        np.testing.assert_array_equal(masks.masks.sum(axis=0)[:height, :width], seg[:height, :width] == 0)
        assert (seg[height:] == 255).all()
        assert (seg[:, width:] == 255).all()
        shares = [part.masks.sum() / part.masks.size for part in (masks.crop(np.array([0, 0, width, height])),)]
        np.testing.assert_allclose(shares[0], before.gt_instances.masks.masks.mean(), atol=0.02)


def test_pixels_move_as_torch_moves_them() -> None:
    """And so as the masks: a white instance stays where its mask is."""
    batch = batch_of((40, 80), count=1)
    inside = torch.from_numpy(batch["data_samples"][0].gt_instances.masks.values[0] > 0)
    batch["inputs"][0] = torch.where(inside, 255, 0).to(torch.uint8).expand(3, -1, -1).clone()
    done = augmented(batch, scales=[(160, 80)])
    seen = done["inputs"][0, :, :80, :160].mean(dim=0) > 0
    agree = seen.numpy() == (done["data_samples"][0].gt_instances.masks.values[0][:80, :160] > 0)
    assert agree.mean() > 0.97


def test_instances_that_vanish_are_dropped() -> None:
    image, sample = sample_of((64, 64), 0, 0)
    values = np.zeros((3, 64, 64), np.uint8)
    values[0, 1, 1], values[1, 8:40, 8:40], values[2, 50:54, 50:54] = 255, 255, 255
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(boxes(values)), labels=torch.arange(3), masks=ConfidenceMasks.from_values(values)
    )
    data = {"inputs": [image], "data_samples": [sample]}
    kept = augmented(data, scales=[(32, 32)])["data_samples"][0].gt_instances
    assert kept.labels.tolist() == [1, 2]
    assert len(kept.masks) == len(kept.bboxes) == 2
    few = augmented(data, scales=[(32, 32)], min_pixels=5)["data_samples"][0].gt_instances
    assert few.labels.tolist() == [1]
    none = augmented(data, scales=[(32, 32)], min_pixels=1000)["data_samples"][0].gt_instances
    assert (len(none.masks), len(none.bboxes), none.masks.height) == (0, 0, 32)


def test_crops_are_of_one_height() -> None:
    heights = Counter[int]()
    for number in range(40):
        done = augmented(batch_of((64, 128), (64, 32), (24, 48), count=1), number, scales=None, crop=(20, 40))
        shapes = [one.img_shape for one in done["data_samples"]]
        height = shapes[0][0]
        assert tuple(shapes[0]) == (height, 2 * height)
        assert tuple(shapes[1]) == (height, round(height / 2))
        assert tuple(shapes[2]) == ((height, 2 * height) if height < 24 else (24, 48))
        heights[height] += 1
        for one in done["data_samples"]:
            assert one.scale_factor == (0.5, 0.5)
            np.testing.assert_array_equal(one.gt_instances.bboxes.numpy(), boxes(one.gt_instances.masks.values))
    assert min(heights) < 25
    assert max(heights) > 35


def test_all_follows_from_numpys_generator() -> None:
    sizes, options = ((40, 80), (40, 80)), {"scales": [(64, 32), (96, 48)], "photometric": {}, "crop": (20, 40)}
    first, second = (augmented(batch_of(*sizes), 5, **options)["inputs"] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    other = [augmented(batch_of(*sizes), number, **options)["inputs"] for number in range(4)]
    assert len({one.numpy().tobytes() for one in other}) == 4


def photo(seed_: int = 0) -> torch.Tensor:
    """Float RGB (3, H, W), 0..1."""
    return torch.from_numpy(np.random.default_rng(seed_).random((3, 24, 30), np.float32))


def test_blur_by_scipy() -> None:
    """A Gaussian of 7 x 7, mirrored at the borders."""
    done = Photometric(**QUIET | {"blur": (1.5, 1.5)}).apply(photo(), np.random.default_rng(0))
    weights = np.exp(-0.5 * (np.arange(-3, 4) / 1.5) ** 2)
    weights /= weights.sum()
    expected = photo().numpy()
    for axis in (1, 2):
        expected = ndimage.correlate1d(expected, weights, axis=axis, mode="mirror")
    np.testing.assert_allclose(done.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 90), (3, 90), (90, 2)])
def test_strips_are_blurred_too(size: tuple[int, int]) -> None:
    """The kernel mirrors what is beside it, and here there is less than that."""
    strip = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    done = Photometric(**QUIET | {"blur": (1.5, 1.5)}).apply(strip, np.random.default_rng(0))
    assert done.shape == strip.shape
    assert 0 < float(done.std()) < float(strip.std())


def test_a_strip_keeps_a_pixel_at_any_resolution() -> None:
    done = augmented(batch_of((16, 3000)), scales=[(64, 64)], photometric={})
    assert done["data_samples"][0].img_shape == (1, 64)


def test_the_four_changes_by_hand() -> None:
    """On one colour: brightness is a factor, contrast and saturation leave a grey picture, hue turns the circle."""
    flat = torch.tensor([0.2, 0.4, 0.6])[:, None, None].expand(3, 9, 9)
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, **QUIET, "prob": 1.0}
    means = {}
    for name, strength in (("brightness", 0.4), ("contrast", 0.4), ("saturation", 0.4), ("hue", 0.1)):
        change = Photometric(**off | {name: strength})
        means[name] = np.array([change.apply(flat, np.random.default_rng(k)).mean((1, 2)).numpy() for k in range(200)])
    factors = means["brightness"] / [0.2, 0.4, 0.6]
    np.testing.assert_allclose(factors, factors[:, :1].repeat(3, 1), atol=1e-4)
    assert 0.6 <= factors.min() < 0.63
    assert 1.37 < factors.max() <= 1.4001
    grey = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6
    towards = (means["saturation"] - grey) / (np.array([0.2, 0.4, 0.6]) - grey)
    np.testing.assert_allclose(towards, towards[:, :1].repeat(3, 1), atol=1e-2)
    assert 0.59 <= towards.min() < 0.65
    contrast = (means["contrast"] - grey) / (np.array([0.2, 0.4, 0.6]) - grey)
    np.testing.assert_allclose(contrast, contrast[:, :1].repeat(3, 1), atol=1e-2)
    # the largest and the smallest channel stay, the middle one moves: 0.6 of the circle is 1 unit of it
    np.testing.assert_allclose(means["hue"].max(axis=1), 0.6, atol=1e-3)
    np.testing.assert_allclose(means["hue"].min(axis=1), 0.2, atol=1e-3)
    assert np.ptp(means["hue"][:, 1]) > 0.15


def test_half_of_the_images_and_a_fifth_in_grey() -> None:
    generator = np.random.default_rng(0)
    options = Photometric(blur=(0.1, 0.1))
    done = [options.apply(photo(), generator) for _ in range(300)]
    grey = sum(torch.allclose(one[0], one[1]) and torch.allclose(one[1], one[2]) for one in done)
    plain = sum(torch.allclose(one, photo(), atol=1e-4) for one in done)
    assert 40 < grey < 82
    assert 90 < plain < 150  # 0.5 · 0.8 of 300


def test_colours_are_drawn_image_by_image() -> None:
    image, sample = sample_of((32, 32), 0)
    data = {"inputs": [image.clone() for _ in range(4)], "data_samples": [sample] * 4}
    done = augmented(data, scales=None, photometric={"prob": 1.0})
    assert len({one.numpy().tobytes() for one in done["inputs"]}) == 4


@pytest.mark.parametrize("channels", ["bgr", "rgb"])
def test_colours_know_red_from_blue(channels: str) -> None:
    """Grey weighs red by 0.299, and it is the last channel of a BGR image."""
    red, rgb = 200, channels == "rgb"
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[0 if rgb else 2] = red
    stock = {**STOCK, "mean": [0, 0, 0], "std": [1, 1, 1], "bgr_to_rgb": not rgb}
    _, sample = sample_of((32, 32), 0)
    preprocessor = PanopticPreprocessor(**stock, scales=None, photometric={**QUIET, "grey": 1.0})
    done = preprocessor({"inputs": [image], "data_samples": [sample]}, True)
    np.testing.assert_allclose(done["inputs"].numpy(), 0.2989 * red, atol=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": []}, "scales must be pairs"),
        ({"scales": [(100, 0)]}, "scales must be pairs"),
        ({"crop": (50, 40)}, "crop must be two rising heights"),
        ({"min_pixels": 0}, "min_pixels must be at least 1"),
        ({"photometric": {"sharpness": 1}}, "there is no sharpness; there are blur"),
        ({"photometric": {"kernel": 4}}, "kernel must be an odd number"),
        ({"photometric": {"hue": 0.6}}, "hue must be"),
        ({"photometric": {"blur": (0, 1)}}, "blur must be"),
        ({"photometric": {"prob": 0.5, "hue": "red"}}, "photometric: hue cannot be 'red', its default is 0.1"),
        ({"photometric": {"blur": 3}}, "photometric: blur cannot be 3, its default is"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PanopticPreprocessor(**STOCK, **options)
