"""True segments: what instance maps and panoptic files mean, which objects are crowds, and what is odd."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.labelled_run import write_map

from pipeline.errors import ConfigError, ImageError, SourceError
from pipeline.evaluation.panoptic_quality import VOID_RULES, Overlaps, PredictedSegments, TrueSegments
from pipeline.evaluation.panoptic_truth import PanopticTruth, read_panoptic_truth
from pipeline.images.manifest import ImageRef
from pipeline.images.sources import list_images

SIZE = (4, 6)
SEVEN = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")


def instance_map(path: Path, *values: int) -> Path:
    """A map of 16 bits: a row of these values, and four rows alike."""
    return write_map(path, np.tile(np.array(values, np.uint16), (4, 1)))


def named(truth: PanopticTruth, true: TrueSegments) -> list[tuple[str, bool] | None]:
    """Of the first row of pixels the class and whether it is crowd; None for void."""
    return [None if s == 0 else (truth.classes[true.classes[s - 1]], bool(true.crowd[s - 1])) for s in true.ids[0]]


def ids_of(truth: PanopticTruth, photo: str, size: tuple[int, int] = SIZE) -> TrueSegments:
    number = truth.matched([ImageRef(photo, f"/{photo}")])[photo]
    assert number is not None
    return truth.segments(number, size)


# --- Cityscapes and KITTI ---------------------------------------------------------------------------------------------


def test_things_of_cityscapes(tmp_path: Path) -> None:
    instance_map(tmp_path / "a_gtFine_instanceIds.png", 7)
    things = ["person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"]
    for classes, expected in ((27, things), (19, [t for t in things if t not in ("caravan", "trailer")])):
        truth = read_panoptic_truth(f"cityscapes:{tmp_path}", classes)
        assert [name for name, thing in zip(truth.classes, truth.things, strict=True) if thing] == expected
        assert (len(truth.classes), truth.benchmark) == (classes, f"Cityscapes-{classes}")
    truth = read_panoptic_truth(f"cityscapes:{tmp_path}", 7)
    assert truth.classes == SEVEN, "always in this order"
    assert truth.things == (False,) * 5 + (True, True)
    assert len(read_panoptic_truth(f"cityscapes:{tmp_path}").classes) == 27


def test_objects_and_groups_of_cityscapes(tmp_path: Path) -> None:
    """One car, another, a group of cars; void, the licence plate, and a caravan, which 19 classes do not have."""
    values = (7, 26000, 26001, 26, 4, 65535, 29000, 11, 24000)
    instance_map(tmp_path / "ulm_0_9_gtFine_instanceIds.png", *values)
    truth = read_panoptic_truth(f"cityscapes:{tmp_path}")
    true = ids_of(truth, "val/ulm/ulm_0_9_leftImg8bit.png")
    car = ("car", False)
    expected = [("road", False), car, car, ("car", True), None, None, ("caravan", False), ("building", False)]
    assert named(truth, true) == [*expected, ("person", False)]
    assert len(set(true.ids[0].tolist())) == 8, "void twice"
    truth = read_panoptic_truth(f"cityscapes:{tmp_path}", 19)
    assert named(truth, ids_of(truth, "ulm_0_9.png"))[4:7] == [None] * 3
    truth = read_panoptic_truth(f"cityscapes:{tmp_path}", 7)
    assert named(truth, ids_of(truth, "ulm_0_9.png"))[6] == ("vehicle", False)


def test_stuff_of_one_class_and_groups_of_one_class_are_one_segment(tmp_path: Path) -> None:
    instance_map(tmp_path / "a_gtFine_instanceIds.png", 7, 8, 26, 33, 26000, 33000)
    truth = read_panoptic_truth(f"cityscapes:{tmp_path}", 7)
    true = ids_of(truth, "a.png")
    assert true.ids[0, 0] == true.ids[0, 1], "road and sidewalk are flat"
    assert true.ids[0, 2] == true.ids[0, 3], "groups of cars and of bicycles"
    assert len(set(true.ids[0, 2:].tolist())) == 3
    assert (len(true.classes), true.crowd.sum()) == (4, 1)


def test_objects_of_kitti_and_its_larger_labels(tmp_path: Path) -> None:
    values = np.zeros((375, 1242), np.uint16)
    values[5:, 18:] = 7 * 256
    values[100:120, 100:200], values[100:120, 300:400], values[200:, 500:600] = 26 * 256 + 1, 26 * 256, 4 * 256
    write_map(tmp_path / "training/instance/000000_10.png", values)
    write_map(tmp_path / "training/semantic/000000_10.png", (values // 256).astype(np.uint8))
    truth = read_panoptic_truth(f"kitti-semantics:{tmp_path}", 19)
    assert (truth.benchmark, len(truth.paths)) == ("KITTI-19", 1)
    true = ids_of(truth, "training/image_2/000000_10.png", (370, 1224))
    assert true.size == (370, 1224)
    assert (true.ids[96:114, 90:170] == true.ids[96, 90]).all()
    places = ((0, 0), (100, 90), (100, 290), (300, 490))
    names = [None if (s := true.ids[place]) == 0 else truth.classes[true.classes[s - 1]] for place in places]
    assert names == ["road", "car", "car", None]
    assert [bool(true.crowd[true.ids[place] - 1]) for place in places[:3]] == [False, False, True]


def test_maps_that_have_no_instances(tmp_path: Path) -> None:
    write_map(tmp_path / "k/semantic/a.png", np.full(SIZE, 26, np.uint8))
    truth = read_panoptic_truth(f"kitti-semantics:{tmp_path / 'k'}")
    with pytest.raises(ImageError, match=r"without instances: .*a, whose map has classes alone"):
        ids_of(truth, "a.png")
    write_map(tmp_path / "c/a_gtFine_labelIds.png", np.full(SIZE, 26, np.uint8))
    with pytest.raises(SourceError, match=r"it must hold \*_gtFine_instanceIds\.png"):
        read_panoptic_truth(f"cityscapes:{tmp_path / 'c'}")
    instance_map(tmp_path / "v/a.png", 0)
    truth = read_panoptic_truth(f"kitti-semantics:{tmp_path / 'v'}")
    assert not ids_of(truth, "a.png").ids.any(), "all of it is void"


def test_values_that_nobody_knows(tmp_path: Path) -> None:
    instance_map(tmp_path / "a_gtFine_instanceIds.png", 7, 99, 40000, 40001)
    instance_map(tmp_path / "b_gtFine_instanceIds.png", 99, 98)
    truth = read_panoptic_truth(f"cityscapes:{tmp_path}")
    true = ids_of(truth, "a.png")
    assert true.strange == {99: 4, 40: 8}
    assert true.ids[0].tolist() == [1, 0, 0, 0]
    with pytest.raises(ImageError, match="none of whose values, such as 99, is known"):
        ids_of(truth, "b.png")


# --- COCO -------------------------------------------------------------------------------------------------------------


CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person", "isthing": 1},
    {"id": 2, "name": "bicycle", "supercategory": "vehicle", "isthing": 1},
    {"id": 119, "name": "flower", "supercategory": "plant", "isthing": 0},
    {"id": 184, "name": "tree-merged", "supercategory": "plant", "isthing": 0},
]


def panoptic(folder: Path, ids: np.ndarray, segments: list[tuple[int, int, int]], **more: Any) -> Path:
    """A panoptic file of one image. segments: id, category, crowd."""
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    write_map(folder / "truth" / "1.png", colours)
    info = [{"id": id_, "category_id": category, "iscrowd": crowd} for id_, category, crowd in segments]
    document = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": info}],
        "categories": CATEGORIES,
        **more,
    }
    file = folder / "truth.json"
    file.write_text(json.dumps(document))
    return file


def test_segments_of_a_panoptic_file(tmp_path: Path) -> None:
    ids = np.tile(np.array([7, 70_000, 9, 0, 11, 12]), (4, 1))
    segments = [(7, 1, 0), (70_000, 1, 1), (9, 119, 0), (11, 184, 0)]
    file = panoptic(tmp_path, ids, segments)
    truth = read_panoptic_truth(f"coco-panoptic:{file}")
    assert truth.things == (True, True, False, False)
    true = ids_of(truth, "val2017/1.jpg")
    expected = [("person", False), ("person", True), ("flower", False), None, ("tree-merged", False), None]
    assert named(truth, true) == expected
    assert true.strange == {12: 4}
    truth = read_panoptic_truth(f"coco-panoptic:{file}", 27)
    true = ids_of(truth, "1.jpg")
    assert named(truth, true)[:3] == [("person", False), ("person", True), ("plant", False)]
    assert true.ids[0, 2] == true.ids[0, 4], "stuff of one class is one segment"
    assert sum(truth.things) == 12


def test_a_panoptic_file_must_say_what_is_a_thing(tmp_path: Path) -> None:
    silent = [{key: value for key, value in one.items() if key != "isthing"} for one in CATEGORIES]
    file = panoptic(tmp_path, np.full(SIZE, 7), [(7, 1, 0)], categories=silent)
    with pytest.raises(SourceError, match=r'category 1 \(person\) must have "isthing", 0 or 1, not None'):
        read_panoptic_truth(f"coco-panoptic:{file}")
    assert read_panoptic_truth(f"coco-panoptic:{file}", 27).things[9], "its supercategories are known"


def test_what_is_refused(tmp_path: Path) -> None:
    instance_map(tmp_path / "a_gtFine_instanceIds.png", 7)
    file = panoptic(tmp_path, np.full(SIZE, 7), [(7, 1, 0)])
    for spec, classes, error, message in (
        (f"{tmp_path}", None, SourceError, "FORMAT:PATH; known: cityscapes, kitti-semantics, coco-panoptic"),
        (f"maps:{tmp_path}", None, SourceError, "there is no format 'maps'"),
        ("cityscapes:", None, SourceError, "say where the file or folder is"),
        (f"cityscapes:{tmp_path}", 8, ConfigError, "has 27 or 19 or 7 classes"),
        (f"coco-panoptic:{file}", 8, ConfigError, "has 133 or 27 classes"),
        (f"coco-panoptic:{file}:{tmp_path / 'nowhere'}", None, SourceError, "coco-panoptic:JSON:FOLDER"),
    ):
        with pytest.raises(error, match=message):
            read_panoptic_truth(spec, classes)


# --- the benchmarks' own files ----------------------------------------------------------------------------------------


def itself(truth: PanopticTruth, true: TrueSegments) -> PredictedSegments:
    return PredictedSegments(true.ids, true.classes, np.array(truth.things)[true.classes] & ~true.crowd)


def quality(truth: PanopticTruth, pairs: list[tuple[PredictedSegments, TrueSegments]], void: str) -> dict[str, Any]:
    found = Overlaps(len(truth.classes))
    for predicted, true in pairs:
        found.add(predicted, true)
    counts = found.counts(range(len(truth.classes)), truth.things, void)
    measured = counts.measured(np.ones((len(pairs), 1)), truth.things)
    by_class = dict(zip(truth.classes, measured.by_class["pq"][:, 0].tolist(), strict=True))
    return {**by_class, **{name: float(value[0]) for name, value in measured.overall.items()}}


@pytest.mark.parametrize(
    ("name", "path", "photos", "classes"),
    [
        *(("cityscapes", "street/cityscapes", "street/cityscapes/train_img", classes) for classes in (27, 19, 7)),
        ("kitti-semantics", "street/kitti_semantics", "street/kitti_semantics/image_2", 19),
        *(
            ("coco-panoptic", "street/coco_panoptic/panoptic_examples.json", "street/coco_panoptic/input_images", n)
            for n in (133, 27)
        ),
    ],
)
def test_the_benchmarks_scored_against_themselves(
    name: str, path: str, photos: str, classes: int, assets: Path
) -> None:
    if not (assets / "street").is_dir():
        pytest.skip(f"no driving scenes at {assets / 'street'}")
    truth = read_panoptic_truth(f"{name}:{assets / path}", classes)
    refs = list_images(str(assets / photos)).refs
    found = truth.matched(refs)
    assert None not in found.values(), "each photo has a truth"
    size = np.asarray(Image.open(refs[0].uri)).shape[:2]
    true = truth.segments(found[refs[0].id], size)
    assert true.size == size
    assert not true.strange
    for void in VOID_RULES:
        value = quality(truth, [(itself(truth, true), true)], void)
        assert [value[key] for key in ("pq", "sq", "rq", "pq_things", "pq_stuff", "void")] == [1, 1, 1, 1, 1, 0]


def test_a_frame_that_is_changed_by_hand(assets: Path) -> None:
    """One car lost, two cars taken for one, the sky cut to nine tenths: what that costs follows from areas alone."""
    if not (assets / "street").is_dir():
        pytest.skip(f"no driving scenes at {assets / 'street'}")
    truth = read_panoptic_truth(f"cityscapes:{assets / 'street/cityscapes'}", 19)
    true = ids_of(truth, "aachen_000000_000019_leftImg8bit.png", (1024, 2048))
    areas = np.bincount(true.ids.ravel())
    cars = [s for s in range(1, len(areas)) if truth.classes[true.classes[s - 1]] == "car" and not true.crowd[s - 1]]
    cars.sort(key=lambda s: areas[s])
    lost, small, large = cars[0], cars[1], cars[-1]
    (sky,) = (s for s in range(1, len(areas)) if truth.classes[true.classes[s - 1]] == "sky")
    ids = np.where(true.ids == lost, 0, np.where(true.ids == small, large, true.ids))
    rows = np.flatnonzero((true.ids == sky).ravel())
    ids.ravel()[rows[: len(rows) // 10]] = 0
    value = quality(truth, [(itself(truth, true)._replace(ids=ids), true)], "panopticapi")
    n, joined = len(cars), areas[large] / (areas[large] + areas[small])
    assert n > 4
    assert joined > 0.5
    ious = n - 3 + joined  # all but two match, the large one with the joined area
    assert value["car"] == pytest.approx(ious / (n - 2 + 2 / 2))
    assert value["sky"] == pytest.approx(1 - (len(rows) // 10) / len(rows))
    others = [v for key, v in value.items() if key in truth.classes and key not in ("car", "sky") and not np.isnan(v)]
    assert set(others) == {1.0}
    assert value["pq"] == pytest.approx((sum(others) + value["car"] + value["sky"]) / (len(others) + 2))
    forgiving = quality(truth, [(itself(truth, true)._replace(ids=ids), true)], "forgiven")
    assert forgiving["sky"] == 1
    assert forgiving["car"] == pytest.approx(ious / (n - 2 + 1 / 2)), "the lost car is forgiven, the joined one not"
