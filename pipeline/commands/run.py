"""Commands that make pseudo-masks: run, retry-quarantined, demo, and the recipes that they know."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands.executing import ExecutingCommand, executor
from pipeline.commands.options import (
    OUTPUT_FOLDER,
    OUTPUT_RUN,
    device_options,
    exit_with,
    launch_of,
    launch_options,
    method_options,
    model_options,
    motion_option,
    refuse_root_alone,
    root_option,
    say,
    taken_settings,
    with_recipe_file,
)
from pipeline.errors import ConfigError
from pipeline.methods.cuts.stage_graph import STAGES
from pipeline.wording import counted

DEMO_MIN_SCORE = 0.04  # ten overlapping masks per photo show nothing; see docs/decisions/0007-tree-and-score.md


@click.command(cls=ExecutingCommand)
@click.option(
    "--out", required=True, type=OUTPUT_RUN, help="Run folder, path or URL; a run that was begun there resumes."
)
@launch_options
@click.option("--accept-set-aside", is_flag=True, help="Commit shards of which every image is set aside, too.")
@click.option("--until", metavar="STAGE", help=f"Keep the output of this stage; of cuts: {', '.join(STAGES)}.")
def run(
    out: str, until: str | None, accept_set_aside: bool, device: str, batch_size: int | None, **settings: Any
) -> None:
    """Make pseudo-masks: start a run, or resume one.

    Settings that are not given are those of the run's last launch, if it has had one. Exits with 1 while any image is
    missing or set aside.
    """
    from pipeline.commands.progress import ProgressReporter
    from pipeline.methods.registry import stage_of

    launch, reporter = launch_of(out, settings), ProgressReporter()
    stage = stage_of(launch.recipe, until)
    accepted = {"accept_set_aside": True} if accept_set_aside else {}
    summary = executor()(out, launch, until=stage, device=device, batch_size=batch_size, reporter=reporter, **accepted)
    say(summary)
    exit_with(summary.standing)


@click.command("retry-quarantined")
@click.argument("run_folder", metavar="RUN")
@model_options
@motion_option
@device_options
def retry_quarantined(run_folder: str, device: str, batch_size: int | None, **models: str | None) -> None:
    """Process the images that were set aside once more, by the run's own settings: --features, --depth and --motion say
    where the same models are by now. Exits with 1 while any image is missing or set aside.
    """
    from pipeline.commands.progress import ProgressReporter
    from pipeline.engine import run as runner
    from pipeline.models.device import check_device
    from pipeline.runs.info import reason_lines
    from pipeline.runs.run_folder import RunFolder

    check_device(device)
    moved = {name: value for name, value in models.items() if value is not None}
    launch = launch_of(run_folder, moved) if moved else None  # None: the run's last one
    summary = runner.retry_quarantined(
        run_folder, launch, device=device, batch_size=batch_size, reporter=ProgressReporter()
    )
    click.echo(f"{counted(summary.images, 'image')} tried again, {summary.images - summary.quarantined} succeeded")
    if summary.quarantined:
        for line in reason_lines(RunFolder.open(run_folder)):
            click.echo(line)
    exit_with(summary.standing)


@click.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """The recipes by name; with NAME, or a FILE.toml, the options that this one reads, and what they are for."""
    from pipeline.methods import registry
    from pipeline.methods.recipe_file import SUFFIX, read_recipe_file
    from pipeline.runs.launch import Launch

    if name is None:
        known = registry.recipes()
        width = max(map(len, known))
        for recipe in known:
            click.echo(f"{recipe:{width}}  {registry.entry_of(recipe).about(recipe)}".rstrip())
        return
    own = read_recipe_file(name) if name.endswith(SUFFIX) else None
    recipe = name if own is None else own.base
    entry = registry.entry_of(recipe)
    launch = Launch(recipe=recipe)
    if own is not None:
        launch = Launch(recipe=recipe, settings=own.settings, overrides=own.overrides)
        registry.known_config(launch, None, files_here=False)
    click.echo(f"{recipe}: {entry.about(recipe)}")
    given = dict(override.split("=", 1) for override in own.overrides) if own else {}
    for option in entry.options(launch):
        equals = "" if option.path.startswith("--") else "= "
        click.echo(f"  {option.path} {equals}{given.pop(option.path, option.value)}\n      {option.words}".rstrip())
    for path, value in given.items():
        click.echo(f"  {path} = {value}")


@click.command()
@click.option(
    "--out", type=OUTPUT_FOLDER, default="demo", show_default=True, help="Folder for photos, run and pictures."
)
@click.option("--images", help="Photos of your own; default: photos that scikit-image and scikit-learn ship.")
@root_option
@method_options
@device_options
def demo(out: str, images: str | None, root: str | None, device: str, batch_size: int | None, **settings: Any) -> None:
    """Sample photos in, pictures, COCO JSON and store out."""
    from pipeline.commands.progress import ProgressReporter
    from pipeline.engine.checks import check_settings, checked_manifest
    from pipeline.images.samples import copy_samples
    from pipeline.methods.registry import entry_of
    from pipeline.models import weights
    from pipeline.results.instance_kind import NAME
    from pipeline.runs.launch import Launch
    from pipeline.runs.needed_kind import words_for
    from pipeline.runs.run_folder import RunFolder
    from pipeline.views.export import export_coco, export_overlays

    refuse_root_alone(root, images)
    folder = Path(out)
    given = with_recipe_file({name: value for name, value in settings.items() if value is not None})
    recipe = Path(settings["recipe"] or Launch.recipe).stem  # of a file
    launch = Launch(images or str(folder / "photos"), root, settings=taken_settings(given), **given)
    result = entry_of(launch.recipe).result
    if result not in (NAME, ""):
        raise ConfigError(
            f"demo shows {words_for(NAME)}, and recipe {launch.recipe} makes {words_for(result)}: start it with "
            "`cuts3d run`; `cuts3d semantic-demo` shows semantic labels"
        )
    run_folder = folder / f"run-{recipe}"
    check_settings(run_folder, launch, None, device)
    if images is None:
        copy_samples(folder / "photos")
    manifest = checked_manifest(run_folder, launch, None, device)
    from pipeline.engine.run import run as run_pipeline

    weights.fetch()
    summary = run_pipeline(
        run_folder,
        launch,
        manifest=manifest,
        device=device,
        batch_size=batch_size,
        reporter=ProgressReporter(),
    )
    made = RunFolder.open(run_folder)
    pictures = folder / f"pictures-{recipe}"
    coco = folder / f"pseudo_masks-{recipe}.json"
    export_overlays(made, pictures, min_score=DEMO_MIN_SCORE)
    export_coco(made, coco)
    say(summary)
    click.echo(f"pictures   {pictures}/ (masks that score {DEMO_MIN_SCORE:g} or more)")
    click.echo(f"COCO JSON  {coco}")
    click.echo(f"store      {run_folder}/shards/")
    exit_with(summary.standing)
