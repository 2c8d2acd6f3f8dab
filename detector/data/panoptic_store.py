"""The panoptic labels of runs as flat arrays on the local disk (see `detector.data.flat_images`), and as a data set.

    labels, labels_offsets             uint8 bytes, int64 (B+1)  codes of the maps of labels, see `semantic_codes`
    instance_map, instance_map_offsets uint8 bytes, int64 (B+1)  codes of the maps of ids, see `panoptic_file`
    instance_offsets                   int64 (B+1)               instances of image i are instance_offsets[i] .. [i+1]-1
    instance_class, instance_box       uint8 (M,), int32 (M, 4)  0..C-1; x, y, width, height, pixels

and of the images that are learnt from: image, int64 (B',), their rows. What is a thing is not in the arrays: the split
is applied when labels are read.

B images · M instances · C classes of the runs
"""

import logging
from collections.abc import Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, Self

import numpy as np
from mmdet.registry import DATASETS

from detector.data.array_writer import ArrayWriter
from detector.data.dataset import RunDataset
from detector.data.flat_folder import make, mapped, write_meta
from detector.data.flat_images import (
    IMAGE_ARRAYS,
    FlatImages,
    append_images,
    append_parts,
    cache_root,
    digest_of,
    open_readers,
    refs_of,
)
from pipeline.errors import ConfigError, StoreError
from pipeline.results.kinds import added
from pipeline.results.panoptic import ids_type
from pipeline.results.panoptic_file import PanopticShard
from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic import Classes
from pipeline.results.semantic_codes import decoded
from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.wording import counted, few_of

log = logging.getLogger(__name__)

VERSION = 1  # of the cache's layout

_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    **{"labels": ("u1", ()), "labels_offsets": ("<i8", ())},
    **{"instance_map": ("u1", ()), "instance_map_offsets": ("<i8", ())},
    **{"instance_offsets": ("<i8", ()), "instance_class": ("u1", ())},
    **{"instance_box": ("<i4", (4,))},
    **IMAGE_ARRAYS,
}
_SELECTION: dict[str, tuple[str, tuple[int, ...]]] = {"image": ("<i8", ())}


class PanopticStore(FlatImages):
    """Images with their panoptic labels. Made by `open`.

    Attributes beside those of `FlatImages`: `split` (`ThingSplit` of all runs together).
    """

    def __init__(self, folder: Path, threshold: float | None, only_non_empty: bool) -> None:
        store, meta = mapped(folder, _ARRAYS)
        chosen, _ = mapped(folder / _selection_name(only_non_empty), _SELECTION)
        super().__init__(folder, store, chosen["image"], meta["runs"])
        self._options = threshold, only_non_empty
        self.split = ThingSplit.made(Classes.from_json(meta["classes"]), meta["things"], meta["counts"], threshold)

    @classmethod
    def open(
        cls,
        runs: str | Sequence[str],
        threshold: float | None = None,
        only_non_empty: bool = True,
        cache: str | Path | None = None,
    ) -> Self:
        """The labels of runs, consolidated first if no process has done that yet.

        runs: folder or URL of each. Of a run that is not complete, what is committed now.
        threshold: see `split_of`.
        only_non_empty: leave out images that have no instance of any class, as CUPS does.
        cache: see `flat_images.cache_root`.

        Raises:
            ConfigError: as `split_of`; no image is left.
            StoreError: no run, or no committed shard there; a shard is damaged or missing; the cache cannot be written.
            RunMismatchError: a run or shard is of another schema.
        """
        readers = _readers(runs, threshold)
        folder = cache_root(cache) / digest_of(f"cuts3d-flat-panoptic/{VERSION}", readers)
        make(folder, _ARRAYS, lambda path: _write_store(readers, path))
        store, _ = mapped(folder, _ARRAYS)
        chosen = folder / _selection_name(only_non_empty)
        make(chosen, _SELECTION, lambda path: _write_selection(store, only_non_empty, path))
        opened = cls(folder, threshold, only_non_empty)
        if len(opened) == 0:
            where = ", ".join(opened.runs)
            if len(store["run"]) == 0:
                raise StoreError(f"all images of {where} were set aside: `cuts3d info` says why")
            raise ConfigError(
                f"none of {counted(len(store['run']), 'image')} of {where} has an instance: `cuts3d info` says why"
            )
        return opened

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), (self.folder, *self._options)

    def __repr__(self) -> str:
        return f"PanopticStore({counted(len(self), 'image')}, {', '.join(self.runs)})"

    @cached_property
    def n_instances(self) -> int:
        """Instances of thing classes."""
        counts = np.bincount(self._store["instance_class"], minlength=len(self.split.classes))
        return int(counts[self.split.things].sum())

    def summary(self) -> str:
        """What is here, in a sentence for people."""
        names = [self.split.classes.names[c] for c in self.split.thing_classes]
        return (
            f"{len(self)} of {counted(len(self._store['run']), 'image')}, {counted(self.n_instances, 'thing')}; "
            f"{len(names)} of {counted(len(self.split.classes), 'class', 'es')} are things"
            f"{f': {few_of(names)}' if names else ''}"
        )

    def facts(self) -> dict[str, Any]:
        """images, instances (of thing classes), threshold, only_non_empty, and names of things and stuff."""
        named = split_facts(self.split)
        return {
            **{"images": len(self), "instances": self.n_instances, "threshold": self.split.threshold},
            **{"only_non_empty": self._options[1]},
            **{"things": list(named["classes"]), "stuff": list(named["stuff_classes"])},
        }

    def classes_of(self, image: int) -> np.ndarray:
        """uint8 (M,), 0..C-1, of the instances of one image, whatever their class."""
        return self._store["instance_class"][self._instances(image)]

    def boxes_of(self, image: int) -> np.ndarray:
        """int32 (M, 4): x, y, width, height in pixels, of the same."""
        return self._store["instance_box"][self._instances(image)]

    def labels(self, image: int) -> np.ndarray:
        """uint8 (H, W): 0..C-1, 255 for pixels without a class. StoreError when the code is damaged."""
        return self._map("labels", image, np.uint8)

    def instance_ids(self, image: int) -> np.ndarray:
        """uint8 or uint16 (H, W): 0 none, k for the image's k-th instance. StoreError when the code is damaged."""
        return self._map("instance_map", image, ids_type(len(self.classes_of(image))))

    def _instances(self, image: int) -> slice:
        row = int(self._images[image])
        return slice(*self._store["instance_offsets"][row : row + 2].tolist())

    def _map(self, name: str, image: int, dtype: type[np.uint8] | type[np.uint16]) -> np.ndarray:
        try:
            return decoded(self._bytes(name, int(self._images[image])), self.size(image), dtype)
        except ValueError as error:
            raise StoreError(
                f"the labels of {self.ref(image).id} of {self.run_url(image)} are damaged ({error}): `cuts3d verify` "
                "tells which shard to make again"
            ) from error


@DATASETS.register_module()
class PanopticStoreDataset(RunDataset):
    """Panoptic labels; `LoadPhoto` and `detector.data.panoptic_loading.LoadPanoptic` load them.

    metainfo: classes (names of the things), stuff_classes (names), things and stuffs (their numbers in the runs).

    runs, cache, indices: as in `RunDataset`.
    threshold, only_non_empty: see `PanopticStore.open`, which also says what is raised.
    """

    store: PanopticStore

    def __init__(
        self,
        runs: str | Sequence[str],
        threshold: float | None = None,
        only_non_empty: bool = True,
        cache: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        self.threshold, self.only_non_empty = threshold, only_non_empty
        super().__init__(runs, cache, **kwargs)

    def open_store(self) -> PanopticStore:
        """The labels; the metainfo follows from them."""
        store = PanopticStore.open(self.runs, self.threshold, self.only_non_empty, self.cache)
        self._metainfo.update(split_facts(store.split))
        return store

    def labels_of(self, image: int) -> list[int]:
        """0..T-1, once for each thing."""
        things = list(self.store.split.thing_classes)
        return [things.index(c) for c in self.store.classes_of(image).tolist() if c in things]


def split_facts(split: ThingSplit) -> dict[str, Any]:
    """classes, stuff_classes: names of things and stuff; things, stuffs: their numbers; all in the order of the split's
    classes, which is that of the detector's.
    """
    names = split.classes.names
    return {
        "classes": tuple(names[c] for c in split.thing_classes),
        "stuff_classes": tuple(names[c] for c in split.stuff_classes),
        "things": split.thing_classes,
        "stuffs": split.stuff_classes,
    }


def split_of(runs: str | Sequence[str], threshold: float | None = None) -> ThingSplit:
    """Things and stuff of runs, from their commits alone; statistics of several runs are added up.

    threshold: ψ, see `ThingSplit`; None: the published one, or what the maker of the labels knows.

    Raises ConfigError: no runs, one twice or of another kind; runs of different classes, or of which different classes
    are known to be things; a threshold out of range, or for runs that know. StoreError, RunMismatchError as
    `PanopticReader`.
    """
    readers = _readers(runs, threshold)
    return ThingSplit.made(readers[0].clusters, readers[0].things, _counts(readers), threshold)


def _readers(runs: str | Sequence[str], threshold: float | None) -> list[PanopticReader]:
    readers = open_readers(runs, lambda run: PanopticReader(run, threshold))
    first = readers[0]
    for reader in readers[1:]:
        for what, own, other in (
            ("classes", _names(first), _names(reader)),
            ("things", _known_things(first), _known_things(reader)),
        ):
            if own != other:
                raise ConfigError(
                    f"{first.run.url} and {reader.run.url} have different {what}: {own} and {other}. One detector "
                    "learns runs of one model"
                )
    return readers


def _names(reader: PanopticReader) -> str:
    return ", ".join(reader.clusters.names)


def _known_things(reader: PanopticReader) -> str:
    """In words."""
    if reader.things is None:
        return "those that its figures make things"
    names = [name for name, thing in zip(reader.clusters.names, reader.things, strict=True) if thing]
    return f"{', '.join(names) or 'none'}, as its maker says"


def _counts(readers: Sequence[PanopticReader]) -> dict[str, Any]:
    """Pixels of each class, and those of them inside instances, of all runs."""
    counts = reduce(added, (reader.counts for reader in readers))
    return {name: dict(counts.get(name, {})) for name in PanopticReader.by_class}


def _write_store(readers: Sequence[PanopticReader], folder: Path) -> None:
    """Flat arrays and meta.json of all processed images of runs, in the runs' order, in an existing empty folder.

    Images that were set aside are left out, retried ones come once, with the try that counts.
    """
    runs = []
    with ArrayWriter(folder, _ARRAYS) as out:
        for number, reader in enumerate(readers):
            before, find = out.rows["run"], refs_of(reader.run)
            for shard, counts_B in reader.parts():
                taken = np.flatnonzero(counts_B & shard.done)
                append_images(out, find(shard.name, [shard.ids[i] for i in taken]), shard.size[taken], number)
                _append_labels(out, shard, taken.tolist())
            images = out.rows["run"] - before
            log.info(
                "%s: %s taken over from %s",
                *(reader.run.url, counted(images, "image"), counted(len(reader.commits), "shard")),
            )
            runs.append({"url": reader.run.url, "images": images})
        rows = out.rows
    things = readers[0].things
    write_meta(
        folder,
        {
            **{"runs": runs, "rows": rows, "classes": readers[0].clusters.to_json()},
            **{"things": None if things is None else list(things), "counts": _counts(readers)},
        },
    )


def _append_labels(out: ArrayWriter, shard: PanopticShard, taken: Sequence[int]) -> None:
    records = [shard.record(image) for image in taken]
    append_parts(out, "labels", [record.semantic.code for record in records])
    append_parts(out, "instance_map", [record.code for record in records])
    out.append_lengths("instance_offsets", np.array([len(record.instances) for record in records], np.int64))
    instances = [one for record in records for one in record.instances]
    out.append("instance_class", np.array([one.class_ for one in instances], np.uint8))
    out.append("instance_box", np.array([one.box for one in instances], np.int32).reshape(-1, 4))


def _write_selection(store: dict[str, np.ndarray], only_non_empty: bool, folder: Path) -> None:
    counts_B = np.diff(store["instance_offsets"])
    rows = np.flatnonzero(counts_B > 0) if only_non_empty else np.arange(len(counts_B))
    with ArrayWriter(folder, _SELECTION) as out:
        out.append("image", rows)
        written = out.rows
    write_meta(folder, {"rows": written})


def _selection_name(only_non_empty: bool) -> str:
    return "selection-non-empty" if only_non_empty else "selection-all"
