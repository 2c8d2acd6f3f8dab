"""A shard of which every image is set aside for one reason commits nothing, and the command says why."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.tiny_method import draw_photos, tiny_method
from support.tiny_run import tiny_launch

from pipeline.cli import command_line
from pipeline.engine.run import retry_quarantined, run
from pipeline.engine.shard_worker import ShardPass
from pipeline.engine.whole_shards import WholeShardError, refuse_whole_shard
from pipeline.errors import RunMismatchError
from pipeline.images.manifest import ImageRef, Shard
from pipeline.results.kinds import Failed
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.standing import standing_of


def cuts3d(*words: object) -> Result:
    return CliRunner().invoke(command_line([]), [str(word) for word in words])


def standing(out: Path) -> tuple[int, int, int]:
    found = standing_of(RunFolder.open(out))
    return found.missing, found.set_aside, found.exit_status


def test_depth_maps_under_other_names(tmp_path: Path) -> None:
    """The first shard has its maps, the second has not: what is done stays, what is not is not lost."""
    launch, out = tiny_launch(tmp_path, images=6), tmp_path / "run"
    hidden = [tmp_path / f"depth/00{i}.npy" for i in (3, 4, 5)]
    for file in hidden:
        file.rename(file.with_name(f"{file.stem}_depth.npy"))
    with pytest.raises(WholeShardError, match=r"every image of shard 00001 was set aside as no_depth_map.*003\.png"):
        run(out, launch, device="cpu")
    assert standing(out) == (1, 0, 1)
    assert run(out, device="cpu", accept_set_aside=True).standing.exit_status == 1
    assert standing(out) == (0, 3, 1)
    again = retry_quarantined(out, device="cpu")
    assert (again.quarantined, standing(out)) == (3, (0, 3, 1)), "a retry has nothing but such images"
    for file in hidden:
        file.with_name(f"{file.stem}_depth.npy").rename(file)
    assert retry_quarantined(out, device="cpu").standing.exit_status == 0


def test_the_command_line(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 3)
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/000_depth.npy", np.zeros((4, 4), np.float32))  # under another name than the photo's
    words = ["run", "--images", tmp_path / "photos", "--out", tmp_path / "run", "--depth", f"maps:{tmp_path}/maps"]
    small = ["--features", f"test_vit={tiny_launch(tmp_path / 'tiny').settings['features'].partition('=')[2]}"]
    settings = ["--set", "features.size=128", "--set", "affinity.tau=0.1", "--device", "cpu"]
    done = cuts3d(*words, *small, *settings)
    assert done.exit_code == 2, done.output
    assert "set aside as no_depth_map" in done.output
    assert "maps/000.png.npy" in done.output, "the first file looked for"
    assert "--accept-set-aside" in done.output
    assert cuts3d("status", tmp_path / "run").exit_code == 1


def failed(*reasons: str) -> list[Failed]:
    return [Failed(f"{i}.png", reason, f"about {i}") for i, reason in enumerate(reasons)]


@pytest.mark.parametrize(
    "results",
    [
        failed("truncated"),  # a shard of one image: it may well be the image
        failed("truncated", "missing"),
        [*failed("missing", "missing"), "a result"],
        [],  # each of them had killed its worker before
    ],
)
def test_what_may_be_the_images_fault_is_committed(results: list[object]) -> None:
    refuse_whole_shard("00000", results, [])


def test_one_broken_photo_of_many(tmp_path: Path) -> None:
    launch, out = tiny_launch(tmp_path, images=4, shard_size=2), tmp_path / "run"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "photos/001.png")
    summary = run(out, launch, device="cpu")
    assert (summary.standing.set_aside, summary.standing.exit_status) == (1, 1)
    assert "images     4 of 4 done, 1 of them set aside" in "\n".join(summary.lines())


@pytest.mark.parametrize(("level", "is_traced"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_tracebacks_are_logged_with_verbose_alone(
    level: int, is_traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "pipeline")
    state = ShardPass(tiny_method(), Shard("00000", (ImageRef("a.png", "a.png"),)), None, {}, lambda result: None)
    try:
        raise ValueError("no such channel")
    except ValueError as error:
        state.set_aside(0, error)
    (record,) = caplog.records
    assert "image a.png set aside: ValueError: no such channel" in record.getMessage()
    assert bool(record.exc_info) == is_traced


def test_a_run_keeps_its_own_shard_size(tmp_path: Path) -> None:
    """Whatever the default is by now, and when photos have been added, which is told without it."""
    launch, out = tiny_launch(tmp_path, images=6, shard_size=5), tmp_path / "run"
    run(out, launch, device="cpu")
    later = replace(launch, shard_size=None)
    assert run(out, later, device="cpu").images == 0
    draw_photos(tmp_path / "photos/more", 1)
    with pytest.raises(RunMismatchError, match=r"1 image added \(more/000.png\)\n"):
        run(out, later, device="cpu")
