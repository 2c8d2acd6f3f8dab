"""LoadPhoto and LoadConfidenceMasks: pixels as in the file, masks and confidence as dense arithmetic has them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from PIL import Image
from pycocotools import mask as coco_mask
from support.stored_run import StoredRun, instance, make_run, photo, random_record, sample_records

from detector.data.confidence_masks import ConfidenceMasks
from detector.data.flat_store import FlatStore
from detector.data.loading import LoadConfidenceMasks, LoadPhoto, confidence_masks, instance_values, load_bgr
from pipeline.errors import ConfigError, ImageError, StoreError
from pipeline.images.manifest import ImageRef
from pipeline.results.instances import ImageRecord


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return make_run(tmp_path_factory.mktemp("made"), sample_records())


@pytest.fixture(scope="module")
def store(made: StoredRun, tmp_path_factory: pytest.TempPathFactory) -> FlatStore:
    return FlatStore.open(made.url, tmp_path_factory.mktemp("cache"), {"min_per_image": 0})


def sample(store: FlatStore, image: int) -> dict[str, Any]:
    height, width = store.size(image)
    return {
        **{"store": store, "store_index": image, "ref": store.ref(image), "height": height, "width": width},
        **{"img_id": image, "img_path": store.ref(image).uri},
    }


def smooth(confidence: np.ndarray, size: tuple[int, int], row: int, column: int) -> float:
    """Bilinear at one pixel, between centres of patches; zeros as the mean of their neighbours that are not."""

    def patch(i: int, j: int) -> float:
        i, j = min(max(i, 0), confidence.shape[0] - 1), min(max(j, 0), confidence.shape[1] - 1)
        if confidence[i, j]:
            return float(confidence[i, j])
        near = confidence[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        return float(np.rint(near[near > 0].mean())) if near.any() else 0.0

    y = (row + 0.5) * confidence.shape[0] / size[0] - 0.5
    x = (column + 0.5) * confidence.shape[1] / size[1] - 0.5
    i, j = math.floor(y), math.floor(x)
    top = patch(i, j) * (1 - (x - j)) + patch(i, j + 1) * (x - j)
    bottom = patch(i + 1, j) * (1 - (x - j)) + patch(i + 1, j + 1) * (x - j)
    return top * (1 - (y - i)) + bottom * (y - i)


@pytest.mark.parametrize("floor", [0.0, 0.8])
def test_confidence_pixel_by_pixel(made: StoredRun, store: FlatStore, floor: float) -> None:
    checked = 0
    for image in range(len(store)):
        record = next(r for r in made.records if r.id == store.ref(image).id)
        masks = confidence_masks(store, image, store.masks_of(image), floor)
        assert masks.values.shape == (len(record.instances), *record.size)
        for values_HW, stored in zip(masks.values, record.instances, strict=True):
            inside_HW = coco_mask.decode({"size": list(record.size), "counts": stored.rle})
            np.testing.assert_array_equal(values_HW > 0, inside_HW > 0)
            for row, column in np.argwhere(inside_HW)[::7].tolist():
                expected = max(smooth(stored.confidence, record.size, row, column), round(255 * floor), 1)
                assert abs(int(values_HW[row, column]) - expected) <= 1.0
                checked += 1
    assert checked > 300


@given(
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    size=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_any_grid_on_any_image(
    grid: tuple[int, int], size: tuple[int, int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    record = random_record("0.png", size, seed, 1, grid)
    made = make_run(folder, [record], [ImageRef("0.png", "/nowhere")], grid=grid)
    store = FlatStore.open(made.url, folder / "cache")
    (stored,) = record.instances
    values_HW = confidence_masks(store, 0, store.masks_of(0)).values[0]
    known = stored.confidence[stored.confidence > 0]
    inside = coco_mask.decode({"size": list(size), "counts": stored.rle}) > 0
    np.testing.assert_array_equal(values_HW > 0, inside)
    assert known.min() <= values_HW[inside].min()
    assert values_HW[inside].max() <= known.max()
    for row, column in np.argwhere(inside)[::29].tolist():
        assert abs(int(values_HW[row, column]) - smooth(stored.confidence, size, row, column)) <= 1.0


def one(tmp_path: Path, mask: np.ndarray, confidence: np.ndarray) -> FlatStore:
    record = ImageRecord("0.png", mask.shape, "ok", (instance(mask, confidence),), {}, None)  # type: ignore[arg-type]
    return FlatStore.open(make_run(tmp_path, [record], grid=confidence.shape).url, tmp_path / "cache")  # type: ignore[arg-type]


@pytest.mark.parametrize(("stored", "floor", "expected"), [(255, 0, 255), (204, 0, 204), (51, 0.5, 128), (0, 0, 1)])
def test_a_confidence_that_is_the_same_all_over_stays_exactly_that(
    tmp_path: Path, stored: int, floor: float, expected: int
) -> None:
    mask = np.zeros((30, 20), bool)
    mask[4:25, 0:11] = True
    mask[10, 5] = False
    store = one(tmp_path, mask, np.full((4, 4), stored, np.uint8))
    top, left, values_hw = instance_values(store, 0, 0, floor)
    assert (top, left, values_hw.shape) == (4, 0, (21, 11))
    np.testing.assert_array_equal(values_hw, np.where(mask[4:25, 0:11], expected, 0))


def test_a_damaged_code_is_said_with_image_and_run(tmp_path: Path) -> None:
    mask = np.zeros((30, 20), bool)
    mask[4:25, 0:11] = True
    store = one(tmp_path, mask, np.full((4, 4), 255, np.uint8))
    codes = np.load(store.folder / "rle.npy", mmap_mode="r+")
    codes[:] = ord("n")  # a number that never ends
    codes.flush()
    with pytest.raises(StoreError, match=r"a mask of 0\.png of .* is damaged"):
        instance_values(store, 0, 0)


def test_masks_boxes_labels_and_scores_go_together(store: FlatStore) -> None:
    for image in range(len(store)):
        results = LoadConfidenceMasks().transform(sample(store, image))
        rows = store.masks_of(image)
        masks = results["gt_masks"]
        assert isinstance(masks, ConfidenceMasks)
        assert (len(masks), masks.height, masks.width) == (len(rows), *store.size(image))
        np.testing.assert_array_equal(masks.areas, store.area[rows])
        np.testing.assert_array_equal(results["gt_bboxes"].numpy(), masks.get_bboxes("hbox").numpy())
        assert results["gt_bboxes_labels"].tolist() == [0] * len(rows)
        assert results["gt_bboxes_labels"].dtype == np.int64
        assert results["gt_ignore_flags"].tolist() == [False] * len(rows)
        np.testing.assert_array_equal(results["gt_scores"], store.score[rows])
        best = store.score[rows].max(initial=0.0)
        np.testing.assert_allclose(best * results["gt_relative_scores"], store.score[rows], rtol=1e-6)
        np.testing.assert_array_equal(results["gt_confidences"], store.mean_confidence[rows])
        for name in ("gt_scores", "gt_confidences"):
            results[name][:] = 0  # a copy of the sample's own: the store is read-only


def test_relative_scores_stay_with_their_masks(store: FlatStore) -> None:
    image = max(range(len(store)), key=lambda i: len(store.masks_of(i)))
    results = LoadConfidenceMasks().transform(LoadPhoto().transform(sample(store, image)))
    masks, scores_M = results["gt_masks"], results["gt_relative_scores"]
    assert (scores_M.min() >= 0, scores_M.max()) == (True, 1)
    values_MHW = masks.values.copy()
    values_MHW[0] = 0  # as scaling can make a mask vanish
    results["gt_masks"] = ConfidenceMasks.from_values(values_MHW)
    filtered = TRANSFORMS.build({"type": "FilterScored", "min_gt_bbox_wh": (1, 1), "by_mask": True})(results)
    packed = TRANSFORMS.build({"type": "PackScored"})(filtered)["data_samples"].gt_instances
    assert len(packed) == len(scores_M) - 1
    np.testing.assert_array_equal(packed.relative_scores.numpy(), scores_M[1:])
    assert filtered["gt_ignore_flags"].tolist() == [False] * len(packed)


def test_stock_transforms_do_to_them_what_they_do_to_stock_masks(store: FlatStore) -> None:
    image = max(range(len(store)), key=lambda i: len(store.masks_of(i)))
    steps = [
        {"type": "mmdet.Resize", "scale": (90, 50), "keep_ratio": True},
        {"type": "mmdet.RandomFlip", "prob": 1.0},
        {"type": "mmdet.Pad", "size_divisor": 32},
    ]
    ours = LoadConfidenceMasks().transform(LoadPhoto().transform(sample(store, image)))
    stock = dict(ours)
    stock["gt_masks"] = BitmapMasks(ours["gt_masks"].to_ndarray(), *store.size(image))
    stock["gt_bboxes"] = ours["gt_bboxes"].clone()
    for step in steps:
        ours, stock = TRANSFORMS.build(step)(ours), TRANSFORMS.build(step)(stock)
    np.testing.assert_array_equal(ours["gt_masks"].to_ndarray(), stock["gt_masks"].to_ndarray())
    packed = TRANSFORMS.build({"type": "mmdet.PackDetInputs"})(ours)
    assert packed["inputs"].shape[1:] == ours["gt_masks"].values.shape[1:]
    assert packed["data_samples"].gt_instances.labels.tolist() == [0] * len(store.masks_of(image))


def test_the_photo_is_that_of_the_file_in_bgr(store: FlatStore) -> None:
    results = LoadPhoto().transform(sample(store, 0))
    rgb = np.asarray(Image.open(results["img_path"]).convert("RGB"))
    np.testing.assert_array_equal(results["img"], rgb[..., ::-1])
    assert results["img"].flags["C_CONTIGUOUS"]
    assert results["img_shape"] == results["ori_shape"] == rgb.shape[:2]


def test_exif_orientation_is_that_of_the_run(tmp_path: Path) -> None:
    upright = Image.fromarray(photo((20, 30), 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    path = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    np.testing.assert_array_equal(load_bgr(ImageRef("t", str(path)), (20, 30)), np.asarray(upright)[..., ::-1])


def test_a_photo_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "new.png"
    Image.fromarray(photo((20, 30), 1)).save(path)
    with pytest.raises(StoreError, match=r"has 20×30 pixels .* its masks 30×20"):
        LoadPhoto().transform({"ref": ImageRef("n", str(path)), "height": 30, "width": 20})
    assert LoadPhoto().transform({"ref": ImageRef("n", str(path))})["img_shape"] == (20, 30)


def test_a_photo_that_is_gone_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        load_bgr(ImageRef("g", str(tmp_path / "gone.png")))


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_floor_out_of_range(floor: float) -> None:
    with pytest.raises(ConfigError, match="floor must lie in"):
        LoadConfidenceMasks(floor)
