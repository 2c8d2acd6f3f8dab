"""`cuts3d status` from commits alone: what it counts, what it reads, how it watches."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import ROOT, environment
from support.sample_run import CONFIG, UNREADABLE, do_shard, launch, sample_manifest
from support.waiting import PATIENCE

from pipeline.cli import main
from pipeline.commands import status_watch
from pipeline.commands.status_watch import watch
from pipeline.errors import StoreError
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.status import StatusReader, status_of
from pipeline.storage.files import RunFiles

COUNTS = {"images": 4, "masks": 6, "drops": {"too_small": 2}, "quarantined": 0}


def edit_record(run: RunFolder, key: str, **changes: Any) -> None:
    name = f"commits/{key}.json"
    record = json.loads(run.files.read_bytes(name)) | changes
    run.files.write_atomic(name, json.dumps(record).encode())


def begun(url: Path | str, shards: Iterable[int] = (0,)) -> RunFolder:
    run = RunFolder.create_or_open(url, CONFIG, sample_manifest())
    every = run.manifest.shards()
    for i in shards:
        do_shard(run, every[i])
    return run


def test_counts_of_a_run_half_done(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.ledger.commit("00001", new_attempt(), Outcome(b"x", COUNTS, seconds={"ncut": 0.5}, wall=12.5))
    found = status_of(tmp_path)
    assert (found.done_shards, found.shards, found.done_images, found.images) == (2, 3, 8, 10)
    first = run.ledger.read("00000").counts
    assert (found.counts["masks"], found.counts["drops"]["too_small"]) == (
        first["masks"] + 6,
        first["drops"]["too_small"] + 2,
    )
    assert found.seconds == {"ncut": 0.75}
    assert [(shard.key, shard.seconds) for shard in found.slowest] == [("00001", 12.5)]
    (worker,) = found.workers
    assert (worker.worker, worker.shards, worker.images) == (f"{os.uname().nodename}:{os.getpid()}", 2, 8)
    assert found.pace is not None
    assert found.pace.left is not None
    text = "\n".join(found.lines())
    for part in ("2 of 3 done", "8 of 10 done", "images/s over", "time left", "last commit", "slowest: 00001 12 s"):
        assert part in text


def test_retries_take_from_what_is_set_aside(tmp_path: Path) -> None:
    run = launch(str(tmp_path))
    assert status_of(tmp_path).quarantined == len(UNREADABLE)
    do_shard(run, run.retry_shards([UNREADABLE[0]])[0], mended=True)
    found = status_of(tmp_path)
    assert (found.quarantined, found.done_shards, found.complete) == (len(UNREADABLE) - 1, 3, True)


def test_complete_run_promises_nothing_more(tmp_path: Path) -> None:
    launch(str(tmp_path))
    text = "\n".join(status_of(tmp_path).lines())
    assert "time left" not in text
    assert " ago" not in text


def test_old_records_without_worker_and_duration(tmp_path: Path) -> None:
    run = begun(tmp_path)
    name = "commits/00000.json"
    record = json.loads(run.files.read_bytes(name))
    del record["worker"], record["wall"]
    run.files.write_atomic(name, json.dumps(record).encode())
    found = status_of(tmp_path)
    assert found.slowest == []
    assert [worker.worker for worker in found.workers] == [os.uname().nodename]
    assert found.pace is not None
    assert found.pace.images_per_s == pytest.approx(4 / 0.25)


@pytest.mark.parametrize("year", ["1999", "2999"])
def test_node_with_a_wrong_clock(tmp_path: Path, year: str) -> None:
    run = begun(tmp_path, (0, 1))
    edit_record(run, "00001", host="elsewhere", worker="elsewhere:7", finished=f"{year}-01-01T00:00:00.000+00:00")
    found = status_of(tmp_path)
    assert found.pace is not None
    assert 0 <= found.pace.idle < 60
    assert 0 < (found.pace.left or -1) < 60
    assert all(0 <= worker.idle < 60 for worker in found.workers)
    assert found.last.startswith(time.strftime("%Y", time.gmtime())), "told by the store, not by the node"


def test_record_of_no_shard_is_damage(tmp_path: Path) -> None:
    run = launch(str(tmp_path))
    run.ledger.commit("00003", "a", Outcome(b"x", COUNTS))
    found = status_of(tmp_path)
    assert found.done_shards == 3
    assert not found.complete
    assert found.damaged == ["commit record 00003.json is of no shard of this run: move that file away"]


def test_a_cut_shard_is_damage(tmp_path: Path) -> None:
    run = launch(str(tmp_path))
    path = tmp_path / run.ledger.read("00001").shard.name
    path.write_bytes(path.read_bytes()[:50])
    found = status_of(tmp_path)
    assert (found.done_shards, found.complete, found.exit_status) == (2, False, 1)
    (damage,) = found.damaged
    assert damage.startswith(f"shards/{path.name} has 50 bytes, committed were ")
    assert damage.endswith(". To do the shard again, delete commits/00001.json and start the run again")


def test_unreadable_record_is_told_and_mended(tmp_path: Path) -> None:
    run = launch(str(tmp_path))
    reader = StatusReader(tmp_path)
    whole = run.files.read_bytes("commits/00001.json")
    run.files.write_atomic("commits/00001.json", whole[:100])
    found = reader.read()
    assert (found.done_shards, found.complete) == (2, False)
    assert "delete that file and start the run again" in found.damaged[0]
    assert reader.read().damaged == found.damaged, "told every time, not only when read"
    run.files.delete("commits/00001.json")
    assert (reader.read().damaged, reader.read().done_shards) == ([], 2)
    launch(str(tmp_path))
    assert reader.read().complete


def test_reads_each_record_once_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(tmp_path, (0, 1))
    read: list[str] = []
    whole = RunFiles.read_many
    monkeypatch.setattr(RunFiles, "read_many", lambda self, names: whole(self, read_names(read, names)))
    reader = StatusReader(tmp_path)
    reader.read()
    assert sorted(read) == ["commits/00000.json", "commits/00001.json"]
    read.clear()
    reader.read()
    assert read == []
    do_shard(run, run.manifest.shards()[2])
    assert reader.read().complete
    assert read == ["commits/00002.json"]


def read_names(seen: list[str], names: Iterable[str]) -> list[str]:
    names = list(names)
    seen += names
    return names


def test_watching_learns_the_clock_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's clock is an hour ahead: a new record between two readings shows it."""
    run = begun(tmp_path)
    ahead = time.time
    monkeypatch.setattr("pipeline.runs.status.time.time", lambda: ahead() + 3600)
    reader = StatusReader(tmp_path)
    before = reader.read().pace
    assert before is not None
    assert before.idle > 3500, "nothing to compare with yet"
    do_shard(run, run.manifest.shards()[1])
    after = reader.read().pace
    assert after is not None
    assert after.idle < 60
    assert after.left is not None


def test_command_and_exit_status(tmp_path: Path) -> None:
    begun(tmp_path)
    result = CliRunner().invoke(main, ["status", str(tmp_path), "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["complete"], found["done_shards"], found["shards"]) == (False, 1, 3)
    assert {"images_per_s", "window", "idle", "left"} == found["pace"].keys()
    launch(str(tmp_path))
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    aside = f"10 of 10 done, {len(UNREADABLE)} of them set aside"
    assert (result.exit_code, "3 of 3 done" in result.stdout, aside in result.stdout) == (1, True, True)
    result = CliRunner().invoke(main, ["status", str(tmp_path / "none"), "--watch"])
    assert result.exit_code == 2
    assert "is not a run" in result.stderr


class Worker:
    """Does one more shard whenever the watcher sleeps."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def __call__(self, seconds: float) -> None:
        assert seconds == status_watch.EVERY
        do_shard(self.run, self.run.pending()[0])


def test_watch_in_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(tmp_path, sleep=Worker(begun(tmp_path)), interactive=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" of ")[0].split()[-1] for line in lines] == ["1", "2", "3"]
    assert lines[-1].endswith("complete")
    assert "time left" in lines[0]


def test_watch_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(tmp_path, as_json=True, sleep=Worker(begun(tmp_path)), interactive=True)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [status["done_shards"] for status in found] == [1, 2, 3]
    assert found[-1]["complete"]


def test_watch_outlives_a_store_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(str(tmp_path))
    read, failures = StatusReader.read, [StoreError("cannot list commits: no route.")]

    def flaky(self: StatusReader) -> Any:
        if failures:
            raise failures.pop()
        return read(self)

    monkeypatch.setattr(StatusReader, "read", flaky)
    watch(tmp_path, sleep=lambda seconds: None, interactive=False)
    captured = capsys.readouterr()
    assert "no route. Trying again." in captured.err
    assert captured.out.strip().endswith("complete")


@pytest.mark.slow
def test_watch_on_a_terminal_redraws_and_ends_with_the_run(tmp_path: Path) -> None:
    run = begun(tmp_path)
    terminal, other_end = pty.openpty()
    command = [sys.executable, "-m", "pipeline.cli", "status", "--watch", str(tmp_path)]
    watcher = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=other_end,
        stderr=subprocess.PIPE,
        env=environment(TERM="xterm", COLUMNS="110", LINES="40"),
    )
    os.close(other_end)
    shown = b""
    while b"1 of 3 done" not in shown:
        shown += read_terminal(terminal)
    for shard in run.pending():
        do_shard(run, shard)
    while chunk := read_terminal(terminal):
        shown += chunk
    os.close(terminal)
    watcher.communicate()
    assert watcher.returncode == 1, "two images are set aside"
    assert b"3 of 3 done" in shown
    assert b"\x1b[1A\x1b[2K" in shown, "not drawn in place"


def read_terminal(terminal: int) -> bytes:
    ready, _, _ = select.select([terminal], [], [], PATIENCE)
    assert ready, "nothing more is shown"
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
