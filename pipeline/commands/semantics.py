"""Commands that train semantic models: train-semantic, semantic-recipes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.executing import ExecutingCommand, executor
from pipeline.commands.options import (
    OUTPUT_FOLDER,
    device_option,
    launch_of,
    model_options,
    root_option,
    say,
)
from pipeline.errors import ConfigError
from pipeline.exit_status import INCOMPLETE, INTERRUPTED

if TYPE_CHECKING:
    from pipeline.methods.depthg.training_recipes import SemanticRecipe


@click.command("train-semantic", cls=ExecutingCommand)
@click.option("--out", required=True, type=OUTPUT_FOLDER, help="Folder of the model: its inputs, checkpoints and log.")
@click.option("--images", help="Folder, list (.txt, .parquet), COCO JSON, WebDataset tar(s); path or URL. No labels.")
@root_option
@click.option("--inputs", metavar="FOLDER", help="Inputs of another training, OTHER/inputs, in place of --images.")
@click.option("--recipe", default="depthg", show_default=True, help="Named recipe, see `cuts3d semantic-recipes`.")
@model_options
@click.option("--set", "overrides", multiple=True, metavar="GROUP.OPTION=VALUE", help="Override an option.")
@click.option("--clusters", type=click.IntRange(2, 255), help="How many clusters. [the recipe's]")
@click.option("--iterations", type=click.IntRange(min=1), help="Batches to train for. [the recipe's]")
@click.option("--search", type=click.IntRange(1, 1000), metavar="N", help="First try N sets of weights and shifts.")
@click.option(
    "--seed", type=click.IntRange(0, (1 << 32) - 1), default=0, show_default=True, help="Of all that is drawn."
)
@click.option(
    "--shard-size", type=click.IntRange(min=1), help="Images per shard of the inputs. [a 32nd of them, 2..256]"
)
@click.option("--resume", is_flag=True, help="Resume from the last checkpoint in the folder.")
@click.option("--amp", is_flag=True, help="Train in mixed precision, on a GPU.")
@device_option
def train_semantic(
    out: str,
    inputs: str | None,
    recipe: str,
    overrides: tuple[str, ...],
    clusters: int | None,
    iterations: int | None,
    search: int | None,
    seed: int,
    resume: bool,
    amp: bool,
    device: str,
    **settings: Any,
) -> None:
    """Train a head and clusters on images and their depth, without labels.

    Features and depth of every crop are computed once, by a run in OUT/inputs that resumes as any other, and that --ray
    spreads over a cluster. The training itself is small: one process, here.
    """
    from pipeline.methods.depthg.training_folder import INPUTS, refuse_model, training_at
    from pipeline.methods.depthg.training_recipes import apart, get_recipe
    from pipeline.models.device import check_device
    from pipeline.runs.run_folder import RUN_FILE

    own, of_inputs = apart(overrides)
    how = get_recipe(recipe, own, clusters=clusters, iterations=iterations, trials=search)
    check_device(device)
    training = training_at(out)
    # Killed before all inputs were there, it had no training yet; the same words are to do at any time.
    goes_on = None if resume and (Path(out) / INPUTS / RUN_FILE).exists() else resume
    training.check_resume(goes_on)
    if not resume:
        refuse_model(out)
    settings = {name: value for name, value in settings.items() if value is not None}
    if inputs is not None:
        _refuse_settings([*settings, *(f"set {override}" for override in of_inputs)])
    launch = None if inputs else _inputs_launch(how, Path(out), settings, of_inputs)
    if amp:
        from pipeline.methods.depthg.training import training_device

        training_device(device, amp)  # the inputs may take hours before it is used
    try:
        place = inputs or _made(launch, Path(out), device)
        path = _trained(how, place, Path(out), seed=seed, resume=goes_on, amp=amp, device=device)
    except KeyboardInterrupt:
        again = "with --resume resumes from the last checkpoint" if training.has_checkpoints() else "resumes from here"
        click.echo(f"cuts3d: interrupted; the same command {again}", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"model      {path}")


def _refuse_settings(given: list[str]) -> None:
    """UsageError for what only making inputs would need."""
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise click.UsageError(f"--inputs are made already: leave {option} out, or --inputs, to make others with it")


def _inputs_launch(recipe: "SemanticRecipe", out: Path, settings: dict[str, Any], overrides: tuple[str, ...]) -> Any:
    """The launch that makes a recipe's inputs."""
    from pipeline.methods.depthg.inputs_settings import NAME, NO_DEPTH, inputs_settings
    from pipeline.methods.depthg.training_folder import INPUTS

    depth = settings.get("depth")
    if recipe.needs_depth and depth == NO_DEPTH:
        raise ConfigError(f"recipe {recipe.name} learns from depth: leave --depth {depth} out, or take --recipe stego")
    if not recipe.needs_depth:
        if unread := [name for name in ("depth", "depth_kind") if settings.get(name, NO_DEPTH) != NO_DEPTH]:
            option = unread[0].replace("_", "-")
            raise ConfigError(f"recipe {recipe.name} does not look at depth: leave --{option} out")
        settings["depth"] = NO_DEPTH
    if recipe.features:
        settings.setdefault("features", recipe.features)
    launch = launch_of(str(out / INPUTS), {**settings, "recipe": NAME, "overrides": (*recipe.inputs, *overrides)})
    if config := inputs_settings(launch, files_here=False).config:  # else only the weights tell
        recipe.check_grid(*[config.size // config.patch_size] * 2)
    return launch


def _made(launch: Any, out: Path, device: str) -> str:
    """Where the inputs are, all of them; ends the command where some are missing."""
    from pipeline.commands.progress import ProgressReporter
    from pipeline.methods.depthg.training_folder import INPUTS

    place = str(out / INPUTS)
    summary = executor()(place, launch, device=device, reporter=ProgressReporter())
    say(summary)
    if summary.missing:
        click.echo("cuts3d: without all inputs nothing is trained; the same command makes what is missing", err=True)
        sys.exit(INCOMPLETE)
    return place


def _trained(recipe: "SemanticRecipe", inputs: str, out: Path, **how: Any) -> Path:
    """The model's file."""
    from pipeline.methods.depthg.inputs import TrainingInputs
    from pipeline.methods.depthg.inputs_settings import DEFAULT_FEATURES
    from pipeline.runs.launch import last_launch

    opened = TrainingInputs.open(inputs)
    features = last_launch(inputs).settings.get("features", DEFAULT_FEATURES)
    from pipeline.methods.depthg.training import SemanticTraining, train  # torch

    return train(SemanticTraining(recipe, out, features, **how), opened)


@click.command("semantic-recipes")
@click.argument("name", required=False)
def semantic_recipes(name: str | None) -> None:
    """Recipes of `cuts3d train-semantic` by name; with NAME, the options of that one, and what they are for."""
    from pipeline.methods.depthg.training_recipes import RECIPES, get_recipe, recipe_options

    if name is None:
        width = max(map(len, RECIPES))
        for recipe in RECIPES.values():
            click.echo(f"{recipe.name:{width}}  {recipe.about}")
        return
    click.echo(f"{name}: {get_recipe(name).about}")
    for option in recipe_options(name):
        equals = "" if option.path.startswith("--") else "= "
        click.echo(f"  {option.path} {equals}{option.value}\n      {option.words}".rstrip())
