"""Options of commands that train, or look at how it is done, and what is made of them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from detector.training.wanted import Training

Command = Callable[..., None]

SEED = click.IntRange(0, (1 << 32) - 1)  # what NumPy's and Python's generators take alike

# Before the names of what `training_options` adds to a command's arguments: it may have a `batch_size` of its own.
_PREFIX = "training_"


@dataclass(frozen=True)
class TrainingOptions:
    """How to train, as typed after a command with `training_options`. The fields are `Training`'s of the same names."""

    config: str
    settings: tuple[str, ...]
    iterations: int | None
    batch_size: int | None
    seed: int | None
    amp: bool

    def training(self, runs: tuple[str, ...], work_dir: str, **further: Any) -> "Training":
        """What is to be trained; further: fields of `Training` that these options leave open."""
        from detector.training.wanted import Training

        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return Training(runs, work_dir=work_dir, **own, **further)


def configuration_options(default: str, prefix: str = "") -> Callable[[Command], Command]:
    """--config and --set, as arguments `config` and `settings`. default: of --config. prefix: of the arguments."""
    config = click.option(
        "--config",
        f"{prefix}config",
        default=default,
        show_default=True,
        help="Name, see `cuts3d configs`, or a .py file.",
    )
    settings = click.option(
        "--set",
        f"{prefix}settings",
        multiple=True,
        metavar="NAME.NAME=VALUE",
        help="Override part of the configuration.",
    )
    return lambda command: config(settings(command))


def training_options(config: str, prefix: str = "") -> Callable[[Command], Command]:
    """Gives a command the options of `TrainingOptions`, which it gets as one argument, `how`.

    config: the default. prefix: such as "train-", before the words of --batch-size and --amp, for a command that uses a
    detector, too.
    """
    options: list[Callable[[Command], Command]] = [
        configuration_options(config, _PREFIX),
        click.option(
            "--iterations",
            f"{_PREFIX}iterations",
            type=click.IntRange(min=1),
            help="Steps of a training; milestones move in proportion.",
        ),
        click.option(
            f"--{prefix}batch-size",
            f"{_PREFIX}batch_size",
            type=click.IntRange(min=1),
            help="Images per step, over all processes; learning rate and iterations follow by the linear scaling rule.",
        ),
        click.option(
            "--seed",
            f"{_PREFIX}seed",
            type=SEED,
            help="Of weights, order and augmentations. [the configuration's, 0]",
        ),
        click.option(
            f"--{prefix}amp", f"{_PREFIX}amp", is_flag=True, help="Train in mixed precision, on a GPU. CutLER does."
        ),
    ]

    def with_options(command: Command) -> Command:
        @functools.wraps(command)
        def collecting(**given: Any) -> None:
            values = {field.name: given.pop(_PREFIX + field.name) for field in fields(TrainingOptions)}
            command(how=TrainingOptions(**values), **given)

        decorated: Command = collecting
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return with_options
