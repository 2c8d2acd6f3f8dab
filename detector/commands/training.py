"""Commands that train a detector, or have to do with it: train, configs, import-detector, training-samples."""

import logging
import os
import sys
from typing import Any

import click

from detector.commands.options import SEED, TrainingOptions, configuration_options, training_options
from detector.model.detectron2 import LAYOUTS
from detector.needs import need_mmdet
from pipeline.commands.options import OUTPUT_FILE, OUTPUT_FOLDER, device_option
from pipeline.exit_status import INTERRUPTED
from pipeline.wording import counted


@click.command()
@click.option("--run", "runs", multiple=True, help="Run folder or URL whose labels are learnt; several add up.")
@click.option("--work-dir", required=True, type=OUTPUT_FOLDER, help="Folder for checkpoints and logs.")
@click.option("--resume", is_flag=True, help="Resume from the last checkpoint in the work folder.")
@training_options(config="cuts3d_r50_fpn")
@device_option
@click.option("--backbone", metavar="FILE", help="DINO's ResNet-50, or `random`. [the cache, or fetched into it]")
@click.option("--init-from", metavar="CHECKPOINT", help="A detector to start from, in place of the backbone alone.")
@click.option("--val-truth", metavar="JSON", help="COCO file to validate with, see train_cfg.val_interval.")
@click.option("--val-images", metavar="FOLDER", help="Folder that its file names are relative to.")
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Train on Ray: started here when no address is given, else the cluster at HOST:6379; auto finds it.",
)
@click.option("--workers", type=click.IntRange(min=1), help="With --ray: processes, one for each GPU. [1]")
@click.option("--cpus-per-worker", type=click.IntRange(min=1), help="With --ray: cores of each. [1, with a GPU 8]")
def train(
    how: TrainingOptions, ray: str | None, workers: int | None, cpus_per_worker: int | None, **wanted: Any
) -> None:
    """Train a detector: class-agnostic on the masks of runs; panoptic on panoptic labels, --config cups_r50_fpn.

    On several GPUs of one machine: torchrun --nproc-per-node N -m detector.training -- and the same options.
    """
    need_mmdet()
    first = os.environ.get("RANK", "0") == "0"  # torchrun's; one process speaks for all
    if not first:
        logging.disable(logging.INFO)
    if ray is None and (workers or cpus_per_worker):
        raise click.UsageError(
            "--workers and --cpus-per-worker are of use with --ray only: add --ray, or leave them out"
        )
    from detector.training.wanted import check_settings, check_training

    training = how.training(**wanted)
    if ray in (None, "local"):
        check_training(training)
    else:  # what is on this machine need not be there
        check_settings(training)
    try:
        if ray is None:
            from detector.training.train import train as train_here

            path = train_here(training)
        else:
            from detector.training.on_ray import RayTraining, train_on_ray

            path = train_on_ray(training, RayTraining(ray, workers or 1, cpus_per_worker))
    except KeyboardInterrupt:
        from detector.training.folder import training_at

        has_any = training_at(training.work_dir).latest_checkpoint() is not None
        again = "with --resume resumes from the last checkpoint" if has_any else "starts it again"
        click.echo(f"cuts3d: interrupted; the same command {again}", err=True)
        sys.exit(INTERRUPTED)
    if first:
        click.echo(f"detector   {path}")


@click.command()
@click.argument("name", required=False)
def configs(name: str | None) -> None:
    """Configurations of the detector by name; with NAME, that one as one file, for a project of one's own."""
    need_mmdet()
    from detector.training.config import config_names, headline, read_config

    if name is None:
        width = max(map(len, config_names()))
        for known in config_names():
            click.echo(f"{known:{width}}  {headline(known)}")
        return
    click.echo(read_config(name, pretty=True).pretty_text)


class ThreeNumbers(click.ParamType):
    """One number for each channel, 0..255: "58.395,57.12,57.375"; one alone is all three."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 3) or not all(0 < number <= 255 for number in numbers):
            self.fail(f"{value!r} is not N,N,N, one number above 0 and up to 255 for each channel.", param, ctx)
        return numbers * (3 // len(numbers))


@click.command("import-detector")
@click.argument("checkpoint")
@click.option("--out", required=True, type=OUTPUT_FILE, help="File to write, such as detector.safetensors.")
@click.option(
    "--config",
    metavar="FILE",
    help="Of MMDetection: what it was trained by; MMEngine keeps it beside it. With --layout: the same network in "
    "MMDetection, if it is not a Cascade Mask R-CNN with ResNet-50 and FPN.",
)
@click.option("--layout", type=click.Choice(list(LAYOUTS)), help="Of Detectron2: the method, or Detectron2's defaults.")
@click.option("--pixel-order", type=click.Choice(["rgb", "bgr"]), help="Of Detectron2: INPUT.FORMAT. [the layout's]")
@click.option(
    "--pixel-mean", type=ThreeNumbers(), metavar="N,N,N", help="Of Detectron2: MODEL.PIXEL_MEAN. [the layout's]"
)
@click.option(
    "--pixel-std", type=ThreeNumbers(), metavar="N,N,N", help="Of Detectron2: MODEL.PIXEL_STD. [the layout's]"
)
@click.option(
    "--stride-in",
    type=click.Choice(["3x3", "1x1"]),
    help="Of Detectron2: the convolution of a bottleneck that scales down, 1x1 if MODEL.RESNETS.STRIDE_IN_1X1. [the "
    "layout's]",
)
@click.option("--copy", type=click.Choice(["student", "teacher"]), help="Of two copies in the file. [student]")
def import_detector_command(checkpoint: str, out: str, config: str | None, layout: str | None, **told: Any) -> None:
    """A detector.safetensors out of a checkpoint of a class-agnostic detector: of plain MMDetection, with --config; or
    of CutLER, CuVLER, CutS3D, HASSOD and others that Detectron2 trained, with --layout.
    """
    given = [name for name, value in told.items() if value is not None]
    if layout is None and config is None:
        raise click.UsageError("give --config FILE for a detector of MMDetection, --layout NAME for Detectron2's")
    if layout is None and given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} goes with --layout only: add it, or leave it out")
    need_mmdet()
    if layout is not None:
        from detector.training.import_detectron2 import CONFIG, Told, import_detectron2

        imported = import_detectron2(checkpoint, out, Told(layout, **told), config or CONFIG)
        for line in imported.left_out:
            click.echo(f"left out   {line}")
        click.echo(f"detector   {imported.path}")
    elif config is not None:
        from detector.training.import_detector import import_detector

        click.echo(f"detector   {import_detector(checkpoint, config, out)}")


@click.command("training-samples")
@click.option("--run", "runs", multiple=True, required=True, help="Run folder or URL; several add up.")
@configuration_options("cuts3d_r50_fpn")
@click.option("--out", required=True, type=OUTPUT_FILE, help="Picture to write.")
@click.option("--count", type=click.IntRange(min=1), default=24, show_default=True, help="How many.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of their choice.")
def training_samples(
    runs: tuple[str, ...], config: str, settings: tuple[str, ...], out: str, count: int, seed: int
) -> None:
    """A picture of training samples as the network sees them, after every augmentation."""
    need_mmdet()
    from detector.training.config import components, settled_config, training_dataset

    settled = settled_config(config, runs, settings)
    if any(components(settled.train_dataloader.dataset, "PanopticStoreDataset")):
        from detector.training.panoptic_samples import write_panoptic_samples

        drawn = write_panoptic_samples(settled, out, count, seed)
    else:
        from detector.data.sample_page import write_samples

        drawn = write_samples(training_dataset(settled), out, count, seed)
    click.echo(f"{counted(drawn, 'sample')} in {out}")


COMMANDS = (train, configs, import_detector_command, training_samples)
