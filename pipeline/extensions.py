"""Other packages on the command line: whoever is installed with an entry point of the group `cuts3d.commands` can add
commands to `cuts3d`, and options to those it has. That is how `cuts3d run --ray` comes about, of which this package
knows nothing.

    [options.entry_points]
    cuts3d.commands =
        cluster = cluster.commands:extend

`extend(main)` is called with the click group, once, when the command starts: it has to be fast, and leaves heavy
imports to the commands it adds. What it returns, if not None, is called once all extensions have added their commands:
that is the time to add options to those of others.
"""

from collections.abc import Callable
from configparser import ConfigParser
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Any

import click

from pipeline.errors import ExtensionError

GROUP = "cuts3d.commands"


class ExecutingCommand(click.Command):
    """A command whose work `executor()` does, so that extensions can add their options to it: `run`, and whatever else
    makes pseudo-masks.
    """


Executor = Callable[..., Any]
"""Does what is missing of a run: takes what `pipeline.runner.run` takes, and returns its RunSummary."""

_EXECUTOR = "pipeline.extensions.executor"


def load_extensions(main: click.Group) -> None:
    """Call every installed extension with the group. Raises ExtensionError, which names the one that is broken."""
    finishers = []
    for entry in entries(GROUP):
        extend = loaded(entry)
        finishers.append((entry, _called(entry, extend, main)))
    for entry, finish in finishers:
        if finish is not None:
            _called(entry, finish)


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
        raise _broken(entry, error) from error


def set_executor(executor: Executor) -> None:
    """Let the present command hand its work to this executor; called by an extension before the command itself."""
    click.get_current_context().meta[_EXECUTOR] = executor


def executor() -> Executor:
    """Who does the work of the present `ExecutingCommand`: this process, unless an extension has set somebody else."""
    from pipeline import runner

    chosen: Executor = click.get_current_context().meta.get(_EXECUTOR, runner.run)
    return chosen


def _called(entry: EntryPoint, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception as error:
        raise _broken(entry, error) from error


def _broken(entry: EntryPoint, error: Exception) -> ExtensionError:
    return ExtensionError(f"{_named(entry)} does not load ({type(error).__name__}: {error}): {_remedy(entry)}")


def _named(entry: EntryPoint) -> str:
    package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return f"the extension {entry.name!r} ({entry.value}){package}"


def _remedy(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist else "the package it belongs to"
    return f"install {package} again, or uninstall it"
