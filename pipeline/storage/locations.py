"""Where files are: local paths and fsspec URLs under one roof."""

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import fsspec

from pipeline.errors import CutsError, SourceError

# Names of query parameters that carry a secret or what is as good as one: presigned URLs, SAS tokens, API keys.
_SECRET_PARAMETER = re.compile(
    r"(?:^|[-_.])(?:sig|signature|token|credential|secret|password|passwd|pwd|auth|key|apikey|accesskey|accesskeyid|"
    r"awsaccesskeyid|sas)(?:$|[-_.])",
    re.IGNORECASE,
)
# Settings name files as maps:URL or NAME=URL, too.
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_BEFORE_SCHEME = re.compile(r"^.*?(?=[A-Za-z][A-Za-z0-9+.-]*://)")


def is_url(location: str) -> bool:
    """Whether `location` is an fsspec URL such as s3://bucket/key, as opposed to a local path."""
    return "://" in location


def secret_in(location: str) -> str:
    """What secret a URL carries, e.g. "a password"; "" for none. Locations are kept in runs and shown in logs."""
    if not is_url(location) or not ("@" in location or "?" in location):
        return ""
    try:
        parts = urlsplit(_BEFORE_SCHEME.sub("", location, count=1))
        if parts.password:
            return "a password"
    except ValueError:  # an odd port or bracket: no URL that a server would be asked for
        return ""
    for name, value in parse_qsl(parts.query):
        if value and _SECRET_PARAMETER.search(name):
            return f"the secret parameter {name}"
    return ""


def redacted(location: str) -> str:
    """A URL without what can be secret: user, password and query."""
    scheme, _, rest = location.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def refuse_secrets(location: str) -> None:
    """SourceError when a URL carries a password or a signature."""
    if secret := secret_in(location):
        raise SourceError(
            f"{redacted(location)} carries {secret}, which would end up in the run folder and in logs: give the URL "
            "without it (s3://, gs://, ...), and credentials through the environment or fsspec's configuration"
        )


def check_protocol(location: str) -> None:
    """SourceError for a URL that no file system of fsspec is for: a chain ("a::b"), or an unknown protocol."""
    if not is_url(location):
        return
    if "::" in location:
        raise SourceError(f"{location}: chained URLs are not supported; copy or mount the inner files first")
    protocol = location.partition("://")[0]
    if protocol not in fsspec.available_protocols():
        raise SourceError(f"{location}: Protocol not known: {protocol}; give a local path or a URL that fsspec knows")


def filesystem(location: str) -> tuple[Any, str]:
    """The fsspec file system of a local path or URL, and the path inside it.

    Raises:
        SourceError: the protocol is unknown, needs a package that is not installed, or the URL is a chain ("a::b") or
            carries a secret.
    """
    if not is_url(location):
        fs = fsspec.filesystem("file")
        return fs, _plain(fs._strip_protocol(location))
    check_protocol(location)
    refuse_secrets(location)
    try:
        fs, path = fsspec.core.url_to_fs(location)
    except ImportError as error:
        protocol = location.partition("://")[0]
        raise SourceError(f"{location}: {protocol}:// needs one more package in this environment: {error}") from error
    except ValueError as error:
        raise SourceError(f"{location}: {error}; give a local path or a URL that fsspec knows") from error
    return fs, _plain(path) if is_local(fs) else path


def contents_of(location: str) -> bytes:
    """A file as a whole; SourceError when it cannot be read."""
    files, path = filesystem(location)
    with asking(location):
        return bytes(files.cat_file(path))


@contextmanager
def asking(location: str) -> Iterator[None]:
    """While a place is asked what it holds: SourceError, which names it, for whatever its file system raises."""
    try:
        yield
    except CutsError:
        raise
    except OSError as error:
        raise SourceError(f"{location} cannot be read: {error.strerror or error}") from error
    # fsspec passes on the exceptions of whatever client it uses: no credentials, no server.
    except Exception as error:
        if not is_url(location):
            raise
        raise SourceError(f"{location} cannot be read: {error}") from error


def text_of(content: bytes, location: str, what: str = "text") -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, which PowerShell and Excel write. A few lines that
    are not UTF-8 do not cost the others: they are not `is_unicode`.

    location, what: of the file, for the SourceError when it is neither.
    """
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8-sig")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        text = content.decode("utf-8-sig", "surrogateescape")
        lines = [line for line in text.split("\n") if line.strip()]
        if encoding != "utf-8-sig" or 2 * sum(map(is_unicode, lines)) < len(lines):
            raise SourceError(f"{location} is not {what} in UTF-8 ({error}); convert it with iconv") from error
        return text


def is_unicode(text: str) -> bool:
    """Whether text can be stored: bytes that were not UTF-8, of names and lines of files, are no characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def line_not_utf8(location: str, line: int) -> SourceError:
    """The error for a line that is not `is_unicode`, from 1."""
    return SourceError(f"{location}, line {line} is not UTF-8; mend the line, or convert the file with iconv")


def read_json(location: str) -> Any:
    """A JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark; SourceError, naming it, when it is
    none or cannot be read. Texts in it that are not UTF-8 do not cost the others: they are not `is_unicode`.
    """
    content = contents_of(location)
    try:
        return json_of(content)
    except UnicodeDecodeError as error:
        raise SourceError(f"{location} is not JSON in UTF-8 ({error}); convert it with iconv") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{location} is not JSON: {error}") from error


def json_of(content: bytes) -> Any:
    """What JSON says, in the encodings of `read_json`; ValueError when it is none."""
    encoding = json.detect_encoding(content)
    return json.loads(content.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "strict"))


def is_file(path: str | Path) -> bool:
    """Whether a local file is there; False, and no error as of `Path.is_file`, for a name that is too long for one."""
    return os.path.isfile(path)  # noqa: PTH113


def existing(location: str) -> str | None:
    """A location where there is something; where there is nothing, the same name in its other form of Unicode: a Mac
    writes "é" as two characters, others as one. None where there is neither.
    """
    files, path = filesystem(location)
    if files.exists(path):
        return location
    if path.isascii():
        return None
    found = _in_other_forms(path) if is_local(files) else next(filter(files.exists, _forms(path)), None)
    return found and location_of(files, found)


def _in_other_forms(path: str) -> str | None:
    """A local path, part by part in the form that is there."""
    found = Path("/")
    for part in Path(path).parts[1:]:
        there = next((found / form for form in (part, *_forms(part)) if os.path.lexists(found / form)), None)
        if there is None:
            return None
        found = there
    return str(found)


def _forms(name: str) -> list[str]:
    return [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]


def location_of(fs: Any, path: str) -> str:
    """The plain local path or the URL by which `filesystem` finds `path` again."""
    return path if is_local(fs) else str(fs.unstrip_protocol(path))


def absolute(location: str) -> str:
    """A location as it is wherever it is looked at from: a relative path from the current folder, a URL as it is."""
    return location_of(*filesystem(location))


def absolute_path(path: str) -> str:
    """A path that a user typed as it holds in any folder, links in it left alone; a URL as it is."""
    if is_url(path):
        return path
    return str(Path(path).resolve() if ".." in Path(path).parts else Path(path).absolute())


def is_local(fs: Any) -> bool:
    """Whether an fsspec file system is the local disk."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "file" in protocols


def parent_of(location: str) -> str:
    """The folder that holds a file, as a path or URL."""
    return location.rpartition("/")[0] or "/"


def resolve(entry: str, base: str) -> str:
    """An entry of a list as a plain local path or a URL; relative entries are taken from the folder `base`.

    ".." is resolved for local paths and refused in URLs, where it means different things to different servers.
    """
    if entry.startswith(("file://", "local://")):
        entry = filesystem(entry)[1]
    elif not is_url(entry) and not entry.startswith("/"):
        entry = f"{base.rstrip('/')}/{entry}"
    if is_url(entry):
        refuse_secrets(entry)
        if "/../" in entry:
            raise SourceError(f"{entry}: '..' is not allowed in a URL; write the URL out")
        return entry
    return _plain(entry)


def _plain(path: str) -> str:
    """An absolute local path without "..", "." and doubled slashes, so that one file has one name."""
    if "/.." in path:
        return str(Path(path).resolve())
    return str(Path(path)) if "//" in path or "/." in path else path
