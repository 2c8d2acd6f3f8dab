"""The pseudo-masks of runs as flat arrays on the local disk, mapped into memory: one copy for all workers and ranks.

Shards are made for writing: each is a compressed file. Training reads single images at random, from many processes. So
the shards are consolidated once into a cache folder, named by a digest of everything that decides its content, and
mapped from there: memory is the page cache's, whatever the number of processes. Its layout: `detector.data.flat_build`.
The cache may be deleted at any time; it is made again when it is asked for next.

M masks of one image · Gh, Gw patch grid
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from detector.data.flat_build import SELECTION_ARRAYS, STORE_ARRAYS, grid_window, write_selection, write_store
from detector.data.flat_folder import make, mapped
from detector.data.flat_images import FlatImages, cache_root, digest_of, open_readers
from detector.data.instance_filter import InstanceFilter
from pipeline.errors import ConfigError, StoreError
from pipeline.runs.instance_reader import InstanceReader
from pipeline.wording import counted

VERSION = 1  # of the cache's layout


class FlatStore(FlatImages):
    """Images that filters left, by number from 0, in the order of the runs and their manifests, with their masks.

    Several runs over one data set stay apart: an image that is in two runs is here twice, each time with the masks of
    one run. Made by `open`; pickled and copied, it stays the same mapped files. Do not write to any of it.

    Attributes: by row of mask, as `masks_of` gives them: `score` float32, `mean_confidence` float32 in 0..1,
    `box` float32 (…, 4) x, y, width, height in pixels, `area` int64 in pixels. `filters`, `folder`.
    """

    def __init__(self, folder: Path, filters: InstanceFilter) -> None:
        store, meta = mapped(folder, STORE_ARRAYS)
        chosen, chosen_meta = mapped(folder / _selection_name(filters), SELECTION_ARRAYS)
        super().__init__(folder, store, chosen["image"], meta["runs"])
        self.filters = filters
        self.score = store["score"]
        self.mean_confidence = store["mean_confidence"]
        self.box = store["box"]
        self.area = store["area"]
        self._masks = chosen["mask"]
        self._mask_offsets = chosen["mask_offsets"]
        self._facts = chosen_meta

    @classmethod
    def open(
        cls,
        runs: str | Sequence[str],
        cache: str | Path | None = None,
        filters: InstanceFilter | dict[str, float | int | None] | None = None,
    ) -> Self:
        """The masks that filters leave of runs, consolidated first if no process has done that yet.

        runs: folder or URL of each. Of a run that is not complete, what is committed now.
        cache: folder for the arrays of all stores; default: `flat` in the cache of cuts3d (see
            `pipeline.models.weights.cache_folder`).

        Raises:
            ConfigError: no runs, one twice, wrong filters, or filters that leave no image.
            StoreError: no run, or no committed shard there; a shard is damaged or missing; the cache cannot be written.
            RunMismatchError: a run or shard is of another schema.
        """
        wanted = InstanceFilter.of(filters)
        readers = open_readers(runs, InstanceReader)
        folder = cache_root(cache) / digest_of(f"cuts3d-flat/{VERSION}", readers)
        make(folder, STORE_ARRAYS, lambda path: write_store(readers, path))
        store, _ = mapped(folder, STORE_ARRAYS)
        make(folder / _selection_name(wanted), SELECTION_ARRAYS, lambda path: write_selection(store, wanted, path))
        opened = cls(folder, wanted)
        if len(opened) == 0:
            raise _nothing_left(opened, [reader.run.url for reader in readers])
        return opened

    def __reduce__(self) -> tuple[type[Self], tuple[Path, InstanceFilter]]:
        return type(self), (self.folder, self.filters)

    def __repr__(self) -> str:
        return f"FlatStore({counted(len(self), 'image')}, {counted(self.n_masks, 'mask')}, {', '.join(self.runs)})"

    @property
    def n_masks(self) -> int:
        """Masks that filters left."""
        return len(self._masks)

    @property
    def dropped(self) -> dict[str, int]:
        """How many masks each filter dropped; "empty": masks without pixels, "min_per_image": with their images."""
        return dict(self._facts["dropped"])

    def summary(self) -> str:
        """What is here and what filters dropped, in a sentence for people."""
        return (
            f"{len(self)} of {counted(self._facts['images'], 'image')} and "
            f"{self.n_masks} of {counted(self._facts['masks'], 'mask')} are left"
            f"{_said_drops(self.dropped)}"
        )

    def facts(self) -> dict[str, Any]:
        """filters, images, masks."""
        return {"filters": dataclasses.asdict(self.filters), "images": len(self), "masks": self.n_masks}

    def masks_of(self, image: int) -> np.ndarray:
        """Rows of the masks of one image, int64 (M,), ascending: in the order of the store."""
        return self._masks[self._mask_offsets[image] : self._mask_offsets[image + 1]]

    def relative_scores(self, image: int) -> np.ndarray:
        """Scores of the masks of one image, as `masks_of` gives them, by its best score: float32 (M,) in 0..1.

        Scores below 0 count as 0; where none is above 0, all masks have 1, since nothing tells them apart.
        """
        score_M = self.score[self.masks_of(image)]
        best = score_M.max(initial=0.0)
        return np.clip(score_M / best, 0.0, 1.0) if best > 0 else np.ones_like(score_M)

    def coco_rle(self, image: int, mask: int) -> dict[str, Any]:
        """{"size": [H, W], "counts": bytes} of one mask (a row) of an image, as pycocotools takes it."""
        start, stop = self._store["rle_offsets"][mask : mask + 2].tolist()
        return {"size": list(self.size(image)), "counts": self._store["rle"][start:stop].tobytes()}

    def confidence(self, image: int, mask: int) -> np.ndarray:
        """Spatial confidence of one mask (a row) of an image: uint8 (Gh, Gw), 255 = 1.0, 0 outside of the instance.

        Only patches that the mask's box touches are kept, and there a confidence that is the same all over the instance
        is given for the whole box.
        """
        row = int(self._images[image])
        grid = self._runs[int(self._store["run"][row])]["grid"]
        top, bottom, left, right = grid_window(self.box[mask].tolist(), self.size(image), (grid[0], grid[1]))
        start, stop = self._store["confidence_offsets"][mask : mask + 2].tolist()
        crop = self._store["confidence"][start:stop]
        confidence = np.zeros(grid, np.uint8)
        confidence[top:bottom, left:right] = crop if len(crop) == 1 else crop.reshape(bottom - top, right - left)
        return confidence


def _selection_name(filters: InstanceFilter) -> str:
    text = json.dumps(dataclasses.asdict(filters), sort_keys=True)
    return f"selection-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _nothing_left(store: FlatStore, urls: Sequence[str]) -> ConfigError | StoreError:
    where = ", ".join(urls)
    if store._facts["masks"] == 0 and store._facts["images"]:
        return StoreError(
            f"none of {counted(store._facts['images'], 'image')} of {where} has a mask: look at `cuts3d status` and "
            "at the drops there; min_per_image=0 takes images without masks, too"
        )
    if store._facts["images"] == 0:
        return StoreError(f"all images of {where} were set aside: `cuts3d info` says why")
    return ConfigError(
        f"the filters leave no image of {where}: of {counted(store._facts['masks'], 'mask')} in "
        f"{counted(store._facts['images'], 'image')} "
        f"none is left{_said_drops(store.dropped)}. Lower those bounds"
    )


def _said_drops(dropped: Mapping[str, int]) -> str:
    parts = [f"{name} {count}" for name, count in dropped.items() if count]
    return f" (dropped: {', '.join(parts)})" if parts else ""
