"""Who made something, when, and with what."""

import platform
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata

_LIBRARIES = (
    *("cuts3d", "numpy", "scipy", "torch", "timm", "transformers", "onnxruntime"),
    *("PyMaxflow", "pillow", "pycocotools", "zarr"),
)


@cache
def library_versions() -> Mapping[str, str]:
    """Versions of Python and of the installed libraries that decide results."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # optional, or not needed by this recipe
    return versions


def utc_now() -> str:
    """Now, as ISO 8601 in UTC to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_attempt() -> str:
    """A name for one attempt at a shard, unlike that of any other attempt by anybody."""
    return secrets.token_hex(6)
