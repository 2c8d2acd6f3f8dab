"""What a run on a real Ray refuses, and says so: in this process, on one cluster for all tests."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.ray_nodes import Nodes
from support.ray_processes import end, warm_driver, words_of
from support.tiny_run import tiny_launch
from support.waiting import wait_for

from cluster import run as cluster_run
from cluster.run import run_on_ray
from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.faults import HOLD_VARIABLE, IMAGE_VARIABLE
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow(60)]


def cuts3d_run(out: Path, launch: Launch | None, *options: str) -> tuple[int, str]:
    """Exit status and output of `cuts3d run`."""
    result = CliRunner().invoke(main, ["run", "--out", str(out), *words_of(launch), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_second_driver_is_told_at_once(
    tmp_path: Path, nodes: Nodes, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "hold:000.png")
    monkeypatch.setenv(HOLD_VARIABLE, str(tmp_path / "never"))
    nodes.add()
    out = tmp_path / "run"
    first = warm_driver(out, launch, "--ray", nodes.address)
    try:
        wait_for((out / "lease.json").exists, "the lease", first)
        status, said = cuts3d_run(out, None, "--ray", nodes.address)
        assert first.poll() is None, "or this shows nothing"
    finally:
        end(first)
    assert status == 2
    assert f"is being worked on by process {first.pid}" in said


def test_a_driver_that_is_terminated_says_that_it_resumes(
    tmp_path: Path, nodes: Nodes, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "hold:000.png")
    monkeypatch.setenv(HOLD_VARIABLE, str(tmp_path / "never"))
    nodes.add()
    driver = warm_driver(tmp_path / "run", launch, "--ray", nodes.address)
    try:
        wait_for((tmp_path / "run/lease.json").exists, "the lease", driver)
        driver.terminate()
        said, _ = driver.communicate()
    finally:
        end(driver)
    assert (driver.returncode, "committed shards are safe" in said) == (130, True), said
    assert not (tmp_path / "run/lease.json").exists()


def test_a_shard_of_which_every_image_is_set_aside(tmp_path: Path, nodes: Nodes) -> None:
    nodes.add()
    launch, out = tiny_launch(tmp_path, images=3), tmp_path / "run"
    (tmp_path / "depth").rename(tmp_path / "elsewhere")
    (tmp_path / "depth").mkdir()
    (tmp_path / "elsewhere" / "000.npy").rename(tmp_path / "depth" / "000_depth.npy")  # not the photo's name
    status, said = cuts3d_run(out, launch, "--ray", nodes.address)
    assert (status, "no shard could be done; 00000 failed 4 times" in said) == (2, True), said
    assert "every image of shard 00000 was set aside as no_depth_map" in said
    status, said = cuts3d_run(out, None, "--ray", nodes.address, "--accept-set-aside")
    assert (status, "3 of 3 done, 3 of them set aside" in said) == (1, True), said


def test_gpus_that_will_never_come_are_said(
    tmp_path: Path, nodes: Nodes, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add()
    monkeypatch.setattr(cluster_run, "PATIENCE", 0.0)
    status, said = cuts3d_run(tmp_path, launch, "--ray", nodes.address, "--device", "cuda")
    assert status == 2
    assert "no node has room for a worker, which takes 1 GPU" in said
    assert "--device cpu" in said


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path, launch: Launch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    status, said = cuts3d_run(tmp_path, launch, "--ray", address)
    assert status == 2
    assert f"there is no Ray cluster at {address}" in said
    assert "Traceback" not in said


def test_a_run_with_other_settings_is_refused(
    tmp_path: Path, nodes: Nodes, launch: Launch, undisturbed: RunFolder
) -> None:
    nodes.add()
    shutil.copytree(undisturbed.url, tmp_path, dirs_exist_ok=True)
    (tmp_path / "commits" / "00000.json").unlink()
    other = replace(launch, overrides=(*launch.overrides, "local_cut.k=7"))
    status, said = cuts3d_run(tmp_path, other, "--ray", nodes.address)
    assert status == 2
    assert "recipe.local_cut.k: run has 10, now 7" in said


def test_what_cannot_be_is_said_from_python(tmp_path: Path, launch: Launch) -> None:
    with pytest.raises(ConfigError, match="no stage sleep"):
        run_on_ray(tmp_path, launch, until="sleep")
    with pytest.raises(ConfigError, match="there is no run at"):
        run_on_ray(tmp_path, replace(launch, images=None))
