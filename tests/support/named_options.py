"""Options that a message names: a command's message may name its own, or those of a command that it names with them."""

import functools
import re
from collections.abc import Sequence

import click

from pipeline.cli import command_line
from pipeline.commands.extensions import installed_extensions, load_extensions


def _commands() -> dict[str, click.Command]:
    group = command_line()
    load_extensions(group, installed_extensions())
    return group.commands


#: By name, with those of the installed packages: found once, before a test puts other packages in their place.
COMMANDS = _commands()

_QUOTED = re.compile(r"`([^`]*)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def foreign_options(command: str, message: str, typed: Sequence[str] = ()) -> list[str]:
    """What a message of `command` calls an option, and is none: neither of this command nor, between backticks, of
    the one that is named there. Quoted commands of other programs may have what they like.

    typed: words of the user, which a message may repeat.
    """
    # `submit` takes another command with its words, and may speak of that one's.
    allowed = options_of(command).union(*(options_of(word) for word in typed if word in COMMANDS))
    foreign = [option for option in _OPTION.findall(_QUOTED.sub("", message)) if option not in allowed]
    for quoted in _QUOTED.findall(message):
        program, *words = quoted.split()[:2] or [""]
        own = options_of(words[0]) if program == "cuts3d" and words and words[0] in COMMANDS else None
        if own is not None or program.startswith("--"):
            foreign += [option for option in _OPTION.findall(quoted) if option not in (own or options_of(command))]
    return [option for option in foreign if option not in {word.partition("=")[0] for word in typed}]


@functools.cache
def options_of(command: str) -> frozenset[str]:
    """Options of a command that are shown, with those that the installed packages add."""
    params = COMMANDS[command].params
    shown = (option for param in params if not getattr(param, "hidden", False) for option in param.opts)
    return frozenset(shown) | {"--help", "--verbose", "--version"}
