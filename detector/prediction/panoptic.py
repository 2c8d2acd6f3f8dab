"""One map out of what a panoptic detector says of a photo: instances first, by their scores, then stuff, the rest void.

The rule is that of Panoptic FPN (Kirillov et al. 2019, section 4.1) with the numbers that CUPS uses. No MMDetection
here, so that processes of a pool can do it.

M detections · T thing classes · S stuff classes · H, W pixels of the photo · h, w cells of a box's mask
"""

from dataclasses import dataclass

import numpy as np

from detector.prediction.detections import Detections, paste
from pipeline.errors import ConfigError
from pipeline.results.semantic import NONE

STUFF_AT = ("scaled", "released")
# The picture in which the least area of stuff was published: Cityscapes' height and width.
_PUBLISHED_PIXELS = 1024 * 2048
_MOST_INSTANCES = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class PanopticRule:
    """How instances and stuff become one map.

    min_score: detections below it are left out, 0..1.
    max_cover: an instance of which a larger share is covered by better ones is left out, 0..1.
    stuff_area: stuff with fewer pixels in the photo is void; of a photo of 1024 x 2048 pixels.
    stuff_at: "scaled" takes that area in proportion to the photo's size, "released" as it is: at half the width and
        height it is four times as strict.
    mask_threshold: pixels of at least this probability are the instance.
    """

    min_score: float = 0.5
    max_cover: float = 0.5
    stuff_area: int = 4096
    stuff_at: str = "scaled"
    mask_threshold: float = 0.5

    def __post_init__(self) -> None:
        for name in ("min_score", "max_cover"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must lie in 0..1")
        if self.stuff_area < 0:
            raise ConfigError(f"stuff_area is {self.stuff_area}: it must be at least 0 pixels")
        if self.stuff_at not in STUFF_AT:
            raise ConfigError(f"stuff_at is {self.stuff_at!r}: it must be one of {', '.join(STUFF_AT)}")

    def least_stuff(self, size: tuple[int, int]) -> float:
        """Pixels that stuff must have in a photo of this height and width."""
        scale = size[0] * size[1] / _PUBLISHED_PIXELS if self.stuff_at == "scaled" else 1.0
        return self.stuff_area * scale


@dataclass(frozen=True, eq=False)
class PanopticDetections:
    """What the network says of one photo.

    things: detections, the best first.
    labels: int (M,), 0..T-1, of the detections.
    semantic_HW: uint8 at the photo's size, classes of the semantic head: 0 some thing, 1..S stuff.
    certainty: float32 (h, w), 0..1, of the semantic head, over the photo.
    """

    things: Detections
    labels: np.ndarray
    semantic_HW: np.ndarray
    certainty: np.ndarray


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """One map of a photo. Instances have numbers from 1, the best first.

    instance_ids_HW: uint16, 0 where there is none.
    labels: int (m,), 0..T-1, of the instances. scores: float32 (m,).
    stuff_HW: uint8, 1..S, and 0 where there is an instance or nothing.
    """

    instance_ids_HW: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    stuff_HW: np.ndarray


def merged(found: PanopticDetections, rule: PanopticRule) -> PanopticMap:
    """The map: instances by falling score, each without the pixels of those before it; then of what is left the stuff
    that the semantic head sees there, where a class has enough pixels. "Some thing" without an instance is void.
    """
    instance_ids_HW, kept = instances(found.things, found.semantic_HW.shape, rule)
    stuff_HW = np.where(instance_ids_HW > 0, np.uint8(0), found.semantic_HW)
    counts = np.bincount(stuff_HW.ravel(), minlength=NONE + 1)
    enough = counts >= rule.least_stuff(stuff_HW.shape)
    stays = np.where(enough, np.arange(NONE + 1), 0).astype(np.uint8)
    return PanopticMap(instance_ids_HW, found.labels[kept], found.things.scores[kept], stays[stuff_HW])


def instances(things: Detections, size: tuple[int, ...], rule: PanopticRule) -> tuple[np.ndarray, np.ndarray]:
    """uint16 (H, W), 1..m for the instances that stay, 0 elsewhere; and which detections they are, int (m,)."""
    ids_HW = np.zeros(size, np.uint16)
    kept: list[int] = []
    order = np.argsort(-things.scores, kind="stable")
    for place in order[: int((things.scores >= rule.min_score).sum())].tolist():
        pasted = paste(things.masks[place], things.boxes[place], (size[0], size[1]))
        mask_YX = pasted.values >= rule.mask_threshold
        rows, columns = mask_YX.shape
        window_YX = ids_HW[pasted.top : pasted.top + rows, pasted.left : pasted.left + columns]
        area, free_YX = int(np.count_nonzero(mask_YX)), mask_YX & (window_YX == 0)
        left = int(np.count_nonzero(free_YX))
        if not left or area - left > rule.max_cover * area or len(kept) == _MOST_INSTANCES:
            continue
        kept.append(place)
        window_YX[free_YX] = len(kept)
    return ids_HW, np.array(kept, np.int64)
