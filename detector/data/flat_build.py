"""Writing flat arrays: the committed shards of runs, one after the other, and what filters leave of them.

A block is streamed at a time, appended to raw files; memory holds one shard, and the manifest of one run.

    rle, rle_offsets                 uint8 bytes, int64 (M+1)   COCO compressed run-length codes
    confidence, confidence_offsets   uint8 bytes, int64 (M+1)   spatial confidence of the patches that the mask's box
                                                                touches, row by row, 255 = 1.0, 0 = not of the instance;
                                                                a single byte where all that is not 0 is equal
    score, mean_confidence           float32 (M,)
    box, area                        float32 (M, 4) x, y, width, height; int64 (M,); pixels
    image_offsets                    int64 (B+1)                masks of image i are image_offsets[i] .. [i+1]-1

beside those of `flat_images`, and of a selection by filters:

    image                            int64 (B',)                rows of the images that stay
    mask, mask_offsets               int64 (M',), int64 (B'+1)  rows of the masks that stay, image by image

M masks · B images · Gh, Gw patch grid
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from detector.data.array_writer import ArrayWriter
from detector.data.flat_folder import write_meta
from detector.data.flat_images import IMAGE_ARRAYS, append_images, refs_of
from detector.data.instance_filter import InstanceFilter, MaskFacts, passing
from pipeline.errors import StoreError
from pipeline.results.instance_file import ShardFile
from pipeline.results.instances import mean_confidence
from pipeline.runs.instance_reader import InstanceReader
from pipeline.storage.array_file import damaged
from pipeline.wording import counted

log = logging.getLogger(__name__)

# Name, dtype and what a row is; the names of offsets say what they are offsets into.
STORE_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    **{"rle": ("u1", ()), "rle_offsets": ("<i8", ()), "confidence": ("u1", ()), "confidence_offsets": ("<i8", ())},
    **{"score": ("<f4", ()), "mean_confidence": ("<f4", ()), "box": ("<f4", (4,)), "area": ("<i8", ())},
    **{"image_offsets": ("<i8", ())},
    **IMAGE_ARRAYS,
}
SELECTION_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    **{"image": ("<i8", ()), "mask": ("<i8", ()), "mask_offsets": ("<i8", ())},
}
_BLOCK = 1 << 16  # images that are filtered at once


def grid_window(box: Sequence[float], size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int, int, int]:
    """Patches that a box touches: first row, row after the last, first column, column after the last.

    box: x, y, width, height in pixels.
    size: height, width of the image.
    grid: Gh, Gw, laid over the whole image, so that patch row i covers the pixels i·H/Gh to (i+1)·H/Gh.
    """
    x, y, width, height = box
    top, bottom = _patch_range(y, y + height, size[0], grid[0])
    left, right = _patch_range(x, x + width, size[1], grid[1])
    return top, bottom, left, right


def _patch_range(start: float, stop: float, pixels: int, patches: int) -> tuple[int, int]:
    first = min(max(math.floor(start * patches / pixels), 0), patches - 1)
    return first, min(max(math.ceil(stop * patches / pixels), first + 1), patches)


def write_store(readers: Sequence[InstanceReader], folder: Path) -> None:
    """Flat arrays and `meta.json` of all processed images of runs, in the runs' order, in an existing empty folder.

    Images that were set aside are left out, retried ones come once, with the try that counts.

    Raises:
        StoreError, RunMismatchError: a committed file is damaged or missing, or of another run or schema.
        OSError: the folder cannot be written.
    """
    runs = []
    with ArrayWriter(folder, STORE_ARRAYS) as out:
        for number, reader in enumerate(readers):
            before = out.rows["run"]
            grid = _append_run(out, reader, number)
            images = out.rows["run"] - before
            log.info(
                "%s: %s taken over from %s",
                *(reader.run.url, counted(images, "image"), counted(len(reader.commits), "shard")),
            )
            runs.append({"url": reader.run.url, "grid": grid, "images": images})
        facts = {"runs": runs, "rows": out.rows}
    write_meta(folder, facts)


def _append_run(out: ArrayWriter, reader: InstanceReader, number: int) -> tuple[int, int]:
    """All images of one run that count; returns the patch grid."""
    find = refs_of(reader.run)
    grid: tuple[int, int] | None = None
    for shard, counts_B in reader.parts():
        if grid not in (None, shard.grid):
            raise StoreError(
                f"{reader.run.url}: {shard.name} has a patch grid of {shard.grid}, shards before it of {grid}: two "
                "runs were mixed in one folder, make the run again in another one"
            )
        grid = shard.grid
        taken_B = counts_B & shard.done
        if not (np.isfinite(shard.box).all() and np.isfinite(shard.score).all()):
            raise damaged(f"{shard.name} of {reader.run.url}", "a box or a score is not finite")
        if (shard.size[np.diff(shard.image_offsets) > 0] <= 0).any():
            raise damaged(f"{shard.name} of {reader.run.url}", "an image with masks has no size")
        refs = find(shard.name, [shard.ids[i] for i in np.flatnonzero(taken_B)])
        append_images(out, refs, shard.size[taken_B], number)
        _append_masks(out, shard, taken_B)
    if grid is None:
        raise StoreError(f"{reader.run.url} has no committed shard")
    return grid


def _append_masks(out: ArrayWriter, shard: ShardFile, taken_B: np.ndarray) -> None:
    masks_B = np.diff(shard.image_offsets)
    taken_M = np.repeat(taken_B, masks_B)
    out.append_lengths("image_offsets", masks_B[taken_B])
    out.append("score", shard.score[taken_M])
    out.append("box", shard.box[taken_M])
    out.append("area", shard.area[taken_M])
    out.append("mean_confidence", mean_confidence(shard.confidence)[taken_M])
    lengths_M = np.diff(shard.offsets)
    out.append("rle", shard.rle[np.repeat(taken_M, lengths_M)])
    out.append_lengths("rle_offsets", lengths_M[taken_M])
    crops = [_crop(shard, image, mask) for image in np.flatnonzero(taken_B).tolist() for mask in shard.masks_of(image)]
    out.append("confidence", b"".join(crops))
    out.append_lengths("confidence_offsets", np.array([len(crop) for crop in crops], np.int64))


def _crop(shard: ShardFile, image: int, mask: int) -> bytes:
    """Confidence of the patches that the mask's box touches."""
    height, width = shard.size[image].tolist()
    top, bottom, left, right = grid_window(shard.box[mask].tolist(), (height, width), shard.grid)
    crop = shard.confidence[mask, top:bottom, left:right]
    known = crop[crop > 0]
    return known[:1].tobytes() if len(known) and known.min() == known.max() else crop.tobytes()


def write_selection(store: Mapping[str, np.ndarray], filters: InstanceFilter, folder: Path) -> None:
    """What filters leave of a store, and `meta.json` with what each dropped, in an existing empty folder.

    store: its arrays by name. Raises OSError when the folder cannot be written.
    """
    offsets = store["image_offsets"]
    n_images = len(offsets) - 1
    dropped: Counter[str] = Counter()
    with ArrayWriter(folder, SELECTION_ARRAYS) as out:
        for first, last in pairwise([*range(0, n_images, _BLOCK), n_images]):
            masks = slice(int(offsets[first]), int(offsets[last]))
            facts = MaskFacts(
                score=np.asarray(store["score"][masks]),
                confidence=np.asarray(store["mean_confidence"][masks]),
                area=np.asarray(store["area"][masks]),
                box=np.asarray(store["box"][masks]),
                counts=np.diff(offsets[first : last + 1]),
                pixels=store["size"][first:last].astype(np.int64).prod(axis=1),
            )
            keep_M, keep_B, counts = passing(facts, filters)
            dropped += counts
            kept_masks = np.flatnonzero(keep_M) + masks.start
            left_B = np.diff(np.searchsorted(kept_masks, offsets[first : last + 1]))
            out.append("image", np.flatnonzero(keep_B) + first)
            out.append("mask", kept_masks)
            out.append_lengths("mask_offsets", left_B[keep_B])
        rows = out.rows
    masks_before, images_before = len(store["score"]), n_images
    write_meta(folder, {"dropped": dict(dropped), "masks": masks_before, "images": images_before, "rows": rows})
