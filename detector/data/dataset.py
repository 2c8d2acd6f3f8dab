"""The images of runs as data sets of MMDetection: what all of them do, and that of pseudo-masks."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS

from detector.data.flat_images import FlatImages
from detector.data.flat_store import FlatStore
from detector.data.sampling import Draw, begin
from pipeline.errors import ImageError, StoreError

log = logging.getLogger(__name__)

# So many photos, and this share of those read, may be gone since the run before it is no accident.
_MAY_BE_GONE, _SHARE_GONE = 10, 0.01


class RunDataset(BaseDetDataset, ABC):
    """Images of one or several runs, whatever these hold for each.

    A sample before the pipeline: img_id (int, the index in this data set), ref (ImageRef), img_path (its URI), height,
    width, and where its labels are: store (FlatImages), store_index (number of the image there), store_images (those of
    all images of this data set), store_partner (that of the Draw's partner, or None). The pipeline does the rest.
    Nothing is held per image: all is mapped from the flat store.

    Items are asked for by index, or by a `Draw`, which makes the sample a function of index and seed.

    In training, an image that can no longer be read is replaced by another one, drawn at random, with a warning; if
    that happens to more than 1 % of the images read (and more than 10), StoreError. In test mode ImageError at once.

    runs: folder or URL of a run, or several.
    cache: folder of the flat stores, see `flat_images.cache_root`.
    indices: a subset; the first n, or the last if negative, or a list of numbers after what is left out.

    Everything else is as in BaseDetDataset.
    """

    store: FlatImages

    def __init__(self, runs: str | Sequence[str], cache: str | Path | None = None, **kwargs: Any) -> None:
        self.runs = [runs] if isinstance(runs, str) else list(runs)
        self.cache = cache
        self._read = 0
        self._gone: set[str] = set()
        self._refuse_others(kwargs)
        super().__init__(serialize_data=False, **kwargs)

    @classmethod
    def _refuse_others(cls, options: Mapping[str, Any]) -> None:
        """TypeError for options that neither this data set takes nor those that it is made of."""
        taken = {name for base in cls.__mro__[:-1] for name in signature(base).parameters}
        if other := [name for name in options if name not in taken]:
            known = ", ".join(sorted(taken - {"args", "kwargs"}))
            raise TypeError(f"{cls.__name__} has no option {other[0]}; it takes {known}")

    @abstractmethod
    def open_store(self) -> FlatImages:
        """The flat store of the runs; see its `open`."""

    @abstractmethod
    def labels_of(self, image: int) -> list[int]:
        """Labels of the instances of an image of the store."""

    def load_data_list(self) -> range:
        """Numbers of the images in the store: what the base class holds in place of a dict for each."""
        self.store = self.open_store()
        log.info("%s", self.store.summary())
        return range(len(self.store))

    def get_data_info(self, idx: int | Draw) -> dict[str, Any]:
        """The sample before the pipeline, made when asked for."""
        if not self._fully_initialized:
            self.full_init()
        index, partner = (idx.index, idx.partner) if isinstance(idx, Draw) else (int(idx), None)
        image = self.data_list[index]
        height, width = self.store.size(image)
        ref = self.store.ref(image)
        index %= len(self.data_list)
        return {
            **{"img_id": index, "sample_idx": index, "ref": ref, "img_path": ref.uri, "height": height, "width": width},
            **{"store": self.store, "store_index": image, "store_images": self.data_list},
            "store_partner": None if partner is None else self.data_list[partner],
        }

    def get_cat_ids(self, idx: int | Draw) -> list[int]:
        """Labels of the instances."""
        return self.labels_of(self.get_data_info(idx)["store_index"])

    def __getitem__(self, idx: int | Draw) -> dict[str, Any]:
        """The sample after the pipeline."""
        begin(idx)
        sample: dict[str, Any] = super().__getitem__(idx)
        return sample

    def prepare_data(self, idx: int | Draw) -> dict[str, Any] | None:
        """The sample after the pipeline; None where the pipeline or a lost photo asks for another."""
        self._read += 1
        try:
            return self.pipeline(self.get_data_info(idx))
        except ImageError as error:
            if self.test_mode:
                raise
            self._note_gone(error)
            return None

    def _note_gone(self, error: ImageError) -> None:
        # By what is said, which names the photo: it may be that of a partner.
        if error.detail not in self._gone:
            log.warning("another image replaces one that can no longer be read: %s", error)
        self._gone.add(error.detail)
        if len(self._gone) > max(_MAY_BE_GONE, _SHARE_GONE * self._read) or len(self._gone) == len(self):
            raise StoreError(
                f"{len(self._gone)} of the {self._read} photos read are gone or broken since the run, e.g. "
                f"{error.detail}: mount the photos where the run found them, or run again on those that are there"
            ) from error


@DATASETS.register_module()
class StoreDataset(RunDataset):
    """Pseudo-masks, class-agnostic; `LoadPhoto` and `LoadConfidenceMasks` load them.

    runs, cache, indices: as in `RunDataset`.
    filters: of `detector.data.instance_filter.InstanceFilter`. See `FlatStore.open` for what is raised.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"classes": ("object",), "palette": [(220, 20, 60)]}

    store: FlatStore

    def __init__(
        self,
        runs: str | Sequence[str],
        filters: dict[str, float | int | None] | None = None,
        cache: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        self.filters = filters
        super().__init__(runs, cache, **kwargs)

    def open_store(self) -> FlatStore:
        """The masks that filters leave."""
        return FlatStore.open(self.runs, self.cache, self.filters)

    def labels_of(self, image: int) -> list[int]:
        """Label 0, once for each mask."""
        return [0] * len(self.store.masks_of(image))
