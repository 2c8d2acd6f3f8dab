"""Other packages on the command line: one that is installed with an entry point of the group `cuts3d.commands` can add
commands to `cuts3d`, and options to those it has. That is how `cuts3d run --ray` is added, of which this package
knows nothing.

    [options.entry_points]
    cuts3d.commands =
        cluster = cluster.commands:extend

`extend(main)` is called with the click group, once, when the command starts: it has to be fast, and leaves heavy
imports to the commands it adds. What it returns, if not None, is called once all extensions have added their commands:
that is the time to add options to those of others.
"""

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint
from typing import Any

import click

from pipeline.plugins import broken, entries, loaded

GROUP = "cuts3d.commands"


def installed_extensions() -> list[EntryPoint]:
    """The entry points of all installed extensions."""
    return entries(GROUP)


def load_extensions(main: click.Group, extensions: Iterable[EntryPoint]) -> None:
    """Call each of these with the group. Raises ExtensionError, which names the one that is broken."""
    finishers = []
    for entry in extensions:
        extend = loaded(entry)
        finishers.append((entry, _called(entry, extend, main)))
    for entry, finish in finishers:
        if finish is not None:
            _called(entry, finish)


def _called(entry: EntryPoint, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception as error:
        raise broken(entry, error) from error
