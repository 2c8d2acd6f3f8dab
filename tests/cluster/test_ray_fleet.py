"""How the fleet reads what Ray says of deaths and rooms; what it does with real nodes is in test_ray_run.py."""

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError

from cluster import ray_fleet
from cluster.ray_fleet import Kind, RayFleet
from cluster.sent_errors import SentError
from cluster.worker import Answer, WorkerSpec
from pipeline.errors import ConfigError, CutsError, StoreError
from pipeline.runs.launch import Launch

DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: Worker\n\tpid: 12057\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)
NODE_DIED = (
    "The actor is dead because its node has died. Node Id: 0a1b\n\tthe actor's node was terminated unexpectedly: x"
)


def nodes(*resources: dict[str, float], alive: bool = True) -> list[dict[str, object]]:
    return [{"NodeID": f"n{i}", "Alive": alive, "Resources": own} for i, own in enumerate(resources)]


def kind(gpus: float = 0, cpus: int = 2, count: int | None = None) -> Kind:
    return Kind(WorkerSpec(Launch(), None, "cpu", None, cpus), gpus, cpus, count)


@pytest.mark.parametrize(
    ("error", "alive", "gone"),
    [
        (RayActorError("a1", DIED), True, False),
        (RayActorError("a1", DIED), False, True),
        (RayActorError("a1", NODE_DIED), True, True),
        (OutOfMemoryError("Task was killed due to the node running low on memory."), True, False),
    ],
)
def test_a_death_for_memory_is_the_images_fault_and_that_of_a_node_is_not(
    monkeypatch: pytest.MonkeyPatch, error: Exception, alive: bool, gone: bool
) -> None:
    monkeypatch.setattr(ray_fleet.ray, "nodes", lambda: nodes({"CPU": 1}, alive=alive))
    assert ray_fleet._node_is_gone("n0", error) is gone


def test_what_ray_says_of_a_death_fits_a_line() -> None:
    said = ray_fleet._said(RayActorError("a1", DIED))
    assert said.startswith("its worker process has died. Worker exit type: SYSTEM_ERROR")
    assert "causes" not in said
    assert "\n" not in said
    assert ray_fleet._said(OutOfMemoryError("…")) == "its node ran low on memory, and Ray ended it"


def test_room_is_counted_node_by_node() -> None:
    assert [kind(cpus=4).fits({"CPU": cpus}) for cpus in (3, 4, 11, 0)] == [0, 1, 2, 0]
    assert kind(gpus=1, cpus=4).fits({"CPU": 16, "GPU": 2}) == 2
    assert kind(gpus=1, cpus=4).fits({"CPU": 7, "GPU": 2}) == 1
    assert kind(gpus=1).fits({"CPU": 16}) == 0


def test_without_room_on_any_node_it_says_so_and_gives_up_after_its_patience(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(ray_fleet.ray, "nodes", lambda: nodes({"CPU": 8}, {"CPU": 4}))
    monkeypatch.setattr(ray_fleet.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray_fleet.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + max(seconds, 0.1)))
    fleet = RayFleet([kind(gpus=1)], most=10, patience=100.0)
    with pytest.raises(
        ConfigError, match=r"takes 1 GPU and 2 CPU: the cluster has 2 nodes with 0 GPU and 12 CPU in all"
    ):
        list(map(fleet.events, [1.0] * 1000))
    assert 100 <= now[0] <= 140
    assert "no node has room for a worker" in caplog.text, "said long before it gave up"


class OwnError(CutsError):
    """What the method of another package raises where no machine will do."""

    fatal = True


@pytest.mark.parametrize(
    ("error", "starts"),
    [
        (ConfigError("no such recipe"), 1),
        (OwnError("no licence"), 1),
        (StoreError("no disk"), 3),
        (ValueError(), 3),
    ],
)
def test_a_start_is_given_up_at_once_where_it_is_hopeless(
    error: Exception, starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_fleet.ray, "kill", lambda handle: None)
    fleet = RayFleet([kind()], most=1, patience=None)
    for _ in range(starts - 1):
        fail_to_start(fleet, error)
    with pytest.raises(type(error)):
        fail_to_start(fleet, error)


def fail_to_start(fleet: RayFleet, error: Exception) -> None:
    actor = fleet._actors["worker"] = ray_fleet._Actor("worker", kind(), None)
    fleet._started(actor, "load", Answer(error=SentError.of(error)))
