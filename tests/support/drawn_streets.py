"""Drawn street scenes, their panoptic labels known to the pixel: sky and road, and on them cars and people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from detector.model.checkpoints import write_detector
from detector.prediction.method import load
from detector.training.config import describe, read_config, set_options, set_runs
from detector.training.panoptic_config import set_classes
from detector.training.train import Training
from pipeline.images.photos import Photo
from pipeline.methods.protocol import Batch
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.semantic import Classes
from pipeline.runs.run_folder import RunFolder
from support.panoptic_runs import write_run
from support.tiny_panoptic import panoptic_model

CLASSES = Classes.named(["sky", "road", "car", "person"])
SKY, ROAD, CAR, PERSON = range(4)
SIZE = (64, 128)

# `cups_tiny` and `cups_self_tiny` smaller still, as `--set`: a step of four pictures takes a fifth of a second.
SMALL = (
    "model.backbone.base_channels=16",
    "model.backbone.stem_channels=16",
    f"model.neck.in_channels={[16, 32, 64, 128]}",
    "model.neck.out_channels=32",
    "model.rpn_head.in_channels=32",
    "model.rpn_head.feat_channels=32",
    "model.roi_head.bbox_roi_extractor.out_channels=32",
    "model.roi_head.mask_roi_extractor.out_channels=32",
    *(f"model.roi_head.bbox_head.{i}.in_channels=32" for i in range(3)),
    *(f"model.roi_head.bbox_head.{i}.fc_out_channels=64" for i in range(3)),
    "model.roi_head.mask_head.in_channels=32",
    "model.roi_head.mask_head.conv_out_channels=32",
    "model.roi_head.mask_head.num_convs=1",
    "model.semantic_head.in_channels=32",
    "model.semantic_head.inner_channels=16",
    "model.train_cfg.rpn_proposal.max_per_img=100",
    "model.test_cfg.rpn.max_per_img=100",
    "model.test_cfg.rcnn.max_per_img=20",
    "model.data_preprocessor.scales=[(128,64)]",
    f"test_pipeline.1.scale={SIZE[::-1]}",
    "train_dataloader.num_workers=0",
    "default_hooks.logger.interval=1",
)
LOAD = f"train_dataloader.dataset.pipeline.2.scale={SIZE[::-1]}"
LOAD_SELF = f"train_dataloader.dataset.pipeline.1.scale={SIZE[::-1]}"


def street(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The photo, uint8 (H, W, 3); labels, uint8 (H, W); ids of the instances, int (H, W)."""
    rng = np.random.default_rng([seed, 7])
    height, width = size
    horizon = int(rng.integers(height // 4, height // 2))
    labels = np.full(size, ROAD, np.uint8)
    labels[:horizon] = SKY
    ids = np.zeros(size, int)
    colours = np.array([(170, 200, 240), (110, 110, 105), (190, 40, 40), (40, 60, 160)], float)
    rgb = colours[labels]
    for number in range(1, int(rng.integers(2, 5)) + 1):
        class_ = CAR if number == 1 else PERSON if number == 2 else int(rng.choice((CAR, PERSON)))
        wide, high = (int(rng.integers(20, 36)), 14) if class_ == CAR else (9, int(rng.integers(18, 26)))
        left, top = int(rng.integers(0, width - wide)), int(rng.integers(horizon - 6, height - high))
        shape = Image.new("L", size[::-1])
        draw = ImageDraw.Draw(shape)
        box = (left, top, left + wide - 1, top + high - 1)
        draw.rectangle(box, fill=1) if class_ == CAR else draw.ellipse(box, fill=1)
        mask = np.asarray(shape) > 0
        labels[mask], ids[mask] = class_, number
        rgb[mask] = colours[class_] + rng.uniform(-20, 20, 3)
    rgb += rng.normal(0, 6, rgb.shape)
    kept = [k for k in np.unique(ids) if k]
    return rgb.clip(0, 255).astype(np.uint8), labels, np.searchsorted([0, *kept], ids)


def street_record(id_: str, seed: int, missing: float = 0.0) -> PanopticRecord:
    """The labels of a street, all of them sure. missing: probability that an object is no instance, though of its
    class; one always is.
    """
    _, labels, ids = street(seed)
    drawn = np.random.default_rng([seed, 8]).random(int(ids.max()) + 1)
    kept = [k for k in range(1, len(drawn)) if drawn[k] >= missing] or [1]
    table = np.zeros(len(drawn), int)
    table[kept] = np.arange(1, len(kept) + 1)
    return PanopticRecord.of(id_, labels, np.ones(labels.shape, np.float32), table[ids], [1.0] * len(kept), CLASSES)


def write_streets(folder: Path, seeds: Sequence[int], missing: float = 0.0) -> RunFolder:
    """A run of labelled streets, see `street_record`, and their photos in folder/photos."""
    names = {f"{seed:03d}.png": seed for seed in seeds}
    run = write_run(folder, [street_record(id_, seed, missing) for id_, seed in names.items()], CLASSES)
    for id_, seed in names.items():
        Image.fromarray(street(seed)[0]).save(folder / "photos" / id_)
    return run


def street_training(run: str, work_dir: Path, *settings: str, config: str = "cups_tiny", **options: Any) -> Training:
    """Six steps of two pictures, unless options say otherwise; a checkpoint every third."""
    options = {"iterations": 6, "batch_size": 2, **options}
    load = LOAD_SELF if "self" in config else LOAD
    every_third = "default_hooks.checkpoint.interval=3"
    return Training((run,), config, str(work_dir), settings=(*SMALL, load, every_third, *settings), **options)


def predicted(checkpoint: Path, seeds: Sequence[int]) -> list[PanopticRecord]:
    """What a detector sees in streets that are no files."""
    method = load([f"detector.checkpoint={checkpoint}"], torch.device("cpu"))
    photos = [Photo(str(seed), street(seed)[0]) for seed in seeds]
    return list(method.outputs(Batch(None, list(range(len(photos))), photos)))


def write_start(path: Path, run: RunFolder) -> Path:
    """A detector for these streets that has learnt nothing: of random weights that see something everywhere."""
    config = read_config("cups_tiny")
    set_runs(config, [run.url])
    set_options(config, SMALL)
    set_classes(config, None)
    description = describe(config, "cups_tiny")
    write_detector(path, panoptic_model(description["model"]).state_dict(), description, {})
    return path
