"""One shard of training inputs in one file. Photos that failed have no crops.

    images/id            uint8 (bytes)        UTF-8, id i is id[id_offsets[i]:id_offsets[i+1]]
    images/id_offsets    int64 (B+1)
    images/size          int32 (B, 2)         height, width; 0, 0 when unknown
    images/done          bool (B)
    images/depth_filled  float32 (B)          share of the depth that was filled
    crops/features       float16 (C, D, h, w) crops of the photos that are done, one photo after the other
    crops/mean           float32 (C, D)       of the features of a crop over its grid
    crops/depth          float32 (C, h, w)    where there is any

The arrays crops/* are plain: `pipeline.storage.mapped_file` reads rows of them.

B photos of the shard · C crops · D feature width · h, w patch grid of a crop
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.results.crop_features import CropFeatures
from pipeline.results.kinds import Failed
from pipeline.results.shard_arrays import ReadShard, check_schema, failed, ids_in, joined, offsets, reasons
from pipeline.storage.array_file import ArrayFile, damaged, write_arrays

SCHEMA = "cuts3d-crop-features"
VERSION = 1
FEATURES, MEAN, DEPTH = "crops/features", "crops/mean", "crops/depth"

_DIMS: dict[str, tuple[str, ...]] = {
    "images/id": ("byte",),
    "images/id_offsets": ("image_edge",),
    "images/size": ("image", "height_width"),
    "images/done": ("image",),
    "images/depth_filled": ("image",),
    FEATURES: ("crop", "feature", "grid_row", "grid_column"),
    MEAN: ("crop", "feature"),
    DEPTH: ("crop", "grid_row", "grid_column"),
}


def write_shard(results: Sequence[CropFeatures | Failed], per_photo: int, attributes: Mapping[str, Any]) -> bytes:
    """The shard as the bytes of its file; the same bytes for the same content.

    results: one for each photo of the shard, in the manifest's order.
    per_photo: crops of each.
    attributes: JSON-able, for people who find this file alone: recipe, digests, versions.

    Raises ValueError for a photo with another number of crops.
    """
    done = [result for result in results if isinstance(result, CropFeatures)]
    if any(len(result.features) != per_photo for result in done):
        raise ValueError(f"every photo must have {per_photo} crops")
    features = np.concatenate([result.features for result in done] or [np.empty((0, 0, 0, 0), np.float16)])
    ids = [result.id.encode() for result in results]
    arrays = {
        "images/id": joined(ids),
        "images/id_offsets": offsets(ids),
        "images/size": np.array([result.size for result in results], np.int32).reshape(-1, 2),
        "images/done": np.array([isinstance(result, CropFeatures) for result in results], bool),
        "images/depth_filled": np.array([getattr(result, "depth_filled", 0) for result in results], np.float32),
        FEATURES: features,
        MEAN: means_of(features),
    }
    depths = [result.depth for result in done if result.depth is not None]
    if depths:
        arrays[DEPTH] = np.concatenate(depths)
    return write_arrays(
        arrays,
        _DIMS,
        {**attributes, "schema": SCHEMA, "version": VERSION, "per_photo": per_photo, "quarantine": reasons(results)},
        plain=(FEATURES, MEAN, DEPTH),
    )


def means_of(features_CDhw: np.ndarray) -> np.ndarray:
    """float32 (C, D), the mean of each crop's features over its grid, from float16 (C, D, h, w)."""
    means = [crop.mean(axis=(1, 2), dtype=np.float32) for crop in features_CDhw]  # one by one: no copy of all
    return np.array(means, np.float32).reshape(features_CDhw.shape[:2])


class CropFeaturesFile(ReadShard):
    """A shard, read; crops are decoded when they are asked for.

    Attributes: `ids` (tuple of str), `done` bool (B), `size` int32 (B, 2), `per_photo`,
    `has_depth`, `attributes` (dict).
    """

    def __init__(self, file: ArrayFile) -> None:
        check_schema(file, SCHEMA, VERSION)
        self.attributes = file.attributes
        self.name = file.name
        self._file = file
        self.ids = ids_in(file.name, file.read("images/id"), file.read("images/id_offsets"))
        self.done, self.size = file.read("images/done"), file.read("images/size")
        self._filled = file.read("images/depth_filled")
        self.per_photo: int = self.attributes["per_photo"]
        self.has_depth = DEPTH in file
        self._check_shapes()
        self._first_crop = np.cumsum([0, *self.done]) * self.per_photo

    def result(self, image: int) -> CropFeatures | Failed:
        """Photo `image` of this shard, as it was written."""
        size = int(self.size[image, 0]), int(self.size[image, 1])
        if not self.done[image]:
            return failed(self.attributes["quarantine"], image, self.ids[image], size)
        rows = slice(int(self._first_crop[image]), int(self._first_crop[image + 1]))
        depth = self.depth[rows] if self.has_depth else None
        return CropFeatures(self.ids[image], size, self.features[rows], depth, float(self._filled[image]))

    @cached_property
    def means(self) -> np.ndarray:
        """float32 (C, D), of the features of each crop over its grid."""
        return self._file.read(MEAN)

    @cached_property
    def features(self) -> np.ndarray:
        """float16 (C, D, h, w), of all crops."""
        return self._file.read(FEATURES)

    @cached_property
    def depth(self) -> np.ndarray:
        """float32 (C, h, w), of all crops."""
        return self._file.read(DEPTH)

    def _check_shapes(self) -> None:
        images, crops = len(self.ids), int(self.done.sum()) * self.per_photo
        _, *of_crop = self._file[FEATURES].shape
        wanted: dict[str, tuple[int, ...]] = {
            "images/size": (images, 2),
            "images/done": (images,),
            "images/depth_filled": (images,),
            FEATURES: (crops, *of_crop),
            MEAN: (crops, of_crop[0]),
            **({DEPTH: (crops, *of_crop[1:])} if self.has_depth else {}),
        }
        for name, shape in wanted.items():
            if (found := self._file[name].shape) != shape:
                raise damaged(self.name, f"{name} has shape {found}, not {shape}")
