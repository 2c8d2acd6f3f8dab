"""Runs on a real Ray: several nodes on this machine, real processes, real signals.

Whatever is killed, afterwards every image is in exactly one commit or set aside with a reason, and the store equals,
mask for mask, that of a run that nobody disturbed.
"""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.ray_processes import (
    WITHOUT_TOKEN,
    assert_equal_stores,
    commits,
    end,
    finish,
    start_driver,
    wait_for,
    worker_pids,
)
from support.tiny_run import tiny_launch

from pipeline.engine.run import run
from pipeline.errors import ConfigError
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return tiny_launch(tmp_path_factory.mktemp("data"), images=48, shard_size=4)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, launch: Launch) -> RunFolder:
    out = tmp_path_factory.mktemp("undisturbed")
    assert run(out, launch).complete
    return RunFolder.open(out)


class Nodes:
    """A cluster of raylets on this machine: a head without a core, and what is added."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(WITHOUT_TOKEN)
        head = {"num_cpus": 0, "num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[object] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> object:
        self._nodes.append(self._cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=80 << 20))
        return self._nodes[-1]

    def kill(self, node: object) -> None:
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.remove(node)

    def clear(self) -> None:
        for node in list(self._nodes):
            self.kill(node)

    def shutdown(self) -> None:
        self._cluster.shutdown()

    def workers(self) -> list[int]:
        return worker_pids(os.getpid())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.shutdown()


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    yield cluster
    cluster.clear()


def test_a_local_run_goes_on_on_ray_and_the_other_way_round(
    tmp_path: Path, launch: Launch, undisturbed: RunFolder
) -> None:
    shutil.copytree(undisturbed.url, tmp_path, dirs_exist_ok=True)
    for key in sorted(commits(tmp_path))[3:]:
        (tmp_path / "commits" / f"{key}.json").unlink()
    said = finish(start_driver(tmp_path, None, "--ray", "--cpus-per-worker", "1"))
    assert "12 done, 0 missing" in said
    assert "36 images" in said
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed)
    (tmp_path / "commits" / "00005.json").unlink()
    assert "4 images" in finish(start_driver(tmp_path, None))
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed)


def test_a_worker_killed_by_a_signal(tmp_path: Path, nodes: Nodes, launch: Launch, undisturbed: RunFolder) -> None:
    nodes.add()
    nodes.add()
    driver = start_driver(tmp_path, launch, "--ray", nodes.address)
    try:
        wait_for(lambda: len(commits(tmp_path)) >= 2, "two commits")
        os.kill(nodes.workers()[0], signal.SIGKILL)
        said = finish(driver)
    finally:
        end(driver)
    assert "is gone" in said
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed)


def test_nodes_that_leave_and_come(tmp_path: Path, nodes: Nodes, launch: Launch, undisturbed: RunFolder) -> None:
    leaves = nodes.add()
    driver = start_driver(tmp_path, launch, "--ray", nodes.address)
    try:
        wait_for(lambda: len(commits(tmp_path)) >= 2, "two commits")
        nodes.kill(leaves)
        nodes.add()
        said = finish(driver)
    finally:
        end(driver)
    assert " is gone" in said
    assert "looking for the image" not in said
    folder = RunFolder.open(tmp_path)
    assert_equal_stores(folder, undisturbed)
    assert len({commit.worker for commit in folder.ledger.committed().values()}) == 2


def test_a_driver_killed_and_started_again(
    tmp_path: Path, nodes: Nodes, launch: Launch, undisturbed: RunFolder
) -> None:
    nodes.add()
    driver = start_driver(tmp_path, launch, "--ray", nodes.address)
    wait_for(lambda: len(commits(tmp_path)) >= 2, "two commits")
    driver.kill()
    driver.communicate()
    done = commits(tmp_path)
    assert len(done) < 12
    said = finish(start_driver(tmp_path, None, "--ray", nodes.address))
    assert "12 done, 0 missing" in said
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed)
    wait_for(lambda: nodes.workers() == [], "the workers of both drivers to end")


def test_every_crash_point_in_one_run(tmp_path: Path, launch: Launch, undisturbed: RunFolder) -> None:
    points = "before_write:00001,mid_write:00003,after_write:00005,after_commit:00007"
    once = tmp_path / "once"
    once.mkdir()
    out = tmp_path / "run"
    driver = start_driver(
        out, launch, "--ray", "--workers", "2", "--cpus-per-worker", "1",
        CUTS3D_CRASH_AT=points, CUTS3D_CRASH_ONCE=str(once),
    )  # fmt: skip
    said = finish(driver, 300)
    assert sorted(file.name for file in once.iterdir()) == sorted(points.split(","))
    assert said.count("is gone") == 4
    assert_equal_stores(RunFolder.open(out), undisturbed)


def test_images_that_end_or_hold_their_worker_are_set_aside(
    tmp_path: Path, launch: Launch, undisturbed: RunFolder
) -> None:
    driver = start_driver(
        tmp_path, launch, "--ray", "--workers", "2", "--cpus-per-worker", "1", "--deadline", "20",
        CUTS3D_IMAGE_FAULT="exit:005.png,hang:018.png",
    )  # fmt: skip
    said = finish(driver, 380)
    assert "set aside  2 images" in said
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed, {"005.png": "crashed", "018.png": "hung"})


def test_an_image_that_eats_memory_is_set_aside(tmp_path: Path, launch: Launch, undisturbed: RunFolder) -> None:
    """Ray's memory monitor ends the worker that takes too much."""
    memory = psutil.virtual_memory()
    threshold = 1 - memory.available / 2 / memory.total  # other tests may take the one half
    driver = start_driver(
        tmp_path, launch, "--ray", "--workers", "1", "--cpus-per-worker", "1", CUTS3D_IMAGE_FAULT="eat:018.png",
        RAY_memory_usage_threshold=f"{threshold:.3f}", RAY_memory_monitor_refresh_ms="100",
    )  # fmt: skip
    finish(driver, 380)
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed, {"018.png": "crashed"})


def test_a_second_driver_is_told_at_once(tmp_path: Path, nodes: Nodes) -> None:
    nodes.add()
    out = tmp_path / "run"
    first = start_driver(out, tiny_launch(tmp_path / "data", images=600, shard_size=20), "--ray", nodes.address)
    try:
        wait_for(lambda: (out / "lease.json").exists(), "the lease")
        second = start_driver(out, None, "--ray", nodes.address)
        said, _ = second.communicate()
        assert first.poll() is None, "or this shows nothing"
    finally:
        end(first)
    assert second.returncode == 2
    assert f"is being worked on by process {first.pid}" in said


def test_gpus_that_will_never_come_are_said(tmp_path: Path, launch: Launch) -> None:
    driver = start_driver(tmp_path, launch, "--ray", "--device", "cuda")
    said, _ = driver.communicate()
    assert driver.returncode == 2
    assert "no node has room for a worker, which takes 1 GPU" in said
    assert "--device cpu" in said


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path, launch: Launch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    driver = start_driver(tmp_path, launch, "--ray", address)
    said, _ = driver.communicate()
    assert driver.returncode == 2
    assert f"there is no Ray cluster at {address}" in said
    assert "Traceback" not in said


def test_a_run_with_other_settings_is_refused(tmp_path: Path, launch: Launch, undisturbed: RunFolder) -> None:
    shutil.copytree(undisturbed.url, tmp_path, dirs_exist_ok=True)
    (tmp_path / "commits" / "00000.json").unlink()
    other = replace(launch, overrides=(*launch.overrides, "local_cut.k=7"))
    driver = start_driver(tmp_path, other, "--ray", "--cpus-per-worker", "1")
    said, _ = driver.communicate()
    assert driver.returncode == 2
    assert "recipe.local_cut.k: run has 10, now 7" in said


def test_nothing_listens_beyond_this_machine(tmp_path: Path, launch: Launch) -> None:
    driver = start_driver(tmp_path, launch, "--ray", "--cpus-per-worker", "1")
    try:
        wait_for(lambda: bool(commits(tmp_path)), "a commit")
        family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        open_to = set()
        for process in family:
            try:
                sockets = process.net_connections("inet")
            except psutil.Error:
                continue
            open_to |= {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN}
        finish(driver)
    finally:
        end(driver)
    assert open_to, "Ray listens somewhere, or this looks at the wrong processes"
    assert {ip.removeprefix("::ffff:") for ip in open_to} <= {"127.0.0.1", "::1"}


def test_what_cannot_be_is_said_from_python(tmp_path: Path, launch: Launch) -> None:
    from cluster.run import run_on_ray

    with pytest.raises(ConfigError, match="unknown stage"):
        run_on_ray(tmp_path, launch, until="sleep")
    with pytest.raises(ConfigError, match="there is no run at"):
        run_on_ray(tmp_path, replace(launch, images=None))
