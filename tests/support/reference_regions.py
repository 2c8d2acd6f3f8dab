"""Merging of adjacent regions as HASSOD describes it: one merge after the other, all pairs looked at for each."""

from collections.abc import Sequence

import numpy as np


def merged_regions(
    features_ND: np.ndarray, grid: tuple[int, int], thresholds: Sequence[float], start_N: np.ndarray | None = None
) -> list[np.ndarray]:
    """At each threshold the first patch of each patch's region, (N,), -1 for patches that take no part.

    Of equal cosines (to nine decimals) the pair with the smaller first patches comes first.
    """
    height, width = grid
    labels = list(range(height * width)) if start_N is None else start_N.tolist()
    groups: dict[int, list[int]] = {}
    for patch, label in enumerate(labels):
        if label >= 0:
            groups.setdefault(label, []).append(patch)
    regions = {patches[0]: patches for patches in groups.values()}
    region_of = {patch: name for name, patches in regions.items() for patch in patches}
    pairs = set()
    for patch in region_of:
        below = patch + width if patch + width < height * width else -1
        right = patch + 1 if (patch + 1) % width else -1
        for other in (below, right):
            if other in region_of and region_of[other] != region_of[patch]:
                pairs.add(frozenset((region_of[patch], region_of[other])))

    def cosine(pair: frozenset[int]) -> float:
        means = [features_ND[regions[name]].astype(np.float64).mean(axis=0) for name in pair]
        norms = [np.linalg.norm(mean) for mean in means]
        return round(float(means[0] @ means[1] / (norms[0] * norms[1])), 9) if all(norms) else 0.0

    cosines = {pair: cosine(pair) for pair in pairs}
    levels = []
    for threshold in thresholds:
        while cosines:
            best = min(cosines, key=lambda pair: (-cosines[pair], *sorted(pair)))
            if cosines[best] < threshold:
                break
            keep, gone = sorted(best)
            regions[keep] = sorted(regions[keep] + regions.pop(gone))
            near = {name for pair in cosines if pair & best for name in pair} - best
            cosines = {pair: value for pair, value in cosines.items() if not pair & best}
            cosines |= {pair: cosine(pair) for pair in (frozenset((keep, other)) for other in near)}
        names = np.full(height * width, -1)
        for name, patches in regions.items():
            names[patches] = name
        levels.append(names)
    return levels
