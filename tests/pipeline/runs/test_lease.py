"""Who drives a run: leases taken, renewed, waited for, taken over and given back, by real processes and real kills."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, environment
from support.lease_race import Race
from support.waiting import wait_for

from pipeline.errors import StoreError
from pipeline.runs import lease as lease_module
from pipeline.runs.lease import LEASE_FILE, POLL, SETTLE, Lease, LeaseError, LeaseRecord, read_lease
from pipeline.storage.files import RunFiles
from pipeline.storage.files_at import files_at
from pipeline.storage.local_files import LocalFiles

# Holds the lease of a folder until it is killed, looking after it all the time.
HOLD = """
import sys, time
from pathlib import Path
from pipeline.storage.files_at import files_at
from pipeline.runs.lease import Lease, LeaseError
from support.lease_race import Race
files = files_at(sys.argv[1])
sleep = Race(files, Path(sys.argv[3]), int(sys.argv[4])).sleep if len(sys.argv) > 3 else time.sleep
try:
    with Lease(files, float(sys.argv[2]), sleep=sleep) as lease:
        print(lease.token, flush=True)
        while True:
            time.sleep(0.05)
            lease.check()
except LeaseError as error:
    print(error, flush=True)
    sys.exit(3)
"""


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "run")


def started(files: RunFiles, lifetime: float, *race: object) -> subprocess.Popen[str]:
    """A process that takes the lease, and holds it. race: arguments of Race."""
    arguments = [sys.executable, "-c", HOLD, files.url, str(lifetime), *map(str, race)]
    return subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def holder(files: RunFiles, lifetime: float) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that holds the lease, and the token of it."""
    process = started(files, lifetime)
    try:
        yield process, line_of(process)
    finally:
        process.kill()
        process.communicate()


def somebody(files: RunFiles, **changes: object) -> LeaseRecord:
    """Leave the lease of a driver on another machine that is never renewed."""
    record = LeaseRecord("0123456789abcdef", "elsewhere", "another", os.getpid(), "2026-01-01T00:00:00+00:00", 5.0)
    record = dataclasses.replace(record, **changes)
    write(files, record)
    return record


def write(files: RunFiles, record: LeaseRecord) -> None:
    files.write_atomic(LEASE_FILE, json.dumps(dataclasses.asdict(record)).encode())


class Sleeps:
    """Sleep that takes no time and is written down. at: what happens while the n-th sleep lasts."""

    def __init__(self, at: dict[int, Callable[[], object]] | None = None) -> None:
        self.all: list[float] = []
        self.at = at or {}

    def __call__(self, seconds: float) -> None:
        self.all.append(seconds)
        self.at.get(len(self.all), lambda: None)()


# --- taken and given back ---------------------------------------------------------------------------------------------


def test_a_lease_names_its_owner_and_is_given_back(files: LocalFiles) -> None:
    with Lease(files) as lease:
        record = read_lease(files)
        assert record is not None
        assert (record.token, record.pid) == (lease.token, os.getpid())
        assert f"process {os.getpid()} on {record.host}" in record.owner()
        lease.check()
    assert not files.exists(LEASE_FILE)
    assert files.list_files() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreError("disk full")])
def test_a_lease_is_given_back_when_the_work_fails(files: LocalFiles, error: BaseException) -> None:
    with pytest.raises((KeyboardInterrupt, StoreError)), Lease(files):
        raise error
    assert not files.exists(LEASE_FILE)


@pytest.mark.parametrize("step", ["create_exclusive", "start"])
def test_a_driver_stopped_while_it_takes_the_lease_leaves_none(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    lease = Lease(files)
    of: object = LocalFiles if step == "create_exclusive" else threading.Thread
    done = getattr(of, step)

    def stopped_after(*arguments: Any) -> None:
        done(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(of, step, stopped_after)
        with pytest.raises(KeyboardInterrupt):
            lease.__enter__()
    assert read_lease(files) is None
    with Lease(files):
        pass


def test_a_driver_stopped_while_it_waits_for_another_leaves_that_ones_lease(files: LocalFiles) -> None:
    def stopped(_seconds: float) -> None:
        raise KeyboardInterrupt

    with Lease(files) as first:
        with pytest.raises(KeyboardInterrupt):
            Lease(files, sleep=stopped).__enter__()
        held = read_lease(files)
        assert held is not None
        assert held.token == first.token


def test_any_fsspec_url() -> None:
    files = files_at("memory://lease-test/run")
    with Lease(files) as lease:
        assert read_lease(files).token == lease.token  # type: ignore[union-attr]
    assert read_lease(files) is None


@pytest.mark.slow
def test_renewals_go_on_while_a_shard_is_computed(tmp_path: Path) -> None:
    class Counting(LocalFiles):
        renewed = 0

        def write_atomic(self, name: str, data: bytes) -> None:
            super().write_atomic(name, data)
            self.renewed += 1

    files = Counting(tmp_path)
    with Lease(files, 1.0) as lease:
        while files.renewed < 3:
            sum(range(1000))  # never gives the interpreter away of its own will
        record = read_lease(files)
        assert record is not None
        assert record.token == lease.token
        assert record.renewals >= 3
        lease.check()
    assert not files.exists(LEASE_FILE)


def test_a_renewal_that_fails_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Flaky(LocalFiles):
        failures = 2

        def write_atomic(self, name: str, data: bytes) -> None:
            if self.failures:
                self.failures -= 1
                raise StoreError("the server asks for patience")
            super().write_atomic(name, data)

    files = Flaky(tmp_path)
    with Lease(files, 0.5) as lease:
        wait_for(lambda: read_lease(files).renewals, "a renewal")  # type: ignore[union-attr]
        lease.check()
    assert caplog.text.count("could not be renewed: the server asks for patience") == 2
    assert not files.exists(LEASE_FILE)


def test_a_lease_that_somebody_deleted_or_damaged_is_written_again(files: LocalFiles) -> None:
    with Lease(files, 0.5) as lease:
        for spoil in (lambda: files.delete(LEASE_FILE), lambda: files.write_atomic(LEASE_FILE, b"{")):
            spoil()
            wait_for(lambda: (read_lease(files) or somebody_else).token == lease.token, "our lease")
        lease.check()


somebody_else = LeaseRecord("other", "h", "m", 1, "t", 1.0)


def test_a_lease_that_cannot_be_given_back_costs_nobody_the_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Frozen(LocalFiles):
        def delete(self, name: str) -> None:
            raise StoreError("read-only file system")

    with Lease(Frozen(tmp_path)):
        pass
    assert "could not be given back (read-only file system): it ends by itself" in caplog.text


# --- held by another --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_comes_second_is_told_at_once_and_refused_when_the_first_lives(
    files: LocalFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with holder(files, 2.0) as (first, token):
        said: list[str] = []

        def sleep(seconds: float) -> None:
            said.append(caplog.text)
            before = read_lease(files)
            wait_for(lambda: read_lease(files) != before, "a renewal", first)

        refused = rf"is being worked on by process {first.pid} on .*nothing committed is lost"
        with pytest.raises(LeaseError, match=refused), Lease(files, sleep=sleep):
            pytest.fail("two drivers")
        assert f"{files.url} is being worked on by process {first.pid} on" in said[0], "before the first wait"
        assert len(said) == 1, "the first renewal that is seen decides"
        assert first.poll() is None
        assert read_lease(files).token == token  # type: ignore[union-attr]


def test_a_killed_driver_of_this_machine_is_not_waited_for(files: LocalFiles) -> None:
    with holder(files, 600.0) as (first, token):
        first.kill()
        first.wait()
        assert read_lease(files).token == token  # type: ignore[union-attr]
        sleeps = Sleeps()
        with Lease(files, sleep=sleeps) as lease:
            assert read_lease(files).token == lease.token  # type: ignore[union-attr]
        assert sleeps.all == [SETTLE]


def test_a_driver_killed_while_it_is_waited_for(files: LocalFiles) -> None:
    """The owner dies between two looks: what is left of its lifetime is not waited for."""
    with holder(files, 600.0) as (first, _):

        def kill() -> None:
            first.kill()
            first.wait()

        sleeps = Sleeps({2: kill})
        with Lease(files, sleep=sleeps):
            pass
        assert sleeps.all == [POLL, POLL, SETTLE]


def test_a_driver_elsewhere_is_waited_for_as_long_as_it_may_be_silent(
    files: LocalFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with holder(files, 7.5) as (first, _):
        first.kill()
        first.wait()
        found = read_lease(files)
        assert found is not None
        write(files, dataclasses.replace(found, machine="another", host="elsewhere"))
    sleeps = Sleeps()
    with Lease(files, sleep=sleeps) as lease:
        assert read_lease(files).token == lease.token  # type: ignore[union-attr]
    assert sum(sleeps.all) == pytest.approx(7.5 + SETTLE)
    assert f"process {first.pid} on elsewhere" in caplog.text
    assert "has not been heard of for 8 s: taking over its run" in caplog.text


def test_a_host_of_the_same_name_is_not_taken_for_this_machine(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers, or two laptops named localhost: a process number of the one says nothing on the other."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for here, there in (("ours", "theirs"), ("", "")):  # the latter where the system does not tell
        somebody(files, pid=gone.pid, machine=there, host=os.uname().nodename)
        monkeypatch.setattr(lease_module, "_machine", lambda here=here: here)
        sleeps = Sleeps()
        with Lease(files, sleep=sleeps):
            assert len(sleeps.all) > 2


@pytest.mark.parametrize("taken", ["1970-01-01T00:00:00+00:00", "2199-01-01T00:00:00+00:00"])
def test_clocks_of_other_machines_do_not_matter(files: LocalFiles, taken: str) -> None:
    somebody(files, taken=taken)
    os.utime(Path(files.url, LEASE_FILE), (4e9, 4e9) if taken.startswith("2") else (0, 0))
    sleeps = Sleeps()
    with Lease(files, sleep=sleeps):
        pass
    assert sum(sleeps.all) == pytest.approx(5.0 + SETTLE)
    renewed = somebody(files, taken=taken)
    sleeps = Sleeps({3: lambda: somebody(files, taken=taken, renewals=renewed.renewals + 1)})
    with pytest.raises(LeaseError), Lease(files, sleep=sleeps):
        pytest.fail("it was renewed")


@pytest.mark.slow
def test_a_suspended_driver_stops_when_it_wakes_up(files: LocalFiles) -> None:
    """Its lifetime passes for all others; it learns that at its next renewal, and leaves the new lease alone."""
    with holder(files, 1.0) as (first, token):
        before = read_lease(files)
        wait_for(lambda: read_lease(files) != before, "a renewal", first)  # so that it is not in the middle of one
        first.send_signal(signal.SIGSTOP)
        assert read_lease(files).token == token  # type: ignore[union-attr]
        with Lease(files, 5.0) as lease:
            first.send_signal(signal.SIGCONT)
            message = line_of(first)
            assert first.wait() == 3
            assert f"was taken over by process {os.getpid()} on" in message
            assert message.endswith("this driver stops")
            assert read_lease(files).token == lease.token  # type: ignore[union-attr]
            lease.check()


def test_a_lease_taken_over_is_not_given_back_by_its_old_owner(files: LocalFiles) -> None:
    lease = Lease(files, 0.5)
    with lease:
        lease.check()
        record = somebody(files, lifetime=600.0)
        # over renewals that had begun
        wait_for(lambda: somebody(files, lifetime=600.0) and lease._lost, "the loss to be noticed")
        with pytest.raises(LeaseError, match=r"taken over by process .* on elsewhere.*this driver stops"):
            lease.check()
    assert read_lease(files) == record


# --- damage -----------------------------------------------------------------------------------------------------------

GOOD = dataclasses.asdict(somebody_else)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\xfe", b"null", b"[]", b'"lease"', b"[" * 100_000),
        *(
            json.dumps({**GOOD, **change}).encode()
            for change in (
                {"lifetime": "30"},
                {"lifetime": -1},
                {"lifetime": 1e300},
                {"lifetime": float("nan")},
                {"lifetime": True},
                {"pid": "1"},
                {"pid": -1},
                {"pid": 1 << 80},
                {"host": "\x1b[2J"},
                {"host": None},
                {"taken": "x" * 10_000},
                {"renewals": "many"},
                {"surprise": 1},
            )
        ),
        json.dumps({"token": "t"}).encode(),
    ],
)
def test_a_damaged_lease_holds_nobody_off(files: LocalFiles, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    files.write_atomic(LEASE_FILE, content)
    assert read_lease(files) is None
    sleeps = Sleeps()
    with Lease(files, sleep=sleeps) as lease:
        assert read_lease(files).token == lease.token  # type: ignore[union-attr]
    assert sleeps.all == [SETTLE]
    assert "cannot be understood" in caplog.text
    assert "\x1b" not in caplog.text


def test_an_unreadable_lease_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / LEASE_FILE).mkdir()
    with pytest.raises(StoreError, match=r"lease\.json"), Lease(LocalFiles(tmp_path)):
        pytest.fail("nobody can know who drives this run")


# --- races ------------------------------------------------------------------------------------------------------------


def test_whoever_else_takes_over_a_dead_lease_is_asked_about_next(files: LocalFiles) -> None:
    """Two wait for one dead owner; the other is faster. Its lease is a live one, and not to be deleted."""
    somebody(files)
    with Lease(LocalFiles(Path(files.url, "other"))) as other:  # any record of a process that lives
        faster = read_lease(other._files)
    assert faster is not None

    def other_takes_over() -> None:
        write(files, faster)

    def other_renews() -> None:
        write(files, dataclasses.replace(faster, renewals=1))

    sleeps = Sleeps({2: other_takes_over, 4: other_renews})
    with pytest.raises(LeaseError, match="being worked on"), Lease(files, sleep=sleeps):
        pytest.fail("two drivers")
    assert sleeps.all == [POLL] * 4
    assert read_lease(files) == dataclasses.replace(faster, renewals=1)


def test_a_lease_given_back_while_it_is_waited_for_is_free(files: LocalFiles) -> None:
    somebody(files, lifetime=600.0)
    sleeps = Sleeps({2: lambda: files.delete(LEASE_FILE)})
    with Lease(files, sleep=sleeps):
        assert sleeps.all == [POLL, POLL], "nothing was taken over, so nothing has to settle"


def test_of_two_that_take_over_at_the_same_moment_the_last_has_it(files: LocalFiles) -> None:
    """Both found the same owner dead, and ours is replaced as soon as it is written."""
    dead = somebody(files)
    other = dataclasses.replace(dead, token="other", machine="one more", lifetime=600.0)

    def other_replaces_ours() -> None:
        assert read_lease(files).token != dead.token  # type: ignore[union-attr]
        write(files, other)

    def other_renews() -> None:
        write(files, dataclasses.replace(other, renewals=1))

    sleeps = Sleeps({6: other_replaces_ours, 8: other_renews})
    with pytest.raises(LeaseError, match="being worked on by process"), Lease(files, sleep=sleeps):
        pytest.fail("two drivers")
    assert sleeps.all == [*[POLL] * 5, SETTLE, POLL, POLL]


def test_a_request_that_was_repeated_and_met_itself_has_won(tmp_path: Path) -> None:
    class LostAnswer(LocalFiles):
        def create_exclusive(self, name: str, data: bytes) -> bool:
            super().create_exclusive(name, data)
            return False

    sleeps = Sleeps()
    with Lease(LostAnswer(tmp_path), sleep=sleeps) as lease:
        assert read_lease(lease._files).token == lease.token  # type: ignore[union-attr]
    assert sleeps.all == []


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(4))
def test_of_many_that_find_a_driver_dead_one_takes_over(files: LocalFiles, tmp_path: Path, round_: int) -> None:
    """Eight threads find it at the same moment: in most rounds several of them replace the lease."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    somebody(files, pid=gone.pid, machine=lease_module._machine(), lifetime=600.0)
    start, done, race = threading.Barrier(8), threading.Event(), Race(files, tmp_path / "notes", 8)
    owners, refused = [], []

    def drive() -> None:
        start.wait()
        try:
            with Lease(files, 2.0, sleep=race.sleep) as lease:
                owners.append(lease)
                done.wait()
                lease.check()
        except LeaseError:
            refused.append(threading.current_thread())

    threads = [threading.Thread(target=drive, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(owners) + len(refused) == 8, "all eight to know")
    done.set()
    for thread in threads:
        thread.join()
    assert len(owners) == 1
    assert len(refused) == 7
    assert not files.exists(LEASE_FILE)


@pytest.mark.slow
def test_of_many_processes_that_wait_for_a_driver_one_takes_over(files: LocalFiles, tmp_path: Path) -> None:
    somebody(files, lifetime=2.0)
    waiting = [started(files, 2.0, tmp_path / "notes", 6) for _ in range(6)]
    try:
        lines = [line_of(process) for process in waiting]
        owner = read_lease(files)
        assert owner is not None
        assert [line for line in lines if line == owner.token] == [owner.token]
        assert sum("being worked on" in line for line in lines) == 5
        assert sum(process.poll() is None for process in waiting if process.pid == owner.pid) == 1
    finally:
        for process in waiting:
            process.kill()
            process.communicate()
