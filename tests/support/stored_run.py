"""Small runs over photos that are really there, with masks and confidences like those of a pipeline, made quickly."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.images.manifest import ImageRef, Manifest
from pipeline.results.instance_file import write_shard
from pipeline.results.instances import ImageRecord, Instance, counts_of
from pipeline.results.kinds import Failed, quarantine_of
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder

GRID = (6, 8)


@dataclass(frozen=True)
class StoredRun:
    """A run folder, its images in the manifest's order, and what was stored of each."""

    url: str
    run: RunFolder
    refs: tuple[ImageRef, ...]
    records: list[ImageRecord]


def photo(size: tuple[int, int], seed: int) -> np.ndarray:
    """uint8 (H, W, 3): a noise that resizing does not make flat."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def instance(mask_HW: np.ndarray, confidence_GhGw: np.ndarray, score: float = 0.5) -> Instance:
    """An instance as the pipeline stores it: confidence 0 in the patches that hold none of its pixels."""
    rle = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    x, y, width, height = map(float, coco_mask.toBbox(rle))
    rows_P, columns_P = np.nonzero(mask_HW)
    touched = np.zeros_like(confidence_GhGw)
    grid = confidence_GhGw.shape
    touched[rows_P * grid[0] // mask_HW.shape[0], columns_P * grid[1] // mask_HW.shape[1]] = 1
    area = int(coco_mask.area(rle))
    return Instance(rle["counts"], (x, y, width, height), area, score, confidence_GhGw * touched, 0)


def random_instance(rng: np.random.Generator, size: tuple[int, int], grid: tuple[int, int] = GRID) -> Instance:
    """An ellipse; confidence at random from 0.5 up, now and then 1 all over."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    centre = rng.uniform(0.2, 0.8, 2) * size
    radii = np.maximum(rng.uniform(0.1, 0.5, 2) * size, 1.5)
    mask_HW = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1
    confidence = rng.integers(128, 256, grid, np.uint8) if rng.random() < 0.8 else np.full(grid, 255, np.uint8)
    return instance(mask_HW, confidence, float(np.float32(rng.random())))


def random_record(
    image_id: str, size: tuple[int, int], seed: int, masks: int | None = None, grid: tuple[int, int] = GRID
) -> ImageRecord:
    """Up to three masks, or so many."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 4)) if masks is None else masks
    instances = tuple(random_instance(rng, size, grid) for _ in range(count))
    return ImageRecord(image_id, size, "ok" if instances else "no_masks", instances, {}, None)


def unreadable(image_id: str) -> ImageRecord:
    return Failed(image_id, "truncated", f"{image_id} ends too early")


def commit(run: RunFolder, key: str, records: Sequence[ImageRecord], grid: tuple[int, int] = GRID) -> None:
    data = write_shard(records, grid, {})
    assert run.ledger.commit(key, new_attempt(), Outcome(data, counts_of(records), quarantine_of(records)))


def make_run(
    folder: Path,
    records: Sequence[ImageRecord],
    refs: Sequence[ImageRef] | None = None,
    *,
    shard_size: int = 4,
    grid: tuple[int, int] = GRID,
    leave_out: Sequence[str] = (),
) -> StoredRun:
    """A run with these records, ids ascending; without refs, photos of their sizes are written beside it.

    leave_out: keys of shards that are not committed.
    """
    if refs is None:
        refs = [ImageRef(record.id, str(_written(folder, record, i))) for i, record in enumerate(records)]
    manifest = Manifest(refs, shard_size)
    run = RunFolder.create_or_open(str(folder / "run"), {"recipe": "made up"}, manifest)
    by_id = {record.id: record for record in records}
    for shard in manifest.shards():
        if shard.key not in leave_out:
            commit(run, shard.key, [by_id[ref.id] for ref in shard.refs], grid)
    return StoredRun(run.url, run, manifest.refs, list(records))


def _written(folder: Path, record: ImageRecord, seed: int) -> Path:
    path = folder / "photos" / record.id
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(record.size if all(record.size) else (20, 20), seed)).save(path)
    return path


def sample_records(count: int = 10, seed: int = 0) -> list[ImageRecord]:
    """Images of all kinds: some without masks, and the third set aside."""
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(24, 60)), int(rng.integers(24, 60))) for _ in range(count)]
    return [
        unreadable(f"{i:03}.png") if i == 2 else random_record(f"{i:03}.png", size, seed + i, 0 if i == 5 else None)
        for i, size in enumerate(sizes)
    ]
