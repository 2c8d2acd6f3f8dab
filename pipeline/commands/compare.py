"""The command that holds recipes against each other on the same images: compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.options import (
    OUTPUT_FOLDER,
    bootstrap_options,
    device_options,
    exit_with,
    given_truth,
    model_options,
    taken_settings,
    truth_options,
    with_recipe_file,
)
from pipeline.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from pipeline.images.manifest import Manifest
    from pipeline.runs.launch import Launch

PAGE, TABLE = "compare.html", "comparison"  # and .txt, .csv, .json


@click.command()
@click.option(
    "--recipes",
    required=True,
    metavar="NAME,NAME,...",
    help="Recipes, or FILE.toml. The others are compared with the first.",
)
@click.option("--images", required=True, help="Photos, as of `cuts3d run`.")
@click.option("--root", help="What the relative names of a list or COCO file are relative to.")
@click.option(
    "--out",
    required=True,
    type=OUTPUT_FOLDER,
    help="Folder for runs, table and page; what was begun there resumes.",
)
@partial(truth_options, required=False)
@model_options
@click.option("--set", "overrides", multiple=True, metavar="RECIPE.STAGE.OPTION=VALUE", help="Override an option.")
@device_options
@click.option("--shard-size", type=click.IntRange(min=1), help="Images per shard. [a 32nd of them, 2..256]")
@click.option("--accept-set-aside", is_flag=True, help="Commit shards of which every image is set aside, too.")
@click.option(
    "--scores", type=click.Choice(["own", "constant"]), default="own", show_default=True, help="Scores that rank masks."
)
@bootstrap_options
@click.option("--limit", type=click.IntRange(min=1), default=2000, show_default=True, help="Images on the page.")
@click.option(
    "--thumbnail", type=click.IntRange(32, 4096), default=320, show_default=True, help="Longest side of its pictures."
)
def compare(
    recipes: str,
    out: str,
    truth: str | None,
    truth_images: str | None,
    device: str,
    batch_size: int | None,
    accept_set_aside: bool,
    scores: str,
    bootstrap: int,
    seed: int,
    limit: int,
    thumbnail: int,
    **settings: Any,
) -> None:
    """Run several recipes on the same images, and compare them in a table and side by side on a page.

    Photos, features and depth are read and computed once for all recipes that share them. Each recipe leaves an
    ordinary run in OUT/RECIPE. Exits with 1 while any image is set aside.
    """
    from pipeline.commands.progress import ProgressReporter
    from pipeline.runs.run_folder import RunFolder
    from pipeline.storage.outputs import need_file

    if truth is None and truth_images is not None:
        raise ConfigError("--truth-images says where the photos of --truth are: give --truth, too, or leave it out")
    if truth is None and scores != "own":
        raise ConfigError(f"--scores {scores} is of use with --truth only: add it, or leave --scores out")
    tables = [Path(out) / f"{TABLE}.{ending}" for ending in ("txt", "csv", "json")]
    for file in (*tables, Path(out) / PAGE):
        need_file(file)
    launches = launches_of(recipes, Path(out), settings)
    manifest = checked_images(launches, device)
    truths = None
    if truth:
        from pipeline.evaluation.run_detections import need_common

        truths = given_truth(truth, truth_images)
        need_common(manifest.refs, truths.truth)
    from pipeline.engine.side_by_side import run_side_by_side  # torch
    from pipeline.evaluation.comparison import compare_runs
    from pipeline.evaluation.comparison_report import comparison_csv, comparison_json, comparison_lines
    from pipeline.results.instance_kind import NAME as INSTANCES
    from pipeline.storage.outputs import output_file
    from pipeline.views.comparison_page import write_comparison_page

    summaries = run_side_by_side(
        launches,
        manifest,
        result=INSTANCES,
        device=device,
        batch_size=batch_size,
        accept_set_aside=accept_set_aside,
        reporter=ProgressReporter(),
    )
    runs = {Path(folder).name: RunFolder.open(folder) for folder in launches}
    evaluation: dict[str, Any] = {"scores": scores, "bootstrap": bootstrap, "seed": seed}
    if truths:
        evaluation |= {"truth": truths.truth, "max_detections": truths.max_detections}
    comparison = compare_runs(runs, **evaluation)
    text = "\n".join(comparison_lines(comparison)) + "\n"
    click.echo(text, nl=False)
    for path, content in zip(tables, (text, comparison_csv(comparison), comparison_json(comparison)), strict=True):
        with output_file(path) as file:
            file.write(content)
    page = write_comparison_page(runs, Path(out) / PAGE, comparison.differing, limit, thumbnail)
    click.echo(f"written    {', '.join(path.name for path in tables)} and {PAGE} in {out}")
    if page.without_photo:
        click.echo(f"{page.without_photo} images of the page are without a photo: it says why")
    exit_with(max((summary.standing for summary in summaries), key=lambda standing: standing.exit_status))


def launches_of(recipes: str, out: Path, given: Mapping[str, Any]) -> dict[str, Launch]:
    """The launch of each recipe by its run folder, which has the recipe's name; ConfigError for what is wrong.

    given: images, root, shard_size, overrides that begin with the name of their recipe, and settings of methods, which
        go to the recipes that read them.
    """
    from pipeline.methods.registry import entry_of
    from pipeline.runs.launch import Launch, listed_manifest

    given = {name: value for name, value in given.items() if value is not None}
    settings = taken_settings(given)
    names = [name.strip() for name in recipes.split(",")]
    if "" in names:
        raise ConfigError(f"--recipes {recipes} has a comma too many: a name is missing beside it")
    known = {Path(name).stem if name.endswith(".toml") else name: name for name in names}
    if len(known) < len(names):
        raise ConfigError(f"--recipes {recipes} names one twice: each gets a folder of its name")
    if len(known) < 2:
        raise ConfigError(f"--recipes {recipes} is one recipe: name two or more, with commas between")
    overrides = _by_recipe(given.pop("overrides", ()), list(known))
    launches: dict[str, Launch] = {}
    read: set[str] = set()
    for name, recipe in known.items():
        own = with_recipe_file({"recipe": recipe, "overrides": overrides[name]})
        of_file = taken_settings(own)
        launch = Launch(**given, **own, settings=of_file)
        entry = entry_of(launch.recipe)
        if entry.manifest is not listed_manifest:
            raise ConfigError(f"recipe {launch.recipe} takes no photos from --images, as those that are compared do")
        with _said_of(name):
            reads = entry.reads(launch)
        read.update(reads)
        own_settings = {setting: value for setting, value in settings.items() if setting in reads}
        launches[str(out / name)] = replace(launch, settings={**of_file, **own_settings})
    if unread := [setting for setting in settings if setting not in read]:
        option = unread[0].replace("_", "-")
        raise ConfigError(f"none of the recipes {recipes} reads --{option}: leave it out")
    return launches


@contextmanager
def _said_of(recipe: str) -> Iterator[None]:
    """Names the recipe in what is wrong with its options and models: others are given the same ones."""
    try:
        yield
    except (ConfigError, WeightsError) as error:
        if f"recipe {recipe}" in str(error):
            raise
        raise type(error)(f"recipe {recipe}: {error}") from error


def _by_recipe(overrides: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Overrides apart, by the recipe that they begin with."""
    found: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        owners = [name for name in names if override.startswith(f"{name}.")]
        if not owners:
            raise ConfigError(f"--set {override}: {_why_nobodys(override, names)}")
        owner = max(owners, key=len)
        found[owner].append(override.removeprefix(f"{owner}."))
    return {name: tuple(own) for name, own in found.items()}


def _why_nobodys(override: str, names: Sequence[str]) -> str:
    """What is wrong with an override that begins with none of the recipes compared."""
    from pipeline.methods.registry import recipes

    first, dot, _ = override.partition(".")
    if first.partition("=")[0] in names:
        return f"say which option, as in {first.partition('=')[0]}.STAGE.OPTION=VALUE"
    if dot and first in recipes():
        return f"{first} is not compared here, {', '.join(names)} are: add it to --recipes, or leave this out"
    return f"begin with the recipe that it is for, {names[0]}.{override}"


def checked_images(launches: Mapping[str, Launch], device: str) -> Manifest:
    """The images of all launches, listed once, after all else that can be wrong with them was looked at; raises what
    `engine.checks.checked_manifest` does.
    """
    from pipeline.engine.checks import check_settings
    from pipeline.methods.registry import manifest_of
    from pipeline.runs.launch import with_own_shard_size
    from pipeline.runs.run_folder import RunFolder

    known = {}
    for out, launch in launches.items():
        with _said_of(Path(out).name):
            known[out] = check_settings(out, launch, None, device)
    first, sizes = next(iter(launches.values())), [with_own_shard_size(one, out) for out, one in launches.items()]
    manifest = manifest_of(next((launch for launch in sizes if launch.shard_size is not None), first))
    for out, config in known.items():
        RunFolder.refuse_another(out, config, manifest)
    return manifest
