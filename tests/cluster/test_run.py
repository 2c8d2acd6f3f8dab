"""What a run on Ray decides before any worker is there."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from support.fake_fleet import some_shards

from cluster import run
from cluster.run import RayOptions
from pipeline.errors import ConfigError, RunMismatchError
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.kinds import Failed, quarantine_of
from pipeline.runs.launch import Launch
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder
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


def test_maps_that_were_mended_since_are_no_other_run(tmp_path: Path) -> None:
    """As without Ray: where images were tried again and nothing is left to compute."""
    config = {"recipe": {"name": "motion"}, "motion": {"name": "maps:x", "fingerprint": "without"}}
    manifest, kind = Manifest([ImageRef("a.png", "/a.png"), ImageRef("b.png", "/b.png")], 1), InstanceKind((1, 1))
    folder = RunFolder.create_or_open(tmp_path, config, manifest, method="motion")
    failed = [Failed("a.png", "no_motion_map", "none exists")]
    now = {**config, "motion": {"name": "maps:x", "fingerprint": "with"}}
    made = SimpleNamespace(config=now, method="motion", result="instances", earlier={}, mended=("motion.fingerprint",))

    def resumed() -> RunFolder:
        fleet = SimpleNamespace(first_made=lambda: made)
        return run._folder(tmp_path, Launch("/"), manifest, None, fleet)  # type: ignore[arg-type]

    for key in ("00000", "retry-00000", "00001"):
        with pytest.raises(RunMismatchError, match="motion"):
            resumed()
        outcome = Outcome(kind.write(failed, {}), kind.counts(failed), quarantine_of(failed))
        assert folder.ledger.commit(key, new_attempt(), outcome)
    assert resumed().config == config
    made.mended = ()
    with pytest.raises(RunMismatchError, match=r"motion\.fingerprint"):
        resumed()
