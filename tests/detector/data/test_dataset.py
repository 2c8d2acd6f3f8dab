"""StoreDataset: a data set of MMDetection in every respect that training needs, the same sample wherever it is made."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from support.stored_run import StoredRun, make_run, random_record
from torch.utils.data import DataLoader

import detector.data.loading  # noqa: F401 - registers the transforms
from detector.data import dataset as dataset_module
from detector.data.dataset import StoreDataset
from detector.data.sampling import Draw, SeededSampler
from pipeline.errors import ConfigError, ImageError, StoreError

LOAD: list[dict[str, Any]] = [{"type": "LoadPhoto"}, {"type": "LoadConfidenceMasks"}]
TRAIN: list[dict[str, Any]] = [
    *LOAD,
    {"type": "RandomChoiceResize", "scales": [(40, 40), (60, 60), (80, 80)], "keep_ratio": True},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "PackDetInputs"},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """12 images, wide ones and high ones in turn; the sixth has no masks."""
    sizes = [(30 + i, 50) if i % 2 else (50, 30 + i) for i in range(12)]
    records = [random_record(f"{i:02}.png", size, i, 0 if i == 5 else 1 + i % 3) for i, size in enumerate(sizes)]
    return make_run(tmp_path_factory.mktemp("made"), records)


@pytest.fixture(autouse=True)
def scope() -> None:
    """As MMEngine's Runner sets it: names without a prefix are MMDetection's."""
    init_default_scope("mmdet")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path_factory.getbasetemp() / "cuts3d-cache"))


def build(made: StoredRun, **options: Any) -> StoreDataset:
    return DATASETS.build({"type": "StoreDataset", "runs": made.url, **options})


def ids(dataset: StoreDataset) -> list[str]:
    return [dataset.get_data_info(i)["ref"].id for i in range(len(dataset))]


def pixels(sample: dict[str, Any]) -> bytes:
    masks = sample["data_samples"].gt_instances.masks
    return sample["inputs"].numpy().tobytes() + masks.values.tobytes()


def test_a_sample_before_and_after_the_pipeline(made: StoredRun) -> None:
    dataset = build(made, pipeline=LOAD)
    assert isinstance(dataset, BaseDetDataset)
    assert len(dataset) == 11
    assert dataset.metainfo["classes"] == ("object",)
    info = dataset.get_data_info(6)
    assert info["ref"].id == "07.png", "the sixth image has no masks"
    assert info["img_path"] == info["ref"].uri
    assert (info["img_id"], info["height"], info["width"]) == (6, 37, 50)
    loaded = dataset[6]
    assert loaded["img"].shape == (37, 50, 3)
    assert loaded["gt_masks"].values.shape == (2, 37, 50)
    assert dataset.get_cat_ids(6) == [0, 0]


def test_negative_indices_and_the_end(made: StoredRun) -> None:
    dataset = build(made)
    assert dataset.get_data_info(-1)["img_id"] == 10
    with pytest.raises(IndexError):
        dataset.get_data_info(11)
    assert len(list(dataset)) == 11, "iteration stops at the end"


def test_subsets(made: StoredRun) -> None:
    whole = ids(build(made))
    assert ids(build(made, indices=3)) == whole[:3]
    assert ids(build(made, indices=-2)) == whole[-2:]
    picked = build(made, indices=[4, 1, 4])
    assert ids(picked) == [whole[4], whole[1], whole[4]]
    assert picked.get_data_info(2)["img_id"] == 2
    assert ids(build(made).get_subset([7, 8])) == whole[7:9]
    again = build(made)
    again.get_subset_(2)
    assert ids(again) == whole[:2]


def test_filters_and_empty_images(made: StoredRun) -> None:
    assert len(build(made, filters={"min_per_image": 0})) == 12
    assert len(build(made, filters={"min_per_image": 2})) == sum(len(r.instances) >= 2 for r in made.records)
    with pytest.raises(ConfigError, match="leave no image"):
        build(made, filters={"min_score": 2.0})


def test_it_opens_nothing_before_it_is_asked_to(made: StoredRun) -> None:
    dataset = build(made, lazy_init=True)
    assert not hasattr(dataset, "store")
    assert len(dataset) == 11
    with pytest.raises(StoreError, match="is not a run"):
        len(DATASETS.build({"type": "StoreDataset", "runs": "/nowhere/at/all", "lazy_init": True}))


def test_pickled_it_is_small_and_the_same(made: StoredRun) -> None:
    dataset = build(made, pipeline=TRAIN)
    data = pickle.dumps(dataset)
    assert len(data) < 5000
    again = pickle.loads(data)
    assert pixels(again[Draw(4, 9)]) == pixels(dataset[Draw(4, 9)])


def test_a_draw_decides_everything_and_an_index_leaves_randomness_alone(made: StoredRun) -> None:
    dataset = build(made, pipeline=TRAIN)
    np.random.seed(0)  # noqa: NPY002
    once = pixels(dataset[Draw(3, 11)])
    np.random.seed(1)  # noqa: NPY002
    assert pixels(dataset[Draw(3, 11)]) == once
    assert len({pixels(dataset[Draw(3, seed)]) for seed in range(12)}) > 3
    assert dataset.get_data_info(Draw(3, 11))["img_id"] == 3
    np.random.seed(5)  # noqa: NPY002
    plain = [pixels(dataset[3]) for _ in range(8)]
    assert len(set(plain)) > 1, "the caller's randomness goes on"


def _alone(batch: list[dict[str, Any]]) -> dict[str, Any]:
    return batch[0]


@pytest.mark.parametrize(("workers", "context"), [(2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)])
def test_samples_are_the_same_in_workers(made: StoredRun, workers: int, context: str) -> None:
    dataset = build(made, pipeline=TRAIN)
    loader = DataLoader(
        dataset,
        sampler=SeededSampler(dataset, seed=5),
        num_workers=workers,
        multiprocessing_context=context,
        collate_fn=_alone,
    )
    stream = iter(SeededSampler(dataset, seed=5))
    for sample, _ in zip(loader, range(15), strict=False):
        assert pixels(sample) == pixels(dataset[next(stream)])


def test_mmengine_builds_its_loader_and_batches_by_shape(made: StoredRun) -> None:
    loader = Runner.build_dataloader(
        {
            "dataset": {"type": "StoreDataset", "runs": made.url, "pipeline": TRAIN},
            "sampler": {"type": "SeededSampler"},
            "batch_sampler": {"type": "AspectRatioBatchSampler"},
            "batch_size": 2,
            "num_workers": 0,
        },
        seed=3,
    )
    assert isinstance(loader.batch_sampler.sampler, SeededSampler)
    assert loader.batch_sampler.sampler.seed == 3
    for batch, _ in zip(loader, range(6), strict=False):
        shapes = [image.shape for image in batch["inputs"]]
        assert len({height > width for _, height, width in shapes}) == 1
        assert all(isinstance(image, torch.Tensor) for image in batch["inputs"])


def without(made: StoredRun, folder: Path, gone: set[int]) -> StoredRun:
    """A run of the same photos, some of which went away since."""
    copy = make_run(folder, made.records)
    for i in gone:
        Path(copy.refs[i].uri).unlink()
    return copy


def test_a_photo_that_went_away_is_replaced_with_one_warning(
    made: StoredRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = build(without(made, tmp_path, {3}), pipeline=TRAIN)
    first = pixels(dataset[Draw(3, 1)])
    assert pixels(dataset[Draw(3, 1)]) == first, "by the draw's seed"
    pixels(dataset[Draw(3, 2)])
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "03.png: no such file" in warnings[0]


def test_too_many_that_went_away_end_the_training(
    made: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "_MAY_BE_GONE", 3)
    dataset = build(without(made, tmp_path, {0, 1, 2, 3}), pipeline=TRAIN)
    with pytest.raises(StoreError, match=r"4 of the \d+ photos read are gone .* mount the photos"):
        [dataset[Draw(seed % 11, seed)] for seed in range(400)]


def test_all_photos_gone_is_said_at_once(made: StoredRun, tmp_path: Path) -> None:
    dataset = build(without(made, tmp_path, set(range(12))), pipeline=TRAIN)
    with pytest.raises(StoreError, match="mount the photos"):
        dataset[Draw(0, 0)]


def test_in_test_mode_a_photo_that_went_away_is_an_error(made: StoredRun, tmp_path: Path) -> None:
    dataset = build(without(made, tmp_path, {0}), pipeline=LOAD, test_mode=True)
    with pytest.raises(ImageError, match=r"00\.png"):
        dataset[0]
    assert dataset[1]["img"].shape[:2] == (31, 50)
