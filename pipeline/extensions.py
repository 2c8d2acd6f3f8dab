"""Other packages on the command line: whoever is installed with an entry point of the group `cuts3d.commands` can add
commands to `cuts3d`, and options to those it has. That is how `cuts3d run --ray` comes about, of which this package
knows nothing.

    [options.entry_points]
    cuts3d.commands =
        cluster = cluster.commands:extend

`extend(main)` is called with the click group, once, when the command starts: it has to be fast, and leaves heavy
imports to the commands it adds.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from pipeline.errors import ExtensionError

GROUP = "cuts3d.commands"

Executor = Callable[..., Any]
"""Does what is missing of a run: takes what `pipeline.runner.run` takes, and returns its RunSummary."""

_EXECUTOR = "pipeline.extensions.executor"


def load_extensions(main: click.Group) -> None:
    """Call every installed extension with the group. Raises ExtensionError, which names the one that is broken."""
    for entry in sorted(entry_points(group=GROUP)):
        try:
            entry.load()(main)
        except Exception as error:  # whatever a stranger's code raises, its name must be said
            raise ExtensionError(
                f"{_named(entry)} does not load ({type(error).__name__}: {error}): {_remedy(entry)}"
            ) from error


def set_executor(executor: Executor) -> None:
    """Let `cuts3d run` hand its work to this executor; called by an extension's options while a command is parsed."""
    click.get_current_context().meta[_EXECUTOR] = executor


def executor() -> Executor:
    """Who does the work of the present `cuts3d run`: this process, unless an extension has set somebody else."""
    from pipeline import runner

    chosen: Executor = click.get_current_context().meta.get(_EXECUTOR, runner.run)
    return chosen


def _named(entry: EntryPoint) -> str:
    package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return f"the extension {entry.name!r} ({entry.value}){package}"


def _remedy(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist else "the package it belongs to"
    return f"install {package} again, or uninstall it"
