"""One shard through the stages: bad images, failing stages, kept outputs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_images import bad_folder
from tiny_method import BrightnessDepth, draw_photos, tiny_method

from pipeline.batch_work import Method
from pipeline.errors import CutsError, ImageError
from pipeline.manifest import Shard
from pipeline.recipes import RECIPES
from pipeline.records import ImageRecord
from pipeline.shard_file import ShardFile
from pipeline.shard_work import ShardResult, ShardWorker
from pipeline.sources import list_images
from pipeline.stage_graph import STAGES
from pipeline.stage_outputs import KeptOutputs

WITH_CONFIDENCE = ("cuts3d_rounds", "cuts3d")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    draw_photos(folder, 5)
    return folder


def shard_of(folder: Path) -> Shard:
    return Shard("00000", list_images(str(folder)).refs)


def process(
    method: Method, folder: Path, until: str = "refine", batch_size: int = 2, **kept: KeptOutputs
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
    for i, record in enumerate(shard.records()):
        assert record.status == ("ok" if record.instances else "no_masks")
        assert (record.depth is None) == (recipe == "maskcut")
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
            assert parts["novelty"] == 1.0 or recipe == "cuts3d"
            assert parts["nearness"] == 1.0 or recipe != "maskcut"
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
    stabilities = [instance.parts.stability for record in shard.records() for instance in record.instances]
    assert (len(set(stabilities)) > 1) == (recipe in WITH_CONFIDENCE)


@pytest.mark.parametrize("recipe", ["cuts3d_rounds", "cuts3d"])
def test_stability_is_the_mean_confidence_without_its_floor(photos: Path, recipe: str) -> None:
    """What is stored for a patch of a mask is at least the floor; what the score is made of is not."""
    with_floor, without = (
        [
            instance
            for record in ShardFile.open(
                process(tiny_method(recipe, [f"spatial_confidence.floor={floor}"]), photos).data
            ).records()
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


@pytest.mark.parametrize("recipe", ["maskcut", "cuts3d_rounds", "cuts3d"])
def test_stage_by_stage_equals_fused(photos: Path, recipe: str) -> None:
    """Each stage takes in what the earlier ones kept, and the last gives the very bytes of the fused run."""
    method = tiny_method(recipe)
    fused = process(method, photos)
    kept: dict[str, KeptOutputs] = {}
    for stage in STAGES:
        if stage == "depth" and not method.recipe.needs_depth:
            continue
        result = process(method, photos, stage, **kept)
        if stage == "refine":
            assert result.data == fused.data
            assert set(result.seconds) == {"refine", "encode"}, "everything before was taken from what is kept"
        else:
            kept[stage] = KeptOutputs.open(stage, result.data)
            assert kept[stage].done.all()


@pytest.mark.parametrize("recipe", ["cuts3d_rounds", "cuts3d"])
def test_any_single_kept_stage_gives_the_same(photos: Path, recipe: str) -> None:
    method = tiny_method(recipe)
    fused = process(method, photos)
    for stage in STAGES[:-1]:
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
    result = ShardWorker(tiny_method(), 2).process(shard_of(tmp_path), "refine", {}, {}, seen.append)
    reasons = {entry["id"]: entry["reason"] for entry in result.quarantine}
    assert reasons == {name: reason for name, reason in expected.items() if name in reasons}
    assert len(reasons) == len(shard_of(tmp_path).refs) - 3
    assert len(seen) == len(shard_of(tmp_path).refs)
    shard = ShardFile.open(result.data)
    assert sum(record.status == "quarantined" for record in shard.records()) == len(reasons)
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
        assert shard.record(i) == healthy.record(i)


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


def test_a_full_gpu_halves_the_batch_and_goes_on(photos: Path) -> None:
    class Full(BrightnessDepth):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            if len(ids) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().predict(images, ids)

    worker = ShardWorker(dataclasses.replace(tiny_method(), depth=Full()), 4)
    result = worker.process(shard_of(photos), "refine", {}, {})
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
