"""The module `cuts3d` on panoptic labels: of images in memory and of runs."""

import re
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
from support import ROOT
from support.centre_method import Centre
from support.label_method import CLASSES as STEPS
from support.panoptic_method import NAME, PanopticMethod, instances_of
from support.panoptic_runs import empty, random_panoptic, write_run
from support.semantic_runs import CLASSES
from support.semantic_runs import write_run as write_semantic
from support.stored_run import photo

import cuts3d
from pipeline import plugins
from pipeline.methods import registry
from pipeline.results.kinds import Failed
from pipeline.results.panoptic_kind import PanopticKind
from pipeline.results.panoptic_segments import segments_of
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.runs.run_folder import RunFolder

RECORDS = [*(random_panoptic(f"{i}.png", (30, 41 + i), i) for i in range(4)), empty("4.png", (20, 20), "too_small")]


class Knowing(PanopticMethod):
    """The same, and it knows the things."""

    def kind(self, until: str | None) -> PanopticKind:
        return PanopticKind(STEPS, (False, False, False, True))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    results = [*RECORDS, Failed("x.png", "truncated", "it ends")]
    return write_run(tmp_path_factory.mktemp("panoptic"), results)


def test_a_run_gives_its_images(run: RunFolder) -> None:
    panoptic = cuts3d.open_panoptic(run.url)
    assert (panoptic.url, panoptic.names, panoptic.complete) == (run.url, CLASSES.names, True)
    np.testing.assert_array_equal(panoptic.colours, CLASSES.colours)
    assert [one.id for one in panoptic.set_aside] == ["x.png"]
    split = PanopticReader(run).split
    assert panoptic.split == split
    images = list(panoptic)
    assert [image.id for image in images] == [record.id for record in RECORDS]
    for image, record in zip(images, RECORDS, strict=True):
        assert (image.size, image.instances, image.why_empty) == (record.size, record.instances, record.why_empty)
        np.testing.assert_array_equal(image.labels, record.labels)
        np.testing.assert_array_equal(image.instance_ids, record.instance_ids)
        np.testing.assert_array_equal(image.confidence, record.confidence)
        np.testing.assert_allclose(image.shares.sum(), (image.labels != 255).mean())
        expected = segments_of(record, split)
        assert image.segments.segments == expected.segments
        np.testing.assert_array_equal(image.segments.ids_HW, expected.ids_HW)
        assert image.photo.shape == (*record.size, 3)
        assert image.draw().width >= record.size[1]
        tensors = image.to_torch()
        assert tensors["instance_ids"].dtype.is_floating_point is False
        np.testing.assert_array_equal(tensors["instance_ids"], record.instance_ids)
        np.testing.assert_array_equal(tensors["labels"], record.labels)
        picture, info = image.to_coco()
        assert sum(one["area"] for one in info) == (picture.any(axis=-1)).sum() == (expected.ids_HW > 0).sum()
    assert repr(images[0]) == f"ImagePanoptic('0.png', 30 x 41, {len(RECORDS[0].instances)} instances)"
    everything_is_stuff = next(iter(cuts3d.open_panoptic(run.url, threshold=0.99)))
    assert all(not one.is_thing for one in everything_is_stuff.segments.segments)


def test_the_example_of_the_python_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    (code,) = [
        code for code in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.M) if "open_panoptic(" in code
    ]
    assert len([line for line in code.splitlines() if not line.startswith("#")]) <= 10
    run = write_run(tmp_path, RECORDS)
    split = PanopticReader(run).split
    (tmp_path / "runs").mkdir()
    (tmp_path / "run").rename(tmp_path / "runs" / "panoptic")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "python.md", "exec"), {"cuts3d": cuts3d, "out": tmp_path})
    said = capsys.readouterr().out.splitlines()
    assert (said[0], said[-1]) == (f"things: {[CLASSES.names[c] for c in split.thing_classes]}", "5 pictures")
    expected = [
        f"{record.id} {record.classes.names[one.class_]} {one.confidence:.2f} {one.area} pixels"
        for record in RECORDS
        for one in segments_of(record, split).segments
        if one.is_thing
    ]
    assert said[1:-1] == expected
    assert (tmp_path / "panoptic.png").is_file()
    assert (tmp_path / "coco" / "panoptic.json").is_file()


def test_an_assignment_gives_classes(run: RunFolder, tmp_path: Path) -> None:
    assigned = Assignment(CLASSES.names, ("road", "person"), (0, 0, 1, None))
    (tmp_path / "a.json").write_text(assigned.to_json())
    panoptic = cuts3d.open_panoptic(run.url, assignment=tmp_path / "a.json")
    assert (panoptic.names, panoptic.split.thing_classes) == (("road", "person"), (1,))
    for image, record in zip(panoptic, RECORDS, strict=True):
        np.testing.assert_array_equal(image.labels == 1, record.labels == 2)
        assert len(image.instances) == sum(one.class_ == 2 for one in record.instances)
    assert panoptic.export_instance_ids(tmp_path / "ids") == 5
    legend = (tmp_path / "ids" / "labels.json").read_text()
    assert '"id": 24' in legend, "Cityscapes' person"


def test_images_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {NAME: PanopticMethod, "knowing": Knowing, "centre": Centre}
    entries = EntryPoints(
        EntryPoint(name, f"{method.__module__}:{method.__name__}", registry.GROUP) for name, method in methods.items()
    )
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries.select(group=group))
    pixels = photo((40, 56), 0)
    image = cuts3d.load_panoptic("knowing", device="cpu").predict(pixels, id="mine")
    assert image.names == STEPS.names
    np.testing.assert_array_equal(image.instance_ids, instances_of(image.labels)[0])
    assert [one.class_ for one in image.segments.segments if one.is_thing] == [3] * len(image.instances)
    alone = cuts3d.load_panoptic(NAME, device="cpu").predict(pixels, id="mine")
    assert alone.draw().width >= 56
    with pytest.raises(cuts3d.ConfigError, match="which classes of mine are things only a whole run tells"):
        _ = alone.segments
    with pytest.raises(cuts3d.ConfigError, match="gives no panoptic labels of single images"):
        cuts3d.load_panoptic("centre", device="cpu")


def test_labels_and_panoptic_runs(run: RunFolder, tmp_path: Path) -> None:
    labels = write_semantic(tmp_path, [record.semantic for record in RECORDS])
    with pytest.raises(cuts3d.ConfigError, match="holds semantic labels: panoptic labels are needed here"):
        cuts3d.open_panoptic(labels.url)
    with pytest.raises(cuts3d.ConfigError, match="threshold of things is 2"):
        cuts3d.open_panoptic(run.url, threshold=2)
    with pytest.raises(cuts3d.StoreError, match="is not a run"):
        cuts3d.open_panoptic(tmp_path / "nowhere")
    of_panoptic = list(cuts3d.open_labels(run.url))
    for image, record in zip(of_panoptic, RECORDS, strict=True):
        np.testing.assert_array_equal(image.labels, record.labels)
