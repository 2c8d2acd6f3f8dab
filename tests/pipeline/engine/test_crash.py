"""The crash table of the commit protocol, row by row, with real processes and SIGKILL.

Each row: a worker process dies at the point, then the run is launched again. Afterwards every shard is committed once
and the store equals, byte for byte, that of a run that nobody disturbed.
"""

import random
import signal
import time
from pathlib import Path

import pytest
from support import environment, sample_run
from support.sample_run import launch
from support.waiting import wait_for
from support.warm import WarmProcess

from pipeline.faults import VARIABLE
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run
from pipeline.storage.local_files import LocalFiles

pytestmark = pytest.mark.slow

KEYS = ["00000", "00001", "00002"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return launch(str(tmp_path_factory.mktemp("undisturbed")))


def start_worker(url: Path, crash_at: str = "", *hold_at: str) -> WarmProcess:
    return WarmProcess([sample_run.__file__, url, *hold_at], environment(**{VARIABLE: crash_at}))


def crash(url: Path, crash_at: str) -> RunFolder:
    """Launch the run in a process that dies at the crash point."""
    assert start_worker(url, crash_at).wait() == -signal.SIGKILL
    return RunFolder.open(url)


def assert_equal_to(undisturbed: RunFolder, run: RunFolder) -> None:
    """Every shard once, the same bytes, nothing but what commits name, after garbage collection."""
    run.gc(min_age_s=0)
    assert verify_run(run) == []
    shards = run.ledger.committed()
    assert list(shards) == KEYS
    assert len(run.files.list_files("shards")) == len(KEYS)
    for key, commit in undisturbed.ledger.committed().items():
        assert shards[key].shard.sha256 == commit.shard.sha256
        assert shards[key].counts == commit.counts
    assert [record.id for record in RunReader(run)] == [ref.id for ref in run.manifest.refs]


def test_before_the_shard_is_written(tmp_path: Path, undisturbed: RunFolder) -> None:
    run = crash(tmp_path, "before_write:00001")
    assert run.ledger.committed_keys() == {"00000"}
    assert run.orphans() == [], "leaves nothing"
    assert_equal_to(undisturbed, launch(str(tmp_path)))


def test_while_writing(tmp_path: Path, undisturbed: RunFolder) -> None:
    run = crash(tmp_path, "mid_write:00001")
    assert run.ledger.committed_keys() == {"00000"}
    (orphan,) = run.orphans()
    torn = (tmp_path / orphan).read_bytes()
    whole = undisturbed.ledger.contents(undisturbed.ledger.read("00001").shard)
    assert torn == whole[: len(whole) // 2], "leaves an orphan: the first half of the attempt"
    again = launch(str(tmp_path))
    assert orphan in again.orphans(), "the next launch ignores the orphan"
    assert again.is_complete()
    assert list(again.gc(min_age_s=0)) == [orphan]
    assert_equal_to(undisturbed, again)


def test_after_writing_before_the_commit(tmp_path: Path, undisturbed: RunFolder) -> None:
    run = crash(tmp_path, "after_write:00001")
    assert run.ledger.committed_keys() == {"00000"}
    shard, quarantine = run.orphans()
    assert shard.startswith("shards/00001-")
    assert quarantine.startswith("quarantine/00001-")
    assert [shard.key for shard in run.pending()] == ["00001", "00002"], "a whole shard without a commit does not exist"
    again = launch(str(tmp_path))
    assert set(again.gc(min_age_s=0)) == {shard, quarantine}
    assert_equal_to(undisturbed, again)


def test_after_the_commit(tmp_path: Path, undisturbed: RunFolder) -> None:
    run = crash(tmp_path, "after_commit:00001")
    assert run.ledger.committed_keys() == {"00000", "00001"}
    assert run.orphans() == []
    finished = run.ledger.read("00001")
    again = launch(str(tmp_path))
    assert again.ledger.read("00001") == finished, "a finished shard is skipped"
    assert_equal_to(undisturbed, again)


def test_while_the_commit_record_is_written(tmp_path: Path, undisturbed: RunFolder) -> None:
    run = crash(tmp_path, "mid_write:00001.json")
    assert run.ledger.committed_keys() == {"00000"}, "half a record is no record"
    assert_equal_to(undisturbed, launch(str(tmp_path)))


@pytest.mark.parametrize("point", ["after_run_json", "mid_write:run.json", "mid_write:manifest.parquet"])
def test_while_the_run_is_made(tmp_path: Path, undisturbed: RunFolder, point: str) -> None:
    assert start_worker(tmp_path, point).wait() == -signal.SIGKILL
    assert not LocalFiles(tmp_path).exists("manifest.parquet")
    assert_equal_to(undisturbed, launch(str(tmp_path)))


def test_two_workers_killed_at_random_moments(tmp_path: Path, undisturbed: RunFolder) -> None:
    """A worker, its node or the driver: they leave any of the above, and more than one may be at work."""
    chance = random.Random()
    for event in ("run.json", "commits/00000.json", "shards/00001-*"):
        workers = [start_worker(tmp_path, "", KEYS[-1]) for _ in range(2)]
        wait_for(lambda event=event: list(tmp_path.glob(event)), event)
        for worker in workers:
            time.sleep(chance.uniform(0, 0.05))
            worker.kill()
        assert [worker.wait() for worker in workers] == [-signal.SIGKILL] * 2
    assert KEYS[-1] not in RunFolder.open(tmp_path).ledger.committed_keys()
    assert_equal_to(undisturbed, launch(str(tmp_path)))


def test_straggler_and_its_twin(tmp_path: Path, undisturbed: RunFolder) -> None:
    """Three processes do the whole run at once: each shard is committed by one of them."""
    workers = [start_worker(tmp_path) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert_equal_to(undisturbed, RunFolder.open(tmp_path))
