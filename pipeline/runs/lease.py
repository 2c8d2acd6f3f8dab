"""The lease of a run: who drives it, so that a second driver started by mistake says so at once.

lease.json names its owner and is renewed while the owner lives. Nothing rests on it but courtesy: commits are
exclusive, and two drivers on one run do no harm but work done twice. Clocks of different machines are never compared:
a process that waits for a lease to end watches whether it changes.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from pipeline.errors import CutsError, StoreError
from pipeline.runs.provenance import utc_now
from pipeline.runs.record_fields import is_text, require
from pipeline.storage.files import RunFiles

log = logging.getLogger(__name__)

LEASE_FILE = "lease.json"
LIFETIME = 30.0  # seconds without renewal after which an owner is taken for dead

POLL = 1.0  # seconds between looks at somebody else's lease
SETTLE = 0.5  # seconds after which those who take a lease over at the same moment have all done so

_LONGEST = 86_400.0  # seconds of lifetime that are believed


class LeaseError(CutsError, RuntimeError):
    """Another driver is at work on this run."""


@dataclass(frozen=True)
class LeaseRecord:
    """What lease.json holds.

    machine: where `pid` means this process, see `_machine`.
    lifetime: seconds, up to a day.
    renewals: counted, so that every renewal changes the file.

    Raises ValueError, naming the field, for what cannot be: others can write to the folder that it is read from.
    """

    token: str
    host: str
    machine: str
    pid: int
    taken: str
    lifetime: float
    renewals: int = 0

    def __post_init__(self) -> None:
        for name in ("token", "host", "machine", "taken"):
            value = getattr(self, name)
            require(is_text(value), name, value)
        require(isinstance(self.pid, int) and 0 < self.pid < 1 << 31, "pid", self.pid)
        is_number = isinstance(self.lifetime, int | float) and not isinstance(self.lifetime, bool)
        require(is_number and 0 < self.lifetime <= _LONGEST, "lifetime", self.lifetime)
        require(isinstance(self.renewals, int), "renewals", self.renewals)

    def owner(self) -> str:
        """For people."""
        return f"process {self.pid} on {self.host}, since {self.taken}"


class Lease(AbstractContextManager["Lease"]):
    """The right to drive a run, taken when entered, renewed by a thread, given back when left.

    Entering while another driver holds the run says so in the log at once, then waits for a renewal (the other lives:
    LeaseError) or for its lifetime to pass without one (it is dead: its lease is taken over). An owner on this machine
    whose process is gone is not waited for. Of several that wait for one owner's end, one takes its lease over; should
    two believe that they did (one was suspended in between), one of them finds out when it renews.
    """

    def __init__(
        self, files: RunFiles, lifetime: float = LIFETIME, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._files = files
        self._record = LeaseRecord(
            secrets.token_hex(8), socket.gethostname(), _machine(), os.getpid(), utc_now(), lifetime
        )
        self._sleep = sleep
        self._ended = threading.Event()
        self._lost = ""
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def token(self) -> str:
        """What tells this lease from all others."""
        return self._record.token

    def check(self) -> None:
        """LeaseError when another driver has taken the run over."""
        if self._lost:
            raise LeaseError(self._lost)

    def __enter__(self) -> "Lease":
        try:
            while not self._is_free():
                if self._is_abandoned() and self._takes_over():
                    break
            self._thread.start()
        except KeyboardInterrupt:  # not inside the `with` yet, so nothing calls __exit__
            self._ended.set()
            self._give_back()
            raise
        return self

    def _is_free(self) -> bool:
        """Whether there was no lease, so that ours is the one now."""
        # A request repeated after a lost answer is told that there is one when it was this one that made it.
        return self._files.create_exclusive(LEASE_FILE, _bytes(self._record)) or self._is_ours()

    def _takes_over(self) -> bool:
        """Whether ours replaced the lease that is there: of several who do this at the same moment, the last has it.
        Deleting it would let a newcomer in between, whose lease is then replaced.
        """
        self._files.write_atomic(LEASE_FILE, _bytes(self._record))
        self._sleep(SETTLE)
        return self._is_ours()

    def _is_ours(self) -> bool:
        held = read_lease(self._files)
        return held is not None and held.token == self.token

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._give_back()

    def _give_back(self) -> None:
        try:
            if self._is_ours():
                self._files.delete(LEASE_FILE)
        except (StoreError, OSError) as problem:
            log.warning("%s could not be given back (%s): it ends by itself", LEASE_FILE, problem)

    def _is_abandoned(self) -> bool:
        """Wait to see whether the owner of the lease that is there is dead. False when the lease went away meanwhile,
        or is somebody else's, who is to be asked about next.
        """
        try:
            found = _parse(self._files)
        except FileNotFoundError:
            return False
        if found is None or _is_dead_here(found):
            return True
        log.warning(
            "%s is being worked on by %s; waiting %.0f s to see whether that driver is alive",
            *(self._files.url, found.owner(), found.lifetime),
        )
        waited = 0.0
        while waited < found.lifetime:
            pause = min(POLL, found.lifetime - waited)
            self._sleep(pause)
            waited += pause
            now = read_lease(self._files)
            if now is None or now.token != found.token:
                return False
            if now != found:
                raise LeaseError(
                    f"{self._files.url} is being worked on by {found.owner()}. Let it finish, or stop it and start "
                    "again: nothing committed is lost"
                )
            if _is_dead_here(now):
                return True
        log.warning("%s has not been heard of for %.0f s: taking over its run", found.owner(), found.lifetime)
        return True

    def _keep(self) -> None:
        """Renew until the end; a renewal that fails is tried again at the next."""
        record = self._record
        while not self._ended.wait(record.lifetime / 5):
            try:
                held = read_lease(self._files)
                if held is not None and held.token != record.token:
                    self._lost = f"{self._files.url} was taken over by {held.owner()}; this driver stops"
                    return
                record = replace(record, renewals=record.renewals + 1)
                self._files.write_atomic(LEASE_FILE, _bytes(record))
            except (StoreError, OSError) as error:
                log.warning("%s could not be renewed: %s", LEASE_FILE, error)


def read_lease(files: RunFiles) -> LeaseRecord | None:
    """Who drives the run; None when there is no driver, or the file cannot be understood and so keeps none away."""
    try:
        return _parse(files)
    except FileNotFoundError:
        return None


def _parse(files: RunFiles) -> LeaseRecord | None:
    """The lease, FileNotFoundError when there is none, None when it cannot be understood."""
    try:
        return LeaseRecord(**json.loads(files.read_bytes(LEASE_FILE)))
    except (ValueError, TypeError, RecursionError) as error:
        log.warning("%s in %s cannot be understood (%s) and is replaced", LEASE_FILE, files.url, error)
        return None


def _machine() -> str:
    """Where process numbers mean the same processes: this machine since it was started, and this container of it. Host
    names will not do, there are many "localhost". Empty where the system does not tell.
    """
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _is_dead_here(record: LeaseRecord) -> bool:
    """Whether the owner was a process of this machine that is gone."""
    if not record.machine or record.machine != _machine():
        return False
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _bytes(record: LeaseRecord) -> bytes:
    return json.dumps(asdict(record), ensure_ascii=False).encode()
