"""Entry points of installed packages: what they add to cuts3d, found and loaded."""

from configparser import ConfigParser
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Any

from pipeline.errors import ExtensionError


def entries(group: str) -> list[EntryPoint]:
    """The installed entry points of a group, by name; and, where cuts3d runs from its source alone, as a job does that
    was shipped to a cluster, those that the source declares.
    """
    found = list(entry_points(group=group))
    try:
        distribution("cuts3d")
    except PackageNotFoundError:
        setup = ConfigParser()
        setup.read(Path(__file__).parents[1] / "setup.cfg")
        lines = setup.get("options.entry_points", group, fallback="").strip().splitlines()
        pairs = (line.partition("=") for line in lines)
        found += [EntryPoint(name.strip(), value.strip(), group) for name, _, value in pairs]
    return sorted(found)


def loaded(entry: EntryPoint) -> Any:
    """What an entry point names. Raises ExtensionError, which names the one that is broken."""
    try:
        return entry.load()
    except Exception as error:  # whatever a stranger's code raises, its name must be said
        raise broken(entry, error) from error


def broken(entry: EntryPoint, error: Exception) -> ExtensionError:
    return ExtensionError(f"{_named(entry)} does not load ({type(error).__name__}: {error}): {_remedy(entry)}")


def _named(entry: EntryPoint) -> str:
    package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return f"the extension {entry.name!r} ({entry.value}){package}"


def _remedy(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist else "the package it belongs to"
    return f"install {package} again, or uninstall it"
