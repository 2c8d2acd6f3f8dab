"""Files of a run folder in an object store, through fsspec.

An upload appears whole or not at all there, so only the exclusive create needs thought: it is a conditional put, and
whether the server honours those is tried out before the first one counts.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import fsspec

from pipeline.errors import ConfigError, StoreAccessError, StoreError
from pipeline.faults import crash_point
from pipeline.storage.files import TEMPORARY_SUFFIX, FileFacts, RunFiles, checked

# fsspec protocols whose `pipe_file(mode="create")` is one conditional request. Others check first and write then, or
# ignore the mode, and two writers could both believe that they had won.
EXCLUSIVE_PROTOCOLS = frozenset({"memory", "s3", "s3a", "gs", "gcs"})

# botocore: a request is repeated for some 10 s while the server cannot be reached or asks for patience; commit records
# are many and small, so many are read at once. s3fs repeats what botocore gives up after a timeout, of 15 s each.
_S3_CONFIG = {"retries": {"mode": "standard", "total_max_attempts": 5}, "max_pool_connections": 32}
_S3_ATTEMPTS = 2

# Where the listings of file systems say when a file was written.
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")

# Two conditional puts of one name at the same moment: S3 may refuse both, and asks to try again.
_CONFLICT_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)

_CREDENTIALS = (
    "Check the credentials (environment or fsspec's configuration, never the URL) and that they may list, read, write "
    "and delete there"
)
_CONNECTION = "Check network, endpoint and the server's state"
_AGAIN = "and start the run again: committed shards are kept."


class ObjectFiles(RunFiles):
    """A prefix of an object store, or of anything else that fsspec reads; committing needs a conditional put.

    May be used by any number of threads, pickled, and inherited by a forked process.
    """

    each_read_is_a_request = True

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._protocol = url.partition("://")[0]
        self._is_exclusive = False
        self._connect()

    def _connect(self) -> None:
        options: dict[str, Any] = {}
        if self._is_s3:
            theirs = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            options["config_kwargs"] = _S3_CONFIG | theirs
        try:
            # Other machines write here, too: a cached listing would hide their commits.
            self._files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **options)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"cannot open {self.url}: {error}. Install what it names into this environment"
            ) from error
        if options:
            self._files.retries = _S3_ATTEMPTS
        self._root = root.rstrip("/")
        self._pid = os.getpid()

    @property
    def _is_s3(self) -> bool:
        return self._protocol in ("s3", "s3a")

    @property
    def _fs(self) -> Any:
        # Connections and the event loop behind them do not survive a fork.
        if self._pid != os.getpid():
            self._connect()
        return self._files

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    def read_bytes(self, name: str) -> bytes:
        path = self._path(name)
        with self._asking("read", name):
            # s3fs asks for the length first, to read long files in pieces: twice the requests for nothing here.
            return self._fs.cat_file(path, **({"max_concurrency": 1} if self._is_s3 else {}))

    def write_atomic(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with self._asking("write", name):
            crash_point("mid_write", PurePosixPath(name).name)
            self._fs.pipe_file(path, data)

    def create_exclusive(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        with self._asking("write", name):
            self._require_exclusive()
            crash_point("mid_write", PurePosixPath(name).name)
            return self._put_if_absent(path, data)

    def facts(self, name: str) -> FileFacts:
        path = self._path(name)
        with self._asking("read", name):
            info = self._fs.info(path)
            if info["type"] != "file":
                raise FileNotFoundError(path)
            return _facts_of(info) or FileFacts(int(info["size"]), self._fs.modified(path).timestamp())

    def exists(self, name: str) -> bool:
        path = self._path(name)
        with self._asking("read", name):
            try:
                # Not `isfile`, which takes a server that does not answer for a file that is not there.
                return self._fs.info(path)["type"] == "file"
            except FileNotFoundError as error:
                if _is_container_missing(error):
                    raise
                return False

    def list_facts(self, folder: str = "") -> dict[str, FileFacts]:
        return {name: _facts_of(info) or self.facts(name) for name, info in self._entries(folder, "file")}

    def _list(self, folder: str, *, folders: bool) -> list[str]:
        return [name for name, _ in self._entries(folder, "directory" if folders else "file")]

    def _entries(self, folder: str, wanted: str) -> list[tuple[str, dict[str, Any]]]:
        prefix = f"{checked(folder)}/" if folder else ""
        with self._asking("list", folder or "the run folder"):
            try:
                entries = self._fs.ls(f"{self._root}/{prefix}".rstrip("/"), detail=True)
            except FileNotFoundError as error:
                if _is_container_missing(error):
                    raise
                return []
        found = [(prefix + PurePosixPath(e["name"]).name, e) for e in entries if e["type"] == wanted]
        return sorted(found, key=lambda pair: pair[0])

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._asking("delete", name):
            try:
                self._fs.rm_file(path)
            except FileNotFoundError as error:
                if _is_container_missing(error):
                    raise

    def _put_if_absent(self, path: str, data: bytes) -> bool:
        for pause in (*_CONFLICT_PAUSES, None):
            try:
                self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                code = _code(error)
                if code in ("PreconditionFailed", "412"):
                    return False  # s3fs knows the answer of AWS alone, which names the condition, too
                if pause is None or code not in ("ConditionalRequestConflict", "409"):
                    raise
                time.sleep(pause)
            else:
                return True
        raise AssertionError("the last pause is None")

    def _require_exclusive(self) -> None:
        """StoreError unless the second of two conditional puts of one name is refused here. Asked once a process."""
        remedy = "two workers could both commit a shard. Use a folder of a mounted file system, or"
        if self._protocol not in EXCLUSIVE_PROTOCOLS:
            raise StoreError(
                f"cannot commit to {self.url}: {self._protocol}:// has no exclusive create, so {remedy} "
                f"{', '.join(sorted(EXCLUSIVE_PROTOCOLS))}."
            )
        if self._is_exclusive:
            return
        probe = f".exclusive-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
        path = self._path(probe)
        try:
            refused = not (self._put_if_absent(path, b"1") and self._put_if_absent(path, b"2"))
            self.delete(probe)
        except OSError as error:
            if _code(error) not in ("NotImplemented", "501"):
                raise
            refused = False
        if not refused:
            raise StoreError(
                f"cannot commit to {self.url}: the server behind it ignores conditional puts (If-None-Match), so "
                f"{remedy} a server that honours them (AWS S3, MinIO, Ceph, Google Cloud Storage in present versions)."
            )
        self._is_exclusive = True

    @contextmanager
    def _asking(self, verb: str, name: str) -> Iterator[None]:
        """Turn what the store's library raises into a StoreAccessError that names the file, the fault and the remedy.

        A FileNotFoundError passes when it is about the file; when the bucket is missing it is one of these.
        """
        try:
            yield
        except StoreError:
            raise
        # Every store's library has exceptions of its own, and not all of them are OSErrors.
        except Exception as error:
            if isinstance(error, FileNotFoundError) and verb != "write" and not _is_container_missing(error):
                raise
            raise StoreAccessError(f"cannot {verb} {name} in {self.url}: {_said(error)}. {_remedy(error)}") from error


def _code(error: BaseException) -> str:
    """The store's own word for an error, e.g. "NoSuchBucket"; "" when it has none. botocore and gcsfs keep it."""
    for cause in (error, error.__cause__):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        if code := getattr(cause, "code", None):
            return str(code)
    return ""


def _is_container_missing(error: BaseException) -> bool:
    return _code(error) == "NoSuchBucket"


def _said(error: BaseException) -> str:
    text = (getattr(error, "strerror", None) or str(error)).strip().rstrip(".")
    return text if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _remedy(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"Create the bucket, or mend the URL, {_AGAIN}"
    if _code(error) == "RequestTimeTooSkewed":
        return f"Set this machine's clock right, {_AGAIN}"
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return f"{_CREDENTIALS}, {_AGAIN}"
    return f"{_CONNECTION}, {_AGAIN}"


def _facts_of(info: dict[str, Any]) -> FileFacts | None:
    """The facts of a file by its entry in a listing; None when that does not say when it was written."""
    for key in _TIMES:
        value = info.get(key)
        if isinstance(value, str) and value:
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = value.timestamp()
        if isinstance(value, int | float):
            return FileFacts(int(info["size"]), float(value), str(info.get("ETag", "")))
    return None
