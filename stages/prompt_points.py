"""Point prompts: what is like a patch, for patches on a grid, and which of it is the image's background.

S prompts · N = Gh·Gw patches · Gh, Gw patch grid · M masks

Source: ProMerge (arXiv 2409.18961), steps 1 to 4 of its released code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

# 4-connected within each map of a stack, not across maps.
_IN_EACH_MAP = np.zeros((3, 3, 3), bool)
_IN_EACH_MAP[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


@dataclass(frozen=True)
class Prompted:
    """What the prompts of an image give.

    masks: (M, N) bool, connected masks, by prompt, then in reading order of their first patches.
    prompts: (M,) int64, flat index of the patch that prompted each.
    background: (N,) bool, empty where no prompt looks like background.
    candidates: how many prompts look like background.
    """

    masks: np.ndarray
    prompts: np.ndarray
    background: np.ndarray
    candidates: int


def prompt_points(grid: tuple[int, int], stride: int) -> np.ndarray:
    """Flat indices of every `stride`-th patch of every `stride`-th row, the first of each included: (S,) int64."""
    rows, columns = np.arange(0, grid[0], stride), np.arange(0, grid[1], stride)
    return (rows[:, None] * grid[1] + columns).ravel()


def prompted(alike_SN: np.ndarray, points_S: np.ndarray, grid: tuple[int, int], cc_maskarea_tau: float) -> Prompted:
    """Background and connected masks of an image.

    alike_SN: bool, the patches that are like each prompt.
    points_S: see `prompt_points`.
    cc_maskarea_tau: see `stages.patch_merging.MergeConfig`.
    """
    alike_SGG = alike_SN.reshape(-1, *grid)
    is_background_S = sides_held(alike_SGG) > 1
    masks_MN, prompts_M = _components(alike_SGG[~is_background_S], points_S[~is_background_S], cc_maskarea_tau)
    return Prompted(masks_MN, prompts_M, vote(alike_SN[is_background_S]), int(is_background_S.sum()))


def sides_held(masks_MGG: np.ndarray) -> np.ndarray:
    """On how many sides of the image each mask holds more than half of the outermost patches: (M,) int in 0..4."""
    sides = (masks_MGG[:, 0], masks_MGG[:, -1], masks_MGG[:, :, 0], masks_MGG[:, :, -1])
    return np.stack([2 * side.sum(axis=1) > side.shape[1] for side in sides]).sum(axis=0)


def vote(masks_MN: np.ndarray) -> np.ndarray:
    """The patches that more than half of the masks hold: (N,) bool, empty without masks."""
    return 2 * masks_MN.sum(axis=0) > len(masks_MN)


def _components(alike_SGG: np.ndarray, points_S: np.ndarray, cc_maskarea_tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Connected masks that are large beside that of their own prompt, and the prompt of each."""
    n = math.prod(alike_SGG.shape[1:])
    labels_SGG, _ = scipy.ndimage.label(alike_SGG, structure=_IN_EACH_MAP)
    labels_SN = labels_SGG.reshape(-1, n)
    areas_L = np.bincount(labels_SN.ravel(), minlength=1)
    owner_L = np.zeros(len(areas_L), np.int64)  # which map a label lies in: labels are not shared
    map_P, patch_P = np.nonzero(labels_SN)
    owner_L[labels_SN[map_P, patch_P]] = map_P
    own_S = labels_SN[np.arange(len(points_S)), points_S]
    # A prompt that is not even like itself, a feature of zeros, gives nothing.
    least_S = np.where(own_S > 0, cc_maskarea_tau * areas_L[own_S], np.inf)
    kept = [label for label in range(1, len(areas_L)) if areas_L[label] >= least_S[owner_L[label]]]
    masks = [labels_SN[owner_L[label]] == label for label in kept]
    return np.array(masks, bool).reshape(-1, n), points_S[owner_L[kept]]
