"""Semantic truths: what the files of each benchmark mean, which file is of which photo, and what is odd."""

import json
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from support.labelled_run import write_map

from pipeline.errors import ConfigError, ImageError, SourceError
from pipeline.evaluation.semantic_truth.class_maps import (
    ADE20K,
    CITYSCAPES,
    COCO_27,
    COCO_CATEGORIES,
    COCO_THINGS,
    IGNORED,
    POTSDAM_COLOURS,
)
from pipeline.evaluation.semantic_truth.formats import FORMATS, read_semantic_truth
from pipeline.evaluation.semantic_truth.pixel_maps import read_pixels
from pipeline.evaluation.semantic_truth.truth import SemanticTruth
from pipeline.images.manifest import ImageRef
from pipeline.images.sources import list_images

SIZE = (4, 6)


def ref(id_: str, coco_id: int | None = None) -> ImageRef:
    return ImageRef(id_, f"/photos/{id_}", coco_id=coco_id)


def labels_of(truth: SemanticTruth, id_: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    number = truth.matched([ref(id_)])[id_]
    assert number is not None, f"{id_} is not found"
    return truth.labels(number, ref(id_), size).labels


def values(*numbers: int, dtype: Any = np.uint8) -> np.ndarray:
    """A map of one row of these numbers, and four rows alike."""
    return np.tile(np.array(numbers, dtype), (4, 1))


# --- class maps -------------------------------------------------------------------------------------------------------


def test_cityscapes_27_is_the_id_minus_7() -> None:
    ids = np.arange(256, dtype=np.uint8)[None]
    labels, strange = CITYSCAPES[27].labels(ids)
    assert labels[0, 7:34].tolist() == list(range(27))
    assert set(labels[0, :7].tolist()) | {int(labels[0, 255])} == {IGNORED}
    assert set(strange) == set(range(34, 255))


def test_cityscapes_19_are_the_train_ids_and_7_the_categories() -> None:
    train_ids = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    train_ids |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    ids = np.arange(34, dtype=np.uint8)[None]
    labels, strange = CITYSCAPES[19].labels(ids)
    assert labels[0].tolist() == [train_ids.get(id_, IGNORED) for id_ in range(34)]
    assert not strange
    categories, _ = CITYSCAPES[7].labels(ids)
    expected = [255] * 7 + [0] * 4 + [1] * 6 + [2] * 4 + [3] * 2 + [4] + [5] * 2 + [6] * 8
    assert categories[0].tolist() == expected
    assert CITYSCAPES[19].names[-3:] == ("train", "motorcycle", "bicycle")
    assert CITYSCAPES[7].names == ("flat", "construction", "object", "nature", "sky", "human", "vehicle")


def test_every_coco_category_has_one_of_27_classes() -> None:
    assert sorted(COCO_CATEGORIES) == list(range(1, 183))
    assert set(COCO_CATEGORIES.values()) == set(COCO_27)
    known = {1: "person", 18: "animal", 62: "furniture", 90: "indoor", 106: "sky", 155: "water", 149: "ground"}
    known |= {92: "textile", 100: "raw-material", 101: "floor", 102: "ceiling", 182: "solid", 129: "plant"}
    assert {id_: COCO_CATEGORIES[id_] for id_ in known} == known


def test_ade20k_has_150_classes_from_1() -> None:
    names = ADE20K[150].names
    assert len(set(names)) == 150
    assert (names[0], names[12], names[149]) == ("wall", "person", "flag")
    labels, _ = ADE20K[150].labels(np.array([[0, 1, 150]], np.uint8))
    assert labels.tolist() == [[IGNORED, 0, 149]]


# --- files of numbers -------------------------------------------------------------------------------------------------


def grey_png(bits: int, row: bytes, width: int, rows: int = 1) -> bytes:
    """A grey PNG of less than 8 bits, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, rows, bits, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def palette_map(colours: list[int], indices: list[int]) -> Image.Image:
    image = Image.fromarray(np.array([indices], np.uint8), "L").convert("P")
    image.putdata(indices)
    image.putpalette(colours + [0] * (768 - len(colours)))
    return image


def test_numbers_of_all_kinds_of_pictures(tmp_path: Path) -> None:
    file = tmp_path / "map.png"
    numbers = np.array([[0, 1, 2, 200, 255]], np.uint8)
    for suffix in ("png", "tif", "bmp", "pgm", "gif"):
        other = tmp_path / f"map.{suffix}"
        Image.fromarray(numbers).save(other)
        assert read_pixels(str(other)).tolist() == numbers.tolist(), suffix
    deep = np.array([[0, 7, 255, 256, 33001, 65535]], np.uint16)
    write_map(file, deep)
    assert read_pixels(str(file)).tolist() == deep.tolist()
    Image.fromarray(numbers).convert("RGB").save(file)
    assert read_pixels(str(file)).tolist() == numbers.tolist(), "three equal channels are one"
    Image.fromarray(numbers).convert("LA").save(file)
    assert read_pixels(str(file)).tolist() == numbers.tolist()
    file.write_bytes(grey_png(4, bytes([0x01, 0x2F]), 4))
    assert read_pixels(str(file)).tolist() == [[0, 1, 2, 15]], "not stretched to 0..255"
    file.write_bytes(grey_png(2, bytes([0b00011011]), 4))
    assert read_pixels(str(file)).tolist() == [[0, 1, 2, 3]]
    file.write_bytes(grey_png(1, bytes([0b01000000]), 2))
    assert read_pixels(str(file)).tolist() == [[0, 1]]
    colours = np.array([[[128, 64, 128], [0, 0, 142]]], np.uint8)
    write_map(file, colours)
    assert read_pixels(str(file)).tolist() == colours.tolist()


def test_palettes_count_by_index_and_grey_ones_by_their_grey(tmp_path: Path) -> None:
    file = tmp_path / "map.png"
    palette_map([128, 64, 128, 244, 35, 232, 70, 70, 70], [0, 1, 2, 1]).save(file)
    assert read_pixels(str(file)).tolist() == [[0, 1, 2, 1]]
    palette_map([7, 7, 7, 11, 11, 11, 255, 255, 255], [0, 1, 2, 1]).save(file)
    assert read_pixels(str(file)).tolist() == [[7, 11, 255, 11]], "as optimisers write a grey map of few numbers"
    palette_map([128, 64, 128, 180, 180, 180], [1, 255, 1, 1]).save(file)
    assert read_pixels(str(file)).tolist() == [[1, 255, 1, 1]], "of a palette with colours, grey ones alone occur"


def test_what_is_no_map(tmp_path: Path) -> None:
    numbers = np.zeros((20, 30), np.uint8)
    jpeg = tmp_path / "map.png"
    Image.fromarray(numbers).save(jpeg, "JPEG")
    cases = {"lossy": jpeg, "zero_byte": tmp_path / "empty.png", "not_an_image": tmp_path / "text.png"}
    cases["zero_byte"].write_bytes(b"")
    cases["not_an_image"].write_text("not a picture")
    cases["unreadable"] = tmp_path / "missing.png"
    cases["truncated"] = tmp_path / "cut.png"
    write_map(cases["truncated"], np.random.default_rng(0).integers(0, 255, (50, 50)).astype(np.uint8))
    cases["truncated"].write_bytes(cases["truncated"].read_bytes()[:-400])
    cases["unsupported"] = tmp_path / "float.tif"
    Image.fromarray(np.zeros((3, 3), np.float32)).save(cases["unsupported"])
    for reason, file in cases.items():
        with pytest.raises(ImageError) as error:
            read_pixels(str(file))
        assert error.value.reason == reason
        assert str(file) in error.value.detail


# --- which file is of which photo -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "file", "photo"),
    [
        ("cityscapes", "gtFine/val/ulm/ulm_0_9_gtFine_labelIds.png", "ulm_0_9_leftImg8bit.png"),
        ("cityscapes", "val/ulm/ulm_0_9_gtFine_labelIds.png", "leftImg8bit/val/ulm/ulm_0_9_leftImg8bit.png"),
        ("cityscapes", "ulm_0_9_gtCoarse_labelIds.png", "ulm/ulm_0_9_leftImg8bit.png"),
        ("cityscapes", "ulm_0_9_gtFine_labelIds.png", "ulm_0_9.jpg"),
        ("kitti-semantics", "training/semantic/000004_10.png", "training/image_2/000004_10.png"),
        ("ade20k", "annotations/validation/ADE_val_1.png", "validation/ADE_val_1.jpg"),
        ("potsdam", "5_Labels_all/top_potsdam_2_10_label.tif", "2_Ortho_RGB/top_potsdam_2_10_RGB.tif"),
        ("potsdam", "ann_dir/2_10_0_0.png", "img_dir/2_10_0_0.png"),
        ("coco-stuff", "stuffthingmaps/val2017/000000000139.png", "000000000139.jpg"),
        ("maps", "deep/down/a.png", "shards-000.tar/a.jpg"),
        ("maps", "a.tif", "a.webp"),
        ("maps", "name.with.dots.png", "name.with.dots.jpg"),
        ("maps", "Straße é.png", "Straße é.jpg"),
    ],
)
def test_maps_are_found_by_the_frames_name(spec: str, file: str, photo: str, tmp_path: Path) -> None:
    write_map(tmp_path / file, values(7, 8, 1, 2))
    write_map((tmp_path / file).with_name(f"other_{Path(file).name}"), values(1))
    truth = read_semantic_truth(f"{spec}:{tmp_path}")
    assert labels_of(truth, photo).shape == (4, 4)


def test_only_the_maps_of_a_benchmark_are_maps(tmp_path: Path) -> None:
    """Cityscapes has four pictures for each frame, KITTI six folders with the same names."""
    city = tmp_path / "city"
    for ending in ("color", "instanceIds", "labelTrainIds"):
        write_map(city / f"ulm_gtFine_{ending}.png", values(1))
    write_map(city / "ulm_gtFine_labelIds.png", values(26))
    write_map(city / "ulm_gtCoarse_labelIds.png", values(7))
    truth = read_semantic_truth(f"cityscapes:{city}")
    assert len(truth.paths) == 1
    assert truth.classes[int(labels_of(truth, "ulm_leftImg8bit.png")[0, 0])] == "car"
    kitti = tmp_path / "kitti"
    for folder in ("image_2", "semantic_rgb", "instance"):
        write_map(kitti / "training" / folder / "000000_10.png", values(1))
    write_map(kitti / "training" / "semantic" / "000000_10.png", values(23))
    truth = read_semantic_truth(f"kitti-semantics:{kitti}")
    assert len(truth.paths) == 1
    assert truth.classes[int(labels_of(truth, "image_2/000000_10.png")[0, 0])] == "sky"


def test_a_pattern_says_how_maps_are_called(tmp_path: Path) -> None:
    write_map(tmp_path / "x" / "a_labelTrainIds.png", values(3))
    write_map(tmp_path / "x" / "a_color.png", values(4))
    write_map(tmp_path / "x" / "gt_b.png", values(5))
    truth = read_semantic_truth(f"maps:{tmp_path}/*_labelTrainIds.png")
    assert labels_of(truth, "a_leftImg8bit.png")[0, 0] == 3
    assert labels_of(read_semantic_truth(f"maps:{tmp_path}/gt_*.png"), "b.jpg")[0, 0] == 5
    for wrong in ("*_*.png", "*"):
        with pytest.raises(SourceError, match='a pattern has one "\\*"'):
            read_semantic_truth(f"maps:{tmp_path}/{wrong}")


def test_maps_may_be_at_a_url(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for name, number in (("a/0.png", 1), ("b/0.png", 2), (".hidden/1.png", 3)):
        file = write_map(tmp_path / "map.png", values(number))
        store.pipe_file(f"/semantic/labels/{name}", file.read_bytes())
    try:
        truth = read_semantic_truth("maps:memory://semantic/labels")
        assert sorted(truth.paths.values()) == ["a/0", "b/0"]
        assert labels_of(truth, "b/0.jpg")[0, 0] == 2
        with pytest.raises(SourceError, match="no map is below"):
            read_semantic_truth("maps:memory://semantic/nowhere")
    finally:
        store.rm("/semantic", recursive=True)


def test_folders_tell_frames_of_one_name_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_map(tmp_path / "labels" / "a" / "0.png", values(1))
    write_map(tmp_path / "labels" / "b" / "0.png", values(2))
    truth = read_semantic_truth(f"maps:{tmp_path}")
    assert labels_of(truth, "photos/b/0.jpg")[0, 0] == 2
    with caplog.at_level(logging.WARNING):
        assert truth.matched([ref("c/0.jpg")]) == {"c/0.jpg": None}
    assert "has several of their name: c/0 may be labels/a/0, labels/b/0" in caplog.text


def test_two_files_for_a_frame(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_map(tmp_path / "a.png", values(1))
    write_map(tmp_path / "a.tif", values(2))
    with caplog.at_level(logging.WARNING):
        truth = read_semantic_truth(f"maps:{tmp_path}")
    assert labels_of(truth, "a.jpg")[0, 0] == 1
    assert "1 maps left out: 1 for a frame that has one" in caplog.text


def test_two_photos_for_a_map_are_none_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_map(tmp_path / "a.png", values(1))
    truth = read_semantic_truth(f"maps:{tmp_path}")
    with caplog.at_level(logging.WARNING):
        assert set(truth.matched([ref("x/a.jpg"), ref("y/a.jpg")]).values()) == {None}
    assert "does not tell them apart" in caplog.text
    assert truth.matched([ref("a.jpg"), ref("y/a.jpg")]) == {"a.jpg": 0, "y/a.jpg": None}


# --- numberings -------------------------------------------------------------------------------------------------------


def test_instance_maps_of_cityscapes_and_kitti(tmp_path: Path) -> None:
    write_map(tmp_path / "c" / "a_gtFine_instanceIds.png", values(7, 26, 26003, 33000, 65535, 3, dtype=np.uint16))
    truth = read_semantic_truth(f"cityscapes:{tmp_path / 'c'}")
    assert labels_of(truth, "a.png")[0].tolist() == [0, 19, 19, 26, IGNORED, IGNORED]
    write_map(tmp_path / "k" / "a.png", values(7 * 256, 26 * 256 + 3, 4 * 256, dtype=np.uint16))
    truth = read_semantic_truth(f"kitti-semantics:{tmp_path / 'k'}", 19)
    assert [truth.classes[i] for i in labels_of(truth, "a.png")[0, :2]] == ["road", "car"]


def test_kittis_labels_that_are_larger_than_the_photo(tmp_path: Path) -> None:
    """The photos are the bottom right of the labels."""
    ids = np.random.default_rng(0).integers(7, 34, (375, 1242)).astype(np.uint8)
    write_map(tmp_path / "a.png", ids)
    truth = read_semantic_truth(f"kitti-semantics:{tmp_path}")
    assert (labels_of(truth, "a.png", (370, 1224)) == ids[5:, 18:] - 7).all()
    assert (labels_of(truth, "a.png", (375, 1242)) == ids - 7).all()


@pytest.mark.parametrize(
    ("numbers", "classes", "numbering"),
    [
        ((0, 1, 17, 105, 255), ("person", "vehicle", "animal", "sky", None), "by category id - 1"),
        ((1, 2, 18, 106, 183, 0), ("person", "vehicle", "animal", "sky", None, None), "by category id"),
        ((0, 1, 17), ("person", "vehicle", "animal"), "by category id - 1"),
    ],
)
def test_coco_stuff_is_numbered_in_two_ways(
    numbers: tuple[int, ...], classes: tuple[str | None, ...], numbering: str, tmp_path: Path
) -> None:
    write_map(tmp_path / "0.png", values(*numbers))
    write_map(tmp_path / "1.png", values(*numbers[:1]))
    truth = read_semantic_truth(f"coco-stuff:{tmp_path}")
    assert truth.numbering == numbering
    found = [None if i == IGNORED else truth.classes[i] for i in labels_of(truth, "0.jpg")[0].tolist()]
    assert found == list(classes)


def test_potsdam_in_numbers_and_colours(tmp_path: Path) -> None:
    three = [IGNORED, 0, 1, 2, 2, 0, 1]
    write_map(tmp_path / "n" / "a.png", values(*range(7)))
    assert labels_of(read_semantic_truth(f"potsdam:{tmp_path / 'n'}"), "a.tif")[0].tolist() == three
    write_map(tmp_path / "z" / "a.png", values(*range(6), 255))
    truth = read_semantic_truth(f"potsdam:{tmp_path / 'z'}", 6)
    assert truth.numbering == "0 to 5 classes, 255 void"
    assert labels_of(truth, "a.tif")[0].tolist() == [*range(6), IGNORED]
    colours = np.tile(np.array(list(POTSDAM_COLOURS), np.uint8), (4, 1, 1))
    write_map(tmp_path / "c" / "top_potsdam_2_10_label.tif", colours)
    truth = read_semantic_truth(f"potsdam:{tmp_path / 'c'}")
    assert labels_of(truth, "top_potsdam_2_10_IRRG.tif")[0].tolist() == three
    colours[0, 0] = (1, 2, 3)
    write_map(tmp_path / "c" / "top_potsdam_2_10_label.tif", colours)
    found = truth.labels(0, ref("x"), SIZE)
    assert found.labels[0, 0] == IGNORED
    assert found.strange == {-1: 1}


def test_maps_of_ones_own_hold_any_numbers(tmp_path: Path) -> None:
    write_map(tmp_path / "a.png", values(0, 254, 255))
    write_map(tmp_path / "b.png", values(0, 300, dtype=np.uint16))
    truth = read_semantic_truth(f"maps:{tmp_path}")
    assert truth.open_ended
    assert labels_of(truth, "a.jpg")[0].tolist() == [0, 254, IGNORED]
    assert truth.labels(1, ref("b"), SIZE).strange == {300: 4}


# --- odd truths -------------------------------------------------------------------------------------------------------


def test_maps_with_colours_where_there_should_be_ids(tmp_path: Path) -> None:
    write_map(tmp_path / "a_gtFine_labelIds.png", np.random.default_rng(0).integers(0, 255, (4, 4, 3)).astype(np.uint8))
    truth = read_semantic_truth(f"cityscapes:{tmp_path}")
    with pytest.raises(ImageError, match=r"of colours: .*a_gtFine_labelIds\.png, which has colours"):
        truth.labels(0, ref("a"), SIZE)


def test_numbers_that_nobody_knows(tmp_path: Path) -> None:
    write_map(tmp_path / "a_gtFine_labelIds.png", values(7, 99, 99))
    write_map(tmp_path / "b_gtFine_labelIds.png", values(99, 98))
    truth = read_semantic_truth(f"cityscapes:{tmp_path}")
    assert truth.labels(0, ref("a"), SIZE).strange == {99: 8}
    with pytest.raises(ImageError, match="none of whose values, such as 99, is known"):
        truth.labels(1, ref("b"), SIZE)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}", "say in what format it is"),
        ("citiscapes:{}", "there is no format 'citiscapes'; known: cityscapes"),
        ("cityscapes:", "say where the file or folder is, cityscapes:PATH"),
        ("cityscapes:{}", "it must hold *_gtFine_labelIds.png or"),
        ("cityscapes:{}/nowhere", "nowhere is not there"),
        ("ade20k:{}/a.txt", "a.txt is a file: give the folder"),
        ("maps:{}", "no map is below"),
        ("coco-things:{}/nowhere.json", "nowhere.json cannot be read"),
        ("coco-stuff:{}/a.json", "a.json is not JSON"),
        ("coco-panoptic:{}/a.json", "a.json is not JSON"),
    ],
)
def test_what_is_refused_before_any_map_is_read(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.json").write_text("x")
    with pytest.raises(SourceError) as error:
        read_semantic_truth(spec.format(tmp_path))
    assert message in str(error.value)


@pytest.mark.parametrize("name", FORMATS)
def test_a_number_of_classes_that_a_format_does_not_have(name: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, SourceError), match=r"--classes 8: .* has|cannot be read|no map"):
        read_semantic_truth(f"{name}:{tmp_path / 'x.json' if 'coco-' in name else tmp_path}", 8)


# --- COCO's files -----------------------------------------------------------------------------------------------------


def segment(image: int, category: int, rows: slice, columns: slice, **more: Any) -> dict[str, Any]:
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[rows, columns] = 1
    rle = coco_mask.encode(mask)
    code = {"size": list(SIZE), "counts": rle["counts"].decode()}
    area = int(mask.sum())
    return {"image_id": image, "category_id": category, "segmentation": code, "area": area, "iscrowd": 0, **more}


def document(annotations: list[dict[str, Any]], categories: list[dict[str, Any]], images: int = 1) -> dict[str, Any]:
    listed = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in range(1, images + 1)]
    numbered = [{"id": number, **one} for number, one in enumerate(annotations, start=1)]
    return {"images": listed, "annotations": numbered, "categories": categories}


STUFF = [
    {"id": 106, "name": "clouds", "supercategory": "sky"},
    {"id": 124, "name": "grass", "supercategory": "plant"},
    {"id": 183, "name": "other", "supercategory": "other"},
]
THINGS = [
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 3, "name": "car", "supercategory": "vehicle"},
]


def test_segments_of_stuff_and_things(tmp_path: Path) -> None:
    whole = slice(None)
    stuff = [
        segment(1, 106, slice(0, 2), whole),
        segment(1, 124, slice(2, 4), whole),
        segment(1, 183, whole, slice(5, 6)),
    ]
    things = [segment(1, 1, slice(1, 3), slice(1, 2)), segment(1, 3, slice(1, 4), slice(0, 3), iscrowd=1)]
    files = [tmp_path / "stuff.json", tmp_path / "instances.json"]
    files[0].write_text(json.dumps(document(stuff, STUFF)))
    files[1].write_text(json.dumps(document(things, THINGS, images=2)))
    sky, plant, person, vehicle = (COCO_27.index(name) for name in ("sky", "plant", "person", "vehicle"))
    truth = read_semantic_truth(f"coco-stuff:{files[0]}")
    expected = np.array([[sky] * 6] * 2 + [[plant] * 6] * 2)
    expected[:, 5] = IGNORED
    assert (labels_of(truth, "1.jpg") == expected).all(), "other is all things, which count for nothing"
    truth = read_semantic_truth(f"coco-stuff:{files[0]}+{files[1]}")
    assert len(truth.paths) == 1, "images that both files list"
    expected[1:4, 0:3] = vehicle
    expected[1:3, 1] = person
    assert (labels_of(truth, "1.jpg") == expected).all(), "things above stuff, the smaller one on top"
    truth = read_semantic_truth(f"coco-things:{files[1]}")
    assert truth.classes == COCO_THINGS
    only = np.where(np.isin(expected, (person, vehicle)), expected, IGNORED)
    assert (labels_of(truth, "1.jpg") == only).all()
    assert truth.matched([ref("renamed.jpg", 2)]) == {"renamed.jpg": 2}, "by COCO id, where no name fits"


def test_categories_without_supercategories_are_coco_ids(tmp_path: Path) -> None:
    file = tmp_path / "i.json"
    file.write_text(json.dumps(document([segment(1, 18, slice(None), slice(0, 2))], [{"id": 18, "name": "dog"}])))
    truth = read_semantic_truth(f"coco-things:{file}")
    assert truth.classes[labels_of(truth, "1.jpg")[0, 0]] == "animal"
    file.write_text(
        json.dumps(document([segment(1, 1, slice(None), slice(0, 2))], [{"id": 1, "supercategory": "bird"}]))
    )
    with pytest.raises(SourceError, match="no category is one of electronic"):
        read_semantic_truth(f"coco-things:{file}")


def panoptic(folder: Path, ids: np.ndarray, segments: dict[int, int]) -> Path:
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    write_map(folder / "panoptic_val" / "1.png", colours)
    info = [{"id": id_, "category_id": category, "iscrowd": 0} for id_, category in segments.items()]
    categories = [*THINGS, {"id": 187, "name": "sky-other-merged", "supercategory": "sky"}]
    annotations = [{"image_id": 1, "file_name": "1.png", "segments_info": info}]
    whole = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": annotations, "categories": categories}
    file = folder / "panoptic_val.json"
    file.write_text(json.dumps(whole))
    return file


def test_panoptic_maps(tmp_path: Path) -> None:
    ids = np.full(SIZE, 70_000)
    ids[:, 2:4], ids[:, 4], ids[:, 5] = 5 * 256 + 3, 0, 9
    file = panoptic(tmp_path, ids, {70_000: 187, 5 * 256 + 3: 3})
    truth = read_semantic_truth(f"coco-panoptic:{file}")
    assert truth.classes == ("person", "car", "sky-other-merged")
    found = truth.labels(1, ref("1.jpg"), SIZE)
    assert found.labels[0].tolist() == [2, 2, 1, 1, IGNORED, IGNORED]
    assert found.strange == {9: 4}
    assert truth.matched([ref("val2017/1.jpg")]) == {"val2017/1.jpg": 1}
    truth = read_semantic_truth(f"coco-panoptic:{file}", 27)
    assert [truth.classes[i] for i in labels_of(truth, "1.jpg")[0, [0, 2]]] == ["sky", "vehicle"]
    (tmp_path / "panoptic_val").rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="say where they are, coco-panoptic:JSON:FOLDER"):
        read_semantic_truth(f"coco-panoptic:{file}")
    assert len(read_semantic_truth(f"coco-panoptic:{file}:{tmp_path / 'elsewhere'}").paths) == 1


def test_a_panoptic_map_of_one_grey_colour_is_one_segment(tmp_path: Path) -> None:
    file = panoptic(tmp_path, np.full(SIZE, 7 * 65793), {7 * 65793: 1})
    truth = read_semantic_truth(f"coco-panoptic:{file}")
    assert (labels_of(truth, "1.jpg") == 0).all()


def test_instances_are_no_panoptic_file(tmp_path: Path) -> None:
    file = tmp_path / "i.json"
    file.write_text(json.dumps(document([segment(1, 1, slice(None), slice(0, 2))], THINGS)))
    with pytest.raises(SourceError, match="is no panoptic file"):
        read_semantic_truth(f"coco-panoptic:{file}")


# --- the benchmarks' own files ----------------------------------------------------------------------------------------


PANOPTIC = "street/coco_panoptic/panoptic_examples.json", "street/coco_panoptic/input_images"


@pytest.mark.parametrize(
    ("name", "path", "photos", "classes", "mostly"),
    [
        ("cityscapes", "street/cityscapes", "street/cityscapes/train_img", 27, "road"),
        ("cityscapes", "street/cityscapes/train_inst", "street/cityscapes/train_img", 19, "road"),
        ("cityscapes", "street/cityscapes", "street/cityscapes/train_img", 7, "flat"),
        ("kitti-semantics", "street/kitti_semantics", "street/kitti_semantics/image_2", 27, "road"),
        ("ade20k", "street/ade20k_sample", "street/ade20k_sample/images", 150, "sky"),
        ("potsdam", "street/potsdam", "street/potsdam/img_dir", 3, "road"),
        ("potsdam", "street/potsdam", "street/potsdam/img_dir", 6, "impervious surface"),
        ("coco-panoptic", *PANOPTIC, 133, "tree-merged"),
        ("coco-panoptic", *PANOPTIC, 27, "plant"),
        ("coco-things", "coco/instances.json", "coco/images", 12, "furniture"),
    ],
)
def test_the_benchmarks_own_files(name: str, path: str, photos: str, classes: int, mostly: str, assets: Path) -> None:
    if not (assets / "street").is_dir():
        pytest.skip(f"no driving scenes at {assets / 'street'}")
    truth = read_semantic_truth(f"{name}:{assets / path}", classes)
    refs = list_images(str(assets / photos)).refs
    found = truth.matched(refs)
    assert None not in found.values(), "each photo has a truth"
    size = np.asarray(Image.open(refs[0].uri)).shape[:2]
    labels, strange = truth.labels(found[refs[0].id], refs[0], size)
    assert not strange
    assert labels.shape == size
    counts = np.bincount(labels.ravel(), minlength=256)[: len(truth.classes)]
    assert truth.classes[int(counts.argmax())] == mostly


def test_labels_and_instances_of_the_benchmarks_agree(assets: Path) -> None:
    if not (assets / "street").is_dir():
        pytest.skip(f"no driving scenes at {assets / 'street'}")
    city, kitti = assets / "street/cityscapes", assets / "street/kitti_semantics"
    for spec, one, other, photo in (
        ("cityscapes", city / "train_label", city / "train_inst", "aachen_000000_000019_leftImg8bit.png"),
        ("kitti-semantics", kitti / "semantic", kitti / "instance", "000000_10.png"),
    ):
        first, second = (read_semantic_truth(f"{spec}:{folder}") for folder in (one, other))
        assert (labels_of(first, photo, (370, 1224)) == labels_of(second, photo, (370, 1224))).all()


def test_supercategories_of_coco_are_those_of_its_ids(assets: Path) -> None:
    stuff = assets / "street/coco_stuff/stuff_examples.json"
    if not stuff.is_file():
        pytest.skip(f"no driving scenes at {assets / 'street'}")
    for file in (stuff, assets / "coco/instances.json"):
        listed = json.loads(file.read_text())["categories"]
        assert {one["supercategory"] for one in listed} - set(COCO_27) <= {"other"}
        assert all(COCO_CATEGORIES[one["id"]] == one["supercategory"] for one in listed if one["id"] < 183)
    truth = read_semantic_truth(f"coco-stuff:{stuff}")
    counts = np.bincount(truth.labels(934, ref("934.jpg"), (480, 640)).labels.ravel(), minlength=256)
    assert truth.classes[int(counts[:27].argmax())] == "plant"


ODD_CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 2, "name": "list", "supercategory": ["person"]},
]


def test_odd_fields_of_json_files(tmp_path: Path) -> None:
    write_map(tmp_path / "maps" / "a.png", np.array([[[3, 0, 0]] * 4] * 4, np.uint8))
    document = {
        "images": [{"id": 1, "file_name": 7}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 3, "category_id": 1}]}],
        "categories": ODD_CATEGORIES,
    }
    file = tmp_path / "panoptic.json"
    file.write_text(json.dumps(document))
    truth = read_semantic_truth(f"coco-panoptic:{file}:{tmp_path / 'maps'}", 27)
    assert truth.matched([ImageRef("a.jpg", "/a.jpg")]) == {"a.jpg": 1}
    mask = {"size": [4, 4], "counts": [0, 16]}
    one = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": mask, "iscrowd": 0, "area": 16}
    images = [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}]
    file.write_text(json.dumps({"images": images, "annotations": [one], "categories": ODD_CATEGORIES}))
    for name in ("coco-stuff", "coco-things"):
        assert read_semantic_truth(f"{name}:{file}").paths == {1: "a.jpg"}


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a", "b", "a"], "names two classes 'a'"), ([str(i) for i in range(256)], "has 256 classes: 255 can be scored")],
)
def test_classes_that_a_file_names_badly(names: list[str], message: str, tmp_path: Path) -> None:
    write_map(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    legend = {"schema": "cuts3d-labels/1", "classes": [{"label": i, "name": name} for i, name in enumerate(names)]}
    (tmp_path / "labels.json").write_text(json.dumps(legend))
    with pytest.raises(SourceError, match=message):
        read_semantic_truth(f"maps:{tmp_path}")
    annotations = [{"image_id": 1, "file_name": "a.png", "segments_info": []}]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    (tmp_path / "p.json").write_text(json.dumps({"annotations": annotations, "categories": categories}))
    with pytest.raises(SourceError, match=message):
        read_semantic_truth(f"coco-panoptic:{tmp_path / 'p.json'}:{tmp_path}")


@pytest.mark.parametrize("spec", ["maps", "ade20k", "potsdam"])
def test_a_store_that_refuses_is_one_message(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_everything(monkeypatch)
    with pytest.raises(SourceError, match=r"memory:///?maps cannot be read: no key"):
        read_semantic_truth(f"{spec}:memory://maps")


def test_photos_in_a_store_that_refuses_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_everything(monkeypatch)
    for place in ("memory://photos", "memory://list.txt", "memory://photos/*.png"):
        with pytest.raises(SourceError, match=r"memory://.* cannot be read: no key"):
            list_images(place)


def refuse_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's own exception, as s3fs has without credentials."""

    class NoKeyError(Exception):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise NoKeyError("no key")

    for name in ("isdir", "exists", "find", "cat_file", "glob", "info", "ls"):
        monkeypatch.setattr(type(fsspec.filesystem("memory")), name, refuse)
