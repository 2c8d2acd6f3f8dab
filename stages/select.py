"""Which of many overlapping candidates become the masks of an image.

M candidates · N = Gh·Gw patches
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SelectConfig:
    """masks: of an image at most, 1..255.
    same_iou: candidates with a larger IoU are one and the same, in (0, 1].
    overlap_sigma: how much overlap costs, > 0: a mask's novelty is the product of exp(-IoU²/overlap_sigma) over the
        better masks of its image (Bodla et al. 2017, "Soft-NMS", Gaussian).
    min_score: masks whose score, novelty included, is lower are left out, 0..1: fewer and surer ones.
    """

    masks: int = 10
    same_iou: float = 0.92
    overlap_sigma: float = 0.3
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.masks <= 255:
            raise ValueError(f"select.masks must be 1..255, got {self.masks}")
        if not 0.0 < self.same_iou <= 1.0:
            raise ValueError(f"select.same_iou must lie in (0, 1], got {self.same_iou}")
        if not self.overlap_sigma > 0.0:
            raise ValueError(f"select.overlap_sigma must be > 0, got {self.overlap_sigma}")
        if not 0.0 <= self.min_score <= 1.0:
            raise ValueError(f"select.min_score must lie in 0..1, got {self.min_score}")


def pairwise_iou(masks_MN: np.ndarray) -> np.ndarray:
    """IoU of every two of M bool masks: (M, M) float32, 1 on the diagonal of masks that are not empty."""
    inside_MN = masks_MN.astype(np.float32)
    shared_MM = inside_MN @ inside_MN.T
    area_M = inside_MN.sum(axis=1)
    union_MM = area_M[:, None] + area_M - shared_MM
    return shared_MM / np.maximum(union_MM, 1.0)


def distinct(masks_MN: np.ndarray, same_iou: float) -> np.ndarray:
    """Indices of masks no two of which have an IoU above `same_iou`, largest masks first, (at most M,) int64."""
    order = np.argsort(-masks_MN.sum(axis=1), kind="stable")
    same_MM = pairwise_iou(masks_MN) > same_iou
    is_repeated_M = np.zeros(len(masks_MN), bool)
    chosen: list[int] = []
    for index in order:
        if not is_repeated_M[index]:
            chosen.append(int(index))
            is_repeated_M |= same_MM[index]
    return np.array(chosen, np.int64)


def soft_nms(scores_M: np.ndarray, masks_MN: np.ndarray, config: SelectConfig) -> tuple[np.ndarray, np.ndarray]:
    """The best masks in the order of their scores times novelty: their indices, int64, and novelties, float64 in 0..1.

    scores_M: (M,) float >= 0; masks of score 0 are not chosen.
    masks_MN: (M, N) bool.
    """
    novelty_M = np.ones(len(scores_M))
    open_M = scores_M > 0
    iou_MM = pairwise_iou(masks_MN)
    chosen: list[int] = []
    while len(chosen) < config.masks and open_M.any():
        best = int(np.where(open_M, scores_M * novelty_M, -1.0).argmax())
        if scores_M[best] * novelty_M[best] < config.min_score:
            break
        chosen.append(best)
        open_M[best] = False
        novelty_M[open_M] *= np.exp(-(iou_MM[best, open_M] ** 2) / config.overlap_sigma)
    return np.array(chosen, np.int64), novelty_M[chosen]
