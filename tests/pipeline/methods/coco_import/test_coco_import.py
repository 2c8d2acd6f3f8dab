"""COCO files as runs: masks against pycocotools, sizes against photos, and everything that reads runs on the result."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from support.bad_images import encoded, gradient, with_orientation, write
from support.browser import chromium

from pipeline import cli
from pipeline.commands.import_coco import import_coco
from pipeline.engine import run as engine
from pipeline.engine.whole_shards import WholeShardError
from pipeline.errors import ConfigError, RunMismatchError, SourceError
from pipeline.images.coco_masks import UnusableMaskError, stored_mask
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_photo, photo_size
from pipeline.methods.coco_import import importing as module
from pipeline.results.instances import ImageRecord
from pipeline.runs.ledger import Ledger
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.status import status_of
from pipeline.runs.verify import verify_run
from pipeline.views.export import export_coco
from pipeline.views.gallery.gallery import write_gallery

MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: st.lists(st.booleans(), min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
        lambda bits: np.array(bits, np.uint8).reshape(size)
    )
)


def rle_of(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def counts_of_pixels(mask: np.ndarray) -> list[int]:
    """Run lengths by a loop over the pixels, column by column."""
    counts, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


# --- masks ------------------------------------------------------------------------------------------------------------


@given(MASKS, st.sampled_from(["text", "bytes", "list", "idle zeros"]))
def test_codes_of_all_kinds_come_out_as_pycocotools_writes_them(mask: np.ndarray, kind: str) -> None:
    rle = rle_of(mask)
    if kind == "bytes":
        rle["counts"] = rle["counts"].encode()
    elif kind == "list":
        rle["counts"] = counts_of_pixels(mask)
    elif kind == "idle zeros":  # [5, 3] as [2, 0, 3, 3, 0, 0]: a valid code that pycocotools itself never writes
        runs = counts_of_pixels(mask)
        rle["counts"] = [runs[0] // 2, 0, runs[0] - runs[0] // 2, *runs[1:], *([0] * 2 if len(runs) % 2 else [0])]
        assert np.array_equal(coco_mask.decode(coco_mask.frPyObjects(rle, *mask.shape)), mask)
    if not mask.any():
        with pytest.raises(UnusableMaskError) as caught:
            stored_mask(rle, mask.shape)
        assert caught.value.reason == "empty"
        return
    stored = stored_mask(rle, mask.shape)
    assert stored.rle == coco_mask.encode(np.asfortranarray(mask))["counts"]
    assert stored.area == mask.sum()
    rows, columns = np.nonzero(mask)
    assert stored.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)


@given(
    st.lists(st.lists(st.tuples(st.floats(-5, 40), st.floats(-5, 30)), min_size=3, max_size=7), min_size=1, max_size=3)
)
def test_polygons_are_what_pycocotools_makes_of_them(corners: list[list[tuple[float, float]]]) -> None:
    polygons = [[value for corner in polygon for value in corner] for polygon in corners]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 24, 32)))
    if not expected.any():
        with pytest.raises(UnusableMaskError, match="no pixel"):
            stored_mask(polygons, (24, 32))
        return
    stored = stored_mask(polygons, (24, 32))
    assert stored.rle == coco_mask.encode(expected)["counts"]
    assert stored.area == expected.sum()


@given(st.binary(max_size=40) | st.text(max_size=20))
def test_no_code_breaks_anything(counts: bytes | str) -> None:
    """What is stored decodes to a mask of its area; all else is refused."""
    try:
        stored = stored_mask({"size": [6, 7], "counts": counts}, (6, 7))
    except UnusableMaskError:
        return
    assert coco_mask.decode({"size": [6, 7], "counts": stored.rle}).sum() == stored.area > 0


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "no_mask"),
        ([], "empty"),
        ([[40, 40, 50, 40, 50, 50]], "empty"),
        ("5 5", "malformed"),
        ([[1, 2, 3, 4]], "malformed"),
        ([[1, 2, 3, 4, 5, 6, 7]], "malformed"),
        ([[1, 2, "x", 4, 5, 6]], "malformed"),
        ([[1, 2, float("nan"), 4, 5, 6]], "malformed"),
        ([[1, 2, 1e12, 4, 5, 6]], "malformed"),
        ([[[1, 2], [3, 4], [5, 6]]], "malformed"),
        ({"counts": [42]}, "malformed"),
        ({"size": [6, 7]}, "malformed"),
        ({"size": [6, 7], "counts": [42]}, "empty"),
        ({"size": [6, 7], "counts": [40]}, "malformed"),
        ({"size": [6, 7], "counts": [0, 43]}, "malformed"),
        ({"size": [6, 7], "counts": [0, -1, 43]}, "malformed"),
        ({"size": [6, 7], "counts": [0, 1 << 40]}, "malformed"),
        ({"size": [7, 6], "counts": [0, 42]}, "other_size"),
        ({"size": [6, 7], "counts": ""}, "malformed"),
        ({"size": [6, 7], "counts": "é"}, "malformed"),
        ({"size": [6, 7], "counts": "o" * 30}, "malformed"),
        ({"size": [6, 7], "counts": "o" * 30 + "0"}, "malformed"),
    ],
)
def test_why_masks_are_not_taken(segmentation: Any, reason: str) -> None:
    with pytest.raises(UnusableMaskError) as caught:
        stored_mask(segmentation, (6, 7))
    assert caught.value.reason == reason


# --- sizes of photos --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_tells_the_size_that_decoding_gives(tmp_path: Path, form: str, orientation: int) -> None:
    ref = ImageRef("a", str(write(tmp_path / "a", with_orientation(gradient(), orientation, form))))
    size = photo_size(ref)
    assert (size.height, size.width) == load_photo(ref).rgb.shape[:2]
    assert form == "TIFF" or size.turned == (orientation >= 5)


# --- runs -------------------------------------------------------------------------------------------------------------


class Data:
    """Photos of 40 × 60 pixels and more, and masks in them."""

    def __init__(self, folder: Path, n: int = 3) -> None:
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        for i in range(n):
            height, width = 40 + i, 60 + i
            name = f"n{i % 2:02d}/{i}.JPEG"
            write(folder / "photos" / name, encoded(gradient(height, width), "JPEG"))
            self.images.append({"id": 70 + i, "file_name": name, "height": height, "width": width})
            for j in range(1 + i % 3):
                self.annotate(i, rle_of(disc(height, width, 15 + 3 * j, 20 + 9 * j, 6 + j)))

    def annotate(self, image: int, segmentation: Any, **fields: Any) -> None:
        number = len(self.annotations) + 1
        self.annotations.append(
            {
                "id": number,
                "image_id": 70 + image,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": segmentation,
                **fields,
            }
        )

    def write(self, document: Any = None) -> str:
        document = document or {"images": self.images, "annotations": self.annotations, "categories": []}
        return str(write(self.folder / "pseudo.json", json.dumps(document).encode()))

    def run(self, **options: Any) -> RunFolder:
        return self.run_into("run", **options)

    def run_into(self, name: str, **options: Any) -> RunFolder:
        options = {"images": str(self.folder / "photos"), "shard_size": 2, **options}
        import_coco(self.write(), self.folder / name, **options)
        return RunFolder.open(self.folder / name)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def records_of(run: RunFolder) -> dict[str, ImageRecord]:
    return {record.id: record for record in RunReader(run)}


def pixels(record: ImageRecord) -> list[np.ndarray]:
    return [
        coco_mask.decode({"size": list(record.size), "counts": instance.rle}).astype(bool)
        for instance in record.instances
    ]


def test_an_import_is_a_run_like_any_other(data: Data) -> None:
    data.annotate(0, rle_of(disc(40, 60, 30, 50, 5)), score=0.25)
    run = data.run()
    assert verify_run(run) == []
    assert status_of(run.url).complete
    records = records_of(run)
    assert list(records) == ["n00/0.JPEG", "n00/2.JPEG", "n01/1.JPEG"]
    for image in data.images:
        record = records[image["file_name"]]
        assert record.size == (image["height"], image["width"])
        theirs = [a for a in data.annotations if a["image_id"] == image["id"]]
        for mask, instance, annotation in zip(pixels(record), record.instances, theirs, strict=True):
            np.testing.assert_array_equal(mask, coco_mask.decode(annotation["segmentation"]))
            assert instance.score == annotation.get("score", 1.0)
            assert instance.confidence.tolist() == [[255]]
        assert [instance.round for instance in record.instances] == list(range(len(theirs)))
        assert record.depth is None
    assert {ref.id: ref.coco_id for ref in run.manifest.refs}["n01/1.JPEG"] == 71


def test_masks_survive_export_and_import(data: Data) -> None:
    first = data.run()
    export_coco(first, data.folder / "first.json")
    import_coco(str(data.folder / "first.json"), data.folder / "again", str(data.folder / "photos"))
    again = RunFolder.open(data.folder / "again")
    assert records_of(again) == records_of(first)
    export_coco(again, data.folder / "again.json")
    one, two = (json.loads((data.folder / name).read_text()) for name in ("first.json", "again.json"))
    assert one | {"info": None} == two | {"info": None}


def test_odd_images_are_set_aside_and_the_others_imported(data: Data) -> None:
    write(data.folder / "secret.jpg", encoded(gradient(), "JPEG"))
    data.images[1]["file_name"] = "../secret.jpg"
    del data.images[2]["file_name"]
    run = data.run()
    reasons = {record.id: record.reason for record in RunReader(run).quarantined()}
    assert reasons == {"%2E%2E/secret.jpg": "odd_entry", "entry 3": "odd_entry"}
    assert [i for i, r in records_of(run).items() if isinstance(r, ImageRecord)] == ["n00/0.JPEG"]
    export_coco(run, data.folder / "out.json")
    assert [image["id"] for image in json.loads((data.folder / "out.json").read_text())["images"]] == [70]


def test_an_image_that_has_the_id_of_another_is_set_aside(data: Data) -> None:
    before = records_of(data.run_into("before"))
    taken, other, third = data.images
    data.images[1] = other | {"id": taken["id"]}
    run = data.run()
    (record,) = RunReader(run).quarantined()
    assert (record.id, record.reason) == (other["file_name"], "odd_entry")
    assert f'has the "id" {taken["id"]}, which {taken["file_name"]} has before it' in record.detail
    names = [taken["file_name"], third["file_name"]]
    assert [records_of(run)[name] for name in names] == [before[name] for name in names]


def test_one_photo_under_two_ids_is_one_image(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    data.images.append(data.images[0] | {"id": 7, "file_name": f"./{data.images[0]['file_name']}"})
    moved = next(a for a in data.annotations if a["image_id"] == 71)
    moved["image_id"] = 7
    data.annotate(-63, rle_of(disc(*pixels_of(data, 0), 20, 40, 5)))  # of id 7
    run = data.run()
    assert "lists 1 photo again, such as n00/0.JPEG" in caplog.text
    assert run.n_images == 3
    assert {ref.coco_id for ref in run.manifest.refs} == {70, 71, 72}
    assert len(pixels(records_of(run)["n00/0.JPEG"])) == 2


def pixels_of(data: Data, image: int) -> tuple[int, int]:
    return data.images[image]["height"], data.images[image]["width"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_files_in_other_forms_of_unicode(encoding: str, data: Data) -> None:
    """As PowerShell writes them."""
    expected = records_of(data.run_into("plain"))
    text = json.dumps({"images": data.images, "annotations": data.annotations, "info": "é"}, ensure_ascii=False)
    write(data.folder / "other.json", text.encode(encoding))
    import_coco(str(data.folder / "other.json"), data.folder / "run", str(data.folder / "photos"))
    assert records_of(RunFolder.open(data.folder / "run")) == expected
    write(data.folder / "other.json", text.encode(encoding)[:-3])
    with pytest.raises(SourceError, match=r"other\.json is not JSON"):
        import_coco(str(data.folder / "other.json"), data.folder / "cut", str(data.folder / "photos"))


def test_an_import_whose_photos_moved_finds_them_again(data: Data) -> None:
    run = data.run()
    (data.folder / "photos").rename(data.folder / "moved")
    (data.folder / "run" / "commits" / "00001.json").unlink()
    with pytest.raises(SourceError, match="none of 1 image looked for is there"):
        engine.run(run.url)
    again = data.run(images=str(data.folder / "moved"))
    assert again.manifest.refs[0].uri == str(data.folder / "moved" / "n00/0.JPEG")
    assert not list(RunReader(again).quarantined())


@settings(max_examples=15)
@given(st.data())
def test_any_masks_survive(tmp_path_factory: pytest.TempPathFactory, drawn: st.DataObject) -> None:
    data = Data(tmp_path_factory.mktemp("any"), n=0)
    write(data.folder / "photos" / "n00" / "0.JPEG", encoded(gradient(16, 20), "JPEG"))
    data.images.append({"id": 70, "file_name": "n00/0.JPEG", "height": 16, "width": 20})
    bits = st.binary(min_size=320, max_size=320).map(lambda b: np.frombuffer(b, np.uint8).reshape(16, 20) % 2)
    masks = drawn.draw(st.lists(bits, min_size=1, max_size=5))
    for mask in masks:
        data.annotate(0, rle_of(mask))
    if not any(mask.any() for mask in masks):
        return
    record = records_of(data.run())["n00/0.JPEG"]
    distinct = {mask.tobytes(): mask for mask in masks if mask.any()}
    assert [mask.tobytes() for mask in pixels(record)] == list(distinct)
    empty = sum(not mask.any() for mask in masks)
    drops = {"empty": empty, "duplicate": len(masks) - empty - len(distinct)}
    assert record.drops == {reason: count for reason, count in drops.items() if count}
    assert verify_run(RunFolder.open(data.folder / "run")) == []


def test_drops_are_counted_by_reason(data: Data) -> None:
    good = rle_of(disc(40, 60, 30, 50, 5))
    data.annotate(0, good, iscrowd=1)
    data.annotate(0, good, score=0.1)
    data.annotate(0, None)
    data.annotate(0, [])
    data.annotate(0, [[1, 2]])
    data.annotate(0, data.annotations[0]["segmentation"])
    data.annotate(0, rle_of(disc(60, 40, 30, 20, 5)))
    data.annotate(0, good, score="high")
    data.annotate(0, good, iscrowd="maybe")
    data.annotate(0, good, score=0.6)
    record = records_of(data.run(min_score=0.5))["n00/0.JPEG"]
    assert record.drops == {
        "crowd": 1, "low_score": 1, "no_mask": 1, "empty": 1, "malformed": 3, "duplicate": 1, "other_size": 1,
    }  # fmt: skip
    assert [instance.score for instance in record.instances] == [1.0, pytest.approx(0.6)]


@pytest.mark.parametrize("change", [{"image_id": 9}, {"image_id": "70"}, {"image_id": None}])
def test_an_annotation_of_no_image_does_not_cost_the_others(
    data: Data, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    straight = records_of(data.run())
    data.annotations.insert(1, {**data.annotations[0], "id": 99, **change})
    assert records_of(data.run_into("odd")) == straight
    assert "1 of 7 annotations left out: 1 " in caplog.text


def test_bad_parts_of_a_mask_are_left_out(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    data.annotations.clear()
    data.annotate(0, [[1, 2], [10, 10, 30, 10, 30, 30, 10, 30], [5, 5, float("nan"), 5, 6, 6]])
    record = records_of(data.run())["n00/0.JPEG"]
    assert (record.instances[0].area, record.drops) == (400, {"bad_part": 2})
    assert caplog.text.count("dropped as bad_part, this one first: annotation 1: a polygon must have") == 1


@pytest.mark.parametrize("crowd", [1, 1.0, True, "1", "true", "YES"])
def test_crowds_in_any_words(data: Data, crowd: Any) -> None:
    for annotation, word in zip(data.annotations, [None, "", 0.0, "0", "false", "no"], strict=True):
        annotation["iscrowd"] = word
    data.annotate(0, rle_of(disc(40, 60, 30, 50, 5)), iscrowd=crowd)
    records = records_of(data.run())
    assert sum(len(record.instances) for record in records.values()) == 6
    assert records["n00/0.JPEG"].drops == {"crowd": 1}


def test_codes_and_scores_as_other_tools_write_them(data: Data) -> None:
    straight = records_of(data.run())
    for annotation in data.annotations:
        height, width = annotation["segmentation"]["size"]
        annotation["segmentation"] = [{**annotation["segmentation"], "size": [float(height), float(width)]}]
        annotation["score"] = None
    assert records_of(data.run_into("other")) == straight


@pytest.mark.parametrize(
    ("segmentation", "fields", "says"),
    [
        ([10, 10, 30, 10, 30, 30], {}, "6 malformed, such as annotation 1: a polygon must be a list of numbers, x1"),
        (
            [[[10, 10], [30, 10], [30, 30]]],
            {},
            "6 malformed, such as annotation 1: a polygon must be a list of numbers",
        ),
        ([[10, 10, 30, 10, 30, 30]], {"score": "0.5"}, "6 malformed, such as annotation 1: its score is '0.5'"),
        (
            [[10, 10, 30, 10, 30, 30]],
            {"iscrowd": "x"},
            "6 malformed, such as annotation 1: iscrowd: 'x' is neither yes nor no",
        ),
        ([[10, 10, 30, 10, 30, 30]], {"iscrowd": 1}, "6 crowd, such as annotation 1: it is a crowd"),
        ([[10, 10, 30, 10, 30, 30]], {"score": 0.1}, "6 low_score, such as annotation 1: it scores 0.1"),
    ],
)
def test_an_import_that_takes_no_mask_is_refused(
    data: Data, segmentation: Any, fields: dict[str, Any], says: str
) -> None:
    for annotation in data.annotations:
        annotation |= {"segmentation": segmentation, **fields}
    with pytest.raises(SourceError, match=rf"pseudo\.json: none of its 6 masks can be used: {says}"):
        data.run(min_score=0.5)
    assert not (data.folder / "run").exists()


def test_swapped_sizes_are_put_right(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    """CutLER's files: the size of the image is width, height; that of the run-length codes is right."""
    straight = records_of(data.run())
    for image in data.images:
        image["height"], image["width"] = image["width"], image["height"]
    swapped = records_of(data.run_into("swapped"))
    assert swapped == straight
    assert caplog.text.count("has height and width of images swapped, as CutLER writes them: 3 of 3") == 1, "said once"


def test_polygons_of_swapped_images_are_put_right(data: Data) -> None:
    data.annotations.clear()
    data.annotate(1, [[50, 5, 58, 5, 58, 30, 50, 30]])  # beyond the width of an image of 61 × 41 pixels
    data.images[1] |= {"height": 61, "width": 41}
    record = records_of(data.run())["n01/1.JPEG"]
    assert record.size == (41, 61)
    assert record.instances[0].box == (50, 5, 8, 25)
    assert record.instances[0].area == 200


def test_sizes_need_not_be_listed(data: Data) -> None:
    straight = records_of(data.run())
    for image in data.images:
        del image["height"], image["width"]
    assert records_of(data.run_into("bare")) == straight


@pytest.mark.parametrize("kind", ["polygons", "codes"])
def test_masks_of_a_photo_of_another_size_are_set_aside(data: Data, kind: str) -> None:
    write(data.folder / "photos" / "n01/1.JPEG", encoded(gradient(82, 122), "JPEG"))
    if kind == "polygons":
        data.annotations = [a for a in data.annotations if a["image_id"] != 71]
        data.annotate(1, [[50, 5, 58, 5, 58, 30, 50, 30]])
    run = data.run()
    (quarantined,) = RunReader(run).quarantined()
    assert (quarantined.id, quarantined.reason) == ("n01/1.JPEG", "other_size")
    assert quarantined.detail == "its masks are of 41 × 61 pixels, the photo has 82 × 122"
    assert verify_run(run) == []


def test_masks_drawn_on_a_photo_lying_on_its_side_are_set_aside(data: Data) -> None:
    """EXIF turns the photo, the masks do not turn with it."""
    write(data.folder / "photos" / "n01/1.JPEG", with_orientation(gradient(41, 61), 6, "JPEG"))
    data.annotations = [a for a in data.annotations if a["image_id"] != 71]
    data.annotate(1, [[50, 5, 58, 5, 58, 30, 50, 30]])
    (quarantined,) = RunReader(data.run()).quarantined()
    assert quarantined.detail == (
        "its masks are of 41 × 61 pixels, the photo has 61 × 41, turned as its EXIF data says"
    )


def test_photos_that_are_missing_or_broken_are_set_aside_and_tried_again(data: Data) -> None:
    photo = data.folder / "photos" / "n01/1.JPEG"
    content = photo.read_bytes()
    photo.unlink()
    write(data.folder / "photos" / "n00/0.JPEG", b"no photo")
    run = data.run()
    assert {q.id: q.reason for q in RunReader(run).quarantined()} == {
        "n00/0.JPEG": "not_an_image", "n01/1.JPEG": "missing",
    }  # fmt: skip
    data.run()
    assert len(RunFolder.open(run.url).ledger.committed_keys()) == 2, "nothing has changed: nothing is done"
    photo.write_bytes(content)
    run = data.run()
    assert [q.id for q in RunReader(run).quarantined()] == ["n00/0.JPEG"]
    assert records_of(run)["n01/1.JPEG"].status == "ok"
    assert verify_run(run) == []


def test_it_goes_on_where_it_was_killed(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = records_of(data.run())
    commit: Callable[..., bool] = Ledger.commit
    done: list[str] = []

    def killed(self: Ledger, key: str, *rest: Any) -> bool:
        if done:
            raise KeyboardInterrupt
        done.append(key)
        return commit(self, key, *rest)

    monkeypatch.setattr(Ledger, "commit", killed)
    with pytest.raises(KeyboardInterrupt):
        data.run_into("killed")
    monkeypatch.undo()
    looked_at: list[str] = []
    record_of = module.record_of
    monkeypatch.setattr(module, "record_of", lambda id_, *rest: looked_at.append(id_) or record_of(id_, *rest))
    assert records_of(data.run_into("killed")) == whole
    assert looked_at == ["n01/1.JPEG"], "the first shard, n00, is not done again"


def test_lists_of_detections(data: Data) -> None:
    straight = records_of(data.run())
    detections = [
        {"image_id": a["image_id"], "category_id": 1, "score": 0.5, "segmentation": a["segmentation"]}
        for a in data.annotations
    ]
    results = str(write(data.folder / "results.json", json.dumps(detections).encode()))
    with pytest.raises(SourceError, match=r"list of detections.*--images-of"):
        import_coco(results, data.folder / "list", str(data.folder / "photos"))
    photos = str(data.folder / "photos")
    import_coco(results, data.folder / "list", photos, images_of=str(data.folder / "pseudo.json"), shard_size=2)
    found = records_of(RunFolder.open(data.folder / "list"))
    for id_, record in straight.items():
        assert np.array_equal(pixels(found[id_]), pixels(record))
        assert {instance.score for instance in found[id_].instances} == {0.5}


def test_photos_are_looked_for_beside_the_file(data: Data) -> None:
    file = data.write()
    with pytest.raises(SourceError, match=r"none of 3 images looked for in .*n00/0\.JPEG; say with --images"):
        import_coco(file, data.folder / "run")
    (data.folder / "photos").rename(data.folder / "images")
    import_coco(file, data.folder / "run")
    assert len(RunReader(RunFolder.open(data.folder / "run")).quarantined()) == 0


def test_all_of_it_may_be_in_an_object_store(data: Data) -> None:
    memory = fsspec.filesystem("memory")
    for image in data.images:
        name = image["file_name"]
        memory.pipe_file(f"/import/photos/{name}", (data.folder / "photos" / name).read_bytes())
    memory.pipe_file("/import/pseudo.json", Path(data.write()).read_bytes())
    import_coco("memory://import/pseudo.json", "memory://import/run", "memory://import/photos", shard_size=2)
    run = RunFolder.open("memory://import/run")
    assert records_of(run) == records_of(data.run())
    assert run.manifest.refs[0].uri.endswith("/import/photos/n00/0.JPEG")
    assert verify_run(run) == []


def test_another_file_or_setting_is_refused_by_name(data: Data) -> None:
    data.run()
    with pytest.raises(RunMismatchError, match=r"recipe\.min_score: run has 0\.0, now 0\.5"):
        data.run(min_score=0.5)
    (data.folder / "photos").rename(data.folder / "moved")
    data.annotate(0, rle_of(disc(40, 60, 30, 50, 5)))
    with pytest.raises(RunMismatchError, match=r"source\.sha256"):
        data.run(images=str(data.folder / "moved"))


def test_min_score_must_be_a_number(data: Data) -> None:
    with pytest.raises(ConfigError, match="min_score is nan"):
        data.run(min_score=float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("images"), 'has the lists "images" and "annotations"'),
        (lambda d: d.update(images=[]), "lists no images"),
        (lambda d: d.update(annotations=[]), "no annotations, none of them with a segmentation"),
        (lambda d: [a.pop("segmentation") for a in d["annotations"]], "6 annotations, none of them with a segm"),
        (lambda d: [a.update(image_id=9) for a in d["annotations"]], "none of its 6 .*: 6 not_listed, .* of image 9"),
        (lambda d: [i.update(id=str(i["id"])) for i in d["images"]], 'an image must have an "id", a whole number'),
        (lambda d: [i.update(id=1 << 63) for i in d["images"]], r'the "id" 9223372036854775808: ids may be'),
        (lambda d: [i.pop("file_name") for i in d["images"]], 'an image must have an "id"'),
        (lambda d: d.update(images=[3]), "an image is no object"),
        (
            lambda d: [i.update(file_name=f"../{i['file_name']}") for i in d["images"]],
            r"pseudo\.json: none of 3 images looked for .* none of these folders; say with --images",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(data: Data, change: Callable[[Any], Any], message: str) -> None:
    change(document := json.loads(json.dumps({"images": data.images, "annotations": data.annotations})))
    with pytest.raises(SourceError, match=message):
        import_coco(data.write(document), data.folder / "run", str(data.folder / "photos"))
    assert not (data.folder / "run").exists()


# --- what reads runs --------------------------------------------------------------------------------------------------


def cuts3d(*arguments: str) -> str:
    done = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
    return f"{done.exit_code} {done.output}"


def test_commands_take_imports(data: Data) -> None:
    run, photos = str(data.folder / "run"), str(data.folder / "photos")
    said = cuts3d("import-coco", data.write(), "--images", photos, "--out", run, "--shard-size", "2")
    assert said.startswith("0 ")
    assert "masks      6 (2.00 per image)" in said
    again = cuts3d("import-coco", data.write(), "--images", photos, "--out", run, "--shard-size", "2")
    assert "nothing was left to do" in again
    info = cuts3d("info", run)
    assert "recipe       import" in info
    assert '"sha256"' in info
    assert "3 images: no errors" in cuts3d("verify", run)
    assert "3 of 3 done" in cuts3d("status", run)
    out = data.folder / "out"
    assert cuts3d("export", run, "--masks", str(out / "m"), "--overlays", str(out / "o")).startswith("0 ")
    with Image.open(out / "o" / "n00" / "0.png") as overlay:
        assert overlay.size == (60, 40)
    assert "3 images" in cuts3d("gallery", run, "--out", str(out / "page.html"))
    page = (out / "page.html").read_text()
    assert '"recipe":"import"' in page
    assert '"searched":""' in page


def test_an_import_scores_100_against_itself(data: Data) -> None:
    from pipeline.evaluation.report import evaluate_runs
    from pipeline.evaluation.truth.coco import Truth

    run = data.run()
    export_coco(run, data.folder / "truth.json")
    metrics = evaluate_runs(Truth.read(str(data.folder / "truth.json")), run, bootstrap=0).evaluations[0].metrics
    assert metrics["mask_AP"].value == metrics["box_AP"].value == pytest.approx(1)


def test_an_import_resumes_and_retries_as_any_run(data: Data) -> None:
    photo = data.folder / "photos" / "n01/1.JPEG"
    hidden = photo.rename(data.folder / "hidden.JPEG")
    run = data.run().url
    assert "nothing was left to do" in cuts3d("run", "--out", run), "its settings are remembered"
    assert "1 image tried again, 0 succeeded" in cuts3d("retry-quarantined", run)
    hidden.rename(photo)
    assert "1 image tried again, 1 succeeded" in cuts3d("retry-quarantined", run)
    assert "recipe       import" in cuts3d("info", run)
    assert cuts3d("verify", run).startswith("0 ")


def test_photos_of_which_a_part_is_there_can_be_imported(tmp_path: Path) -> None:
    """A shard of which none is there stops the import; whoever accepts that gets the others."""
    data = Data(tmp_path, n=6)
    for photo in sorted((tmp_path / "photos" / "n01").iterdir()):
        photo.unlink()
    places = data.write(), str(tmp_path / "out"), str(tmp_path / "photos")
    with pytest.raises(WholeShardError, match=r"set aside as missing, .*cuts3d run --out RUN --accept-set-aside"):
        import_coco(*places, shard_size=3)
    summary = import_coco(*places, shard_size=3, accept_set_aside=True)
    assert (summary.complete, summary.standing.set_aside, summary.standing.exit_status) == (True, 3, 1)
    assert summary.standing.counts["masks"] == 6


@pytest.mark.slow
def test_its_gallery_shows_no_maps_and_speaks_of_no_cuts(data: Data) -> None:
    write_gallery(data.run(), data.folder / "page.html")
    with chromium() as browser:
        browser.open(data.folder / "page.html")
        browser.wait("document.querySelector('.masks')")
        assert browser.run("return document.querySelectorAll('.card canvas').length") == 3, "the masks on the photos"
        facts = browser.run("return document.querySelector('#facts').textContent")
        assert "import" in facts
        assert not {"Features", "Depth", "Score"} & set(re.findall(r"[A-Z][a-z]+", facts))
        browser.click(".card")
        browser.wait("document.querySelector('dialog table')")
        words = browser.run("return document.querySelector('dialog').textContent")
        assert "The score is what the masks came with" in words
        assert "Rounds" not in words
        assert "Spatial confidence" not in words
        assert browser.errors() == []


@pytest.mark.slow
def test_real_annotations(assets: Path, tmp_path: Path) -> None:
    """All masks of 209 COCO photos, against pycocotools."""
    from pipeline.evaluation.truth.coco import Truth

    truth = Truth.read(str(assets / "coco" / "instances.json"))
    import_coco(str(assets / "coco" / "instances.json"), tmp_path / "run", str(assets / "coco" / "images"))
    run = RunFolder.open(tmp_path / "run")
    ids = {image["file_name"]: id_ for id_, image in truth.images.items()}
    crowds = 0
    for record in RunReader(run):
        objects = truth.objects(ids[record.id])
        single = [entry for entry in objects if not entry["iscrowd"]]
        crowds += len(objects) - len(single)
        for mask, entry in zip(pixels(record), single, strict=True):
            np.testing.assert_array_equal(mask, coco_mask.decode(entry["segmentation"]))
    assert crowds == 18
    assert verify_run(run) == []
    assert RunReader(run).summary().survey["drops"] == {"crowd": 18}
