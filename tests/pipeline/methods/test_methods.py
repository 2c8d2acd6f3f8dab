"""Methods of other packages: a run made by one is a run like any other."""

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pycocotools import mask as coco_mask
from support.tiny_method import draw_photos

from pipeline import plugins
from pipeline.cli import command_line
from pipeline.engine import run as runner
from pipeline.errors import ConfigError, ExtensionError
from pipeline.methods import registry
from pipeline.methods.cuts.load import load_cuts
from pipeline.methods.protocol import Batch
from pipeline.methods.registry import load_method
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import ImageRecord, Instance
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder


class LeftHalf:
    """Finds the left half of every image, as confident as it is told; knows the shard of each."""

    name = "half"
    takes = "photos"
    stages = ()
    batch_size = 2
    grid = (2, 4)

    def __init__(self, overrides: Sequence[str], device: torch.device) -> None:
        self.device = device
        self.confidence = int(dict(o.split("=") for o in overrides).get("half.confidence", "200"))
        self.shards: list[str] = []

    def config(self) -> dict[str, Any]:
        return {"recipe": {"name": "half", "confidence": self.confidence}}

    def kind(self, until: str | None) -> InstanceKind:
        return InstanceKind(self.grid)

    def needs_inputs(self, until: str | None, kept: Mapping[str, object]) -> bool:
        return True

    def outputs(self, batch: Batch) -> list[ImageRecord]:
        assert batch.shard is not None
        ids = [batch.shard.refs[position].id for position in batch.positions]
        assert ids == [photo.id for photo in batch.photos]
        if any(photo.rgb.shape[0] == 65 for photo in batch.photos):
            raise ValueError("65 rows are too many")
        return [self._record(photo.id, photo.rgb.shape) for photo in batch.photos]

    def _record(self, id_: str, shape: tuple[int, ...]) -> ImageRecord:
        mask = np.zeros(shape[:2], np.uint8, order="F")
        mask[:, : shape[1] // 2] = 1
        rle = coco_mask.encode(mask)["counts"]
        confidence = np.full(self.grid, self.confidence, np.uint8)
        box = (0.0, 0.0, float(shape[1] // 2), float(shape[0]))
        instance = Instance(rle, box, int(mask.sum()), 0.5, confidence, 0)
        return ImageRecord(id_, shape[:2], "ok", (instance,), {}, None)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("half", f"{__name__}:LeftHalf", registry.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints([entry]).select(group=group))


def test_a_run_by_another_packages_method(tmp_path: Path) -> None:
    main = command_line()
    draw_photos(tmp_path / "photos", 5)  # of 64, 65, 66, 64 and 65 rows
    arguments = ["run", "--images", str(tmp_path / "photos"), "--recipe", "half", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*arguments, "--set", "half.confidence=100", "--shard-size", "3"])
    assert (done.exit_code, "5 of 5 done, 2 of them set aside" in done.output) == (1, True), done.output
    reader = RunReader(RunFolder.open(tmp_path / "run"))
    assert reader.run.config["recipe"] == {"name": "half", "confidence": 100}
    found = {record.id: record for record in reader}
    assert [record.status for record in found.values()] == ["ok", "quarantined", "ok", "ok", "quarantined"]
    assert "65 rows" in found["001.png"].detail
    assert (found["000.png"].instances[0].confidence == 100).all()
    again = CliRunner().invoke(main, ["run", "--out", str(tmp_path / "run")])
    assert "nothing was left to do" in again.output, "the launch remembers recipe and options"
    other = CliRunner().invoke(main, [*arguments, "--set", "half.confidence=3"])
    assert other.exit_code == 2
    assert "recipe.confidence: run has 100, now 3" in other.output


def test_it_has_one_stage(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 1)
    with pytest.raises(ConfigError, match="recipe half has no stage depth"):
        runner.run(tmp_path / "run", Launch(str(tmp_path / "photos"), recipe="half"), until="depth")


def test_inspect_lays_open_cuts_only(tmp_path: Path) -> None:
    photo = draw_photos(tmp_path / "photos", 1)[0]
    with pytest.raises(ConfigError, match="unknown recipe 'half'"):
        load_cuts(Launch(str(photo), recipe="half"), "cpu")


def test_unknown_recipes_hear_of_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"known: maskcut.*half"):
        load_method(Launch("x", recipe="thrid"), "cpu")


def test_a_broken_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("half", "no_such_module:load", registry.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints([entry]).select(group=group))
    with pytest.raises(ExtensionError, match=r"the extension 'half' .no_such_module:load. does not load"):
        load_method(Launch("x", recipe="half"), "cpu")
