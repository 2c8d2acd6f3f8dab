"""Merging: masks that overlap, or patches that are neighbours, become the masks of things.

N = Gh·Gw patches · D feature width · M masks · C clusters · Gh, Gw patch grid

Source: ProMerge (arXiv 2409.18961), steps 5 and 6 of its released code, with its names for constants. Summaries of the
paper describe it otherwise: adjacent similar patches are grouped, adjacent groups merged, and groups that the class
token does not look at are left out. That reading is here, too: `grouping="adjacent"`, `min_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy

from stages.late import torch
from stages.region_merging import merge_regions


@dataclass(frozen=True)
class MergeThresholds:
    """Those that belong to the features; see `MergeConfig`. Each in [-1, 1]."""

    bipartition_tau: float
    foreground_include_tau: float
    dino_merge_tau: float


OF_FEATURES = ("bipartition_tau", "foreground_include_tau", "dino_merge_tau")


@dataclass(frozen=True)
class MergeConfig:
    """grouping: "prompts" (ProMerge): masks of point prompts, merged where they overlap; "adjacent": connected patches
        whose neighbours are alike, merged with the most similar group beside them, again and again.
    stride: patches from one prompt to the next, >= 1.
    bipartition_tau: patches whose cosine exceeds it are alike, in [-1, 1]; none takes that of the features.
    cc_maskarea_tau: of what is like a prompt, connected parts of at least so many times the area of the part that holds
        the prompt become masks, >= 0.
    need_background: an image without background, or with background on less than a tenth of it, gives no masks
        (ProMerge); false goes on without background.
    iou_filter_tau: a mask is in front while less than this share of what it adds is background, in [0, 1].
    foreground_include_tau: a mask is in front while the product of its mean feature and that of the background is below
        it, in [-1, 1]; none takes that of the features.
    intersection_merge_tau: a mask joins a larger one that holds more than this share of it, in [0, 1].
    merge_ioa_tau: a mask joins a larger one that is alike and holds more than this share of it, in [0, 1].
    dino_merge_tau: masks are alike from this product of their mean features on, in [-1, 1]; none takes that of the
        features.
    min_attention: masks to which the class token pays less than so many times its mean attention are dropped, >= 0;
        none keeps all.
    """

    grouping: Literal["prompts", "adjacent"] = "prompts"
    stride: int = 4
    bipartition_tau: float | None = None
    cc_maskarea_tau: float = 0.5
    need_background: bool = True
    iou_filter_tau: float = 0.8
    foreground_include_tau: float | None = None
    intersection_merge_tau: float = 0.5
    merge_ioa_tau: float = 0.1
    dino_merge_tau: float | None = None
    min_attention: float | None = None

    def __post_init__(self) -> None:
        if self.grouping not in ("prompts", "adjacent"):
            raise ValueError(f"merge.grouping must be prompts or adjacent, got {self.grouping!r}")
        if self.stride < 1:
            raise ValueError(f"merge.stride must be at least 1, got {self.stride}")
        for name in OF_FEATURES:
            value = getattr(self, name)
            if value is not None and not -1.0 <= value <= 1.0:
                raise ValueError(f"merge.{name} must lie in [-1, 1] or be none, got {value}")
        for name in ("iou_filter_tau", "intersection_merge_tau", "merge_ioa_tau"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"merge.{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("cc_maskarea_tau", "min_attention"):
            value = getattr(self, name)
            if value is not None and value < 0.0:
                raise ValueError(f"merge.{name} must be at least 0, got {value}")

    @property
    def missing(self) -> list[str]:
        """Thresholds that belong to the features, are read, and are none."""
        read = [name for name in OF_FEATURES if self.grouping == "prompts" or name != "foreground_include_tau"]
        return [name for name in read if getattr(self, name) is None]

    @property
    def is_settled(self) -> bool:
        """Whether all thresholds that are read are known."""
        return not self.missing

    def settled(self, of_features: MergeThresholds) -> MergeConfig:
        """With what is none taken from the features."""
        return replace(
            self, **{name: getattr(of_features, name) for name in OF_FEATURES if getattr(self, name) is None}
        )

    def settled_tau(self, name: str) -> float:
        """One of the thresholds that belong to the features; ValueError while it is none."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"merge.{name} is not set: give a value or take the feature preset's")
        return float(value)


LEAST_BACKGROUND = 0.1  # of the patches: what is less is none


@dataclass(frozen=True)
class Cluster:
    """A merged mask. mask: (N,) bool. largest: index of the largest of the masks that it is made of."""

    mask: np.ndarray
    largest: int


def in_front(masks_MN: np.ndarray, background_N: np.ndarray, unit_ND: torch.Tensor, config: MergeConfig) -> np.ndarray:
    """Indices of the masks that the ascending cascade accepts, smallest first, (at most M,) int64.

    background_N: bool; where it is empty, masks have only to hold something new.
    unit_ND: float32, features of length 1.

    From the smallest mask up, those of one size in their order: accepted is what adds patches to the masks accepted
    before, of which less than `iou_filter_tau` are background, and whose mean feature is unlike that of the background.
    Means of unit features are shorter than 1 and stay so, as published: what varies counts as less alike.
    """
    order = np.argsort(masks_MN.sum(axis=1), kind="stable")
    if background_N.any():
        mean_D = unit_ND[torch.from_numpy(background_N).to(unit_ND.device)].mean(dim=0)
        like_N = (unit_ND @ mean_D).cpu().numpy()
        like_M = masks_MN.astype(np.float32) @ like_N / masks_MN.sum(axis=1)
        order = order[like_M[order] < config.settled_tau("foreground_include_tau")]
    seen_N, accepted = np.zeros(masks_MN.shape[1], bool), []
    for index in order:
        new_N = masks_MN[index] & ~seen_N
        new = np.count_nonzero(new_N)
        # Published, nothing new is 0/0, which is not below any threshold.
        if new and np.count_nonzero(new_N & background_N) < config.iou_filter_tau * new:
            accepted.append(int(index))
            seen_N |= masks_MN[index]
    return np.array(accepted, np.int64)


def merge_overlapping(masks_MN: np.ndarray, unit_ND: torch.Tensor, config: MergeConfig) -> list[Cluster]:
    """Clusters of masks that overlap, in the order in which their largest masks come.

    masks_MN: (M, N) bool, none empty.
    unit_ND: float32, features of length 1.

    From the largest mask down, those of one size in their order: each is joined with all clusters that match it, into
    one; without a match it is a cluster of its own. A match is decided on the clusters as they were before the mask
    came, so that their order does not matter.
    """
    tau = config.settled_tau("dino_merge_tau")
    area_M = masks_MN.sum(axis=1)
    sums_MD = (torch.from_numpy(masks_MN).to(unit_ND.device).float() @ unit_ND).cpu().numpy()
    unit_numpy_ND: np.ndarray | None = None
    clusters_CN = np.zeros((0, masks_MN.shape[1]), bool)
    means_CD = np.zeros((0, unit_ND.shape[1]), np.float32)
    largest_C: list[int] = []
    for index in np.argsort(-area_M, kind="stable"):
        mask_N = masks_MN[index]
        held_C = clusters_CN[:, mask_N].sum(axis=1) / area_M[index]
        alike_C = means_CD @ (sums_MD[index] / area_M[index]) >= tau
        joins_C = (held_C > config.intersection_merge_tau) | ((held_C > config.merge_ioa_tau) & alike_C)
        if not joins_C.any():
            clusters_CN = np.concatenate([clusters_CN, mask_N[None]])
            means_CD = np.concatenate([means_CD, sums_MD[index, None] / area_M[index]])
            largest_C.append(int(index))
            continue
        first, *others = np.flatnonzero(joins_C).tolist()
        union_N = clusters_CN[joins_C].any(axis=0) | mask_N
        if (union_N != clusters_CN[first]).any():
            if unit_numpy_ND is None:
                unit_numpy_ND = unit_ND.cpu().numpy()
            clusters_CN[first], means_CD[first] = union_N, unit_numpy_ND[union_N].mean(axis=0)
        if others:
            clusters_CN, means_CD = np.delete(clusters_CN, others, axis=0), np.delete(means_CD, others, axis=0)
            largest_C = [largest for c, largest in enumerate(largest_C) if c not in others]
    return [Cluster(mask_N, largest) for mask_N, largest in zip(clusters_CN, largest_C, strict=True)]


def merge_adjacent(unit_ND: torch.Tensor, grid: tuple[int, int], config: MergeConfig) -> np.ndarray:
    """Groups of connected patches whose neighbours are alike, of which the two most similar adjacent ones become one
    until none are alike: (M, N) bool, no two with a patch in common, largest first.

    unit_ND: float32, features of length 1.
    """
    unit = unit_ND.cpu().numpy()
    start_N = connected_groups(unit, grid, config.settled_tau("bipartition_tau"))
    (region_N,) = merge_regions(unit, grid, [config.settled_tau("dino_merge_tau")], start_N)
    masks_MN = region_N == np.arange(region_N.max() + 1)[:, None]
    return masks_MN[np.argsort(-masks_MN.sum(axis=1), kind="stable")]


def connected_groups(unit_ND: np.ndarray, grid: tuple[int, int], tau: float) -> np.ndarray:
    """Labels from 0, (N,) int32, of what hangs together by neighbouring patches whose cosine exceeds tau."""
    maps_GGD = unit_ND.reshape(*grid, -1)
    patch_GG = np.arange(len(unit_ND)).reshape(grid)
    right_GG, down_GG = (maps_GGD[:, 1:] * maps_GGD[:, :-1]).sum(-1), (maps_GGD[1:] * maps_GGD[:-1]).sum(-1)
    first_E = np.concatenate([patch_GG[:, :-1][right_GG > tau], patch_GG[:-1][down_GG > tau]])
    second_E = np.concatenate([patch_GG[:, 1:][right_GG > tau], patch_GG[1:][down_GG > tau]])
    edges = scipy.sparse.coo_array((np.ones(len(first_E)), (first_E, second_E)), (len(unit_ND),) * 2)
    labels_N: np.ndarray = scipy.sparse.csgraph.connected_components(edges, directed=False)[1]
    return labels_N


def attended(masks_MN: np.ndarray, attention_N: np.ndarray, least: float) -> np.ndarray:
    """Which masks the class token pays at least `least` times its mean attention to: (M,) bool.

    attention_N: float, >= 0.
    """
    return masks_MN.astype(np.float64) @ attention_N / masks_MN.sum(axis=1) >= least * attention_N.mean()
