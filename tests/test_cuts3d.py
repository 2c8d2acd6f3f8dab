"""The module `cuts3d`: what it gives is what runs hold, whatever an image comes as; what is wrong is named."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from support import ROOT
from support.stored_run import StoredRun, make_run, sample_records
from support.tiny_run import tiny_launch

import cuts3d
from pipeline.engine.run import run
from pipeline.results.instances import ImageRecord, mean_confidence
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder

TINY = {"features.size": 128, "affinity.tau": 0.1, "refine.size": 64, "refine.crf": None}
OLD = ROOT / "tests" / "data" / "old_runs"


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return tiny_launch(tmp_path_factory.mktemp("tiny"), images=4)


@pytest.fixture(scope="module")
def model(launch: Launch) -> cuts3d.Model:
    return cuts3d.load(**launch.settings, overrides=launch.overrides, device="cpu")


@pytest.fixture(scope="module")
def photos(launch: Launch) -> list[Path]:
    return sorted(Path(str(launch.images)).iterdir())


@pytest.fixture(scope="module")
def records(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> list[ImageRecord]:
    """Of the same photos by a run."""
    out = tmp_path_factory.mktemp("run")
    run(out, launch, device="cpu", batch_size=1)
    return list(RunReader(RunFolder.open(out)))


def same(image: cuts3d.ImageMasks, record: ImageRecord) -> None:
    """But for float32, in which runs are kept."""
    assert (image.id, image.size, image.record.status, image.record.drops) == (
        record.id,
        record.size,
        record.status,
        record.drops,
    )
    assert [one.rle for one in image.instances] == [one.rle for one in record.instances]
    np.testing.assert_allclose(image.scores, [one.score for one in record.instances], rtol=1e-6)
    for one, other in zip(image.instances, record.instances, strict=True):
        np.testing.assert_array_equal(one.confidence, other.confidence)


def test_an_image_in_memory_gives_what_a_run_gives(
    model: cuts3d.Model, photos: list[Path], records: list[ImageRecord]
) -> None:
    assert any(len(record.instances) > 1 for record in records)
    for file, record in zip(photos, records, strict=True):
        with Image.open(file) as opened:
            rgb = np.asarray(opened.convert("RGB"))
            for given in (file, str(file), rgb, rgb[::-1][::-1], opened):
                image = model.predict(given, id=record.id)
                same(image, record)
                np.testing.assert_array_equal(image.photo, rgb)


def test_many_images_come_in_their_order(model: cuts3d.Model, photos: list[Path], records: list[ImageRecord]) -> None:
    for size in (1, 3, 100):
        found = list(model.predict_many(iter(photos), batch_size=size))
        assert [image.id for image in found] == [record.id for record in records]
        for image, record in zip(found, records, strict=True):
            assert [one.rle for one in image.instances] == [one.rle for one in record.instances]
    asked = []

    def endless() -> Any:
        for photo in (*photos, *photos):
            asked.append(photo)
            yield photo

    next(model.predict_many(endless(), batch_size=2))
    assert len(asked) == 2, "a batch at a time"
    assert list(model.predict_many([])) == []


def test_arrays_of_shape_and_type(model: cuts3d.Model, photos: list[Path]) -> None:
    image = next(image for image in model.predict_many(photos) if len(image) > 1)
    (height, width), count = image.size, len(image)
    grid = image.record.instances[0].confidence.shape
    expected = {
        "masks": ((count, height, width), bool),
        "boxes": ((count, 4), np.float32),
        "scores": ((count,), np.float32),
        "confidences": ((count, *grid), np.float32),
    }
    tensors = image.to_torch()
    assert list(tensors) == list(expected)
    for name, (shape, dtype) in expected.items():
        array = getattr(image, name)
        assert (array.shape, array.dtype) == (shape, dtype)
        assert isinstance(tensors[name], torch.Tensor)
        np.testing.assert_array_equal(tensors[name].numpy(), array)
    assert image.confidences.max() <= 1
    for index, (mask, box, one) in enumerate(zip(image.masks, image.boxes, image.instances, strict=True)):
        np.testing.assert_array_equal(mask, image.mask(index))
        assert mask.sum() == one.area
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [
            columns.min(),
            rows.min(),
            columns.max() + 1 - columns.min(),
            rows.max() + 1 - rows.min(),
        ]
    assert image.draw().size == (width, height)
    assert repr(image) == f"ImageMasks({image.id!r}, {height} x {width}, {count} masks)"


def test_an_image_without_masks_has_empty_arrays(tmp_path: Path) -> None:
    stored = make_run(tmp_path, sample_records())
    image = next(image for image in cuts3d.open_run(stored.url) if not image)
    height, width = image.size
    assert image.masks.shape == (0, height, width)
    assert image.boxes.shape == (0, 4)
    assert image.scores.shape == (0,)
    assert image.confidences.shape == (0, 0, 0)
    assert image.to_coco() == []
    assert [tensor.shape[0] for tensor in image.to_torch().values()] == [0] * 4


GREY, CHW = np.zeros((64, 80), np.uint8), np.zeros((3, 64, 80), np.uint8)


@pytest.mark.parametrize(
    ("image", "reason", "says"),
    [
        (GREY, "unsupported", "uint8 (H, W, 3) in RGB, a PIL image or a path, not ndarray uint8 (64, 80)"),
        (CHW, "unsupported", "not ndarray uint8 (3, 64, 80)"),
        (np.zeros((64, 80, 4), np.uint8), "unsupported", "not ndarray uint8 (64, 80, 4)"),
        (np.zeros((64, 80, 3), np.float32), "unsupported", "not ndarray float32 (64, 80, 3)"),
        (np.zeros((2, 64, 80, 3), np.uint8), "unsupported", "not ndarray uint8 (2, 64, 80, 3)"),
        (torch.zeros(3, 64, 80), "unsupported", "not Tensor torch.float32 (3, 64, 80)"),
        ([[1, 2], [3, 4]], "unsupported", "not list"),
        (None, "unsupported", "not NoneType"),
        (b"jpeg", "unsupported", "not bytes"),
        (np.zeros((15, 80, 3), np.uint8), "too_small", "80x15 pixels"),
        (np.zeros((0, 80, 3), np.uint8), "too_small", "80x0 pixels"),
        (Image.new("LAB", (64, 64)), "unsupported", "stored as LAB"),
        ("nowhere.jpg", "missing", "nowhere.jpg: no such file"),
        (Path("setup.cfg"), "missing", "no such file"),
        ("", "unreadable", "not a regular file"),
    ],
)
def test_what_is_no_image_is_refused_by_name(
    model: cuts3d.Model, image: Any, reason: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ask in (lambda: model.predict(image), lambda: list(model.predict_many([image]))):
        with pytest.raises(cuts3d.ImageError) as refused:
            ask()
        assert refused.value.reason == reason
        assert says in refused.value.detail


def test_damaged_and_turned_pictures(launch: Launch, model: cuts3d.Model, photos: list[Path], tmp_path: Path) -> None:
    torn = tmp_path / photos[0].name
    torn.write_bytes(photos[0].read_bytes()[:-100])
    with Image.open(torn) as opened, pytest.raises(cuts3d.ImageError, match=r"truncated: 000\.png: the pixels are cut"):
        model.predict(opened, id="000.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = tmp_path / "turned.jpg"
    Image.new("RGB", (80, 64), "red").save(turned, exif=exif)
    plain = cuts3d.load("maskcut", features=launch.settings["features"], overrides=TINY)
    with Image.open(turned) as opened:
        assert plain.predict(opened).size == plain.predict(turned).size == (80, 64)
    with pytest.raises(cuts3d.ImageError, match="no_depth_map"):
        model.predict(turned)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"recipe": "cutsd"}, "unknown recipe 'cutsd'; known: maskcut"),
        ({"features": "dinov9"}, "no features 'dinov9'"),
        ({"recipe": "votecut", "features": ["dinov2_vits14"]}, "features is ['dinov2_vits14']: give one text"),
        ({"recipe": 3}, "recipe is 3: give one text"),
        (
            {"recipe": "hassod", "overrides": {"hierarchy.thresholds": np.array([0.3, 0.7])}},
            "hierarchy.thresholds must fall, as in 0.4,0.2,0.1, got 0.3,0.7",
        ),
        ({"depth": "midas"}, "no depth model 'midas'"),
        ({"depth_kind": "metres"}, "depth kind must be"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"overrides": {"features.size": 33}}, "size is 33"),
        ({"overrides": ["ncut.taau=1"]}, "there is no 'taau' here"),
        ({"overrides": ["ncut.taau"]}, "is not of the form stage.option=value"),
        ({"overrides": "features.size=420"}, "give a mapping"),
        ({"recipe": "import"}, "an import needs a COCO file"),
        ({"recipe": "detector"}, "needs a trained detector"),
    ],
)
def test_a_wrong_method_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(cuts3d.ConfigError) as refused:
        cuts3d.load(**given)
    assert says in str(refused.value)


def test_many_are_not_one(model: cuts3d.Model, photos: list[Path]) -> None:
    with pytest.raises(cuts3d.ConfigError, match="predict_many takes many images"):
        model.predict_many(str(photos[0]))
    with pytest.raises(cuts3d.ConfigError, match="batch_size is 0"):
        model.predict_many(photos, batch_size=0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """Ten images, one of them without masks, one set aside."""
    return make_run(tmp_path_factory.mktemp("stored"), sample_records())


def test_a_run_gives_its_images(stored: StoredRun) -> None:
    opened = cuts3d.open_run(stored.url)
    usable = [record for record in stored.records if isinstance(record, ImageRecord)]
    assert [image.record for image in opened] == usable
    assert opened.images == tuple(record.id for record in stored.records)
    assert opened.complete
    assert opened.recipe == "made up"
    assert [(one.id, one.reason) for one in opened.set_aside] == [("002.png", "truncated")]
    for image, ref in zip(opened, [ref for ref in stored.refs if ref.id != "002.png"], strict=True):
        with Image.open(ref.uri) as photo:
            np.testing.assert_array_equal(image.photo, np.asarray(photo))
    best = cuts3d.open_run(stored.url, min_score=0.5)
    assert [image.scores.tolist() for image in best] == [
        [one.score for one in record.instances if one.score >= 0.5] for record in usable
    ]


def test_what_is_not_done_is_left_out(tmp_path: Path) -> None:
    stored = make_run(tmp_path, sample_records(), leave_out=["00001"])
    opened = cuts3d.open_run(Path(stored.url))
    assert not opened.complete
    assert [image.id for image in opened] == [f"{i:03}.png" for i in (0, 1, 3, 8, 9)]
    assert len(opened.images) == 10


def test_a_table_has_a_row_for_each_mask(stored: StoredRun) -> None:
    table = cuts3d.open_run(stored.url).dataframe()
    masks = [(r.id, i, one) for r in stored.records if isinstance(r, ImageRecord) for i, one in enumerate(r.instances)]
    assert len(table) == len(masks) > 5
    for row, (id_, place, one) in zip(table.to_dict("records"), masks, strict=True):
        box = tuple(row[name] for name in ("x", "y", "width", "height"))
        assert (row["image"], row["mask"], row["score"], row["area"], box) == (id_, place, one.score, one.area, one.box)
        assert row["mean_confidence"] == pytest.approx(mean_confidence(one.confidence[None])[0])
        assert {name: row[name] for name in asdict(one.parts)} == asdict(one.parts)
    nothing = cuts3d.open_run(stored.url, min_score=2).dataframe()
    assert (len(nothing), list(nothing.columns)) == (0, list(table.columns))


def test_without_pandas_a_table_says_so(stored: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(cuts3d.ConfigError, match=r"a table needs pandas, .*pip install pandas"):
        cuts3d.open_run(stored.url).dataframe()


def test_to_coco_and_back(stored: StoredRun, tmp_path: Path) -> None:
    opened, file = cuts3d.open_run(stored.url), tmp_path / "masks.json"
    count = opened.to_coco(file)
    coco = COCO(str(file))
    assert len(coco.anns) == count == len(opened.dataframe())
    again = cuts3d.from_coco(file, tmp_path / "again", Path(stored.refs[0].uri).parent)
    for image, other in zip(opened, again, strict=True):
        assert [one.rle for one in other.instances] == [one.rle for one in image.instances]
        ids = coco.getAnnIds(imgIds=[next(id_ for id_, known in coco.imgs.items() if known["file_name"] == image.id)])
        plain = [{name: value for name, value in coco.anns[id_].items() if name != "id"} for id_ in ids]
        own = image.to_coco(plain[0]["image_id"]) if plain else []
        assert [one.pop("id") for one in own] == list(range(1, len(image) + 1))
        assert json.loads(json.dumps(own)) == plain
        for one, mask in zip(own, image.masks, strict=True):
            np.testing.assert_array_equal(coco_mask.decode(one["segmentation"]).astype(bool), mask)
    with pytest.raises(cuts3d.SourceError, match=r"setup\.cfg"):
        cuts3d.from_coco(ROOT / "setup.cfg", tmp_path / "other")


@pytest.mark.parametrize("name", ["cuts", "import", "detector"])
def test_runs_of_earlier_versions_open(name: str) -> None:
    opened = cuts3d.open_run(OLD / name)
    assert len(opened.dataframe()) == sum(len(image) for image in opened) > 0


@pytest.mark.parametrize(
    ("path", "min_score", "error", "says"),
    [
        ("nowhere", 0.0, cuts3d.StoreError, "nowhere is not a run"),
        (OLD, 0.0, cuts3d.StoreError, "is not a run"),
        (OLD / "cuts", float("nan"), cuts3d.ConfigError, "min_score is nan"),
    ],
)
def test_what_is_no_run_is_refused(path: Any, min_score: float, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as refused:
        cuts3d.open_run(path, min_score)
    assert says in str(refused.value)


def test_all_that_is_public_is_there() -> None:
    assert sorted(cuts3d.__all__) == cuts3d.__all__
    assert all(hasattr(cuts3d, name) for name in cuts3d.__all__)


def test_a_recipe_by_its_path_and_a_device_of_torch(launch: Launch, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "cuts3d"\n[select]\nmasks = 2\n')
    model = cuts3d.load(file, **launch.settings, overrides=launch.overrides, device=torch.device("cpu"))
    assert model.method.device.type == "cpu"
