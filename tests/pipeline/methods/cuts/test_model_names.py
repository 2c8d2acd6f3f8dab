"""What a model is called and where it lies does not decide what a run is: its fingerprint does. Depth that was filled,
or is the same everywhere, is counted.
"""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.tiny_run import tiny_launch

from pipeline.cli import command_line
from pipeline.engine.run import retry_quarantined, run
from pipeline.errors import ConfigError, RunMismatchError
from pipeline.methods.registry import describe, with_absolute_paths
from pipeline.runs.info import info_lines, info_of
from pipeline.runs.launch import Launch, last_launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.status import status_of
from pipeline.runs.verify import verify_run
from stages.fingerprint import text_digest


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Of four photos in two shards, with relative paths."""
    made = tiny_launch(tmp_path, images=4, shard_size=2)
    monkeypatch.chdir(tmp_path)
    settings = {name: value.replace(f"{tmp_path}/", "") for name, value in made.settings.items()}
    assert settings == {"features": "test_vit=test_vit.safetensors", "depth": "maps:depth"}
    return replace(made, images="photos", settings=settings)


def interrupted(launch: Launch, out: Path) -> Path:
    """A run of which the second shard is missing."""
    assert run(out, launch, device="cpu").complete
    (out / "commits" / "00001.json").unlink()
    return out


def depth_of(launch: Launch, depth: str) -> Launch:
    return replace(launch, settings={**launch.settings, "depth": depth})


@pytest.mark.parametrize("spelling", ["./depth", "depth/", "maps:./depth", "maps:{here}/depth", "{here}/link", "depth"])
def test_another_spelling_of_the_path_resumes(launch: Launch, tmp_path: Path, spelling: str) -> None:
    out = interrupted(launch, tmp_path / "run")
    (tmp_path / "link").symlink_to("depth")
    summary = run(out, depth_of(launch, spelling.format(here=tmp_path)), device="cpu")
    assert (summary.complete, summary.images) == (True, 2)


def test_maps_and_weights_that_were_moved_resume(launch: Launch, tmp_path: Path) -> None:
    out = interrupted(launch, tmp_path / "run")
    (tmp_path / "depth").rename(tmp_path / "elsewhere")
    (tmp_path / "test_vit.safetensors").rename(tmp_path / "weights.safetensors")
    moved = {"features": "test_vit=weights.safetensors", "depth": "elsewhere"}
    assert run(out, replace(launch, settings=moved), device="cpu").images == 2


def test_from_another_folder_with_what_launch_json_says(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = interrupted(launch, tmp_path / "run")
    kept = last_launch(out)
    assert kept.images == str(tmp_path / "photos")
    assert kept.settings == {
        "features": f"test_vit={tmp_path}/test_vit.safetensors",
        "depth": f"maps:{tmp_path}/depth",
    }
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert run("../run", device="cpu").images == 2


def test_maps_changed_in_place_are_noticed(launch: Launch, tmp_path: Path) -> None:
    out = interrupted(launch, tmp_path / "run")
    np.save(tmp_path / "depth" / "000.npy", np.load(tmp_path / "depth" / "000.npy")[::-1])
    with pytest.raises(RunMismatchError, match=r"depth\.fingerprint: run has \w{12}…, now \w{12}…: other contents"):
        run(out, launch, device="cpu")


def test_a_map_that_is_mended_is_tried_again(launch: Launch, tmp_path: Path) -> None:
    whole = np.load(tmp_path / "depth" / "003.npy")
    np.save(tmp_path / "depth" / "003.npy", whole[:5])
    (tmp_path / "depth" / "000.npy").rename(tmp_path / "000.npy")
    out = tmp_path / "run"
    assert run(out, launch, device="cpu").quarantined == 2
    reasons = {image.id: image.reason for image in RunReader(RunFolder.open(out)).quarantined()}
    assert reasons == {"000.png": "no_depth_map", "003.png": "bad_depth_map"}
    np.save(tmp_path / "depth" / "003.npy", whole)
    (tmp_path / "000.npy").rename(tmp_path / "depth" / "000.npy")
    again = retry_quarantined(out, device="cpu")
    assert (again.images, again.quarantined) == (2, 0)


def test_images_are_tried_again_with_models_that_were_moved(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "depth" / "000.npy").rename(tmp_path / "000.npy")
    assert run(tmp_path / "run", launch, device="cpu").quarantined == 1
    (tmp_path / "000.npy").rename(tmp_path / "depth" / "000.npy")
    (tmp_path / "depth").rename(tmp_path / "elsewhere")
    (tmp_path / "test_vit.safetensors").rename(tmp_path / "weights.safetensors")
    again = ["retry-quarantined", "run", "--device", "cpu"]
    gone = CliRunner().invoke(command_line(), again)
    assert (gone.exit_code, "does not exist" in gone.output) == (2, True)
    moved = CliRunner().invoke(
        command_line(), [*again, "--features", "test_vit=weights.safetensors", "--depth", "elsewhere"]
    )
    assert moved.exit_code == 0, moved.output


def as_earlier_versions_wrote_it(out: Path, maps: Path) -> str:
    """run.json with the digest of the folder's path; and so the commits."""
    record = json.loads((out / "run.json").read_text())
    record["config"]["depth"] = {"name": f"maps:{maps}", "fingerprint": text_digest("depth maps", str(maps), "depth")}
    canonical = json.dumps(record["config"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    before, record["fingerprint"] = record["fingerprint"], hashlib.sha256(canonical.encode()).hexdigest()
    (out / "run.json").write_text(json.dumps(record))
    for file in (out / "commits").glob("*.json"):
        file.write_text(file.read_text().replace(before, record["fingerprint"]))
    return str(record["fingerprint"])


def test_runs_of_earlier_versions_resume_with_the_maps_at_their_place(launch: Launch, tmp_path: Path) -> None:
    out = interrupted(launch, tmp_path / "run")
    fingerprint = as_earlier_versions_wrote_it(out, tmp_path / "depth")
    assert run(out, launch, device="cpu").images == 2
    assert RunFolder.open(out).fingerprint == fingerprint
    shutil.move(tmp_path / "depth", tmp_path / "moved")
    with pytest.raises(RunMismatchError, match=r'depth\.name: run has ".*/depth", now ".*/moved"'):
        run(out, depth_of(launch, "moved"), device="cpu")


def test_names_of_models_stay_names(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "zoedepth").mkdir()
    for name in ("fastdepth", "zoedepth", "midas"):
        assert with_absolute_paths(depth_of(launch, name)).settings["depth"] == name
    for features in ("dinov2_vits14", "vit_tiny_patch16_224"):
        made = with_absolute_paths(Launch(settings={"features": features}))
        assert made.settings == {"features": features}
    places = Launch(images="clips:clips.csv", root="photos", settings={"depth": "m.onnx", "features": "w.pth"})
    made = with_absolute_paths(places)
    assert (made.images, made.root) == (f"clips:{tmp_path}/clips.csv", f"{tmp_path}/photos")
    assert made.settings == {"depth": f"{tmp_path}/m.onnx", "features": f"{tmp_path}/w.pth"}
    assert with_absolute_paths(Launch(images="s3://bucket/photos")).images == "s3://bucket/photos"


def test_a_folder_without_maps_is_refused(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for spec in ("empty", "maps:empty"):
        with pytest.raises(ConfigError, match="empty holds no depth maps"):
            run(tmp_path / "run", depth_of(launch, spec), device="cpu")


class TestCounts:
    @pytest.fixture
    def flawed(self, launch: Launch, tmp_path: Path) -> Launch:
        """Maps in millimetres: with a hole, constant, without fault, with a hole."""
        for number in range(4):
            (tmp_path / "depth" / f"{number:03d}.npy").unlink()
            height = 64 + number % 3
            metres = np.linspace(1000, 9000, height)[:, None] + np.linspace(0, 500, 80)
            if number == 1:
                metres[:] = 2500
            elif number != 2:
                metres[10:20, 10:20] = 0
            Image.fromarray(metres.astype(np.uint16)).save(tmp_path / "depth" / f"{number:03d}.png")
        return launch

    @pytest.fixture(params=[None, "depth"])
    def out(self, flawed: Launch, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        """A run; of which the depth was kept before, or not."""
        out = tmp_path / "run"
        if request.param:
            summary = run(out, flawed, until=request.param, device="cpu")
            assert summary.counts["depth_filled"] == 2
        return out

    def test_they_are_in_summary_status_record_and_log(self, flawed: Launch, out: Path) -> None:
        summary = run(out, flawed, device="cpu")
        said = "2 images with holes in their depth, which were filled, 1 image with the same depth everywhere"
        assert (summary.counts["depth_filled"], summary.counts["depth_flat"]) == (2, 1)
        assert any(said in line for line in summary.lines())
        assert any(said in line for line in status_of(out).lines())
        assert any(said in line for line in info_lines(info_of(out), describe))
        records = list(RunReader(RunFolder.open(out)))
        assert [round(record.depth_filled, 4) for record in records] == [0.0195, 0, 0, 0.0195]
        assert [record.has_flat_depth for record in records] == [False, True, False, False]
        assert [problem for problem in verify_run(RunFolder.open(out)) if problem.severity == "error"] == []

    def test_the_command_says_them(self, flawed: Launch, tmp_path: Path) -> None:
        settings = [f"--{name}={value}" for name, value in flawed.settings.items()]
        overrides = [f"--set={override}" for override in flawed.overrides]
        arguments = ["run", "--images=photos", "--out=run", "--device=cpu", *settings, *overrides]
        done = CliRunner().invoke(command_line([]), arguments, catch_exceptions=False)
        assert done.exit_code == 0
        assert "depth      2 images with holes in their depth" in done.output
