"""A real clip, three cars that cross, through the recipe cups: found where a person sees them, at two working sizes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_labels import tiny_labels

from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_photo
from pipeline.images.stereo_clips import Clip
from pipeline.methods.cups.method import CupsMethod
from pipeline.methods.cups.motion_work import MoverSearch
from pipeline.methods.cups.recipe import read_cups
from pipeline.methods.protocol import Batch
from pipeline.results.panoptic import PanopticRecord
from stages.motion.camera import Camera
from stages.motion.opencv_motion import OpencvMotion

CAMERA = Camera(721.5, 721.5, 609.6, 172.9, 0.54)  # of custom_stereo.yaml beside it


@pytest.fixture(scope="module")
def place(assets: Path) -> Path:
    return assets / "street" / "kitti_mv_testing_000043"


def record_of(place: Path, *overrides: str) -> PanopticRecord:
    names = {"left": "2/000043_10", "right": "3/000043_10", "left_next": "2/000043_11", "right_next": "3/000043_11"}
    pictures = {side: load_photo(ImageRef(side, str(place / f"image_{name}.png"))) for side, name in names.items()}
    recipe = read_cups(["cups.checkpoint=tiny", "cups.refine.side=64", *overrides])
    assert recipe.labels is not None
    labeller = replace(tiny_labels().labeller, recipe=recipe.labels)
    method = CupsMethod(MoverSearch(recipe.finding, OpencvMotion(threads=2)), labeller)
    with torch.inference_mode():
        (record,) = method.outputs(Batch(None, [0], [Clip("10", **pictures, camera=CAMERA)]))
    return record


def best_overlaps(record: PanopticRecord, truth_HW: np.ndarray) -> list[float]:
    """Of each car the IoU of the instance that overlaps it most."""
    return [max(ious(record, truth_HW == car)) for car in (1, 2, 3)]


def ious(record: PanopticRecord, mask_HW: np.ndarray) -> Sequence[float]:
    ids_HW = record.instance_ids
    found = [ids_HW == number for number in range(1, len(record.instances) + 1)]
    return [float((own & mask_HW).sum() / (own | mask_HW).sum()) for own in found] or [0.0]


@pytest.mark.slow(12)
def test_three_cars_are_found_at_the_size_of_the_picture(place: Path) -> None:
    with Image.open(place / "movers_10.png") as image:
        truth_HW = np.array(image)
    whole = record_of(place)
    assert whole.size == truth_HW.shape == (375, 1242)
    assert min(best_overlaps(whole, truth_HW)) >= 0.4
    assert whole.reason == ""
    assert whole.reliable is not None
    assert 0.1 < whole.reliable < 0.9
    small = record_of(place, "motion.side=480")  # 290 x 960 pixels, at which the farthest car is too small
    found = [max(ious(small, whole.instance_ids == number)) for number in range(1, len(whole.instances) + 1)]
    assert sorted(found)[-2] >= 0.7, "masks of a smaller size lie where those of the whole one do"
    assert not whole.instance_ids[:, :31].any(), "nothing at the borders"
    assert not whole.instance_ids[:, -31:].any()
