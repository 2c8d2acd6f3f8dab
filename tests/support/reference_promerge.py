"""ProMerge written out plainly, as the independent reference the fast product code is compared with.

One prompt, one mask and one cluster at a time, in double precision and nothing clever. Written from a description of
the method (arXiv 2409.18961 and its released constants), not from its code.

Dimension letters: N = Gh·Gw patches in row-major order, D feature width, Gh, Gw patch grid.

What the description leaves open: seeds begin at the first patch; masks of one size are taken in the order of their
seeds, those of one seed in reading order; clusters are gone through in any order. `shuffle_ties` and
`shuffle_clusters` draw other orders, to show what depends on them.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage

STRIDE = 4
BIPARTITION_TAU = 0.2
CC_MASKAREA_TAU = 0.5
IOU_FILTER_TAU = 0.8
FOREGROUND_INCLUDE_TAU = 0.1
INTERSECTION_MERGE_TAU = 0.5
MERGE_IOA_TAU = 0.1
DINO_MERGE_TAU = 0.1
CROSS = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


@dataclass(frozen=True)
class ProMerged:
    """masks: what is merged, each (Gh, Gw) bool. skipped: why the image has none: "no background", "little background",
    "no foreground"; "" otherwise. background: (Gh, Gw) bool, None where there is none."""

    masks: list[np.ndarray]
    skipped: str
    background: np.ndarray | None


@dataclass(frozen=True)
class Prompts:
    """What the seeds give: masks of backgrounds and of foregrounds, (Gh, Gw) bool each, and unit features, (Gh, Gw, D)
    float64."""

    backgrounds: list[np.ndarray]
    foregrounds: list[np.ndarray]
    unit_GGD: np.ndarray


def promerge(
    features_ND: np.ndarray,
    grid: tuple[int, int],
    bipartition_tau: float = BIPARTITION_TAU,
    foreground_include_tau: float = FOREGROUND_INCLUDE_TAU,
    dino_merge_tau: float = DINO_MERGE_TAU,
) -> ProMerged:
    """All masks of an image before the CRF."""
    return of_prompts(prompts(features_ND, grid, bipartition_tau), foreground_include_tau, dino_merge_tau)


def prompts(features_ND: np.ndarray, grid: tuple[int, int], bipartition_tau: float) -> Prompts:
    """The masks of all seeds."""
    features_ND = np.asarray(features_ND, dtype=np.float64)
    unit_ND = features_ND / np.maximum(np.linalg.norm(features_ND, axis=1, keepdims=True), 1e-12)
    unit_GGD = unit_ND.reshape(*grid, -1)
    found = Prompts([], [], unit_GGD)
    for row in range(0, grid[0], STRIDE):
        for column in range(0, grid[1], STRIDE):
            similar = unit_GGD @ unit_GGD[row, column] > bipartition_tau
            if sides(similar) > 1:
                found.backgrounds.append(similar)
            else:
                found.foregrounds.extend(parts(similar, row, column))
    return found


def of_prompts(
    found: Prompts,
    foreground_include_tau: float,
    dino_merge_tau: float,
    shuffle_ties: np.random.Generator | None = None,
    shuffle_clusters: np.random.Generator | None = None,
) -> ProMerged:
    """What the masks of the seeds are merged to."""
    if not found.backgrounds:
        return ProMerged([], "no background", None)
    background = np.mean(found.backgrounds, axis=0) > 0.5
    if background.sum() < 0.1 * background.size:
        return ProMerged([], "little background", background)
    if not found.foregrounds:
        return ProMerged([], "no foreground", background)
    accepted = cascade(found.foregrounds, background, found.unit_GGD, foreground_include_tau, shuffle_ties)
    masks = merged(accepted, found.unit_GGD, dino_merge_tau, shuffle_ties, shuffle_clusters)
    return ProMerged(masks, "", background)


def sides(mask: np.ndarray) -> int:
    """How many of the image's four sides a mask covers by more than half."""
    return sum(round(float(side.mean())) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def parts(similar: np.ndarray, row: int, column: int) -> list[np.ndarray]:
    """The connected components of at least half the area of that of the seed."""
    labels, count = scipy.ndimage.label(similar, structure=CROSS)
    if labels[row, column] == 0:
        return []
    own_area = (labels == labels[row, column]).sum()
    components = [labels == label for label in range(1, count + 1)]
    return [component for component in components if component.sum() >= CC_MASKAREA_TAU * own_area]


def mean_feature(mask: np.ndarray, unit_GGD: np.ndarray) -> np.ndarray:
    """Of the patches of a mask; shorter than 1."""
    return unit_GGD[mask].mean(axis=0)


def by_area(masks: list[np.ndarray], sign: int, shuffle: np.random.Generator | None) -> list[np.ndarray]:
    """Masks ascending (sign 1) or descending (-1) by area."""
    if shuffle is not None:
        masks = [masks[i] for i in shuffle.permutation(len(masks))]
    return sorted(masks, key=lambda mask: sign * int(mask.sum()))


def cascade(
    masks: list[np.ndarray],
    background: np.ndarray,
    unit_GGD: np.ndarray,
    foreground_include_tau: float,
    shuffle_ties: np.random.Generator | None = None,
) -> list[np.ndarray]:
    """The masks that are in front of the background, small ones first."""
    accepted: list[np.ndarray] = []
    union = np.zeros_like(background)
    for mask in by_area(masks, 1, shuffle_ties):
        new = mask & ~union
        share = (new & background).sum() / new.sum() if new.any() else math.nan
        similarity = mean_feature(mask, unit_GGD) @ mean_feature(background, unit_GGD)
        if share < IOU_FILTER_TAU and similarity < foreground_include_tau:
            accepted.append(mask)
            union |= mask
    return accepted


def merged(
    masks: list[np.ndarray],
    unit_GGD: np.ndarray,
    dino_merge_tau: float,
    shuffle_ties: np.random.Generator | None = None,
    shuffle_clusters: np.random.Generator | None = None,
) -> list[np.ndarray]:
    """Clusters of masks."""
    clusters: list[np.ndarray] = []
    for mask in by_area(masks, -1, shuffle_ties):
        if shuffle_clusters is not None:
            clusters = [clusters[i] for i in shuffle_clusters.permutation(len(clusters))]
        matching, others = [], []
        for cluster in clusters:
            share = (mask & cluster).sum() / mask.sum()
            alike = mean_feature(mask, unit_GGD) @ mean_feature(cluster, unit_GGD) >= dino_merge_tau
            matches = share > INTERSECTION_MERGE_TAU or (share > MERGE_IOA_TAU and alike)
            (matching if matches else others).append(cluster)
        clusters = [*others, np.logical_or.reduce([mask, *matching])]
    return clusters
