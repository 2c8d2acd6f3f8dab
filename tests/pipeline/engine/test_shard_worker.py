"""One shard through the stages: bad images, failing stages, kept outputs."""

import dataclasses
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bad_images import bad_folder
from support.tiny_method import BrightnessDepth, draw_photos, tiny_method
from support.waiting import PATIENCE

from pipeline.engine.cpu_pool import cpu_pool
from pipeline.engine.shard_worker import ShardResult, ShardWorker
from pipeline.errors import CutsError, ImageError, WorkerBrokenError
from pipeline.faults import IMAGE_VARIABLE
from pipeline.images.manifest import Shard
from pipeline.images.sources import list_images
from pipeline.methods.cuts.method import CutsMethod
from pipeline.methods.cuts.recipes import RECIPES
from pipeline.methods.cuts.stage_files import KeptOutputs
from pipeline.methods.cuts.stage_graph import STAGES
from pipeline.results.instance_file import ShardFile
from pipeline.results.instances import ImageRecord

WITH_CONFIDENCE = [name for name, recipe in RECIPES.items() if recipe.spatial_confidence is not None]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    draw_photos(folder, 5)
    return folder


def shard_of(folder: Path) -> Shard:
    return Shard("00000", list_images(str(folder)).refs)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with cpu_pool(2) as processes:
        yield processes


def process(
    method: CutsMethod, folder: Path, until: str | None = None, batch_size: int = 2, **kept: KeptOutputs
) -> ShardResult:
    return ShardWorker(method, batch_size).process(shard_of(folder), until, kept, {})


class FailsOn(BrightnessDepth):
    """A depth model that breaks on images of these ids."""

    def __init__(self, *ids: str, error: type[Exception] = RuntimeError) -> None:
        self.ids = ids
        self.error = error
        self.calls: list[int] = []

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        self.calls.append(len(ids))
        if set(ids) & set(self.ids):
            raise self.error("kernel panic")
        return super().predict(images, ids)


@pytest.mark.parametrize("recipe", RECIPES)
def test_records_of_every_recipe(photos: Path, recipe: str) -> None:
    method = tiny_method(recipe)
    result = process(method, photos)
    shard = ShardFile.open(result.data)
    assert list(shard.ids) == [f"{i:03d}.png" for i in range(5)]
    assert result.counts["images"] == 5
    assert result.counts["masks"] == shard.n_masks > 0
    assert shard.size.tolist() == [[64 + i % 3, 80] for i in range(5)]
    for i, record in enumerate(shard.results()):
        assert record.status == ("ok" if record.instances else "no_masks")
        assert (record.depth is None) == (not method.recipe.needs_depth)
        for mask, instance in zip(shard.masks_of(i), record.instances, strict=True):
            decoded = shard.mask(mask)
            assert decoded.sum() == instance.area > 0
            inside = instance.confidence > 0
            assert inside.any()
            assert instance.crf_iou == 1.0, "the tiny method has no CRF"
            if recipe in WITH_CONFIDENCE:
                assert instance.confidence[inside].min() >= 127  # the floor of 0.5
            else:
                assert (instance.confidence[inside] == 255).all()
            parts = dataclasses.asdict(instance.parts)
            assert all(0 <= value <= 1 for value in parts.values())
            assert parts["contrast"] > 0
            assert parts["stability"] == 1.0 or recipe in WITH_CONFIDENCE
            assert parts["novelty"] == 1.0 or method.recipe.searched != "rounds"
            assert parts["nearness"] == 1.0 or method.recipe.needs_depth
            score = method.recipe.score
            factors = [] if score == "constant" else [parts[name] for name in score.split("*")]
            assert instance.score == pytest.approx(np.prod(factors), abs=1e-5)
        places = [instance.round for instance in record.instances]
        assert places == sorted(places)
        if recipe == "cuts3d":
            assert places == list(range(len(places))), "a tree's masks are numbered in the order of their scores"
            scores = [instance.score for instance in record.instances]
            np.testing.assert_allclose(
                scores, sorted(scores, reverse=True), atol=0.01
            )  # stability is kept in 255 steps
            assert len(places) <= 10
    stabilities = [instance.parts.stability for record in shard.results() for instance in record.instances]
    cuts = recipe in WITH_CONFIDENCE and recipe != "cuts3d_published"  # whose tau_knn cuts nothing on so small a grid
    assert (len(set(stabilities)) > 1) == cuts


@pytest.mark.parametrize("recipe", ["cuts3d_rounds", "cuts3d"])
def test_stability_is_the_mean_confidence_without_its_floor(photos: Path, recipe: str) -> None:
    """What is stored for a patch of a mask is at least the floor; what the score is made of is not."""
    with_floor, without = (
        [
            instance
            for record in ShardFile.open(
                process(tiny_method(recipe, [f"spatial_confidence.floor={floor}"]), photos).data
            ).results()
            for instance in record.instances
        ]
        for floor in (0.9, 0.0)
    )
    assert len(with_floor) == len(without) > 0
    kept = KeptOutputs.open("confidence", process(tiny_method(recipe), photos, "confidence").data).cut_images(range(5))
    means = [
        c[p.mask].mean() / 255
        for i in kept
        for p, c in zip(i.found.proposals, i.confidences, strict=True)
        if c is not None
    ]
    assert [instance.parts.stability for instance in without] == pytest.approx(means, abs=1e-6)
    for one, other in zip(with_floor, without, strict=True):
        assert (one.parts, one.score) == (other.parts, other.score)
        inside = one.confidence > 0
        assert one.confidence[inside].min() >= round(255 * 0.9)
        np.testing.assert_array_equal(one.confidence[inside], np.maximum(other.confidence[inside], round(255 * 0.9)))
    assert min(instance.parts.stability for instance in without) < 0.9


@pytest.mark.parametrize("recipe", ["cuts3d_rounds", "cuts3d"])
def test_the_result_does_not_depend_on_the_batch_size(photos: Path, recipe: str) -> None:
    one = ShardFile.open(process(tiny_method(recipe), photos, batch_size=1).data)
    four = ShardFile.open(process(tiny_method(recipe), photos, batch_size=4).data)
    np.testing.assert_array_equal(one.rle, four.rle)
    np.testing.assert_array_equal(one.confidence, four.confidence)
    for part, values in one.parts.items():
        np.testing.assert_allclose(values, four.parts[part], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["maskcut", "cuts3d_rounds", "cuts3d"])
def test_stage_by_stage_equals_fused(photos: Path, recipe: str) -> None:
    """Each stage takes in what the earlier ones kept, and the last gives the very bytes of the fused run."""
    method = tiny_method(recipe)
    fused = process(method, photos)
    kept: dict[str, KeptOutputs] = {}
    for stage in (*STAGES, None):
        if stage == "depth" and not method.recipe.needs_depth:
            continue
        result = process(method, photos, stage, **kept)
        if stage is None:
            assert result.data == fused.data
            assert set(result.seconds) == {"refine", "encode"}, "everything before was taken from what is kept"
        else:
            kept[stage] = KeptOutputs.open(stage, result.data)
            assert kept[stage].done.all()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cuts3d_rounds", "cuts3d"])
def test_any_single_kept_stage_gives_the_same(photos: Path, recipe: str) -> None:
    method = tiny_method(recipe)
    fused = process(method, photos)
    for stage in STAGES:
        kept = {stage: KeptOutputs.open(stage, process(method, photos, stage).data)}
        assert process(method, photos, **kept).data == fused.data, stage


def test_kept_stages_spare_the_photos(photos: Path, tmp_path: Path) -> None:
    """From kept features and depth, cuts need no photo any more: they may even be gone."""
    draw_photos(tmp_path, 3)
    method = tiny_method()
    shard = shard_of(tmp_path)
    worker = ShardWorker(method, 2)
    kept = {
        stage: KeptOutputs.open(stage, worker.process(shard, stage, {}, {}).data) for stage in ("depth", "features")
    }
    expected = worker.process(shard, "localcut", kept, {})
    for ref in shard.refs:
        (tmp_path / ref.id).unlink()
    assert worker.process(shard, "localcut", kept, {}).data == expected.data


def test_bad_images_are_set_aside_with_their_reason(tmp_path: Path) -> None:
    draw_photos(tmp_path, 3)
    expected = bad_folder(tmp_path)
    seen: list[ImageRecord | None] = []
    result = ShardWorker(tiny_method(), 2).process(shard_of(tmp_path), None, {}, {}, seen.append)
    reasons = {entry["id"]: entry["reason"] for entry in result.quarantine}
    assert reasons == {name: reason for name, reason in expected.items() if name in reasons}
    assert len(reasons) == len(shard_of(tmp_path).refs) - 3
    assert len(seen) == len(shard_of(tmp_path).refs)
    shard = ShardFile.open(result.data)
    assert sum(record.status == "quarantined" for record in shard.results()) == len(reasons)
    assert result.counts["quarantined"] == len(reasons)
    assert {line["image"] for line in result.log} == set(shard.ids)
    assert all(line["detail"] for line in result.log if line["status"] == "quarantined")


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, ValueError])
def test_a_failing_image_costs_only_itself(photos: Path, error: type[Exception]) -> None:
    depth = FailsOn("002.png", error=error)
    result = process(dataclasses.replace(tiny_method(), depth=depth), photos, batch_size=4)
    assert [entry["id"] for entry in result.quarantine] == ["002.png"]
    assert result.quarantine[0]["reason"] == "failed"
    assert "kernel panic" in result.quarantine[0]["detail"]
    assert result.counts["images"] == 5
    healthy = ShardFile.open(process(tiny_method(), photos).data)
    shard = ShardFile.open(result.data)
    for i in (0, 1, 3, 4):
        assert shard.result(i) == healthy.result(i)


def test_an_image_error_keeps_its_own_reason(photos: Path) -> None:
    class NoMap(FailsOn):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            if "001.png" in ids:
                raise ImageError("no_depth_map", "no map for 001.png")
            return super().predict(images, ids)

    result = process(dataclasses.replace(tiny_method(), depth=NoMap()), photos)
    assert [(e["id"], e["reason"]) for e in result.quarantine] == [("001.png", "no_depth_map")]


def test_when_every_image_fails_nothing_is_passed_off_as_done(photos: Path) -> None:
    depth = FailsOn(*(f"{i:03d}.png" for i in range(5)))
    with pytest.raises(CutsError, match=r"every image of shard 00000 failed, .*RuntimeError: kernel panic"):
        process(dataclasses.replace(tiny_method(), depth=depth), photos)


def test_unreadable_photos_do_not_make_a_failing_machine_look_like_failing_images(tmp_path: Path) -> None:
    draw_photos(tmp_path, 4)
    (tmp_path / "000.png").write_bytes(b"")
    given_up = {"001.png": ImageError("crashed", "every worker died")}
    broken = dataclasses.replace(tiny_method(), depth=FailsOn("002.png", "003.png"))
    with pytest.raises(CutsError, match="every image of shard 00000 failed"):
        ShardWorker(broken, 2).process(shard_of(tmp_path), None, {}, {}, given_up=given_up)
    one = dataclasses.replace(tiny_method(), depth=FailsOn("002.png"))
    result = ShardWorker(one, 2).process(shard_of(tmp_path), None, {}, {}, given_up=given_up)
    reasons = {entry["id"]: entry["reason"] for entry in result.quarantine}
    assert reasons == {"000.png": "zero_byte", "001.png": "crashed", "002.png": "failed"}


def test_a_full_gpu_halves_the_batch_and_goes_on(photos: Path) -> None:
    class Full(BrightnessDepth):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            if len(ids) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().predict(images, ids)

    worker = ShardWorker(dataclasses.replace(tiny_method(), depth=Full()), 4)
    result = worker.process(shard_of(photos), None, {}, {})
    assert result.quarantine == []
    assert worker.batch_size == 1
    assert result.data == process(tiny_method(), photos).data


def test_an_image_that_failed_in_a_kept_stage_is_tried_again(photos: Path) -> None:
    method = tiny_method()
    broken = process(dataclasses.replace(method, depth=FailsOn("003.png")), photos, "depth")
    kept = KeptOutputs.open("depth", broken.data)
    assert kept.done.tolist() == [True, True, True, False, True]
    assert process(method, photos, depth=kept).data == process(method, photos).data


def test_interruption_is_not_an_image_fault(photos: Path) -> None:
    class Interrupted(BrightnessDepth):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process(dataclasses.replace(tiny_method(), depth=Interrupted()), photos)


def test_bad_batch_size_is_named() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        ShardWorker(tiny_method(), 0)


def test_bad_lanes_are_named() -> None:
    with pytest.raises(ValueError, match="lanes"):
        ShardWorker(tiny_method(), 1, lanes=0)


# --- images given up, and probes --------------------------------------------------------------------------------------


def test_images_given_up_are_set_aside_unseen(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither decoded (one file is not even there) nor looked at: that is what killed the workers."""
    draw_photos(tmp_path, 5)
    shard = shard_of(tmp_path)
    (tmp_path / "001.png").unlink()
    monkeypatch.setenv(IMAGE_VARIABLE, "no such fault:003.png")
    given_up = {
        "001.png": ImageError("crashed", "every worker that looked at it died"),
        "003.png": ImageError("hung", "no worker that looked at it came to an end"),
    }
    depth = FailsOn()
    seen: list[ImageRecord | None] = []
    worker = ShardWorker(dataclasses.replace(tiny_method(), depth=depth), 2)
    result = worker.process(shard, None, {}, {}, seen.append, given_up)
    assert result.quarantine == [
        {"id": id_, "reason": error.reason, "detail": error.detail} for id_, error in given_up.items()
    ]
    assert sum(depth.calls) == 3
    assert len(seen) == 5
    file, healthy = ShardFile.open(result.data), ShardFile.open(process(tiny_method(), photos).data)
    assert list(file.ids) == [ref.id for ref in shard.refs]
    for i in (0, 2, 4):
        assert file.result(i) == healthy.result(i)
    assert result.counts["quarantined"] == 2


def test_a_shard_of_nothing_but_images_given_up(photos: Path) -> None:
    shard = shard_of(photos)
    given_up = {ref.id: ImageError("crashed", "died") for ref in shard.refs}
    result = ShardWorker(tiny_method(), 2).process(shard, None, {}, {}, given_up=given_up)
    assert (result.counts["images"], result.counts["quarantined"], result.counts["masks"]) == (5, 5, 0)
    kept = ShardWorker(tiny_method(), 2).process(shard, "localcut", {}, {}, given_up=given_up)
    assert not KeptOutputs.open("localcut", kept.data).done.any()


class Notes(BrightnessDepth):
    """Which images it was asked for."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        self.ids += ids
        return super().predict(images, ids)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_probe_looks_at_just_these_images_and_keeps_nothing(tmp_path: Path, lanes: int) -> None:
    draw_photos(tmp_path, 6)
    (tmp_path / "005.png").write_bytes(b"")
    depth = Notes()
    worker = ShardWorker(dataclasses.replace(tiny_method(), depth=depth), 2, lanes=lanes)
    assert worker.probe(shard_of(tmp_path), (1, 3, 4, 5), None, {}) is None  # type: ignore[func-returns-value]
    assert sorted(depth.ids) == ["001.png", "003.png", "004.png"]
    failing = dataclasses.replace(tiny_method(), depth=FailsOn("001.png", "003.png"))
    ShardWorker(failing, 2, lanes=lanes).probe(shard_of(tmp_path), (1, 3), None, {})  # an error is not a death


# --- several batches at once, and the CPU's part in other processes ---------------------------------------------------


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """One library for products on the CPU all through. Which one is a switch of the whole process, turned for the time
    of a network; lanes, made for GPUs, would turn it for each other.
    """
    monkeypatch.setattr("stages.features.onednn_keeps_float32", lambda: False)


@pytest.mark.slow
@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("recipe", RECIPES)
def test_lanes_and_processes_change_no_byte(photos: Path, recipe: str, pool: Executor) -> None:
    method, shard = tiny_method(recipe), shard_of(photos)
    for stage in (*STAGES, None):
        if (stage == "depth" and not method.recipe.needs_depth) or (stage == "ncut" and not method.recipe.has_ncut):
            continue
        alone = ShardWorker(method, 2).process(shard, stage, {}, {})
        for lanes, processes in ((3, None), (1, pool), (3, pool)):
            result = ShardWorker(method, 2, lanes=lanes, pool=processes).process(shard, stage, {}, {})
            assert result.data == alone.data, (stage, lanes)
            assert (result.counts, result.log) == (alone.counts, alone.log)
            assert result.seconds.keys() == alone.seconds.keys()
    assert result.counts["masks"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("steady")
def test_lanes_take_in_what_earlier_launches_kept(photos: Path, pool: Executor) -> None:
    method, shard = tiny_method(), shard_of(photos)
    fused = process(method, photos)
    worker = ShardWorker(method, 2, lanes=3, pool=pool)
    for stage in STAGES:
        kept = {stage: KeptOutputs.open(stage, worker.process(shard, stage, {}, {}).data)}
        assert worker.process(shard, None, kept, {}).data == fused.data, stage


def test_batches_are_under_way_together_but_no_more_than_lanes(tmp_path: Path) -> None:
    draw_photos(tmp_path, 8)
    together = threading.Barrier(2, timeout=PATIENCE)
    inside, most = 0, 0
    lock = threading.Lock()

    class Meets(BrightnessDepth):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            together.wait()  # for a second batch: one after the other they would wait for ever
            with lock:
                inside -= 1
            return super().predict(images, ids)

    worker = ShardWorker(dataclasses.replace(tiny_method(), depth=Meets()), 2, lanes=2)
    assert worker.process(shard_of(tmp_path), None, {}, {}).quarantine == []
    assert most == 2


class Spoiled(Executor):
    """A pool in whose processes something happens to image 002.png first."""

    def __init__(self, pool: Executor, what: Callable[[], None]) -> None:
        self.pool, self.what = pool, what

    def map(self, fn: Callable[..., Any], *iterables: Any, **options: Any) -> Iterator[Any]:
        return self.pool.map(partial(first_to_002, self.what, fn), *iterables)


def first_to_002(what: Callable[[], None], work: Callable[..., Any], *arguments: Any) -> Any:
    if isinstance(arguments[0], tuple) and arguments[0][0] == "002.png":
        what()
    return work(*arguments)


def fail() -> None:
    raise RuntimeError("kernel panic")


def refuse() -> None:
    raise ImageError("too_odd", "it is like no other")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(("what", "reason"), [(fail, "failed"), (refuse, "too_odd")])
@pytest.mark.parametrize("lanes", [1, 3])
def test_an_image_that_fails_in_the_pool_costs_only_itself(
    photos: Path, pool: Executor, lanes: int, what: Callable[[], None], reason: str
) -> None:
    worker = ShardWorker(tiny_method(), 4, lanes=lanes, pool=Spoiled(pool, what))
    result = worker.process(shard_of(photos), None, {}, {})
    assert [(entry["id"], entry["reason"]) for entry in result.quarantine] == [("002.png", reason)]
    assert ("kernel panic" if reason == "failed" else "like no other") in result.quarantine[0]["detail"]
    file, healthy = ShardFile.open(result.data), ShardFile.open(process(tiny_method(), photos).data)
    for i in (0, 1, 3, 4):
        assert file.result(i) == healthy.result(i)
    assert list(pool.map(abs, [-1, -2])) == [1, 2], "the processes live"


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_process_of_the_pool_that_dies_is_no_image_error(photos: Path, lanes: int) -> None:
    """Which image did it cannot be told from here: whoever runs this process looks for it from outside."""
    seen: list[dict[str, int]] = []
    with cpu_pool(1) as pool:
        worker = ShardWorker(tiny_method(), 1, lanes=lanes, pool=Spoiled(pool, die))
        with pytest.raises(WorkerBrokenError, match="process that works for this one died"):
            worker.process(shard_of(photos), None, {}, {}, seen.append)
        with pytest.raises(WorkerBrokenError, match="process that works for this one died"):
            worker.probe(shard_of(photos), (0,), None, {})
        worker.close()
    assert all(counts["quarantined"] == 0 for counts in seen)


def test_a_gpu_that_fails_is_no_image_error(photos: Path) -> None:
    """After any CUDA error but full memory every later call fails: no other image may be set aside for it."""
    depth = FailsOn("002.png", error=torch.AcceleratorError)
    worker = ShardWorker(dataclasses.replace(tiny_method(), depth=depth), 2)
    with pytest.raises(WorkerBrokenError, match=r"shard 00000: the GPU failed: .*kernel panic"):
        worker.process(shard_of(photos), None, {}, {})


def test_interruption_of_a_lane_is_not_an_image_fault(photos: Path) -> None:
    class Interrupted(BrightnessDepth):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            raise KeyboardInterrupt

    worker = ShardWorker(dataclasses.replace(tiny_method(), depth=Interrupted()), 2, lanes=3)
    with pytest.raises(KeyboardInterrupt):
        worker.process(shard_of(photos), None, {}, {})


# --- GPU memory -------------------------------------------------------------------------------------------------------


class Full(BrightnessDepth):
    """Out of memory when `is_full` says so of the images it is asked for."""

    def __init__(self, is_full: Callable[[Sequence[str]], bool]) -> None:
        self.is_full = is_full

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        if self.is_full(ids):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().predict(images, ids)


def in_a_lane() -> bool:
    return threading.current_thread().name.startswith("lane")


def test_a_full_gpu_is_recorded(photos: Path) -> None:
    full = dataclasses.replace(tiny_method(), depth=Full(lambda ids: len(ids) > 2))
    worker = ShardWorker(full, 4)
    assert worker.process(shard_of(photos), None, {}, {}).counts["gpu_out_of_memory"] == 1
    assert worker.batch_size == 2
    again = worker.process(shard_of(photos), None, {}, {})
    assert "gpu_out_of_memory" not in again.counts, "the batch that fits is remembered"
    kept = ShardWorker(full, 4).process(shard_of(photos), "localcut", {}, {})
    assert kept.counts["gpu_out_of_memory"] == 1


def test_lanes_that_are_full_at_the_same_moment_halve_the_batch_once(tmp_path: Path) -> None:
    draw_photos(tmp_path, 12)
    together = threading.Barrier(3, timeout=PATIENCE)

    def is_full(ids: Sequence[str]) -> bool:
        if len(ids) == 4:
            together.wait()
        return len(ids) == 4

    worker = ShardWorker(dataclasses.replace(tiny_method(), depth=Full(is_full)), 4, lanes=3)
    result = worker.process(shard_of(tmp_path), None, {}, {})
    assert result.counts["gpu_out_of_memory"] == 3
    assert worker.batch_size == 2
    assert result.quarantine == []


def test_an_image_that_does_not_fit_beside_others_is_tried_alone(
    photos: Path, steady: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Neighbouring batches take memory that it would have had: it is not the image's fault."""
    crowded = dataclasses.replace(tiny_method(), depth=Full(lambda ids: "002.png" in ids and in_a_lane()))
    worker = ShardWorker(crowded, 2, lanes=3)
    result = worker.process(shard_of(photos), None, {}, {})
    assert result.data == process(tiny_method(), photos).data
    assert result.counts["gpu_out_of_memory"] == 2
    assert "set aside" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 3])
def test_an_image_that_does_not_even_fit_alone_is_set_aside(photos: Path, lanes: int) -> None:
    large = dataclasses.replace(tiny_method(), depth=Full(lambda ids: "002.png" in ids))
    result = ShardWorker(large, 2, lanes=lanes).process(shard_of(photos), None, {}, {})
    assert [(entry["id"], entry["reason"]) for entry in result.quarantine] == [("002.png", "failed")]
    assert "OutOfMemoryError" in result.quarantine[0]["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_what_a_failed_batch_held_is_gone_when_the_next_is_tried(
    photos: Path, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Or its halves, and later batches, would have less of the GPU than there is."""
    method = tiny_method()
    held: list[weakref.ref[torch.Tensor]] = []
    left: list[int] = []

    class Watched:
        def __call__(self, images: Sequence[np.ndarray]) -> torch.Tensor:
            left.append(sum(ref() is not None for ref in held))
            features_BND = method.features(images)
            held.append(weakref.ref(features_BND))
            return features_BND

        def __getattr__(self, name: str) -> Any:
            return getattr(method.features, name)

    class AfterFeatures(ThreadPoolExecutor):
        def map(self, fn: Callable[..., Any], *iterables: Any, **options: Any) -> Iterator[Any]:
            lists = [list(values) for values in iterables]
            if len(lists[0]) > 1 or (error is RuntimeError and len(held) == 3):
                raise error("full")
            return super().map(fn, *lists)

    with AfterFeatures(1) as pool:
        watched = dataclasses.replace(method, features=Watched())  # type: ignore[arg-type]
        result = ShardWorker(watched, 4, pool=pool).process(shard_of(photos), "localcut", {}, {})
    assert left == [0] * 8, "a batch of 4, its halves and their halves, and the last image"
    assert result.counts["quarantined"] == (error is RuntimeError)
