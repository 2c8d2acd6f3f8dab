"""`cuts3d cups-demo`: clips in, pictures and a page out, and the same once more."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from support.method_samples import MOVERS, draw_clips
from support.tiny_inputs import BRIGHTNESS
from support.tiny_labels import tiny_extractor, tiny_labels
from support.tiny_method import in_place_of_models

from pipeline.cli import main
from pipeline.images import drawn_street
from pipeline.methods.cups.method import CupsMethod
from pipeline.methods.cups.motion_work import MoverSearch
from pipeline.methods.cups.recipe import read_cups
from pipeline.methods.depthg.checkpoint import read_model
from pipeline.methods.depthg.crops import CropConfig
from pipeline.methods.depthg.inputs_method import InputsMethod
from pipeline.methods.depthg.inputs_settings import NAME as INPUTS
from pipeline.models import weights
from pipeline.runs.launch import Launch
from pipeline.runs.panoptic_reader import open_panoptic
from stages.motion.opencv_motion import OpencvMotion

SIDE = 96  # 12 x 12 patches: more than the points that the recipe samples


@pytest.fixture(autouse=True)
def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(launch: Launch) -> Any:
        if launch.recipe == INPUTS:
            return InputsMethod(CropConfig(), tiny_extractor(SIDE), BRIGHTNESS, torch.device("cpu"))
        recipe = read_cups([*launch.overrides, "cups.refine.side=32", *MOVERS])
        assert recipe.labels is not None
        labeller = tiny_labels(model=read_model(recipe.labels.checkpoint), size=SIDE).labeller
        return CupsMethod(MoverSearch(recipe.finding, OpencvMotion()), replace(labeller, recipe=recipe.labels))

    in_place_of_models(monkeypatch, load)
    monkeypatch.setattr(weights, "fetch", lambda *names, **_: None)


def demo(*words: object) -> Result:
    return CliRunner().invoke(main, ["cups-demo", "--clusters", "3", *map(str, words)])


def test_clips_in_pictures_and_a_page_out(tmp_path: Path) -> None:
    draw_clips(tmp_path / "stereo")
    (tmp_path / "stereo" / "right" / "003.png").write_bytes(b"nothing")
    out, clips = tmp_path / "out", f"clips:{tmp_path / 'stereo' / 'clips.csv'}"
    done = demo("--out", out, "--images", clips)
    assert done.exit_code == 1, f"a clip is set aside: {done.output}"
    assert f"pictures   {out / 'pictures'}/\npage       {out / 'labels.html'}\n" in done.output
    assert len(list((out / "pictures").rglob("*.png"))) == 6
    assert "cluster 2" in (out / "labels.html").read_text()
    reader = open_panoptic(out / "labels")
    assert len(reader.ids) == 6
    assert sum(len(reader.record(i).instances) for i in range(6)) > 0
    assert demo("--out", out, "--images", clips).exit_code == 1, "nothing was left to do"


def test_without_clips_a_street_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = (96, 192)
    factor = small[0] / drawn_street.SIZE[0]
    monkeypatch.setattr(drawn_street, "SIZE", small)
    monkeypatch.setattr(drawn_street, "CAMERA", drawn_street.CAMERA.scaled(factor, factor))
    done = demo("--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    reader = open_panoptic(tmp_path / "out" / "labels")
    assert sum(len(reader.record(i).instances) for i in range(len(reader.ids))) > 0
