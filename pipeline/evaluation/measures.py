"""What average precision does not tell about pseudo-masks: how well each object is covered, and which masks take two
objects for one, or one for many.

G objects · D masks · P touching pairs of objects
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.evaluation.bootstrap import Ratio
from pipeline.evaluation.truth.coco import Truth

FOUND = 0.5  # IoU from which an object counts as found, and a mask as right


def mask_measures(truth: Truth, image_ids: Sequence[int], masks: Sequence[list[dict[str, Any]]]) -> dict[str, Ratio]:
    """Measures of the masks of each image against its true objects; see METRICS in `pipeline.evaluation.scores`.

    Crowds are no objects; a mask that finds no object and lies half in a crowd counts as neither right nor wrong.
    masks: run-length coded, of each image.
    """
    counts = [_counts(truth, image_id, rles) for image_id, rles in zip(image_ids, masks, strict=True)]
    return {name: Ratio(*(np.array([image[name][part] for image in counts]) for part in (0, 1))) for name in counts[0]}


class Overlaps(NamedTuple):
    """Masks and objects of one image.

    shared_DG, iou_DG: pixels that a mask and an object share, and IoU.
    area_G, area_D: pixels.
    judged_D: bool, masks that count as right or wrong: the others find no object and lie half in a crowd.
    """

    shared_DG: np.ndarray
    iou_DG: np.ndarray
    area_G: np.ndarray
    area_D: np.ndarray
    judged_D: np.ndarray

    @property
    def right_D(self) -> np.ndarray:
        """bool, masks that find an object."""
        return self.iou_DG.max(axis=1, initial=0) >= FOUND


def overlaps(truth: Truth, image_id: int, masks: list[dict[str, Any]]) -> Overlaps:
    """How run-length coded masks of an image lie on its true objects, crowds left out."""
    objects = truth.objects(image_id)
    single = [entry["segmentation"] for entry in objects if not entry["iscrowd"]]
    crowds = [entry["segmentation"] for entry in objects if entry["iscrowd"]]
    area_G, area_D = _areas(single), _areas(masks)
    shared_DG = _intersections(masks, single, area_D)
    iou_DG = shared_DG / (area_D[:, None] + area_G - shared_DG)
    in_crowd_D = (_intersections(masks, crowds, area_D) >= FOUND * area_D[:, None]).any(axis=1)
    judged_D = (iou_DG.max(axis=1, initial=0) >= FOUND) | ~in_crowd_D
    return Overlaps(shared_DG, iou_DG, area_G, area_D, judged_D)


def _counts(truth: Truth, image_id: int, masks: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Numerator and denominator of each measure for one image."""
    found = overlaps(truth, image_id, masks)
    shared_DG, iou_DG, area_G, area_D, judged_D = found
    best_G, best_D = iou_DG.max(axis=0, initial=0), iou_DG.max(axis=1, initial=0)
    mostly_inside_G = (shared_DG > 0.5 * area_D[:, None]).sum(axis=0)

    found_DG, covers_DG = iou_DG >= FOUND, shared_DG > 0.5 * area_G
    pairs = truth.touching_pairs(image_id)
    a_P, b_P = np.array(pairs, int).reshape(-1, 2).T
    merged_P = (covers_DG[:, a_P] & covers_DG[:, b_P]).any(axis=0)
    covered_P = covers_DG[:, a_P].any(axis=0) & covers_DG[:, b_P].any(axis=0)
    both_P = found_DG[:, a_P].any(axis=0) & found_DG[:, b_P].any(axis=0)
    by_two_P = (found_DG[:, a_P] | found_DG[:, b_P]).sum(axis=0) >= 2  # and not both by one and the same mask
    counts: dict[str, tuple[Any, Any]] = {
        "object_best_iou": (best_G.sum(), len(area_G)),
        "objects_found": ((best_G >= FOUND).sum(), len(area_G)),
        "mask_best_iou": (best_D[judged_D].sum(), judged_D.sum()),
        "mask_precision": (found.right_D.sum(), judged_D.sum()),
        "pairs_merged": (merged_P.sum(), len(pairs)),
        "pairs_not_merged": ((~merged_P).sum(), len(pairs)),
        "pairs_apart": ((covered_P & ~merged_P).sum(), len(pairs)),
        "pairs_separated": ((both_P & by_two_P).sum(), len(pairs)),
        "over_segmentation": (mostly_inside_G.sum(), np.count_nonzero(mostly_inside_G)),
        "masks_per_image": (len(masks), 1),
    }
    return {name: (float(over), float(under)) for name, (over, under) in counts.items()}


def _areas(rles: list[dict[str, Any]]) -> np.ndarray:
    return np.array(coco_mask.area(rles) if rles else [], float)


def _intersections(masks: list[dict[str, Any]], others: list[dict[str, Any]], area_D: np.ndarray) -> np.ndarray:
    """Pixels shared by each mask and each of the others, exact, float (masks, others)."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    # With its flag for crowds, pycocotools divides by the area of the mask and not of the union.
    return np.rint(coco_mask.iou(masks, others, [1] * len(others)) * area_D[:, None])
