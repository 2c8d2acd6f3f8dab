"""A backbone of another package: found by its entry point, described by its preset, run like any other."""

import re
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.tiny_method import draw_photos

from pipeline import plugins
from pipeline.cli import command_line
from pipeline.engine.run import run
from pipeline.errors import ConfigError, ExtensionError, WeightsError
from pipeline.methods.cuts.tau import propose_tau
from pipeline.models.load import feature_preset, load_features
from pipeline.models.own_backbones import GROUP
from pipeline.models.specs import feature_spec
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

PACKAGE = """
from pathlib import Path

import torch

from stages.feature_presets import FeaturePreset
from stages.features import FeatureConfig

preset = FeaturePreset(FeatureConfig("colours", 8, kind="tokens", centred=True, size=64), tau=None)


class Colours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 6, 1)

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(self.mix(x), 8).flatten(2).transpose(1, 2)


def load(weights):
    torch.manual_seed(0)
    network = Colours()
    if weights is not None:
        network.load_state_dict(torch.load(weights, weights_only=True))
    if weights is not None and Path(weights).name == "old.pth":
        raise ValueError("weights of 2019")
    return network
"""


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the test's own, installed with an entry point; its folder."""
    (tmp_path / "colour_backbone.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = [EntryPoint("colours", "colour_backbone", GROUP), EntryPoint("halved", "colour_backbone:preset", GROUP)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints(entries).select(group=group))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.mark.usefixtures("colours")
def test_it_gives_features_like_any_other() -> None:
    preset, path = feature_preset("colours")
    assert (preset.config.model, preset.tau, path) == ("colours", None, None)
    extractor = load_features("colours", overrides={"size": 48})
    found = extractor([np.zeros((30, 40, 3), np.uint8)])
    assert (extractor.grid, found.shape, found.dtype) == ((6, 6), (1, 36, 6), torch.float16)


def test_weights_of_ones_own_make_another_fingerprint(colours: Path) -> None:
    state = load_features("colours")._vit.state_dict()
    torch.save({name: tensor + 1 for name, tensor in state.items()}, colours / "mine.pth")
    torch.save(state, colours / "old.pth")
    same, other = (load_features(spec).fingerprint for spec in ("colours", f"colours={colours / 'mine.pth'}"))
    assert same != other
    with pytest.raises(WeightsError, match=r"features colours=.*old\.pth cannot be loaded: weights of 2019"):
        load_features(f"colours={colours / 'old.pth'}")
    with pytest.raises(ConfigError, match="gives tokens alone"):
        load_features("colours", overrides={"kind": "keys"})


@pytest.mark.usefixtures("colours")
def test_lists_name_it_and_a_broken_one_is_said() -> None:
    with pytest.raises(ConfigError, match="colours, halved, the name of any ViT of timm"):
        feature_spec("kolours")
    with pytest.raises(ExtensionError, match=r"'halved' .*no preset, a FeaturePreset, or no load"):
        feature_preset("halved")


def test_it_has_no_attention_that_masks_could_be_pruned_by(colours: Path) -> None:
    draw_photos(colours / "photos", 1)
    taus = [f"merge.{name}_tau=0.5" for name in ("bipartition", "foreground_include", "dino_merge")]
    launch = Launch(str(colours / "photos"), recipe="promerge", settings={"features": "colours"})
    given = (*taus, "affinity.tau=0.5", "refine.crf=none")
    with pytest.raises(ConfigError, match=r"merge\.min_attention needs .*, which colours does not give: set it to n"):
        run(colours / "run", replace(launch, overrides=(*given, "merge.min_attention=1")), device="cpu")
    assert run(colours / "run", replace(launch, overrides=given), device="cpu").images == 1


def test_its_tau_on_the_command_line(colours: Path) -> None:
    draw_photos(colours / "photos", 3)
    words = ["tau", "--images", str(colours / "photos"), "--features", "colours", "--device", "cpu"]
    done = CliRunner().invoke(command_line([]), words)
    assert done.exit_code == 0, done.output
    assert "photos     3 of 3, seed 0" in done.output
    assert re.search(
        r"tree +--set affinity\.tau=-?0\.\d{4}   \[.*\], joins 45% of the pairs\n +for --recipe cuts3d\n", done.output
    )
    assert CliRunner().invoke(command_line([]), words).output == done.output
    (colours / "photos" / "broken.png").write_bytes(b"no picture")
    partly = CliRunner().invoke(command_line([]), words)
    assert (partly.exit_code, "1 of the photos drawn could not be read" in partly.output) == (1, True)
    for photo in (colours / "photos").glob("0*.png"):
        photo.unlink()
    none = CliRunner().invoke(command_line([]), words)
    assert (none.exit_code, "none of 1 image " in none.output) == (2, True)


def test_a_run_of_it(colours: Path) -> None:
    draw_photos(colours / "photos", 3)
    settings = {"features": "colours"}
    wanted = Launch(str(colours / "photos"), recipe="maskcut", settings=settings, overrides=("refine.crf=none",))
    with pytest.raises(ConfigError, match=r"no τ is known for the features colours: .*`cuts3d tau"):
        run(colours / "run", wanted, device="cpu")
    found = propose_tau(str(colours / "photos"), "colours", device="cpu")
    assert (len(found.photos), found.known, found.features.size) == (3, None, 64)
    tau = f"affinity.tau={found.proposal.rounds.tau}"
    launch = Launch(**{**vars(wanted), "overrides": (*wanted.overrides, tau)})
    assert run(colours / "run", launch, device="cpu").complete
    config = RunFolder.open(colours / "run").config
    assert (config["features"]["model"], config["recipe"]["affinity"]["tau"]) == ("colours", found.proposal.rounds.tau)
