"""Training on a real Ray, in processes of this machine: it ends like one that nobody disturbed."""

import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import ray
import torch
from support import environment
from support.drawn_streets import street_training, write_start, write_streets
from support.painted_run import painted_run
from support.ray_nodes import Nodes
from support.small_training import small_training
from support.waiting import wait_for

from detector.model.checkpoints import read_tensors
from detector.training.config import read_config
from detector.training.on_ray import RayTraining, train_on_ray
from detector.training.train import Training, train
from pipeline.errors import ConfigError, RunMismatchError, TrainingError

pytestmark = [pytest.mark.ray, pytest.mark.slow(160)]


@pytest.fixture(scope="module", autouse=True)
def ray_here(cluster: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A node for all tests here: two cores, whatever the machine has."""
    with mock.patch.dict(os.environ, environment(CUTS3D_CACHE=str(tmp_path_factory.mktemp("cache")))):
        cluster.add(cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        yield
        ray.shutdown()
        cluster.clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return painted_run(tmp_path_factory.mktemp("painted")).url


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "detector.safetensors")


def assert_trained_here(wanted: Training, folder: Path) -> None:
    """The training, in this process and another folder, leaves the same weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the worker has; sums come out otherwise with more
    try:
        train(dataclasses.replace(wanted, work_dir=str(folder)))
    finally:
        torch.set_num_threads(threads)
    ours, theirs = weights(Path(wanted.work_dir)), weights(folder)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def workers() -> list[psutil.Process]:
    """Processes of Ray Train below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


class Messages(logging.Handler):
    """What is logged, from INFO on."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture(scope="module")
def by_one_worker(run: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Path, list[str]]:
    """A training on Ray, the detector that it returned, and what was logged."""
    wanted = small_training(run, tmp_path_factory.mktemp("one") / "ray")
    log, messages = logging.getLogger("detector"), Messages()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(messages)
    try:
        return wanted, train_on_ray(wanted, RayTraining()), messages.texts
    finally:
        log.removeHandler(messages)
        log.setLevel(level)


def test_one_worker_trains_what_this_process_trains(
    by_one_worker: tuple[Training, Path, list[str]], tmp_path: Path
) -> None:
    wanted, path, messages = by_one_worker
    assert path == Path(wanted.work_dir) / "detector.safetensors"
    assert [m.split(":")[0] for m in messages if m.startswith("iteration")] == [f"iteration {i}" for i in range(1, 7)]
    assert_trained_here(wanted, tmp_path / "here")


def test_a_panoptic_detector_teaches_itself_on_ray_as_here(tmp_path: Path) -> None:
    streets = write_streets(tmp_path / "streets", range(4))
    start = write_start(tmp_path / "start.safetensors", streets)
    options = {"config": "cups_self_tiny", "init_from": str(start), "teacher": {"min_score": 0.1}, "iterations": 2}
    wanted = street_training(streets.url, tmp_path / "ray", "custom_hooks.3.scales=(0.5,1.0)", **options)
    train_on_ray(wanted, RayTraining())
    assert_trained_here(wanted, tmp_path / "here")


def test_two_workers_and_a_killed_one(run: str, tmp_path: Path) -> None:
    wanted = small_training(run, tmp_path / "disturbed", iterations=12)
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: len(workers()) == 2, "two workers")
        victim = workers()[-1]
        wait_for((tmp_path / "disturbed" / "iter_3.pth").exists, "a checkpoint")
        killed.append(victim.pid)
        victim.send_signal(signal.SIGKILL)

    threading.Thread(target=kill_one, daemon=True).start()
    train_on_ray(wanted, RayTraining(workers=2))
    assert killed
    assert len(list((tmp_path / "disturbed").glob("*/vis_data/scalars.json"))) == 2  # it was resumed
    undisturbed = dataclasses.replace(wanted, work_dir=str(tmp_path / "undisturbed"))
    train_on_ray(undisturbed, RayTraining(workers=2))
    ours, theirs = weights(tmp_path / "disturbed"), weights(tmp_path / "undisturbed")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_relative_paths_are_those_of_whoever_starts_it(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = small_training(os.path.relpath(run), Path("work"), iterations=1)
    Path("mine.py").write_text(read_config("tiny", pretty=True).pretty_text)
    assert (
        train_on_ray(dataclasses.replace(wanted, config="mine.py"), RayTraining())
        == tmp_path / "work/detector.safetensors"
    )


def test_folders_and_errors_are_those_of_a_training_here(
    run: str, by_one_worker: tuple[Training, Path, list[str]], tmp_path: Path
) -> None:
    wanted = small_training(run, tmp_path / "work", iterations=3)
    with pytest.raises(TrainingError, match="no training to resume"):
        train_on_ray(dataclasses.replace(wanted, resume=True), RayTraining())
    with pytest.raises(ConfigError, match="one of cups_r50_fpn"):
        train_on_ray(dataclasses.replace(wanted, config="none"), RayTraining())
    done, *_ = by_one_worker
    with pytest.raises(RunMismatchError, match="add --resume"):
        train_on_ray(done, RayTraining())


@pytest.mark.parametrize(
    ("where", "device", "message"),
    [
        (RayTraining(workers=3), "auto", r"3 CPUs \(the cluster has 2\)"),
        (RayTraining(cpus_per_worker=4), "cpu", r"4 CPUs \(the cluster has 2\)"),
        (RayTraining(), "cuda", r"1 GPU \(the cluster has 0\)"),
    ],
)
def test_what_the_cluster_has_not(run: str, tmp_path: Path, where: RayTraining, device: str, message: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        train_on_ray(dataclasses.replace(small_training(run, tmp_path / "work"), device=device), where)
