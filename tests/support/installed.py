"""Packages that processes of a test find as if they were installed."""

from collections.abc import Mapping
from pathlib import Path

from support import environment


def with_package(folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What a process needs in its environment to find a package with these entry points, by group and name.

    folder: that its metadata are written to.
    """
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = (
        f"[{group}]\n" + "".join(f"{one} = {object_}\n" for one, object_ in entries.items())
        for group, entries in entry_points.items()
    )
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    here = environment()
    return here | {"PYTHONPATH": f"{here['PYTHONPATH']}:{folder}"}
