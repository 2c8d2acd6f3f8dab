"""Batches of clips through the recipes motion and cups, by given motion and movers: against the recipe depthg, which
mixes by stored maps; apart and in processes; what fails and what is empty.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.given_motion import (
    CAMERA,
    GivenMotion,
    GivenMovers,
    movers_of,
    rectangle,
    still_motion,
    write_clips,
)
from support.labelled_run import commit_labels, labelled_run
from support.method_samples import MOVERS, draw_clips
from support.tiny_labels import tiny_labels

from pipeline.engine.cpu_pool import cpu_pool
from pipeline.engine.run import retry_quarantined, run
from pipeline.errors import ImageError, RunMismatchError
from pipeline.images.photos import Photo
from pipeline.images.sources import list_images
from pipeline.images.stereo_clips import Clip, load_clip
from pipeline.methods.cups import motion_work
from pipeline.methods.cups.labelled_run import LabelledRun
from pipeline.methods.cups.method import CupsMethod
from pipeline.methods.cups.motion_method import GRID, MotionMethod
from pipeline.methods.cups.motion_work import MoverSearch
from pipeline.methods.cups.recipe import read_cups, read_motion
from pipeline.methods.protocol import Batch, SharedOutputs
from pipeline.models.depth_maps import DepthMaps
from pipeline.results.instances import ImageRecord
from pipeline.results.kinds import Failed
from pipeline.results.panoptic import PanopticRecord
from pipeline.runs.launch import Launch
from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import SemanticReader
from stages.motion.camera import Camera
from stages.motion.movers import Movers
from stages.motion.opencv_motion import OpencvMotion

PLAIN = ("refine.crf=none", "mirror=false")
TINY = ("cups.checkpoint=tiny",)
SIZE = (64, 80)
CAR = rectangle(30, 50, 20, 60)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3)).astype(np.uint8)
    return np.ascontiguousarray(small.repeat(8, axis=0).repeat(8, axis=1)[: size[0], : size[1]])


def clip(id_: str, pixels: np.ndarray, camera: Camera = CAMERA) -> Clip:
    photo = Photo(id_, pixels)
    return Clip(id_, photo, photo, photo, photo, camera)


def motion_of(clips: Sequence[Clip], seed: int = 0) -> GivenMotion:
    """Disparities at random, some 0, some not known."""
    found = {}
    for i, one in enumerate(clips):
        rng = np.random.default_rng(seed + i)
        disparity = rng.uniform(0.5, 60, one.left.rgb.shape[:2])
        disparity[:8], disparity[8:16] = np.nan, 0
        found[one.id] = still_motion(disparity)
    return GivenMotion(found)


def cups_of(motion: GivenMotion, *overrides: str) -> CupsMethod:
    """With the tiny model."""
    recipe = read_cups([*TINY, *(f"cups.{one}" for one in PLAIN), *overrides])
    assert recipe.labels is not None
    labeller = replace(tiny_labels().labeller, recipe=recipe.labels)
    return CupsMethod(MoverSearch(recipe.finding, motion), labeller)


def outputs(method: MotionMethod | CupsMethod, clips: Sequence[Clip], **options: Any) -> list[Any]:
    with torch.inference_mode():
        return list(method.outputs(Batch(None, range(len(clips)), clips, **options)))


@pytest.fixture
def nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, movers_of())


def give(monkeypatch: pytest.MonkeyPatch, *answers: Movers) -> GivenMovers:
    given = GivenMovers(*answers)
    monkeypatch.setattr(motion_work, "find_movers", given)
    return given


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_labels_are_those_of_depthg_by_stored_maps_of_the_clips_disparity(
    nothing_moves: None, tmp_path: Path, reading: str
) -> None:
    clips = [clip("a.png", picture(0)), clip("b.png", picture(1, (70, 120)))]
    motion = motion_of(clips)
    for id_, one in motion.motion.items():
        np.save(tmp_path / f"{id_}.npy", one.disparity_HW)
    method = cups_of(motion, f"cups.windows.reading={reading}")
    by_maps = [*PLAIN, "windows=on", f"windows.reading={reading}", f"windows.metres={CAMERA.fx * CAMERA.baseline}"]
    stored = tiny_labels([f"depthg.{one}" for one in by_maps], depth=DepthMaps(tmp_path, "inverse_depth"))
    with torch.inference_mode():
        expected = stored.outputs(Batch(None, range(2), [one.left for one in clips]))
    found = outputs(method, clips)
    assert [record.semantic for record in found] == expected
    assert len({*found[0].labels.ravel()}) > 1


def test_windows_are_on_by_default_and_distance_decides(nothing_moves: None) -> None:
    clips = [clip("a.png", picture())]
    near, far = (GivenMotion({"a.png": still_motion(np.full(SIZE, value))}) for value in (1e9, 0.0))
    (at_hand,), (at_infinity,) = outputs(cups_of(near), clips), outputs(cups_of(far), clips)
    for share, expected in (("1", at_hand), ("0", at_infinity)):
        (fixed,) = outputs(cups_of(near, f"cups.windows.whole_share={share}"), clips)
        assert np.array_equal(fixed.labels, expected.labels)
    assert (at_hand.labels != at_infinity.labels).mean() > 0.1
    (released,) = outputs(cups_of(far, "cups.windows.reading=released"), clips)
    (whole,) = outputs(cups_of(far, "cups.windows.reading=released", "cups.windows.whole_share=1"), clips)
    assert np.array_equal(released.labels, whole.labels), "by its name: a disparity of 0 takes the whole picture's"


def test_distance_is_that_of_the_clips_own_camera(nothing_moves: None) -> None:
    motion = GivenMotion({"a.png": still_motion(np.full(SIZE, 5.0))})
    double = replace(CAMERA, baseline=2 * CAMERA.baseline)
    farther = GivenMotion({"a.png": still_motion(np.full(SIZE, 10.0))})
    (one,) = outputs(cups_of(motion), [clip("a.png", picture())])
    (other,) = outputs(cups_of(farther), [clip("a.png", picture(), double)])
    assert one == other


# --- movers -----------------------------------------------------------------------------------------------------------


def test_movers_are_instances_of_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, movers_of(CAR, rectangle(5, 20, 20, 40)), movers_of(reason="no_agreement"))
    clips = [clip("a.png", picture(0)), clip("b.png", picture(1))]
    motion = motion_of(clips)
    found, still = outputs(cups_of(motion), clips)
    assert [(one.area, round(one.confidence, 4)) for one in found.instances] == [(800, 1.0), (300, 0.8)]
    assert np.array_equal(found.instance_ids == 1, CAR)
    assert (found.reason, still.reason) == ("", "no_agreement")
    assert found.reliable == still.reliable == 0.5
    give(monkeypatch, movers_of())
    (plain,) = outputs(cups_of(motion), clips[:1])
    outside = found.instance_ids == 0
    assert np.array_equal(found.labels[outside], plain.labels[outside])
    votes = np.bincount(plain.labels[CAR], minlength=5)
    assert set(found.labels[CAR].tolist()) == {int(votes.argmax())}


def test_movers_are_masks_with_their_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, movers_of(CAR, rectangle(5, 20, 20, 40)), movers_of(reason="all_background"))
    clips = [clip("a.png", picture(0)), clip("b.png", picture(1))]
    method = MotionMethod(MoverSearch(read_motion([]), motion_of(clips)))
    found, still = outputs(method, clips)
    assert isinstance(found, ImageRecord)
    assert [(one.area, round(one.score, 4)) for one in found.instances] == [(800, 1.0), (300, 0.8)]
    first, second = (one.confidence for one in found.instances)
    assert first.shape == GRID
    assert set(np.unique(first)) == {0, 255}
    assert set(np.unique(second)) == {0, 204}
    assert (found.drops, still.drops, still.status) == ({}, {"all_background": 1}, "no_masks")


def test_motion_is_looked_at_at_the_working_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and camera are scaled together, and the masks back."""
    large = picture(0, (256, 320))
    clips = [clip("a.png", large, CAMERA.scaled(4, 4))]
    motion = GivenMotion({"a.png": still_motion(np.full(SIZE, 5.0))})
    given = give(monkeypatch, movers_of(CAR))
    recipe = read_motion(["motion.side=64", "motion.seed=3", "movers.runs=5"])
    (found,) = outputs(MotionMethod(MoverSearch(recipe, motion)), clips)
    assert motion.seen == [SIZE] * 4
    ((_, camera, config, seed),) = given.asked
    assert [getattr(camera, name) for name in ("fx", "fy", "cx", "cy")] == pytest.approx([100, 100, 40, 32])
    assert (config.runs, seed) == (5, 3)
    assert found.size == (256, 320)
    assert found.instances[0].area == 16 * 800
    assert found.instances[0].box == (80, 120, 160, 80)


def test_processes_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [clip(f"{i}.png", picture(i)) for i in range(5)]
    motion = motion_of(clips)
    monkeypatch.setattr(motion_work, "find_movers", _by_disparity)
    seconds: defaultdict[str, float] = defaultdict(float)
    alone = outputs(cups_of(motion), clips, seconds=seconds)
    assert seconds.keys() >= {"motion", "movers", "features", "labels", "fuse", "encode"}
    with ThreadPoolExecutor(3) as pool:
        assert outputs(cups_of(motion), clips, pool=pool, seconds=seconds) == alone
        assert outputs(cups_of(motion), clips[::-1], pool=pool) == alone[::-1]
    assert len({record.instances[0].area for record in alone}) > 1


@pytest.mark.slow(20)
def test_processes_of_a_pool_find_the_same_in_pictures(tmp_path: Path) -> None:
    draw_clips(tmp_path)
    clips = [load_clip(ref) for ref in list_images(f"clips:{tmp_path / 'clips.csv'}").refs]
    recipe = read_motion(MOVERS)
    alone = outputs(MotionMethod(MoverSearch(recipe, OpencvMotion(threads=3))), clips)
    with cpu_pool(2) as pool:
        assert outputs(MotionMethod(MoverSearch(recipe, OpencvMotion())), clips, pool=pool) == alone
    assert sum(len(record.instances) for record in alone) > 0


def _by_disparity(motion: Any, *others: Any) -> Movers:
    with np.errstate(invalid="ignore"):
        return movers_of(motion.disparity_HW > 30)


def test_methods_side_by_side_share_the_motion(nothing_moves: None) -> None:
    clips = [clip("a.png", picture())]
    motion, shared = motion_of(clips), SharedOutputs()
    methods = [MotionMethod(MoverSearch(read_motion([f"movers.runs={runs}"]), motion)) for runs in (2, 4)]
    for method in methods:
        outputs(method, clips, shared=shared)
    assert len(motion.seen) == 4, "of one clip once"
    outputs(MotionMethod(MoverSearch(read_motion(["motion.side=none"]), motion)), clips, shared=shared)
    assert len(motion.seen) == 8, "another size is another motion"


# --- failures, and emptiness ------------------------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path: Path) -> str:
    return write_clips(tmp_path, {f"{i}.png": [picture(i)] * 4 for i in range(6)})


def test_what_failed_is_set_aside_and_what_is_empty_is_counted(
    monkeypatch: pytest.MonkeyPatch, clips: str, tmp_path: Path
) -> None:
    give(monkeypatch, movers_of(CAR), movers_of(reason="few_reliable"), movers_of(reason="no_proposal"))
    known = {f"{i}.png": still_motion(np.full(SIZE, 9.0)) for i in range(6) if i != 4}
    launch = Launch(clips, recipe="cups", overrides=TINY, shard_size=3)
    summary = run(tmp_path / "run", launch, method=cups_of(GivenMotion(known)))
    assert (summary.complete, summary.quarantined) == (True, 1)
    counts = summary.standing.counts
    assert sum(counts["empty"].values()) + counts["instances"] == 5, "one mover a clip, or a reason"
    assert counts["empty"].keys() == {"few_reliable", "no_proposal"}
    (aside,) = RunReader(RunFolder.open(tmp_path / "run")).quarantined()
    assert (aside.id, aside.reason) == ("4.png", "no_motion")
    assert "nobody knows how 4.png moves" in aside.detail
    summary = run(tmp_path / "masks", replace(launch, recipe="motion", overrides=()), method=_masks(known))
    assert sum(summary.standing.counts["drops"].values()) + summary.standing.counts["masks"] == 5


def _masks(known: dict[str, Any]) -> MotionMethod:
    return MotionMethod(MoverSearch(read_motion([]), GivenMotion(known)))


def test_an_error_that_is_the_images_stays_what_it_is(nothing_moves: None) -> None:
    class Maps(GivenMotion):
        def __call__(self, *given: Any) -> Any:
            raise ImageError("no_maps", "it has none")

    with pytest.raises(ImageError, match="no_maps"):
        outputs(MotionMethod(MoverSearch(read_motion([]), Maps({}))), [clip("a.png", picture())])


def test_a_clip_that_was_without_maps_is_tried_again(nothing_moves: None, clips: str, tmp_path: Path) -> None:
    known = {f"{i}.png": still_motion(np.full(SIZE, 9.0)) for i in range(6)}
    before = GivenMotion({id_: one for id_, one in known.items() if id_ != "4.png"}, fingerprint="without")
    launch = Launch(clips, recipe="cups", overrides=TINY, shard_size=3)
    assert run(tmp_path / "run", launch, method=cups_of(before)).quarantined == 1
    mended = GivenMotion(known, fingerprint="with")
    with pytest.raises(RunMismatchError, match="motion"):
        retry_quarantined(tmp_path / "run", launch, method=cups_of(mended))
    before.name = mended.name = "maps:folder"
    assert run(tmp_path / "maps", launch, method=cups_of(before)).quarantined == 1
    again = retry_quarantined(tmp_path / "maps", launch, method=cups_of(mended))
    assert again.standing.set_aside == 0
    assert run(tmp_path / "maps", launch, method=cups_of(mended)).complete


# --- labels of a run --------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path: Path) -> RunFolder:
    rng = np.random.default_rng(0)
    labels: dict[str, np.ndarray | None] = {f"{i}.png": rng.integers(0, 5, SIZE).astype(np.uint8) for i in range(6)}
    return labelled_run(tmp_path / "labels", {**labels, "2.png": None, "5.png": labels["5.png"][:32]}, 5)


def with_run(run: RunFolder) -> CupsMethod:
    recipe = read_cups([f"cups.semantic={run.url}"])
    known = {f"{i}.png": still_motion(np.full(SIZE, 9.0)) for i in range(6)}
    return CupsMethod(MoverSearch(recipe.finding, GivenMotion(known)), LabelledRun.open(run.url))


def records_of(place: Path) -> Iterator[PanopticRecord | Failed]:
    yield from PanopticReader(RunFolder.open(place))


def test_labels_of_a_run_are_fused(
    monkeypatch: pytest.MonkeyPatch, clips: str, labelled: RunFolder, tmp_path: Path
) -> None:
    give(monkeypatch, movers_of(CAR))
    launch = Launch(clips, recipe="cups", overrides=(f"cups.semantic={labelled.url}",), shard_size=4)
    assert run(tmp_path / "run", launch, method=with_run(labelled)).quarantined == 2
    given = {result.id: result for result in RunReader(labelled)}
    for record in records_of(tmp_path / "run"):
        if isinstance(record, Failed):
            assert (record.id, record.reason) in (("2.png", "no_labels"), ("5.png", "other_size"))
            continue
        assert np.array_equal(record.labels[~CAR], given[record.id].labels[~CAR])
        assert record.instances[0].class_ == np.bincount(given[record.id].labels[CAR]).argmax()
    config = RunFolder.open(tmp_path / "run").config
    assert config["recipe"]["labels"] is None
    assert config["semantic"].keys() == {"recipe", "model", "fingerprint"}
    assert config["semantic"]["model"] == SemanticReader(labelled).model
    assert PanopticReader(RunFolder.open(tmp_path / "run")).model == SemanticReader(labelled).model
    assert str(tmp_path) not in str(config)


def test_a_run_of_other_labels_is_another_run(
    monkeypatch: pytest.MonkeyPatch, clips: str, labelled: RunFolder, tmp_path: Path
) -> None:
    give(monkeypatch, movers_of(CAR))
    launch = Launch(clips, recipe="cups", overrides=TINY)
    run(tmp_path / "run", launch, method=with_run(labelled))
    other = labelled_run(tmp_path / "other", {f"{i}.png": np.zeros(SIZE, np.uint8) for i in range(6)}, 5)
    with pytest.raises(RunMismatchError, match=r"semantic\.fingerprint"):
        run(tmp_path / "run", launch, method=with_run(other))


def test_pictures_that_got_their_labels_later_are_tried_again(
    monkeypatch: pytest.MonkeyPatch, clips: str, labelled: RunFolder, tmp_path: Path
) -> None:
    give(monkeypatch, movers_of(CAR))
    launch = Launch(clips, recipe="cups", overrides=(f"cups.semantic={labelled.url}",))
    assert run(tmp_path / "run", launch, method=with_run(labelled)).quarantined == 2
    labels_HW = np.full(SIZE, 3, np.uint8)
    (shard,) = labelled.retry_shards(["2.png"])
    commit_labels(labelled, shard, [labels_HW], 5)
    again = retry_quarantined(tmp_path / "run", launch, method=with_run(labelled))
    assert again.standing.set_aside == 1
    record = next(one for one in records_of(tmp_path / "run") if one.id == "2.png")
    assert isinstance(record, PanopticRecord)
    assert np.array_equal(record.labels, labels_HW)
