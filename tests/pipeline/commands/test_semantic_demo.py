"""`cuts3d semantic-demo`: sample photos in, pictures out, and the same once more."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from support.tiny_inputs import BRIGHTNESS
from support.tiny_labels import tiny_extractor, tiny_labels
from support.tiny_method import draw_photos, in_place_of_models

from pipeline.cli import main
from pipeline.methods.depthg.checkpoint import read_model
from pipeline.methods.depthg.crops import CropConfig
from pipeline.methods.depthg.inputs_method import InputsMethod
from pipeline.methods.depthg.inputs_settings import NAME
from pipeline.models import weights
from pipeline.runs.launch import Launch

SIDE = 96  # 12 x 12 patches: more than the points that the recipe samples


@pytest.fixture(autouse=True)
def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(launch: Launch) -> Any:
        if launch.recipe == NAME:
            return InputsMethod(CropConfig(), tiny_extractor(SIDE), BRIGHTNESS, torch.device("cpu"))
        return tiny_labels(model=read_model(launch.overrides[0].partition("=")[2]), size=SIDE)

    in_place_of_models(monkeypatch, load)
    monkeypatch.setattr(weights, "fetch", lambda *names, **_: None)


def demo(*words: object) -> Result:
    return CliRunner().invoke(main, ["semantic-demo", "--iterations", "2", "--clusters", "3", *map(str, words)])


def test_photos_in_a_picture_and_a_page_out(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", 3)[0].parent
    (photos / "bad.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    done = demo("--out", out, "--images", photos)
    assert done.exit_code == 1, "a photo is set aside"
    assert done.output.endswith(f"picture    {out / 'labels.png'}\npage       {out / 'labels.html'}\n")
    with Image.open(out / "labels.png") as sheet:
        assert sheet.width > 1000
    assert "cluster 2" in (out / "labels.html").read_text()
    assert len(read_model(out / "model").clusters) == 3
    before = (out / "labels.png").read_bytes()
    assert demo("--out", out, "--images", photos).exit_code == 1
    assert (out / "labels.png").read_bytes() == before, "nothing was left to do"
    other = demo("--out", out, "--images", photos, "--iterations", 3)
    assert other.exit_code == 2
    assert "started differently" in other.output
