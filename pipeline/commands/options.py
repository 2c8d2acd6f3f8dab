"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.evaluation.truth.formats import TruthSet

# Options that go to the method as `Launch.settings`.
METHOD_SETTINGS = ("features", "depth", "depth_kind", "motion")


motion_option = click.option(
    "--motion", help="Of clips: flow and disparity by opencv, raft-things, raft=FILE, or maps:FOLDER. [opencv]"
)
root_option = click.option("--root", help="What the relative names of a list or COCO file are relative to.")


def refuse_root_alone(root: str | None, images: str | None) -> None:
    """UsageError for --root where --images is left out, and so samples are taken."""
    if root is not None and images is None:
        raise click.UsageError("--root is of use with --images only: add --images, or leave it out")


def launch_options(command: Any) -> Any:
    """The settings of a run, shared by the commands that start one."""
    shard_size = click.option(
        "--shard-size", type=click.IntRange(min=1), help="Images per shard. [a 32nd of them, 2..256]"
    )
    command = root_option(method_options(motion_option(shard_size(device_options(command)))))
    return click.option(
        "--images", help="Folder, list (.txt, .parquet), COCO JSON, WebDataset tar(s), clips; path or URL."
    )(command)


def method_options(command: Any) -> Any:
    """What decides the result for an image."""
    override = click.option(
        "--set", "overrides", multiple=True, metavar="STAGE.OPTION=VALUE", help="Override an option."
    )
    recipe = click.option("--recipe", help="Named recipe, see `cuts3d recipes`, or FILE.toml with one's own. [cuts3d]")
    return recipe(model_options(override(command)))


def model_options(command: Any) -> Any:
    """Of METHOD_SETTINGS those of photos."""
    options = [
        click.option("--features", help="Feature preset, NAME=FILE, or a checkpoint. [dinov2_vits14]"),
        click.option("--depth", help="Depth model, .onnx file, transformers folder, or maps:FOLDER. [fastdepth]"),
        click.option("--depth-kind", type=click.Choice(["depth", "inverse_depth"]), help="What the depth model gives."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


class Number(click.FloatRange):
    """A number from `min` to `max`, neither of them infinite, and never NaN: comparisons with that are all false."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number

    def _describe_range(self) -> str:
        return "" if self.min is None and self.max is None else super()._describe_range()


class Output(click.ParamType):
    """A path that a command writes to; whether it can is known before the command begins. By this type `submit` knows
    what would be lost in a job.

    kind: "file", "folder", "page", a file if it has an ending, else a folder, or "run", a folder or a URL.
    unless_given: where the command writes when the option is left out, if it does.
    """

    def __init__(self, kind: str, unless_given: str | None = None) -> None:
        self.name = "file" if kind == "page" else "folder" if kind == "run" else kind
        self.kind, self.unless_given = kind, unless_given

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises StoreAccessError where it cannot be written."""
        from pipeline.storage.locations import is_url
        from pipeline.storage.outputs import need_file, need_folder

        # Without one above it, the command is only read here, to be done on another machine: see `submit`.
        if ctx is None or ctx.parent is None or (self.kind == "run" and is_url(value)):
            return value
        is_page = self.kind == "page" and bool(Path(value).suffix) and not Path(value).is_dir()
        (need_file if is_page or self.kind == "file" else need_folder)(value)
        return value


OUTPUT_FILE, OUTPUT_FOLDER, OUTPUT_PAGE, OUTPUT_RUN = map(Output, ("file", "folder", "page", "run"))

min_score_option = click.option(
    "--min-score", type=Number(), default=0.0, show_default=True, help="Leave out masks with lower scores."
)


def truth_options(command: Any, required: bool = True) -> Any:
    """--truth and --truth-images."""
    images = click.option(
        "--truth-images", metavar="FOLDER", help="Its photos, if not beside it; kitti, openimages need them."
    )
    return click.option(
        "--truth",
        required=required,
        metavar="[FORMAT:]PATH",
        help="The true objects: a COCO instances JSON, path or URL, or the files of coco20k, lvis, uvo, sa1b, "
        "objects365, openimages, voc, clipart, watercolor, comic, kitti.",
    )(images(command))


def given_truth(truth: str, truth_images: str | None) -> TruthSet:
    """What --truth and --truth-images name; SourceError, too, for a folder with none of the photos."""
    from pipeline.evaluation.truth.formats import read_truth

    found = read_truth(truth, truth_images)
    if truth_images is not None:
        found.need_photos("say with --truth-images where its photos are, or leave it out")
    return found


def bootstrap_options(command: Any) -> Any:
    """--bootstrap and --seed."""
    seed = click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resamples."
    )
    return click.option(
        "--bootstrap", type=click.IntRange(min=0), default=1000, show_default=True, help="Resamples of images."
    )(seed(command))


def report_options(command: Any) -> Any:
    """--csv and --json, which `write_reports` writes, and those of `bootstrap_options`."""
    json_file = click.option("--json", "json_file", type=OUTPUT_FILE, help="JSON file to write.")
    csv_file = click.option("--csv", "csv_file", type=OUTPUT_FILE, help="CSV file to write.")
    return csv_file(json_file(bootstrap_options(command)))


def write_reports(*files: tuple[str | None, Callable[[], str]]) -> None:
    """Write each of the files that is asked for, and say so. files: their names, and what gives the text."""
    from pipeline.storage.outputs import output_file

    for file, text in files:
        if file:
            with output_file(file) as out:
                out.write(text())
            click.echo(f"written {file}")


device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")


def device_options(command: Any) -> Any:
    """--device and --batch-size."""
    batch_size = click.option(
        "--batch-size", type=click.IntRange(min=1), help="Images at a time. [2 on CPU, what fits on a GPU]"
    )
    return device_option(batch_size(command))


def launch_of(out: str, settings: dict[str, Any]) -> Any:
    """The last launch of the run, or the defaults, changed by what was given on the command line."""
    from pipeline.errors import ConfigError, StoreAccessError, StoreError
    from pipeline.runs.launch import Launch, last_launch
    from pipeline.runs.run_folder import RUN_FILE
    from pipeline.storage.files_at import files_at

    given = with_recipe_file({name: value for name, value in settings.items() if value not in (None, ())})
    try:
        base = replace(last_launch(out), images=None)  # the run's own manifest, unless --images is given again
    except StoreAccessError:
        raise  # there may well be a run
    except StoreError as error:
        base = Launch()
        if "images" not in given:
            if files_at(out).exists(RUN_FILE):
                raise
            raise ConfigError(f"there is no run at {out} yet: give --images to start one") from error
    if given.get("recipe", base.recipe) != base.recipe:  # what was set for another one means nothing here
        base = replace(base, settings={}, overrides=())
    overrides = {override.partition("=")[0]: override for override in (*base.overrides, *given.pop("overrides", ()))}
    own = taken_settings(given)
    return replace(base, **given, settings={**base.settings, **own}, overrides=tuple(overrides.values()))


def with_recipe_file(given: dict[str, Any]) -> dict[str, Any]:
    """Given options, with what a file says that was given as the recipe in its place; they win over the file."""
    from pipeline.methods.recipe_file import SUFFIX, read_recipe_file

    if not str(given.get("recipe", "")).endswith(SUFFIX):
        return given
    own = read_recipe_file(given["recipe"])
    overrides = (*own.overrides, *given.get("overrides", ()))
    return {**own.settings, **given, "recipe": own.base, "overrides": overrides}


def taken_settings(given: dict[str, Any]) -> dict[str, str]:
    """The method's settings among given options, taken out of them."""
    return {name: given.pop(name) for name in METHOD_SETTINGS if name in given}


def say(summary: Any) -> None:
    """The outcome of a launch, in a few lines on stdout."""
    for line in summary.lines():
        click.echo(line)


def exit_with(standing: Any) -> None:
    """End a command as the rule of `pipeline.exit_status` has it. standing: a `Standing`, or a `RunStatus`."""
    if standing.exit_status:
        sys.exit(standing.exit_status)


def exit_by(*runs: Any) -> None:
    """The same for a command that has read runs, `RunFolder`s, and said nothing of what they lack."""
    from pipeline.runs.standing import standing_of

    found = [standing_of(run) for run in runs]
    for run, standing in zip(runs, found, strict=True):
        if lacks := standing.lacks():
            click.echo(f"cuts3d: {run.url}: {lacks}", err=True)
    exit_with(max(found, key=lambda standing: standing.exit_status))
