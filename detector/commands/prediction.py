"""Commands that use a trained detector: predict, self-train, evaluate-detector. All of them can share the work on Ray.

MMDetection is imported by the commands only.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detector.commands.options import TrainingOptions, training_options
from detector.needs import need_mmdet
from pipeline.commands.executing import ExecutingCommand, RunExecutor, executor, works_elsewhere
from pipeline.commands.options import OUTPUT_FILE, OUTPUT_FOLDER, Number, device_options, exit_with
from pipeline.errors import ConfigError
from pipeline.exit_status import INCOMPLETE
from pipeline.wording import counted

if TYPE_CHECKING:
    from detector.training.self_training import SelfTraining
    from detector.training.wanted import Training

_checkpoint_option = click.option("--checkpoint", required=True, metavar="FILE", help="Detector, of `cuts3d train`.")
_amp_option = click.option("--amp", is_flag=True, help="Half precision where that is safe.")


@click.command(cls=ExecutingCommand)
@click.argument("sources", nargs=-1, required=True)
@_checkpoint_option
@click.option("--out", required=True, type=OUTPUT_FOLDER, help="Folder for everything.")
@click.option("--min-score", type=Number(0, 1), default=0.5, show_default=True, help="Least score kept.")
@click.option("--max-per-image", type=click.IntRange(min=1), default=100, show_default=True, help="The best by score.")
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Of videos: every N-th frame.")
@_amp_option
@device_options
def predict(
    sources: tuple[str, ...],
    checkpoint: str,
    out: str,
    min_score: float,
    max_per_image: int,
    every: int,
    amp: bool,
    **execution: Any,
) -> None:
    """Find the objects in photos, folders, lists, tars and videos: overlays, COCO JSON, and videos of the overlays.

    A panoptic detector gives things and stuff: COCO panoptic JSON and its PNGs.
    """
    need_mmdet()
    from detector.prediction.options import DetectorOptions
    from detector.prediction.predict import predict as predict_on

    path = str(Path(checkpoint).absolute())
    options = DetectorOptions(path, min_score=min_score, max_per_image=max_per_image, amp=amp)
    found = predict_on(sources, out, options, _reporting(executor()), every, **execution)
    if found.maps is None:
        click.echo(f"{counted(found.objects, 'object')} in {found.coco}")
    else:
        click.echo(f"{counted(found.objects, 'segment')} in {found.coco}, maps in {found.maps}")
    click.echo(f"{counted(len(found.overlays), 'picture')} in {Path(out) / 'overlays'}")
    for video in found.videos:
        click.echo(f"video {video}")
    if found.set_aside:
        from pipeline.runs.info import reason_lines
        from pipeline.runs.run_folder import RunFolder

        for line in reason_lines(RunFolder.open(Path(out) / "run")):
            click.echo(line)
    exit_with(found.summary.standing)


@click.command("self-train", cls=ExecutingCommand)
@click.option("--run", required=True, help="Run whose images are used, and whose masks the detector was trained on.")
@_checkpoint_option
@click.option("--work-dir", required=True, type=OUTPUT_FOLDER, help="Folder for all rounds.")
@click.option("--rounds", type=click.IntRange(min=1), help="Number of rounds. [2, with a teacher 3]")
@click.option(
    "--thresholds",
    metavar="S1,S2,…",
    help="Least score of predictions kept, one per round; the last one holds for all further rounds. [0.7,0.65, with a "
    "teacher the configuration's, 0.7]",
)
@click.option(
    "--max-per-image",
    type=click.IntRange(min=1),
    help="Predictions kept, best first. [30, with a teacher the configuration's, 100]",
)
@training_options(config="self_train_r50_fpn", prefix="train-")
@click.option("--train-workers", type=click.IntRange(min=1), help="Train on Ray, in that many processes.")
@click.option("--train-ray", metavar="ADDRESS", help="Ray cluster to train on. [a Ray started here]")
@device_options
def self_train(
    how: TrainingOptions,
    rounds: int | None,
    thresholds: str | None,
    max_per_image: int | None,
    train_workers: int | None,
    train_ray: str | None,
    device: str,
    batch_size: int | None,
    **wanted: Any,
) -> None:
    """Rounds of self-training: predict on the images of a run, keep what is sure, train on it, and again.

    A panoptic detector learns from a momentum teacher, --config cups_self_r50_fpn: labels are made while training.

    The same command resumes wherever it was stopped. With --ray the predictions are shared over the cluster, which a
    teacher has none of; training is done here, or with --train-workers on Ray.
    """
    need_mmdet()
    from detector.training.self_training import SelfTraining, kept_by_default, teaches_itself
    from detector.training.self_training import self_train as do_rounds
    from detector.training.wanted import check_settings

    training = how.training(runs=(), work_dir="", device=device)
    by_teacher = teaches_itself(how.config)
    if by_teacher:
        _refuse_of_predictions(how.config, batch_size)
    kept = kept_by_default(by_teacher)
    given = {"rounds": rounds, "thresholds": _numbers(thresholds), "max_per_image": max_per_image}
    kept |= {name: value for name, value in given.items() if value is not None}
    wanted_rounds = SelfTraining(training=training, **kept, **wanted)
    check_settings(training)
    trainer = _trainer(train_workers, train_ray)
    if train_workers is None:  # here, with what is on this machine
        _try_out(training, wanted_rounds)
    detector = do_rounds(wanted_rounds, _reporting(executor()), trainer, device=device, batch_size=batch_size)
    click.echo(f"detector   {detector}")


@click.command("evaluate-detector", cls=ExecutingCommand)
@_checkpoint_option
@click.option(
    "--truth",
    "truths",
    required=True,
    multiple=True,
    metavar="[FORMAT:]PATH",
    help="The true objects, as for `cuts3d evaluate`; several add up.",
)
@click.option(
    "--truth-images", "folders", multiple=True, metavar="FOLDER", help="Photos of each truth, in order, if not beside."
)
@click.option("--images", "folders_by_old_name", multiple=True, hidden=True)
@click.option("--out", required=True, type=OUTPUT_FILE, help="JSON file to write; its runs go beside.")
@click.option("--markdown", type=OUTPUT_FILE, help="The papers' tables, with ours, to write as well.")
@click.option("--compare", metavar="FILE", help="A detector to compare with, on the same images and resamples.")
@click.option(
    "--max-per-image",
    type=click.IntRange(min=1, max=1000),
    help="Detections to keep, for AR1000. [100, LVIS 300: as many as count for all else]",
)
@click.option("--bootstrap", type=click.IntRange(min=0), default=1000, show_default=True, help="Resamples of images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resamples.")
@_amp_option
@device_options
def evaluate_detector(
    checkpoint: str,
    truths: tuple[str, ...],
    folders: tuple[str, ...],
    folders_by_old_name: tuple[str, ...],
    out: str,
    markdown: str | None,
    compare: str | None,
    **settings: Any,
) -> None:
    """Score a detector on benchmarks as the papers do, with intervals, beside published figures."""
    need_mmdet()
    from rich.console import Console

    from detector.evaluation import published
    from detector.evaluation.evaluate import evaluate_detector as score
    from detector.evaluation.evaluate import metrics_json, rows_of
    from detector.model.checkpoints import read_detector
    from detector.model.weight_files import need_checkpoint
    from pipeline.evaluation.report import print_report
    from pipeline.evaluation.truth.formats import read_truth
    from pipeline.storage.outputs import output_file

    folders += folders_by_old_name
    if folders and len(folders) != len(truths):
        raise click.UsageError(f"{len(folders)} --truth-images for {len(truths)} --truth: give one for each, or none")
    for given in filter(None, (checkpoint, compare)):
        need_checkpoint(Path(given))
    pairs = zip(truths, folders or (None,) * len(truths), strict=True)
    sets = [read_truth(truth, images) for truth, images in pairs]
    detector, other = read_detector(checkpoint), read_detector(compare) if compare else None
    scored = score(detector, sets, Path(out), _reporting(executor()), other=other, **settings)
    for one in scored:
        print_report(one.report)
        click.echo(f"speed   {one.speed.images_per_second:.2f} images/s of a worker\n")
    tables = published.tables(rows_of(detector, other, scored))
    published.print_tables(tables, Console(highlight=False, width=None if sys.stdout.isatty() else 200))
    with output_file(out) as file:
        file.write(metrics_json(detector, other, scored))
    click.echo(f"written {out}")
    if markdown:
        with output_file(markdown) as file:
            file.write(published.markdown(tables))
        click.echo(f"written {markdown}")
    if any(one.report.missing for one in scored):
        sys.exit(INCOMPLETE)


COMMANDS: tuple[click.Command, ...] = (predict, self_train, evaluate_detector)


def _reporting(execute: RunExecutor) -> RunExecutor:
    """The same, with a progress bar of its own for each run."""
    from pipeline.commands.progress import ProgressReporter

    def run(*arguments: Any, **options: Any) -> Any:
        return execute(*arguments, reporter=ProgressReporter(), **options)

    return run


def _refuse_of_predictions(config: str, batch_size: int | None) -> None:
    """UsageError for options of predictions that are made before a round trains."""
    for option, given, instead in (
        ("--ray", works_elsewhere(), "--train-workers N trains on Ray, --train-ray ADDRESS says where"),
        ("--batch-size", batch_size is not None, "--train-batch-size is that of the training"),
    ):
        if given:
            raise click.UsageError(
                f"{option} is of predictions before a round, and {config} has a teacher that labels while training: "
                f"leave it out; {instead}"
            )


def _trainer(workers: int | None, address: str | None) -> Any:
    """Who trains: this process, or some of Ray's."""
    if workers is None:
        if address is not None:
            raise click.UsageError("--train-ray is of use with --train-workers only: say how many processes")
        return _train_here
    return partial(_train_on_ray, address=address, workers=workers)


def _train_here(training: "Training") -> Path:
    from detector.training.train import train

    return train(training)


def _train_on_ray(training: "Training", address: str | None, workers: int) -> Path:
    from detector.training.on_ray import RayTraining, train_on_ray

    return train_on_ray(training, RayTraining(address, workers))


def _try_out(training: "Training", rounds: "SelfTraining") -> None:
    """Before the first round predicts, which may take a day."""
    from detector.training.wanted import check_training

    first = replace(
        training, runs=(rounds.run,), init_from=rounds.checkpoint, work_dir=str(rounds.work_dir), resume=None
    )
    check_training(first)
    from detector.training.self_training import refuse_another_kind
    from detector.training.train import try_out  # and MMDetection with it

    refuse_another_kind(rounds)

    try_out(first)


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"thresholds {text!r} are not numbers with commas between") from error
