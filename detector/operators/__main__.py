"""Put the stand-in beside mmcv-lite, where programs find it that import MMDetection before anything of cuts3d.

    python -m detector.operators

`make install-detector` ends with it. The file is entered with mmcv-lite's own, so it goes when mmcv-lite is
uninstalled. A compiled mmcv is left as it is; Python, too, takes a compiled module before this one.
"""

import sys
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from pipeline.errors import ConfigError

FILE = "mmcv/_ext.py"
_COMPILED = [f"mmcv/_ext{suffix}" for suffix in EXTENSION_SUFFIXES]
_CONTENT = '''"""In place of mmcv's compiled operators; `python -m detector.operators` of cuts3d wrote it."""

import sys

from detector.operators import kernels

sys.modules[__name__] = kernels
'''


def put_beside_mmcv() -> str:
    """Write the file, unless mmcv is compiled; how it is now, in words. mmcv is not imported for it.

    Raises ConfigError when no mmcv is installed, or its folder cannot be written to.
    """
    installed = next(filter(None, map(_distribution, ("mmcv", "mmcv-lite"))), None)
    if installed is None:
        raise ConfigError("mmcv-lite is not installed: `make install-detector`, or pip install mmcv-lite==2.1.0")
    if any(_place(installed, name).exists() for name in _COMPILED):
        return "mmcv is compiled: its own operators are used"
    try:
        _place(installed, FILE).write_text(_CONTENT, encoding="utf-8")
        _enter(installed)
    except OSError as error:
        raise ConfigError(f"the stand-in for mmcv's operators cannot be put beside mmcv-lite: {error}") from error
    return "mmcv-lite: operators of cuts3d stand in for those that would have to be compiled"


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _place(distribution: metadata.Distribution, name: str) -> Path:
    return Path(str(distribution.locate_file(name)))


def _enter(distribution: metadata.Distribution) -> None:
    """Into the list of files that an uninstallation removes."""
    names = [str(file) for file in distribution.files or []]
    record = next((name for name in names if name.endswith(".dist-info/RECORD")), None)
    if record is not None and FILE not in names:
        with _place(distribution, record).open("a", encoding="utf-8") as lines:
            lines.write(f"{FILE},,\n")


if __name__ == "__main__":
    try:
        print(put_beside_mmcv())
    except ConfigError as error:
        sys.exit(str(error))
