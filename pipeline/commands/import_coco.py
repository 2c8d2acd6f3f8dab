"""The command that takes in masks made by others: import-coco."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.executing import ExecutingCommand, RunExecutor, executor
from pipeline.commands.options import OUTPUT_RUN, Number, exit_with, say

if TYPE_CHECKING:
    from pipeline.runs.summary import Reporter, RunSummary


@click.command("import-coco", cls=ExecutingCommand)
@click.argument("coco", metavar="JSON")
@click.option("--images", help="Folder that the file's names are relative to. [the file's own, images/ in it, ...]")
@click.option(
    "--out", required=True, type=OUTPUT_RUN, help="Run folder, path or URL; an import that was begun there resumes."
)
@click.option("--images-of", metavar="JSON2", help="For a list of detections: the COCO file that lists its images.")
@click.option("--min-score", type=Number(), default=0.0, show_default=True, help="Drop masks with lower scores.")
@click.option("--shard-size", type=click.IntRange(min=1), help="Images per shard. [a 32nd of them, 2..256]")
@click.option("--accept-set-aside", is_flag=True, help="Commit shards of which every image is set aside, too.")
def import_coco_command(coco: str, out: str, **settings: Any) -> None:
    """Make a run of masks that others have made: a COCO instances file, CutLER's for instance.

    Their spatial confidence is 1. What reads runs reads it: export, gallery, evaluate, training. Exits with 1 while any
    image is missing or set aside.
    """
    from pipeline.commands.progress import ProgressReporter

    summary = import_coco(coco, out, execute=executor(), reporter=ProgressReporter(), **settings)
    say(summary)
    exit_with(summary.standing)


def import_coco(
    coco: str,
    out: str | Path,
    images: str | None = None,
    *,
    accept_set_aside: bool = False,
    execute: RunExecutor | None = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> RunSummary:
    """Make a run of a COCO instances file, or resume one; of images that were set aside those that can be used by now
    are taken up.

    coco, images, and settings (images_of, min_score, shard_size): see `settings.launch_of`.
    out: run folder.
    accept_set_aside: see `engine.run.run`.
    execute: does the work, see `executor`; None: this process.

    Raises SourceError when the file is no COCO file, not one of its masks is taken, its ids do not fit, or none of its
    images is there; ConfigError when a setting is out of range; and what `engine.run.run` raises. Photos that are
    elsewhere now are read from there by all that reads the run.
    """
    from pipeline.engine.run import retry_quarantined, run
    from pipeline.methods.coco_import.importing import (
        CocoImport,
        refuse_nothing,
        tell_of_swapped_sizes,
        usable_again,
    )
    from pipeline.methods.coco_import.settings import launch_of
    from pipeline.runs.launch import with_own_shard_size
    from pipeline.runs.run_folder import RunFolder
    from pipeline.storage.files_at import files_at

    files_at(out).need_writable()
    launch = with_own_shard_size(launch_of(coco, images, **settings), out)
    method = CocoImport.of(launch)
    manifest = method.manifest(launch)
    accepted: dict[str, Any] = {"accept_set_aside": True} if accept_set_aside else {}
    if not _is_begun(out, method.config()):
        refuse_nothing(method, manifest)
    summary: RunSummary = (execute or run)(out, launch, method=method, manifest=manifest, reporter=reporter, **accepted)
    if ids := usable_again(RunFolder.open(out), method):
        again = retry_quarantined(out, ids=ids, method=method)
        summary.add(again.counts, again.seconds)
        summary.standing = again.standing
    tell_of_swapped_sizes(method, RunFolder.open(out))
    return summary


def _is_begun(out: str | Path, config: Mapping[str, Any]) -> bool:
    """Whether something of this import is done already. RunMismatchError for one of another file or other settings."""
    from pipeline.runs.run_folder import RUN_FILE, RunFolder
    from pipeline.storage.files_at import files_at

    if not files_at(out).exists(RUN_FILE):
        return False
    folder = RunFolder.open(out)
    folder.refuse_other_config(config)
    return bool(folder.ledger.committed_keys())
