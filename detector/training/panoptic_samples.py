"""A picture of what a panoptic detector is trained on: samples as the network gets them at first, after everything that
the loader, copy-paste among labels and the data preprocessor do.

H, W pixels of a sample · M its things
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image

from detector.data.panoptic_loading import IGNORED
from detector.data.panoptic_paste import SOME_THING, PasteOptions, paste_batch
from detector.data.panoptic_store import PanopticStoreDataset
from detector.data.sample_page import SIDE, captioned, outline, sheet
from detector.data.sampling import SeededSampler
from detector.training import config as train_config
from detector.training.loop import seed_step
from detector.training.self_enhanced import labelled, pasting_rng, put_batch_back, samples_of
from pipeline.errors import ConfigError
from pipeline.results.instance_overlay import instance_colours
from pipeline.results.semantic import Classes, class_colours
from pipeline.storage.outputs import output_file
from pipeline.wording import counted

_LEGEND = (
    "Left: what the network sees, with outlines of its things; white around them: pasted.\n"
    "Right: the semantic targets. Black: ignored; grey: some thing; colours: stuff, as in the run's gallery."
)
_GREY = 110


@dataclass(frozen=True, eq=False)
class PanopticTrainingSample:
    """name: id of the photo.
    rgb: uint8 (H, W, 3), at the network's size.
    values: uint8 (M, H, W), not 0 inside of the things.
    pasted: bool (M,).
    seg: uint8 (H, W), the semantic targets: 0 some thing, 1..S stuff, 255 ignored.
    """

    name: str
    rgb: np.ndarray
    values: np.ndarray
    pasted: np.ndarray
    seg: np.ndarray


def write_panoptic_samples(config: Config, path: str | Path, count: int = 24, seed: int = 0) -> int:
    """Write a PNG of `count` samples of a training by this configuration, from its beginning; how many there are.

    Raises ConfigError: its data are no panoptic labels, or it cannot be built. StoreError: runs or photos are missing,
    or the picture cannot be written.
    """
    dataset = train_config.training_dataset(config)
    if not isinstance(dataset, PanopticStoreDataset):
        raise ConfigError(f"samples can be shown of a PanopticStoreDataset, not of a {type(dataset).__name__}")
    split = dataset.store.split
    cells = [
        draw_panoptic_sample(sample, split.classes, split.stuff_classes)
        for sample in islice(_samples(config, dataset, seed), count)
    ]
    with output_file(path, "wb") as file:
        sheet(cells, _LEGEND).save(file, format="PNG")
    return len(cells)


def draw_panoptic_sample(sample: PanopticTrainingSample, classes: Classes, stuffs: Sequence[int]) -> Image.Image:
    """Both pictures of a sample beside each other, at most SIDE pixels high and wide each, and a line of text."""
    scale = min(1.0, SIDE / max(sample.rgb.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in sample.rgb.shape[1::-1])
    photo = cv2.resize(sample.rgb, size, interpolation=cv2.INTER_AREA)
    table = np.zeros((IGNORED + 1, 3), np.uint8)
    table[SOME_THING] = _GREY
    table[1 : len(stuffs) + 1] = np.array(class_colours(len(classes)), np.uint8)[list(stuffs)]
    targets = table[cv2.resize(sample.seg, size, interpolation=cv2.INTER_NEAREST)]
    for value_HW, colour, pasted in zip(
        sample.values, instance_colours(len(sample.values)), sample.pasted.tolist(), strict=True
    ):
        inside = cv2.resize(value_HW, size, interpolation=cv2.INTER_NEAREST) > 0
        for picture in (photo, targets):
            outline(picture, inside, colour, pasted)
    height, width = sample.rgb.shape[:2]
    facts = f"{width} × {height}, {counted(len(sample.values), 'thing')}, {int(sample.pasted.sum())} pasted"
    return captioned(photo, targets, sample.name, facts)


def _samples(config: Config, dataset: PanopticStoreDataset, seed: int) -> Iterator[PanopticTrainingSample]:
    """Batch after batch, as the training makes them before its model is asked for anything."""
    preprocessor = _built(MODELS, config.model.data_preprocessor)
    options = _paste_options(config)
    draws = iter(SeededSampler(dataset, seed=seed))
    things, step = len(dataset.store.split.thing_classes), 0
    while True:
        batch = pseudo_collate([dataset[draw] for draw in islice(draws, config.train_dataloader.batch_size)])
        if options is not None:
            _paste(batch, options, things, pasting_rng(seed, step, rank=0))
        seed_step(seed, step, 0)
        done = preprocessor(batch, True)
        for image_3HW, sample in zip(done["inputs"], done["data_samples"], strict=True):
            yield _seen(image_3HW * preprocessor.std + preprocessor.mean, sample, dataset, things)
        step += 1


def _paste_options(config: Config) -> PasteOptions | None:
    """None: the training pastes nothing."""
    for hook in train_config.custom_hooks(config, "SelfEnhancedCopyPaste"):
        options: PasteOptions = _built(HOOKS, hook).options
        return options
    return None


def _paste(batch: dict[str, Any], options: PasteOptions, things: int, rng: np.random.Generator) -> None:
    """Among the batch; labels of the pasted are `things` higher: every step keeps them in step with the masks."""
    samples = samples_of(batch)
    pasted = paste_batch(samples, labelled(samples, options.min_side), options, rng)
    for sample in pasted:
        sample.labels_M[len(sample.labels_M) - sample.pasted :] += things
    put_batch_back(pasted, batch)


def _seen(rgb_3HW: torch.Tensor, sample: Any, dataset: PanopticStoreDataset, things: int) -> PanopticTrainingSample:
    height, width = sample.img_shape[:2]
    rgb_HW3 = rgb_3HW[:, :height, :width].round().clamp(0, 255).byte().numpy().transpose(1, 2, 0)
    return PanopticTrainingSample(
        dataset.get_data_info(sample.img_id)["ref"].id,
        np.ascontiguousarray(rgb_HW3),
        sample.gt_instances.masks.values[:, :height, :width],
        sample.gt_instances.labels.numpy() >= things,
        sample.gt_sem_seg.sem_seg[0].numpy()[:height, :width],
    )


def _built(registry: Any, part: Any) -> Any:
    with DefaultScope.overwrite_default_scope("mmdet"):
        return registry.build(part)
