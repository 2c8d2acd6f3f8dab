"""Who does the work of a command that makes results: this process, or what an extension has set."""

from collections.abc import Callable
from typing import Any

import click


class ExecutingCommand(click.Command):
    """A command whose work `executor()` does, so that extensions can add their options to it: `run`, and whatever else
    makes pseudo-masks.
    """


RunExecutor = Callable[..., Any]
"""Does what is missing of a run: takes what `pipeline.engine.run.run` takes, and returns its RunSummary."""


_EXECUTOR = "pipeline.commands.executing.executor"


def set_executor(executor: RunExecutor) -> None:
    """Let the present command hand its work to this executor; called by an extension before the command itself."""
    click.get_current_context().meta[_EXECUTOR] = executor


def executor() -> RunExecutor:
    """Who does the work of the present `ExecutingCommand`: this process, unless an extension has set somebody else."""
    from pipeline.engine import run as runner  # which loads torch

    chosen: RunExecutor = click.get_current_context().meta.get(_EXECUTOR, runner.run)
    return chosen


def works_elsewhere() -> bool:
    """Whether an extension has set somebody else, as --ray does."""
    return _EXECUTOR in click.get_current_context().meta
