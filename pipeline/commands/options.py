"""Options that several commands share, and what is made of them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

# Options that go to the method as `Launch.settings`.
METHOD_SETTINGS = ("features", "depth", "depth_kind")


def launch_options(command: Any) -> Any:
    """The settings of a run, shared by the commands that start one."""
    shard_size = click.option(
        "--shard-size", type=click.IntRange(min=1), help="Images a shard. [8..256, by their number]"
    )
    command = method_options(shard_size(device_options(command)))
    command = click.option("--root", help="What the relative names of a list or COCO file are relative to.")(command)
    return click.option("--images", help="Folder, list (.txt, .parquet), COCO JSON, WebDataset tar(s); path or URL.")(
        command
    )


def method_options(command: Any) -> Any:
    """What decides the result for an image."""
    options = [
        click.option("--recipe", help="Named recipe, see `cuts3d recipes`. [cuts3d]"),
        click.option("--features", help="Feature preset, NAME=FILE, or a checkpoint. [dinov2_vits14]"),
        click.option("--depth", help="Depth model, .onnx file, transformers folder, or maps:FOLDER. [fastdepth]"),
        click.option("--depth-kind", type=click.Choice(["depth", "inverse_depth"]), help="What the depth model gives."),
        click.option("--set", "overrides", multiple=True, metavar="STAGE.OPTION=VALUE", help="Override an option."),
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
    """A path that a command writes to; whether it can is known before the command begins. kind: "file", "folder",
    "page", a file if it has an ending, else a folder, or "run", a folder or a URL.
    """

    def __init__(self, kind: str) -> None:
        self.name = "file" if kind == "page" else "folder" if kind == "run" else kind
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises StoreAccessError where it cannot be written."""
        from pipeline.storage.locations import is_url
        from pipeline.storage.outputs import need_file, need_folder

        # Without one above it, the command is only read here, to be done on another machine: see `submit`.
        if ctx is None or ctx.parent is None or (self._kind == "run" and is_url(value)):
            return value
        is_page = self._kind == "page" and bool(Path(value).suffix) and not Path(value).is_dir()
        (need_file if is_page or self._kind == "file" else need_folder)(value)
        return value


OUTPUT_FILE, OUTPUT_FOLDER, OUTPUT_PAGE, OUTPUT_RUN = map(Output, ("file", "folder", "page", "run"))

min_score_option = click.option(
    "--min-score", type=Number(), default=0.0, show_default=True, help="Leave out masks with lower scores."
)


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

    given = {name: value for name, value in settings.items() if value not in (None, ())}
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
    overrides = {override.partition("=")[0]: override for override in (*base.overrides, *given.pop("overrides", ()))}
    own = taken_settings(given)
    return replace(base, **given, settings={**base.settings, **own}, overrides=tuple(overrides.values()))


def taken_settings(given: dict[str, Any]) -> dict[str, str]:
    """The method's settings among given options, taken out of them."""
    return {name: given.pop(name) for name in METHOD_SETTINGS if name in given}


def say(summary: Any) -> None:
    """The outcome of a launch, in a few lines on stdout."""
    for line in summary.lines():
        click.echo(line)
