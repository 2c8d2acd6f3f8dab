"""The picture of panoptic training samples: it shows what a training begins with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from PIL import Image
from support.panoptic_runs import random_panoptic, write_run

import detector.components  # noqa: F401 - registers
from detector.data.sample_page import SIDE
from detector.data.sampling import SeededSampler
from detector.training import panoptic_samples
from detector.training.config import CONFIGS, training_dataset
from detector.training.loop import seed_step
from detector.training.panoptic_samples import PanopticTrainingSample, draw_panoptic_sample, write_panoptic_samples
from detector.training.self_enhanced import SelfEnhancedCopyPaste
from pipeline.errors import ConfigError
from pipeline.results.semantic import Classes, class_colours

PREPROCESSOR: dict[str, Any] = {
    **{"type": "PanopticPreprocessor", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
    **{"bgr_to_rgb": True, "pad_mask": True, "pad_seg": True, "seg_pad_value": 255, "pad_size_divisor": 32},
    **{"scales": [(96, 64), (128, 96)], "photometric": {}},
}


def config_of(url: str, cache: Path, **hook: Any) -> Config:
    config = Config.fromfile(str(CONFIGS / "_base_" / "panoptic_store.py"), lazy_import=False)
    config.custom_imports = None
    config.model = ConfigDict(data_preprocessor=PREPROCESSOR)
    config.custom_hooks = [config.copy_paste | {"min_side": 4, **hook}]
    config.train_dataloader.batch_size = 3
    dataset = config.train_dataloader.dataset
    dataset.runs, dataset.cache = [url], str(cache)
    dataset.pipeline[2].scale = (96, 64)
    return config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    records = [random_panoptic(f"{i}.png", (48, 72), i) for i in range(7)]
    return config_of(write_run(tmp_path, records).url, tmp_path / "cache")


def test_samples_are_those_of_a_training(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Step after step, to the pixel: what the hook and the preprocessor make of the loader's batches."""
    shown: list[PanopticTrainingSample] = []
    draw = panoptic_samples.draw_panoptic_sample
    monkeypatch.setattr(
        panoptic_samples, "draw_panoptic_sample", lambda sample, *rest: (shown.append(sample), draw(sample, *rest))[1]
    )
    assert write_panoptic_samples(config, tmp_path / "a.png", 6, seed=4) == len(shown) == 6
    from mmdet.registry import MODELS

    dataset, preprocessor = training_dataset(config), MODELS.build(PREPROCESSOR)
    hook = SelfEnhancedCopyPaste(**{k: v for k, v in config.custom_hooks[0].items() if k != "type"})
    draws = iter(SeededSampler(dataset, seed=4))
    hub = MessageHub.get_instance("test_panoptic_samples")
    for step in range(2):
        batch = pseudo_collate([dataset[next(draws)] for _ in range(3)])
        seed_step(4, step, 0)
        hook.before_train_iter(ConfigDict(seed=4, message_hub=hub), step, batch)
        done = preprocessor(batch, True)
        for image, sample, seen in zip(done["inputs"], done["data_samples"], shown[3 * step :], strict=False):
            height, width = sample.img_shape
            rgb = (image * preprocessor.std + preprocessor.mean)[:, :height, :width].permute(1, 2, 0).numpy()
            np.testing.assert_allclose(seen.rgb, rgb.clip(0, 255), atol=0.51)
            np.testing.assert_array_equal(seen.values, sample.gt_instances.masks.values[:, :height, :width])
            np.testing.assert_array_equal(seen.seg, sample.gt_sem_seg.sem_seg[0, :height, :width].numpy())
    assert sum(one.pasted.sum() for one in shown) > 5
    assert not all(one.pasted.all() for one in shown)
    assert shown[0].name in {f"{i}.png" for i in range(7)}


def test_colours_and_outlines() -> None:
    """Stuff in the colours of its classes, things grey, what is ignored black; white around the pasted one."""
    seg = np.full((60, 90), 2, np.uint8)
    values = np.zeros((2, 60, 90), np.uint8)
    values[0, 10:30, 10:30], values[1, 10:30, 50:70] = 255, 255
    seg[values.any(axis=0)] = 0
    seg[50:] = 255
    sample = PanopticTrainingSample("a.png", np.full((60, 90, 3), 40, np.uint8), values, np.array([False, True]), seg)
    picture = np.array(draw_panoptic_sample(sample, Classes.clusters(5), (0, 3)))[20:]
    assert picture.shape == (60, 182, 3)
    right = picture[:, 92:]
    assert right[40, 5].tolist() == list(class_colours(5)[3])
    assert right[55, 5].tolist() == [0, 0, 0]
    assert right[20, 20].tolist() == right[20, 60].tolist() == [110] * 3
    white = (picture == 255).all(axis=-1)
    assert not white[5:35, 5:35].any()
    assert white[5:35, 45:75].any()
    assert picture[20, 20].tolist() == [40] * 3


def test_large_samples_are_drawn_smaller() -> None:
    sample = PanopticTrainingSample(
        "a.png", np.zeros((400, 800, 3), np.uint8), np.zeros((0, 400, 800), np.uint8), np.zeros(0, bool),
        np.ones((400, 800), np.uint8),
    )  # fmt: skip
    assert draw_panoptic_sample(sample, Classes.clusters(2), (0, 1)).size == (2 * SIDE + 2, SIDE // 2 + 20)


def test_without_pasting(config: Config, tmp_path: Path) -> None:
    config.custom_hooks = []
    assert write_panoptic_samples(config, tmp_path / "a.png", 2) == 2
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 400


def test_other_data_are_refused(tmp_path: Path) -> None:
    from support.stored_run import make_run, sample_records

    config = config_of(make_run(tmp_path, sample_records()).url, tmp_path / "cache")
    runs = config.train_dataloader.dataset.runs
    config.train_dataloader.dataset = ConfigDict(type="StoreDataset", runs=runs, pipeline=[])
    with pytest.raises(ConfigError, match="not of a StoreDataset"):
        write_panoptic_samples(config, tmp_path / "a.png")
