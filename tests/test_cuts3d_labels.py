"""The module `cuts3d` on semantic labels: of images in memory and of runs."""

import re
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT
from support.centre_method import Centre
from support.label_method import CLASSES as STEPS
from support.label_method import NAME, LabelMethod, labels_of
from support.semantic_runs import CLASSES, random_record, write_run
from support.stored_run import make_run, photo, sample_records

import cuts3d
from pipeline import plugins
from pipeline.methods import registry
from pipeline.results.kinds import Failed
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.run_folder import RunFolder

RECORDS = [random_record(f"{i}.png", (30, 41 + i), i) for i in range(5)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    results = [*RECORDS, Failed("x.png", "truncated", "it ends")]
    return write_run(tmp_path_factory.mktemp("labels"), results)


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {NAME: LabelMethod, "centre": Centre}
    entries = EntryPoints(
        EntryPoint(name, f"{method.__module__}:{method.__name__}", registry.GROUP) for name, method in methods.items()
    )
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries.select(group=group))


def test_a_run_gives_its_images(run: RunFolder) -> None:
    labels = cuts3d.open_labels(run.url)
    assert (labels.url, labels.names, labels.complete) == (run.url, CLASSES.names, True)
    np.testing.assert_array_equal(labels.colours, CLASSES.colours)
    assert (labels.images[-1], [one.id for one in labels.set_aside]) == ("x.png", ["x.png"])
    images = list(labels)
    assert [image.id for image in images] == [record.id for record in RECORDS]
    for image, record in zip(images, RECORDS, strict=True):
        assert (image.size, image.labels.dtype, image.labels.shape) == (record.size, np.uint8, record.size)
        np.testing.assert_array_equal(image.labels, record.labels)
        assert (image.confidence.dtype, image.confidence.shape) == (np.float32, record.size)
        np.testing.assert_array_equal(image.confidence, record.confidence)
        np.testing.assert_allclose(image.shares.sum(), (image.labels != 255).mean())
        assert image.photo.shape == (*record.size, 3)
        assert image.draw().width >= record.size[1]
        tensors = image.to_torch()
        np.testing.assert_array_equal(tensors["labels"], record.labels)
        np.testing.assert_array_equal(tensors["confidence"], record.confidence)
        annotations = image.to_coco(7)
        assert [one["id"] for one in annotations] == list(range(1, len(annotations) + 1))
        assert sum(one["area"] for one in annotations) == (record.labels != 255).sum()
    assert repr(images[0]) == "ImageLabels('0.png', 30 x 41, 4 of 4 classes)"


def test_the_example_of_the_python_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    (code,) = [code for code in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.M) if "open_labels(" in code]
    assert len([line for line in code.splitlines() if not line.startswith("#")]) <= 10
    write_run(tmp_path, RECORDS)
    (tmp_path / "runs").mkdir()
    (tmp_path / "run").rename(tmp_path / "runs" / "labels")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "python.md", "exec"), {"cuts3d": cuts3d, "out": tmp_path})
    said = capsys.readouterr().out.splitlines()
    assert (said[0], said[-1]) == (f"{CLASSES.names} (4, 3)", "5 maps")
    for line, record in zip(said[1:-1], RECORDS, strict=True):
        largest = int(np.argmax(record.pixels))
        pixels = int(((record.labels == largest) & (record.confidence > 0.8)).sum())
        assert line == f"{record.id} {record.size} {CLASSES.names[largest]} {pixels} pixels"
    assert (tmp_path / "labels.png").is_file()
    assert (tmp_path / "maps" / "labels.json").is_file()


def test_an_assignment_gives_classes(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(Assignment(CLASSES.names, ("nature", "people"), (0, 0, 1, None)).to_json())
    labels = cuts3d.open_labels(run.url, tmp_path / "a.json")
    assert labels.names == ("nature", "people")
    for image, record in zip(labels, RECORDS, strict=True):
        assert image.names == ("nature", "people")
        np.testing.assert_array_equal(image.labels == 1, record.labels == 2)
    assert labels.export(tmp_path / "maps") == 5
    assert len(list((tmp_path / "maps").glob("*.png"))) == 5


@pytest.mark.usefixtures("_installed")
def test_images_in_memory() -> None:
    model = cuts3d.load_labels(NAME, device="cpu")
    pixels = photo((40, 56), 0)
    image = model.predict(pixels, id="mine")
    expected, _ = labels_of(pixels)
    np.testing.assert_array_equal(image.labels, expected)
    assert (image.id, image.names) == ("mine", STEPS.names)
    np.testing.assert_array_equal(image.photo, pixels)
    many = list(model.predict_many([pixels, Image.fromarray(pixels)], batch_size=1))
    assert [one.id for one in many] == ["0", "1"]
    with pytest.raises(cuts3d.ImageError, match="must be a NumPy array"):
        model.predict(pixels.astype(np.float32))


@pytest.mark.usefixtures("_installed")
def test_masks_and_labels_refuse_each_other(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(cuts3d.ConfigError, match="does not make masks of single images: load_labels is for labels"):
        cuts3d.load(NAME, device="cpu")
    with pytest.raises(cuts3d.ConfigError, match="does not label single images: load is for masks"):
        cuts3d.load_labels("centre", device="cpu")
    with pytest.raises(cuts3d.ConfigError, match="holds semantic labels: instance masks are needed here"):
        cuts3d.open_run(run.url)
    with pytest.raises(cuts3d.ConfigError, match="holds instance masks: semantic labels are needed here"):
        cuts3d.open_labels(make_run(tmp_path, sample_records(4)).url)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(cuts3d.SourceError, match="is no assignment"):
        cuts3d.open_labels(run.url, tmp_path / "a.json")
    with pytest.raises(cuts3d.StoreError, match="is not a run"):
        cuts3d.open_labels(tmp_path / "nothing")
