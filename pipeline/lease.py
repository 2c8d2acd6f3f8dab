"""The lease of a run: who drives it, so that a second driver started by mistake says so at once.

lease.json names its owner and is renewed while the owner lives. Nothing rests on it but courtesy: commits are
exclusive, and two drivers on one run do no harm but work done twice. Clocks of different machines are never compared:
whoever waits for a lease to end watches whether it changes.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from types import TracebackType

from pipeline.errors import CutsError, StoreError
from pipeline.files import RunFiles
from pipeline.ledger import utc_now

log = logging.getLogger(__name__)

LEASE_FILE = "lease.json"
LIFETIME = 30.0  # seconds without renewal after which an owner is taken for dead


class LeaseError(CutsError, RuntimeError):
    """Another driver is at work on this run."""


@dataclass(frozen=True)
class LeaseRecord:
    """What lease.json holds. lifetime: seconds. renewals: counted, so that every renewal changes the file."""

    token: str
    host: str
    pid: int
    taken: str
    lifetime: float
    renewals: int = 0

    def owner(self) -> str:
        """For people."""
        return f"process {self.pid} on {self.host}, since {self.taken}"


class Lease(AbstractContextManager["Lease"]):
    """The right to drive a run, taken when entered, renewed by a thread, given back when left.

    Entering while another driver holds the run says so in the log at once, then waits for a renewal (the other lives:
    LeaseError) or for its lifetime to pass without one (it is dead: its lease is taken over). An owner on this machine
    whose process is gone is not waited for.
    """

    def __init__(
        self, files: RunFiles, lifetime: float = LIFETIME, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._files = files
        self._record = LeaseRecord(secrets.token_hex(8), socket.gethostname(), os.getpid(), utc_now(), lifetime)
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
        while not self._files.create_exclusive(LEASE_FILE, _bytes(self._record)):
            self._wait_for_end()
            self._files.delete(LEASE_FILE)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            held = read_lease(self._files)
            if held is not None and held.token == self.token:
                self._files.delete(LEASE_FILE)
        except (StoreError, OSError) as problem:
            log.warning("%s could not be given back (%s): it ends by itself", LEASE_FILE, problem)

    def _wait_for_end(self) -> None:
        """Return when the lease that is there now has ended, or was unreadable or is gone."""
        found = read_lease(self._files)
        if found is None or _is_dead_here(found):
            return
        log.warning(
            "%s is being worked on by %s; waiting %.0f s to see whether that driver is alive",
            *(self._files.url, found.owner(), found.lifetime),
        )
        waited = 0.0
        while waited < found.lifetime:
            self._sleep(1.0)
            waited += 1.0
            now = read_lease(self._files)
            if now is None or now.token != found.token:
                return  # given back, or taken by somebody who is asked about next
            if now != found:
                raise LeaseError(
                    f"{self._files.url} is being worked on by {found.owner()}. Let it finish, or stop it and start "
                    "again: nothing committed is lost"
                )
            if _is_dead_here(now):
                return
        log.warning("%s has not been heard of for %.0f s: going on with its run", found.owner(), found.lifetime)

    def _keep(self) -> None:
        """Renew until the end; a renewal that fails is tried again at the next."""
        record = self._record
        while not self._ended.wait(record.lifetime / 5):
            try:
                held = read_lease(self._files)
                if held is not None and held.token != record.token:
                    self._lost = f"{self._files.url} was taken over by {held.owner()}; this driver stops"
                    return
                record = LeaseRecord(**{**asdict(record), "renewals": record.renewals + 1})
                self._files.write_atomic(LEASE_FILE, _bytes(record))
            except (StoreError, OSError) as error:
                log.warning("%s could not be renewed: %s", LEASE_FILE, error)


def read_lease(files: RunFiles) -> LeaseRecord | None:
    """Who drives the run; None when nobody does, or the file cannot be understood and so holds nobody off."""
    try:
        return LeaseRecord(**json.loads(files.read_bytes(LEASE_FILE)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        log.warning("%s in %s cannot be understood (%s) and is replaced", LEASE_FILE, files.url, error)
        return None


def _is_dead_here(record: LeaseRecord) -> bool:
    """Whether the owner was a process of this machine that is gone."""
    if record.host != socket.gethostname():
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
