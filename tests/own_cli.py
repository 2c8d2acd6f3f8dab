"""A command line that a test can extend: what it adds is gone afterwards."""

import copy

import click

from cluster.commands import RAY_OPTIONS
from pipeline import cli


def own_command_line() -> cli._Group:
    """The commands of `pipeline`, as no extension has touched them, whatever other tests of this process did."""
    ours = {
        name: _untouched(command)
        for name, command in cli.main.commands.items()
        if command.callback is not None and command.callback.__module__.startswith("pipeline.")
    }
    group = cli._Group(commands=ours)
    group.callback = lambda: None
    return group


def _untouched(command: click.Command) -> click.Command:
    twin = copy.copy(command)
    of_ray = {option.name for option in RAY_OPTIONS}
    twin.params = [option for option in command.params if option.name not in of_ray]
    if len(twin.params) < len(command.params):
        twin.callback = command.callback.__wrapped__
    return twin
