"""The commit protocol: a shard exists when its commit record exists, and nothing else counts.

An attempt writes its files under names of its own and then, last, creates the record `commits/<key>.json` exclusively.
So a crash at any point leaves either nothing, an orphan that nobody reads, or a finished shard; and of racing attempts
on one shard (a straggler and its twin, two drivers) exactly one commits. The commit happens once; the work may not.
"""

import hashlib
import json
import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import CutsError, RunMismatchError, StoreError
from pipeline.faults import crash_point
from pipeline.runs.commit_index import CommitIndex
from pipeline.runs.commit_record import Commit, CommittedFile
from pipeline.runs.provenance import library_versions, utc_now
from pipeline.storage.files import VERIFY_HINT, FileFacts, RunFiles, is_temporary
from pipeline.wording import FEW, counted, few_of

log = logging.getLogger(__name__)

SCHEMA = "cuts3d-commit/1"
# Keys of shards that process quarantined images again begin so; other keys are the manifest's, and digits.
RETRY_PREFIX = "retry-"

_WORTH_COPYING = 100  # records; fewer are read in a second

_KEY = rf"(?:{RETRY_PREFIX})?[0-9]{{5,}}"
_ATTEMPT = r"[0-9a-z]{1,32}"
_COMMIT_NAME = re.compile(rf"({_KEY})\.json")
_ATTEMPT_NAME = re.compile(rf"({_KEY})-({_ATTEMPT})\.(?:zarr\.zip|jsonl?)")


def is_retry(key: str) -> bool:
    """Whether a shard of this key processes quarantined images again."""
    return key.startswith(RETRY_PREFIX)


def retry_number(key: str) -> int:
    """Of the key of a retry."""
    return int(key.removeprefix(RETRY_PREFIX))


def retry_key(number: int) -> str:
    """Inverse of `retry_number`."""
    return f"{RETRY_PREFIX}{number:05d}"


def by_try(keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """Keys apart: those of the manifest's shards, as they come; those of retries, in the order of the tries."""
    keys = list(keys)
    return [key for key in keys if not is_retry(key)], sorted(filter(is_retry, keys), key=retry_number)


def log_name(key: str, attempt: str) -> str:
    """The file below a ledger's folder that holds the log of an attempt: no commit names it, nothing rests on it."""
    return f"logs/{key}-{attempt}.jsonl"


@dataclass(frozen=True)
class Outcome:
    """What an attempt on a shard came to.

    data: bytes of the shard's file.
    counts, seconds, wall: see `Commit`.
    quarantine: dicts of id, reason and detail, for the images that were set aside.
    """

    data: bytes
    counts: Mapping[str, Any]
    quarantine: Sequence[Mapping[str, str]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    wall: float = 0.0


class Ledger:
    """Commits below one folder of a run: `root` is "" for the pseudo-masks, "stages/<stage>" for a stage's kept output.

    fingerprint, digest: of the run's configuration and manifest; they go into every commit, and a commit that says
    otherwise is refused when read. Safe for any number of processes on any number of machines at once.
    """

    def __init__(self, files: RunFiles, fingerprint: str, digest: str, root: str = "") -> None:
        self.files = files
        self.fingerprint = fingerprint
        self.digest = digest
        self._prefix = f"{root}/" if root else ""
        self._index = CommitIndex(files, f"{self._prefix}index")

    def commit(self, key: str, attempt: str, outcome: Outcome) -> bool:
        """Write the files of an attempt, then commit them. True if this attempt is the one that counts from now on.

        key: of the shard, e.g. "00042" or "retry-00000".
        attempt: see `new_attempt`.

        Raises:
            ValueError: key or attempt cannot be part of a file name.
            StoreError: a file cannot be written; nothing is committed then.
        """
        if not re.fullmatch(_KEY, key) or not re.fullmatch(_ATTEMPT, attempt):
            raise ValueError(f"shard key {key!r} must match {_KEY} and attempt {attempt!r} {_ATTEMPT}")
        if self.is_committed(key):
            return False
        crash_point("before_write", key)
        shard = self._write(f"shards/{key}-{attempt}.zarr.zip", outcome.data)
        set_aside = None
        if outcome.quarantine:
            images = [dict(image) for image in outcome.quarantine]
            set_aside = self._write(f"quarantine/{key}-{attempt}.json", _json(images))
        crash_point("after_write", key)
        commit = Commit(
            key=key,
            attempt=attempt,
            fingerprint=self.fingerprint,
            digest=self.digest,
            shard=shard,
            quarantine=set_aside,
            counts=dict(outcome.counts),
            seconds={stage: round(value, 4) for stage, value in outcome.seconds.items()},
            host=socket.gethostname(),
            finished=utc_now(),
            versions=dict(library_versions()),
            worker=f"{socket.gethostname()}:{os.getpid()}",
            wall=round(outcome.wall, 3),
        )
        created = self.files.create_exclusive(self.record_name(key), _json({"schema": SCHEMA, **asdict(commit)}))
        # A request repeated after a lost answer is told that the name is taken when it was this attempt that took it.
        won = created or self.read(key).attempt == attempt
        if won:
            crash_point("after_commit", key)
            self._copy_if_due(key)
        return won

    def is_committed(self, key: str) -> bool:
        """Whether the shard exists."""
        return self.files.exists(self.record_name(key))

    def committed_keys(self) -> set[str]:
        """Keys of all committed shards, by one listing and without reading a record."""
        return {match[1] for name in self._list("commits") if (match := _COMMIT_NAME.fullmatch(name))}

    def commit_facts(self) -> dict[str, FileFacts]:
        """Length and time of all commit records, by key, by one listing and without reading any."""
        listed = self.files.list_facts(f"{self._prefix}commits").items()
        start = len(self.record_name("")) - len(".json")
        return {match[1]: facts for name, facts in listed if (match := _COMMIT_NAME.fullmatch(name[start:]))}

    def read(self, key: str) -> Commit:
        """The commit of one shard.

        Raises:
            FileNotFoundError: it is not committed.
            StoreError: its record is damaged.
            RunMismatchError: its record is of another schema or another run.
        """
        return self._parse(key, self.files.read_bytes(self.record_name(key)))

    def committed(self, *, keep_copies: bool = False) -> dict[str, Commit]:
        """All commits in the order of their keys; raises as `read` does on the first bad record.

        keep_copies: leave copies of the records for the next reader where that pays, see `CommitIndex`.
        """
        facts = self.commit_facts()
        copies = self._index.read(facts)
        records = self._read_records(facts.keys() - copies.keys())
        if keep_copies:
            with _only_logged():
                self._keep_copies(facts, records)
        commits, problems = self._parse_all(copies | records)
        if problems:
            raise next(iter(problems.values()))
        return commits

    def survey(
        self, facts: Mapping[str, FileFacts] | None = None, *, copies: bool = True
    ) -> tuple[dict[str, Commit], dict[str, CutsError]]:
        """The commits that can be read, and by key the error of each that cannot.

        facts: of the records to read, from `commit_facts`; None reads all.
        copies: whether the index will do for records that have not changed since they were copied; a check wants the
            records themselves.
        """
        facts = self.commit_facts() if facts is None else facts
        found = self._index.read(facts) if copies else {}
        return self._parse_all(found | self._read_records(facts.keys() - found.keys()))

    def _copy_if_due(self, key: str) -> None:
        """After this commit, maybe: leave copies of the records that have none. The commit stands if that fails."""
        if self._index.is_due(key):
            with _only_logged():
                facts = self.commit_facts()
                self._keep_copies(facts, self._read_records(facts.keys() - self._index.read(facts).keys()))

    def _keep_copies(self, facts: Mapping[str, FileFacts], records: Mapping[str, bytes]) -> None:
        if self._index.is_of_use and len(records) >= _WORTH_COPYING:
            self._index.add({key: (facts[key], data) for key, data in records.items()})

    def _read_records(self, keys: Iterable[str]) -> dict[str, bytes]:
        names = {self.record_name(key): key for key in keys}
        return {names[name]: data for name, data in self.files.read_many(names).items()}

    def _parse_all(self, records: Mapping[str, bytes]) -> tuple[dict[str, Commit], dict[str, CutsError]]:
        commits: dict[str, Commit] = {}
        problems: dict[str, CutsError] = {}
        for key in sorted(records):
            try:
                commits[key] = self._parse(key, records[key])
            except (StoreError, RunMismatchError) as error:
                problems[key] = error
        return commits, problems

    def cut_files(self, commits: Mapping[str, Commit]) -> dict[str, str]:
        """By key, what is wrong with commits of which a file is missing or not as long as it was. Told by listings:
        nothing is read, and what was altered in place does not show.
        """
        listed = self.files.list_facts(f"{self._prefix}shards") if commits else {}
        if any(commit.quarantine for commit in commits.values()):
            listed |= self.files.list_facts(f"{self._prefix}quarantine")
        faults: dict[str, str] = {}
        for key, commit in commits.items():
            for file in commit.files:
                if file.name in listed and listed[file.name].bytes == file.bytes:
                    continue
                # A network file system may list what was a while ago: only the file itself is believed.
                if fault := self._fault(file, self._length(file)):
                    faults.setdefault(key, fault)
        return faults

    def _length(self, file: CommittedFile) -> int | None:
        try:
            return self.files.size(file.name)
        except FileNotFoundError:
            return None

    def refuse_cut_files(self, commits: Mapping[str, Commit]) -> None:
        """StoreError, with the remedy, when there are `cut_files`: their shards count as done, and are not."""
        faults = self.cut_files(commits)
        if faults:
            first, more = next(iter(faults.values())), len(faults) - 1
            others = (
                f", and {counted(more, 'more shard')} of the run {'is' if more == 1 else 'are'} damaged" if more else ""
            )
            hint = f". {VERIFY_HINT}" if len(faults) > FEW else ""
            whose = "" if self.files.url in first else f"{self.files.url}: "
            raise StoreError(f"{whose}{first}{others}", self.remedy(list(faults)) + hint)

    def remedy(self, keys: Sequence[str]) -> str:
        """What does shards again that are damaged, in a sentence."""
        planned, retries = by_try(keys)
        again = ["start the run again"] * bool(planned) + ["run `cuts3d retry-quarantined`"] * bool(retries)
        which = "the shard" if len(keys) == 1 else "them"
        records = few_of([self.record_name(key) for key in keys])
        return f"To do {which} again, delete {records} and {', then '.join(again)}"

    def _fault(self, file: CommittedFile, length: int | None) -> str:
        """What its length says of a committed file; "" for one that may be well. None: it is not there."""
        if length is None:
            return f"{file.name} is committed but missing in {self.files.url}"
        return "" if length == file.bytes else f"{file.name} has {length} bytes, committed were {file.bytes}"

    def contents(self, file: CommittedFile) -> bytes:
        """A committed file; StoreError unless it is, byte for byte, what was committed."""
        try:
            data = self.files.read_bytes(file.name)
        except FileNotFoundError as error:
            raise StoreError(self._fault(file, None), VERIFY_HINT) from error
        if fault := self._fault(file, len(data)):
            raise StoreError(fault, VERIFY_HINT)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise StoreError(f"{file.name} was altered: its sha256 is not the committed one", VERIFY_HINT)
        return data

    def orphans(self) -> list[str]:
        """Files of attempts that were never committed, and temporary files: garbage, or work in flight.

        Anything else that somebody keeps in these folders is left alone. Raises as `committed` does: a record that
        cannot be read may name any file.
        """
        # Files first: what is committed between the two listings then has its record in the second.
        found = [
            f"{self._prefix}{folder}/{name}"
            for folder in ("shards", "quarantine", "logs", "commits")
            for name in self._list(folder)
            if is_temporary(name) or (folder != "commits" and _ATTEMPT_NAME.fullmatch(name))
        ]
        kept = set()
        for commit in self.committed().values():
            kept |= {file.name for file in commit.files}
            kept.add(f"{self._prefix}{log_name(commit.key, commit.attempt)}")
        return [name for name in found if name not in kept]

    def _write(self, name: str, data: bytes) -> CommittedFile:
        self.files.write_atomic(self._prefix + name, data)
        return CommittedFile(self._prefix + name, len(data), hashlib.sha256(data).hexdigest())

    def record_name(self, key: str) -> str:
        """The file, from the run folder's root, that is the commit of a shard."""
        return f"{self._prefix}commits/{key}.json"

    def _list(self, folder: str) -> list[str]:
        start = len(self._prefix) + len(folder) + 1
        return [name[start:] for name in self.files.list_files(self._prefix + folder)]

    def _parse(self, key: str, data: bytes) -> Commit:
        name = self.record_name(key)
        try:
            record = json.loads(data)
            schema = record.pop("schema")
            if schema != SCHEMA:
                raise RunMismatchError(
                    f"commit record {name} has schema {schema}, this cuts3d reads {SCHEMA}: "
                    "use the cuts3d that wrote it, or make the run again in another folder"
                )
            shard, quarantine = record.pop("shard"), record.pop("quarantine")
            commit = Commit(
                shard=CommittedFile(**shard),
                quarantine=CommittedFile(**quarantine) if quarantine else None,
                **record,
            )
            stem = f"{key}-{commit.attempt}"
            expected = [f"{self._prefix}shards/{stem}.zarr.zip", f"{self._prefix}quarantine/{stem}.json"]
            named = [file.name for file in commit.files]
            if commit.key != key or named != expected[: len(named)]:
                raise ValueError(f"it names {named} and key {commit.key!r}, which are not its own")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, RunMismatchError):
                raise
            raise StoreError(
                f"commit record {name} in {self.files.url} is damaged ({error}): delete that file and start the run "
                "again to redo this shard"
            ) from error
        for what, theirs, ours in (
            ("configuration fingerprint", commit.fingerprint, self.fingerprint),
            ("manifest digest", commit.digest, self.digest),
        ):
            if theirs != ours:
                raise RunMismatchError(
                    f"commit record {name} in {self.files.url} has {what} {theirs}, this run {ours}: two runs were "
                    "mixed in one folder. Move that file away and start the run again, or make it in another folder"
                )
        return commit


@contextmanager
def _only_logged() -> Iterator[None]:
    """For the copies of records: without them the next start takes longer, and that is all."""
    try:
        yield
    except StoreError as error:
        log.warning("no copies of commit records are kept this time: %s", error)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False).encode()
