"""What a run on Ray decides before any worker is there."""

from types import SimpleNamespace

import pytest
import ray
from support.fake_fleet import some_shards

from cluster import run
from cluster.run import RayOptions
from pipeline.errors import ConfigError
from pipeline.runs.launch import Launch
from pipeline.runs.summary import RunSummary, Silent


def kinds(
    monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float], device: str = "auto", **options: int
) -> list[tuple[str, float, int, int | None]]:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": own} for own in nodes])
    found = run._kinds(Launch(), None, device, None, RayOptions(**options))  # type: ignore[arg-type]
    assert all(kind.spec.cores == kind.cpus for kind in found)
    return [(kind.spec.device, kind.gpus, kind.cpus, kind.count) for kind in found]


def test_without_gpus_workers_take_two_cores_or_what_a_node_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kinds(monkeypatch, {"CPU": 8}) == [("cpu", 0, 2, None)]
    assert kinds(monkeypatch, {"CPU": 0}, {"CPU": 8}, {}) == [("cpu", 0, 2, None)], (
        "a head without cores does not count"
    )
    assert kinds(monkeypatch, {"CPU": 8}, {"CPU": 1}) == [("cpu", 0, 1, None)]
    assert kinds(monkeypatch, {"CPU": 8}, workers=3, cpus_per_worker=4) == [("cpu", 0, 4, 3)]


def test_with_gpus_each_worker_owns_one_and_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = {"CPU": 64, "GPU": 8}, {"CPU": 8, "GPU": 2}
    assert kinds(monkeypatch, large) == [("cuda", 1, 8, None)]
    assert kinds(monkeypatch, large, small) == [("cuda", 1, 4, None)]
    assert kinds(monkeypatch, {"CPU": 96, "GPU": 1}) == [("cuda", 1, 8, None)]
    assert kinds(monkeypatch, large, {"CPU": 16}, cpu_workers=5) == [("cuda", 1, 8, None), ("cpu", 0, 2, 5)]
    assert kinds(monkeypatch, large, device="cpu") == [("cpu", 0, 2, None)]


def test_gpus_that_are_yet_to_come_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kinds(monkeypatch, {"CPU": 4}, device="cuda", workers=16) == [("cuda", 1, 8, 16)]
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        kinds(monkeypatch, {"CPU": 4}, device="gpu")


def test_too_few_shards_for_the_workers_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cluster")
    lease, folder = SimpleNamespace(check=lambda: None), SimpleNamespace(n_shards=1000, n_images=1_000_000)
    report = run._Report(Silent(), RunSummary("out"), lease, folder)  # type: ignore[arg-type]
    for workers in (8, 40):
        report.state(100, workers, workers)
    assert caplog.text == ""
    for workers in (64, 64, 100):
        report.state(100, workers, workers)
    assert caplog.text.count("1000 shards are few for 64 workers") == 1
    assert "--shard-size 312" in caplog.text


def test_workers_look_for_images_from_all_over_the_run() -> None:
    assert run._some_images(some_shards(100)) == tuple(f"/data/{i}/0.jpg" for i in (0, 20, 40, 60, 80))
    assert run._some_images(some_shards(2)) == ("/data/0/0.jpg", "/data/1/0.jpg")
