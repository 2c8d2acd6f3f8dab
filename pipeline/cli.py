"""The `cuts3d` command. Every subcommand is a thin layer over a function of the same name; errors are printed, not
traced.

Exit status: see `pipeline.exit_status`.
"""

import copy
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from itertools import pairwise
from typing import Any

import click

from pipeline.commands.compare import compare
from pipeline.commands.cups_demo import cups_demo
from pipeline.commands.evaluate import evaluate, scores
from pipeline.commands.evaluate_panoptic import evaluate_panoptic
from pipeline.commands.evaluate_semantic import evaluate_semantic
from pipeline.commands.extensions import installed_extensions, load_extensions
from pipeline.commands.import_coco import import_coco_command
from pipeline.commands.linear_probe import linear_probe
from pipeline.commands.pictures import export, gallery, inspect
from pipeline.commands.run import demo, recipes, retry_quarantined, run
from pipeline.commands.semantic_demo import semantic_demo
from pipeline.commands.semantics import semantic_recipes, train_semantic
from pipeline.commands.tau import tau
from pipeline.commands.things import things
from pipeline.commands.upkeep import gc, info, status, verify
from pipeline.commands.weights import weights_group
from pipeline.errors import CutsError
from pipeline.exit_status import INTERRUPTED, REFUSED
from pipeline.interruption import terminated_as_interrupted
from pipeline.wording import printable

COMMANDS = (
    *(run, status, info, verify, gc, retry_quarantined),
    *(export, gallery, inspect, evaluate, scores, compare, import_coco_command),
    *(train_semantic, semantic_recipes, evaluate_semantic, linear_probe, things, evaluate_panoptic),
    *(recipes, tau, weights_group, demo, semantic_demo, cups_demo),
)


class CommandLine(click.Group):
    """Prints the project's own errors as one message and turns an interruption into advice.

    Extensions are loaded when the command starts, so that a broken one is a message, too. Commands are copied into the
    group: what an extension does to them stays in it.
    """

    extensions: Sequence[EntryPoint] | None = ()

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        own = copy.copy(cmd)
        own.params = list(cmd.params)
        super().add_command(own, name)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            load_extensions(self, installed_extensions() if self.extensions is None else self.extensions)
            self.extensions = ()
        except CutsError as error:
            click.echo(f"cuts3d: {printable(str(error))}", err=True)
            sys.exit(REFUSED)
        return super().main(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """An empty text is no name of anything, and as a path it would be the current folder."""
        for before, text in pairwise(["an argument", *args]):
            if text == "" or (text.startswith("--") and text.endswith("=") and text.count("=") == 1):
                name = text.rstrip("=") or before
                raise click.UsageError(f"{name}: empty text; is a variable of the shell not set?", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with terminated_as_interrupted():
                return super().invoke(ctx)
        except CutsError as error:
            click.echo(f"cuts3d: {printable(str(error))}", err=True)
            sys.exit(REFUSED)
        except KeyboardInterrupt:
            click.echo("cuts3d: interrupted; committed shards are safe, the same command resumes from here", err=True)
            sys.exit(INTERRUPTED)


def command_line(extensions: Sequence[EntryPoint] | None = None) -> CommandLine:
    """A command line of its own, with the commands of this package and of these extensions; None: those installed."""
    group = CommandLine(
        callback=start,
        params=[
            click.Option(["-v", "--verbose"], is_flag=True, help="More log lines, with tracebacks of images set aside.")
        ],
        help=start.__doc__,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    for command in COMMANDS:
        group.add_command(command)
    group.extensions = extensions
    return click.version_option(package_name="cuts3d")(group)


def start(verbose: bool) -> None:
    """Unlabelled images in, instance pseudo-masks with a spatial confidence out."""
    # Before torch is loaded: OpenMP threads otherwise spin at every barrier, and where other processes share the cores
    # that costs the CRF a factor of ten. On free cores it makes no difference.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    logging.getLogger("pipeline").setLevel(logging.DEBUG if verbose else logging.INFO)


main = command_line()

if __name__ == "__main__":
    main()
