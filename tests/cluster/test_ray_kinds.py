"""On a real Ray: a method of another package with results of its own kind, one of labels, an import, and what moves in
clips and their panoptic labels, as of a local run.
"""

import os
from pathlib import Path
from unittest import mock

import pytest
from support import ROOT, environment, label_method, warm
from support.method_samples import MOVERS, draw
from support.method_samples import draw_clips as draw_streets
from support.ray_nodes import Nodes
from support.ray_processes import WITHOUT_TOKEN
from support.tiny_labels import write_random
from support.toy_method import draw_clips, installed

from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run

pytestmark = [pytest.mark.ray, pytest.mark.slow(30)]


def cuts3d(env: dict[str, str], *words: object) -> str:
    """Standard output and error of a command that ends well."""
    done = warm.run(["-m", "pipeline.cli", *words], env | WITHOUT_TOKEN)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def on_ray(nodes: Nodes, env: dict[str, str]) -> list[str]:
    """Options of a run on a node whose workers have this environment."""
    with mock.patch.dict(os.environ, env):
        nodes.add()
    return ["--ray", nodes.address, "--workers", "1"]


def shards_of(folder: Path) -> dict[str, str]:
    run = RunFolder.open(folder)
    return {key: commit.shard.sha256 for key, commit in run.ledger.committed().items()}


def test_a_toy_whose_result_is_an_integer_a_clip(tmp_path: Path, nodes: Nodes) -> None:
    clips = draw_clips(tmp_path / "clips", 7)
    env = installed(tmp_path / "site")
    words = ["run", "--images", f"clips:{clips}", "--recipe", "toy", "--shard-size", "3"]
    here = cuts3d(env, *words, "--out", tmp_path / "here")
    there = cuts3d(env, *words, "--out", tmp_path / "there", *on_ray(nodes, env))
    (changes,) = [line for line in here.splitlines() if line.startswith("changes ")]
    assert changes in there.splitlines()
    assert shards_of(tmp_path / "there") == shards_of(tmp_path / "here")
    assert RunFolder.open(tmp_path / "there").result == "change"
    assert "no errors" in cuts3d(env, "verify", tmp_path / "there")


def test_semantic_labels(tmp_path: Path, nodes: Nodes) -> None:
    draw(tmp_path)
    env = label_method.installed(tmp_path / "site")
    words = ["run", "--images", tmp_path / "photos", "--recipe", label_method.NAME, "--shard-size", "3"]
    here = cuts3d(env, *words, "--out", tmp_path / "here")
    there = cuts3d(env, *words, "--out", tmp_path / "there", *on_ray(nodes, env))
    (classes,) = [line for line in here.splitlines() if line.startswith("classes ")]
    assert classes in there.splitlines()
    assert shards_of(tmp_path / "there") == shards_of(tmp_path / "here")
    assert RunFolder.open(tmp_path / "there").result == "semantic"
    assert "no errors" in cuts3d(env, "verify", tmp_path / "there")


def test_an_import(tmp_path: Path, nodes: Nodes) -> None:
    draw(tmp_path)
    words = ["import-coco", tmp_path / "masks.json", "--images", tmp_path / "photos", "--shard-size", "3"]
    cuts3d(environment(), *words, "--out", tmp_path / "here")
    said = cuts3d(environment(), *words, "--out", tmp_path / "there", *on_ray(nodes, environment()))
    assert "masks      7 (1.00 per image)" in said
    assert shards_of(tmp_path / "there") == shards_of(tmp_path / "here")
    assert verify_run(RunFolder.open(tmp_path / "there")) == []


def test_labels_of_a_model_that_is_named_by_a_relative_path(assets: Path, tmp_path: Path, nodes: Nodes) -> None:
    draw(tmp_path)
    write_random(tmp_path / "model", f"dinov2_vits14={assets / 'weights' / 'dinov2_vits14_fp16.safetensors'}", 56)
    model = os.path.relpath(tmp_path / "model", ROOT)
    words = ["run", "--images", tmp_path / "photos", "--recipe", "depthg", "--set", f"depthg.checkpoint={model}"]
    words += ["--set", "depthg.refine.side=32", "--shard-size", "3"]
    cuts3d(environment(), *words, "--out", tmp_path / "here")
    said = cuts3d(environment(), *words, "--out", tmp_path / "there", *on_ray(nodes, environment()))
    assert "classes    " in said
    assert shards_of(tmp_path / "there") == shards_of(tmp_path / "here")
    assert verify_run(RunFolder.open(tmp_path / "there")) == []
    assert str(tmp_path) not in (tmp_path / "there" / "run.json").read_text()


def test_what_moves_in_clips_and_their_panoptic_labels(assets: Path, tmp_path: Path, nodes: Nodes) -> None:
    draw_streets(tmp_path / "stereo")
    write_random(tmp_path / "model", f"dinov2_vits14={assets / 'weights' / 'dinov2_vits14_fp16.safetensors'}", 56)
    labels = (f"cups.checkpoint={os.path.relpath(tmp_path / 'model', ROOT)}", "cups.refine.side=32")
    ray = on_ray(nodes, environment())
    for recipe, overrides, result in (("motion", (), "instances"), ("cups", labels, "panoptic")):
        words = ["run", "--images", f"clips:{tmp_path}/stereo/clips.csv", "--recipe", recipe, "--shard-size", "4"]
        words += [word for override in (*MOVERS, *overrides) for word in ("--set", override)]
        here, there = tmp_path / "here" / recipe, tmp_path / "there" / recipe
        cuts3d(environment(), *words, "--out", here)
        cuts3d(environment(), *words, "--out", there, *ray)
        assert shards_of(there) == shards_of(here)
        assert RunFolder.open(there).result == result
        assert verify_run(RunFolder.open(there)) == []
