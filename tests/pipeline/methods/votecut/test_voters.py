"""Voters as they are named, what a launch of VoteCut refuses, and what it is known by."""

import itertools
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, CutsError, WeightsError
from pipeline.methods.registry import known_config, with_absolute_paths
from pipeline.methods.votecut.recipe import VOTERS
from pipeline.methods.votecut.voters import Voter, read_voters
from pipeline.models import hub, weights
from pipeline.runs.launch import Launch


@pytest.fixture(autouse=True)
def weights_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names alone are looked at here: the hub answers, and what is embedded is there."""
    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(weights, "find", lambda name: Path(name))


def known(features: str | None = None, *overrides: str, recipe: str = "votecut", **settings: str) -> dict:
    given = settings if features is None else {"features": features, **settings}
    return dict(known_config(Launch(recipe=recipe, settings=given, overrides=overrides), None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dinov2_vits14", Voter("dinov2_vits14")),
        ("dinov2_vits14:644", Voter("dinov2_vits14", size=644)),
        ("dinov2_vits14:keys:centred:tau=0.2", Voter("dinov2_vits14", "keys", True, None, 0.2)),
        ("dinov2_vits14:tau=-0.5:480:uncentred:values", Voter("dinov2_vits14", "values", False, 480, -0.5)),
        ("dino_vits8=/a:b/w.pth:480", Voter("dino_vits8=/a:b/w.pth", size=480)),
        ("/a/keys:b.pth", Voter("/a/keys:b.pth")),
    ],
)
def test_how_voters_are_read_and_said(text: str, expected: Voter) -> None:
    (found,) = read_voters(text)
    assert found == expected
    assert read_voters(str(found)) == (expected,)


def test_their_order_does_not_matter() -> None:
    names = ["dinov2_vits14", "dinov2_vits14:644", "dino_vits8:keys"]
    expected = known(",".join(names))
    assert len(expected["voters"]) == 3
    for order in itertools.permutations(names):
        assert known(", ".join(order)) == expected


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("dinov2_vits14:key", "'key' is none of the words"),
        ("dinov2_vits14,", "names no features"),
        (":keys", "names no features"),
        ("dinov2_vits14:644:480", "says twice what its size is"),
        ("dinov2_vits14:tau=2", "must be a number in -1..1"),
        ("dinov2_vits14:tau=much", "must be a number in -1..1"),
        ("dinov2_vits14:keys", "no τ is known for keys of dinov2_vits14.*:tau=VALUE.*features.kind=keys"),
        ("dinov2_vits14:centred", "no τ is known for tokens.*features.centred=true"),
        ("dinov2_vits14:640", "voter dinov2_vits14:640: size is 640: use a multiple of patch_size .*644"),
        ("dinov2_vits14,dinov2_vits14", "is named twice"),
        ("dinov2_vits14,dinov2_vits14:840", "are the same"),
        ("dinov2_vits14,dinov2_vits15", "dinov2_vits15"),
        ("dinov3_vits16", "no τ is known"),
    ],
)
def test_voters_that_cannot_vote(features: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        known(features)


def test_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: False)
    with pytest.raises(WeightsError, match=r"^recipe votecut_published brings --features dino_vit\w+: .* hub only"):
        known(recipe="votecut_published")
    launch = Launch(recipe="votecut", settings={"features": f"dino_vits8={tmp_path}/no.pth:480"})
    with pytest.raises(WeightsError, match=r"no\.pth does not exist"):
        known_config(launch, None)
    assert known_config(launch, None, files_here=False)["voters"][0]["size"] == 480


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": "fastdepth"}, "does not look at depth: leave --depth out"),
        ({"depth_kind": "depth"}, "does not look at depth: leave --depth-kind out"),
        ({"surprise": "1"}, "no setting 'surprise'"),
    ],
)
def test_settings_that_it_does_not_read(given: dict[str, str], message: str) -> None:
    for recipe in VOTERS:
        with pytest.raises(CutsError, match=message):
            known(recipe=recipe, **given)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("features.size=480", "features.size is each voter's own"),
        ("features.surprise=1", "no option 'features.surprise'"),
        ("votes.same_iou=1", "votes.same_iou must lie in"),
        ("votes.surprise=1", "no 'surprise' here; options: grid"),
        ("tree.depth=3", "no 'tree' here; options: affinity"),
        ("votes", "not of the form"),
        ("name=x", "no 'name' here"),
        ("affinity=none", "affinity cannot be none"),
        ("candidates.eigenvectors=60", "34.*eigenvectors|larger size"),
    ],
)
def test_options_that_are_wrong(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        known("dinov2_vits14:98", override)


def test_tau_is_the_voters_own_then_the_recipes_then_the_presets() -> None:
    features = "dinov2_vits14,dinov2_vits14:476:tau=0.25"
    assert [v["tau"] for v in known(features)["voters"]] == [0.3, 0.25]
    assert [v["tau"] for v in known(features, "affinity.tau=0.2")["voters"]] == [0.2, 0.25]


def test_the_published_voters() -> None:
    found = known(recipe="votecut_published")["voters"]
    grids = sorted(v["size"] // v["patch_size"] for v in found)
    assert grids == [30, 30, 34, 34, 60, 60]
    assert {(v["kind"], v["centred"], v["tau"]) for v in found} == {("keys", False, 0.15), ("tokens", False, 0.15)}


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    launch = Launch(recipe="votecut", settings={"features": "dinov2_vits14:644,dino_vits8=w.pth:480"})
    expected = f"dino_vits8={tmp_path}/w.pth:480,dinov2_vits14:644"
    assert with_absolute_paths(launch).settings["features"] == expected
    assert with_absolute_paths(Launch(recipe="votecut")).settings == {}
