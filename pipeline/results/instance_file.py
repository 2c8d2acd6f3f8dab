"""One shard of a run in one file: the pseudo-masks of its images as flat arrays, and what is known of each image.

    masks/rle            uint8 (bytes)       COCO compressed run-length codes of all masks, one after the other
    masks/offsets        int64 (M+1)         mask m is rle[offsets[m]:offsets[m+1]]
    masks/image_offsets  int64 (B+1)         masks of image i are image_offsets[i] .. image_offsets[i+1]-1
    masks/score          float32 (M)         and its parts, masks/<part>, see stages.score
    masks/crf_iou        float32 (M)         IoU of the mask before and after the CRF
    masks/round          uint8 (M)           0-based NCut round; place by score where a tree was searched
    masks/proposal       int32 (M)           place among the proposals of the image, kept and dropped; -1 where the mask
                                             has none, and no array where none has: imports, detectors, older versions
    masks/level          int8 (M)            0 whole, 1 part, 2 subpart; -1 where the mask has none, and no array where
                                             none has: all but hierarchies of regions
    masks/box            float32 (M, 4)      x, y, width, height in pixels of the original image; of the mask, or
                                             the detector's own where the recipe has boxes = "detector"
    masks/area           int64 (M)           pixels of the original image
    masks/confidence     uint8 (M, Gh, Gw)   spatial confidence, 255 = 1.0
    images/id            uint8 (bytes)       UTF-8, id i is id[id_offsets[i]:id_offsets[i+1]]
    images/id_offsets    int64 (B+1)         (variable-length strings are not settled in zarr v3)
    images/size          int32 (B, 2)        height, width; 0, 0 when unknown
    images/status        uint8 (B)           index in the array's attribute "names"
    images/drops         int32 (B, reasons)  rejected proposals; reasons in the array's attribute "names"
    images/depth         float16 (B, Gh, Gw) relative depth 0..1, larger = farther; NaN when there is none
    images/depth_filled  float32 (B)         share of the depth map that was not measured and is filled; no array where
                                             nothing was

Dimension letters: B images of the shard, M masks, Gh, Gw patch grid, H, W pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.results.instances import LEVELS, NO_MASKS, OK, ImageRecord, Instance
from pipeline.results.kinds import QUARANTINED, Failed
from pipeline.results.shard_arrays import (
    ReadShard,
    check_offsets,
    check_schema,
    failed,
    ids_in,
    joined,
    offsets,
    reasons,
)
from pipeline.storage.array_file import ArrayFile, damaged, write_arrays
from stages.score import PARTS, ScoreParts

SCHEMA = "cuts3d-pseudo-masks"
VERSION = 1
STATUSES = (OK, NO_MASKS, QUARANTINED)

_DIMS: dict[str, tuple[str, ...]] = {
    "masks/rle": ("byte",),
    "masks/offsets": ("mask_edge",),
    "masks/image_offsets": ("image_edge",),
    "masks/score": ("mask",),
    "masks/box": ("mask", "xywh"),
    "masks/area": ("mask",),
    "masks/round": ("mask",),
    "masks/proposal": ("mask",),
    "masks/level": ("mask",),
    **{f"masks/{part}": ("mask",) for part in PARTS},
    "masks/crf_iou": ("mask",),
    "masks/confidence": ("mask", "grid_y", "grid_x"),
    "images/id": ("byte",),
    "images/id_offsets": ("image_edge",),
    "images/size": ("image", "height_width"),
    "images/status": ("image",),
    "images/drops": ("image", "reason"),
    "images/depth": ("image", "grid_y", "grid_x"),
    "images/depth_filled": ("image",),
}
_OPTIONAL = frozenset({"masks/proposal", "masks/level", "images/depth_filled"})
_READ_LATER = frozenset({"masks/confidence", "images/depth"})
_NONE = -1  # what an optional number of a mask is kept as when there is none


def write_shard(records: Sequence[ImageRecord | Failed], grid: tuple[int, int], attributes: Mapping[str, Any]) -> bytes:
    """The shard as the bytes of its file; the same bytes for the same content.

    records: one for each image of the shard, in the manifest's order.
    grid: (Gh, Gw), patches of confidence and depth, the same for all images of the run.
    attributes: JSON-able, for people who find this file alone: recipe, digests, versions.

    Raises:
        ValueError: a confidence or depth map is not of the grid's shape.
    """
    rows = [_Row((), {}, None, 0.0) if isinstance(record, Failed) else _row(record, grid) for record in records]
    drop_reasons = sorted({reason for row in rows for reason in row.drops})
    return write_arrays(
        _mask_arrays(rows, grid) | _image_arrays(records, rows, drop_reasons, grid),
        _DIMS,
        {
            **attributes,
            "schema": SCHEMA,
            "version": VERSION,
            "quarantine": reasons(records),
        },
        {"images/status": {"names": list(STATUSES)}, "images/drops": {"names": drop_reasons}},
    )


class _Row(NamedTuple):
    """What is stored of an image beside its id, size and status."""

    instances: tuple[Instance, ...]
    drops: Mapping[str, int]
    depth: np.ndarray | None
    depth_filled: float


def _row(record: ImageRecord, grid: tuple[int, int]) -> _Row:
    maps = [instance.confidence for instance in record.instances]
    if any(map_.shape != grid for map_ in (*maps, *([] if record.depth is None else [record.depth]))):
        raise ValueError(f"{record.id}: confidence and depth must have the shape of the patch grid, {grid}")
    return _Row(record.instances, record.drops, record.depth, record.depth_filled)


def _mask_arrays(rows: Sequence[_Row], grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The arrays masks/*, of all masks of the shard one after the other."""
    instances = [instance for row in rows for instance in row.instances]
    return {
        "masks/rle": joined([instance.rle for instance in instances]),
        "masks/offsets": offsets([instance.rle for instance in instances]),
        "masks/image_offsets": offsets([row.instances for row in rows]),
        "masks/score": np.array([instance.score for instance in instances], np.float32),
        "masks/box": np.array([instance.box for instance in instances], np.float32).reshape(-1, 4),
        "masks/area": np.array([instance.area for instance in instances], np.int64),
        "masks/round": np.array([instance.round for instance in instances], np.uint8),
        **_optional("masks/proposal", [instance.proposal for instance in instances], np.int32),
        **_optional("masks/level", [instance.level for instance in instances], np.int8),
        **{
            f"masks/{part}": np.array([getattr(instance.parts, part) for instance in instances], np.float32)
            for part in PARTS
        },
        "masks/crf_iou": np.array([instance.crf_iou for instance in instances], np.float32),
        "masks/confidence": np.array([instance.confidence for instance in instances], np.uint8).reshape(-1, *grid),
    }


def _image_arrays(
    records: Sequence[ImageRecord | Failed], rows: Sequence[_Row], reasons: Sequence[str], grid: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The arrays images/*. reasons: why proposals were rejected, in the order of the columns of images/drops."""
    ids = [record.id.encode() for record in records]
    drops = [[row.drops.get(reason, 0) for reason in reasons] for row in rows]
    no_depth = np.full(grid, np.nan, np.float16)
    depth = [no_depth if row.depth is None else row.depth for row in rows]
    filled = np.array([row.depth_filled for row in rows], np.float32)
    return {
        "images/id": joined(ids),
        "images/id_offsets": offsets(ids),
        "images/size": np.array([record.size for record in records], np.int32).reshape(-1, 2),
        "images/status": np.array([STATUSES.index(record.status) for record in records], np.uint8),
        "images/drops": np.array(drops, np.int32).reshape(len(records), len(reasons)),
        "images/depth": np.array(depth, np.float16).reshape(-1, *grid),
        **({"images/depth_filled": filled} if filled.any() else {}),
    }


class ShardFile(ReadShard):
    """A shard, read. All but confidence and depth is plain numpy from the start; those two are decoded when asked for.

    No file stays open. A process about to fork workers that need confidence or depth should touch them first.

    Attributes: `ids` and `drop_reasons` (tuples of str), `attributes` (dict), `grid` (Gh, Gw); by their names in the
    table above, `rle`, `offsets`, `image_offsets`, `score`, `box`, `area`, `round`, `proposal`, `level`, `size`,
    `status`, `drops`, `depth_filled`.
    """

    def __init__(self, file: ArrayFile) -> None:
        self.attributes = file.attributes
        check_schema(file, SCHEMA, VERSION)
        self.name = file.name
        self._file = file
        arrays = {name: file.read(name) for name in _DIMS if name not in _READ_LATER | _OPTIONAL}
        self.proposal = arrays["masks/proposal"] = _read_optional(file, "masks/proposal", len(arrays["masks/score"]))
        self.level = arrays["masks/level"] = _read_optional(file, "masks/level", len(arrays["masks/score"]))
        self.depth_filled = _depth_filled(file, len(arrays["images/status"]))
        arrays["images/depth_filled"] = self.depth_filled
        self.rle = arrays["masks/rle"]
        self.offsets = arrays["masks/offsets"]
        self.image_offsets = arrays["masks/image_offsets"]
        self.score = arrays["masks/score"]
        self.box = arrays["masks/box"]
        self.area = arrays["masks/area"]
        self.round = arrays["masks/round"]
        self.parts = {part: arrays[f"masks/{part}"] for part in PARTS}
        self.crf_iou = arrays["masks/crf_iou"]
        self.size = arrays["images/size"]
        self.status = arrays["images/status"]
        self.drops = arrays["images/drops"]
        self.drop_reasons: tuple[str, ...] = tuple(file.array_attributes("images/drops")["names"])
        _, grid_h, grid_w = file["masks/confidence"].shape
        self.grid: tuple[int, int] = (grid_h, grid_w)
        self._check_shapes(arrays)
        text, edges = arrays["images/id"], arrays["images/id_offsets"]
        check_offsets(self.name, "masks/offsets", self.offsets, len(self.rle))
        check_offsets(self.name, "masks/image_offsets", self.image_offsets, self.n_masks)
        self.ids = ids_in(self.name, text, edges)

    @property
    def n_masks(self) -> int:
        return len(self.score)

    @cached_property
    def confidence(self) -> np.ndarray:
        """uint8 (M, Gh, Gw), 255 = 1.0."""
        return self._file.read("masks/confidence")

    @cached_property
    def depth(self) -> np.ndarray:
        """float16 (B, Gh, Gw), NaN where there is none."""
        return self._file.read("images/depth")

    def masks_of(self, image: int) -> range:
        """Indices of the masks of image `image` of this shard."""
        return range(int(self.image_offsets[image]), int(self.image_offsets[image + 1]))

    def coco_rle(self, mask: int) -> dict[str, Any]:
        """{"size": [H, W], "counts": bytes}, as pycocotools takes it."""
        image = int(np.searchsorted(self.image_offsets, mask, side="right")) - 1
        counts = self.rle[self.offsets[mask] : self.offsets[mask + 1]].tobytes()
        return {"size": self.size[image].tolist(), "counts": counts}

    def mask(self, mask: int) -> np.ndarray:
        """uint8 (H, W), 1 on the instance, at the original image's size, row by row in memory as any array of ours;
        StoreError when the code does not fit it."""
        try:
            return np.ascontiguousarray(coco_mask.decode(self.coco_rle(mask)))
        except ValueError as error:
            raise damaged(self.name, f"mask {mask} cannot be decoded ({error})") from error

    @property
    def done(self) -> np.ndarray:
        """bool (B,): images that have a record, and did not fail."""
        return self.status != STATUSES.index(QUARANTINED)

    def result(self, image: int) -> ImageRecord | Failed:
        """Image `image` of this shard, as it was written."""
        size = int(self.size[image, 0]), int(self.size[image, 1])
        if not self.done[image]:
            return failed(self.attributes["quarantine"], image, self.ids[image], size)
        depth = self.depth[image]
        return ImageRecord(
            id=self.ids[image],
            size=size,
            status=STATUSES[self.status[image]],
            instances=tuple(self._instance(mask) for mask in self.masks_of(image)),
            drops={name: int(n) for name, n in zip(self.drop_reasons, self.drops[image], strict=True) if n},
            depth=None if np.isnan(depth).any() else depth,
            depth_filled=float(self.depth_filled[image]),
        )

    def results(self) -> Iterator[ImageRecord | Failed]:
        """All images, in the shard's order."""
        return map(self.result, range(len(self)))

    def _instance(self, mask: int) -> Instance:
        x, y, width, height = self.box[mask].tolist()
        return Instance(
            rle=self.rle[self.offsets[mask] : self.offsets[mask + 1]].tobytes(),
            box=(x, y, width, height),
            area=int(self.area[mask]),
            score=float(self.score[mask]),
            confidence=self.confidence[mask],
            round=int(self.round[mask]),
            parts=ScoreParts(**{part: float(values[mask]) for part, values in self.parts.items()}),
            crf_iou=float(self.crf_iou[mask]),
            proposal=None if self.proposal[mask] == _NONE else int(self.proposal[mask]),
            level=None if self.level[mask] == _NONE else int(self.level[mask]),
        )

    def _check_shapes(self, arrays: Mapping[str, np.ndarray]) -> None:
        n_masks, n_images = len(self.score), len(self.status)
        lengths = {
            **{"mask": n_masks, "mask_edge": n_masks + 1, "xywh": 4},
            **{"image": n_images, "image_edge": n_images + 1, "height_width": 2, "reason": len(self.drop_reasons)},
            **{"grid_y": self.grid[0], "grid_x": self.grid[1]},
        }
        for name, dims in _DIMS.items():
            shape = self._file[name].shape if name in _READ_LATER else arrays[name].shape
            if dims != ("byte",) and shape != (expected := tuple(lengths[dim] for dim in dims)):
                raise damaged(self.name, f"{name} has shape {shape}, not {expected}")
        if (self.status >= len(STATUSES)).any():
            raise damaged(self.name, f"images/status must be below {len(STATUSES)}")
        if not ((self.level >= _NONE) & (self.level < len(LEVELS))).all():
            raise damaged(self.name, f"masks/level must be {_NONE}..{len(LEVELS) - 1}")


def _optional(name: str, values: Sequence[int | None], dtype: type) -> dict[str, np.ndarray]:
    """The array of a number that not every mask has, by its name; nothing where no mask has one."""
    if all(value is None for value in values):
        return {}
    return {name: np.array([_NONE if value is None else value for value in values], dtype)}


def _read_optional(file: ArrayFile, name: str, n_masks: int) -> np.ndarray:
    return file.read(name) if name in file else np.full(n_masks, _NONE, np.int32)


def _depth_filled(file: ArrayFile, n_images: int) -> np.ndarray:
    return file.read("images/depth_filled") if "images/depth_filled" in file else np.zeros(n_images, np.float32)
