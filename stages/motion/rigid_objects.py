"""One run of SF2SE3: rigid motions that explain the points of a clip, and the objects that have them.

N points of the grid · A pairs of them · P proposals · K objects

Source: SF2SE3 (arXiv 2209.08532), as CUPS (arXiv 2504.01955) runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
import scipy.spatial

from stages.motion.camera import Camera
from stages.motion.grid import Surroundings, make_grid
from stages.motion.movers_config import MoversConfig
from stages.motion.proposals import Pairs, pairs, propose
from stages.motion.reliable import Noise, Seen
from stages.motion.rigid_motion import Motions, Observed, errors, explained, farthest, refine, two_sided

FEWEST = 4  # points of an object: the pixels of fewer do not determine a motion
_FRUITLESS = 2  # iterations without a new object, which end a run
_WITHIN_TWO = 0.9545  # share of normal errors within two deviations


@dataclass(frozen=True, eq=False)
class Links:
    """Pairs of points that are so close in the image that they may be of one object.

    first_A, second_A: int, the two points. closeness_A: the probability of their distance, 0..1.
    """

    first_A: np.ndarray
    second_A: np.ndarray
    closeness_A: np.ndarray


@dataclass(frozen=True, eq=False)
class Points:
    """What all runs on a clip begin with: those points of the grid that may take part.

    cell_N: int, their places in the grid. reliable_N: bool. observed: see there. after_N3: where they are at t + 1,
    metres.
    """

    camera: Camera
    noise: Noise
    surroundings: Surroundings
    cell_N: np.ndarray
    reliable_N: np.ndarray
    observed: Observed
    after_N3: np.ndarray
    together: Pairs
    links: Links

    def explained(self, motions: Motions, noise_M3: np.ndarray | Noise | None = None) -> np.ndarray:
        """How well motions explain the points, float32 (M, N), 0..1; 0 for those that are not reliable. At the clip's
        noise where none is given.
        """
        noise_M3 = self.noise if noise_M3 is None else noise_M3
        return explained(errors(motions, self.observed, self.camera, noise_M3)) * self.reliable_N

    def spread(self, assigned_KN: np.ndarray) -> np.ndarray:
        """How well the points of objects speak for all points, float32 (K, N), 0..1."""
        return self.surroundings.shares(self.on_grid(assigned_KN))[:, self.cell_N]

    def on_grid(self, assigned_KN: np.ndarray) -> np.ndarray:
        """The points of objects among all of the grid, bool (K, Gh·Gw)."""
        grid_KN = np.zeros((len(assigned_KN), self.surroundings.grid.count), bool)
        grid_KN[:, self.cell_N] = assigned_KN
        return grid_KN


@dataclass(frozen=True, eq=False)
class Objects:
    """Rigid objects; those that explain most come first, and the first is the background.

    own_KN: bool, points that only this object's motion explained when it was found. assigned_KN: bool, all that it
    explains. share_KN: how well it explains points, float32, 0..1. noise_K3: at which it does, pixels.
    """

    motions: Motions
    own_KN: np.ndarray
    assigned_KN: np.ndarray
    share_KN: np.ndarray
    noise_K3: np.ndarray

    @staticmethod
    def of(parts: Sequence[Objects], points: int) -> Objects:
        """All of them, in this order; none of nothing."""
        none_KN = np.zeros((0, points), bool)
        return Objects(
            Motions.of([part.motions for part in parts]),
            np.concatenate([none_KN, *(part.own_KN for part in parts)]),
            np.concatenate([none_KN, *(part.assigned_KN for part in parts)]),
            np.concatenate([none_KN.astype(np.float32), *(part.share_KN for part in parts)]),
            np.concatenate([np.zeros((0, 3)), *(part.noise_K3 for part in parts)]),
        )

    def __len__(self) -> int:
        return len(self.motions)

    def __getitem__(self, chosen: Sequence[int] | np.ndarray) -> Objects:
        parts = (self.own_KN, self.assigned_KN, self.share_KN, self.noise_K3)
        return Objects(self.motions[chosen], *(part[chosen] for part in parts))


def grid_points(seen: Seen, camera: Camera, config: MoversConfig) -> Points:
    """The points of a clip: the reliable ones; where seeds may be others, all that are somewhere at both times."""
    grid = make_grid((seen.depth_HW.shape[0], seen.depth_HW.shape[1]), config.grid)
    depth_N, disparity_N, landing_N2, reliable_N = (
        grid.sampled(map_) for map_ in (seen.depth_HW, seen.disparity_next_HW, seen.landing_HW2, seen.reliable_HW)
    )
    in_both_N = np.isfinite(depth_N) & (disparity_N > 0) & np.isfinite(landing_N2).all(axis=1)
    cell_N = np.flatnonzero(in_both_N if config.seeds == "released" else reliable_N)
    depth_N, disparity_N, landing_N2 = depth_N[cell_N], disparity_N[cell_N], landing_N2[cell_N]
    row_N, column_N = grid.pixels(cell_N)
    before_N3 = in_space(column_N, row_N, depth_N, camera)
    after_N3 = in_space(landing_N2[:, 0], landing_N2[:, 1], camera.fx * camera.baseline / disparity_N, camera)
    return Points(
        camera,
        seen.noise,
        Surroundings(grid, camera, config.extent),
        cell_N,
        reliable_N[cell_N],
        Observed(before_N3, landing_N2, disparity_N),
        after_N3,
        pairs(before_N3, after_N3, config),
        _links(column_N / camera.fx, row_N / camera.fy, config),
    )


def in_space(x_N: np.ndarray, y_N: np.ndarray, depth_N: np.ndarray, camera: Camera) -> np.ndarray:
    """Points (N, 3), float32, metres, at pixels (x, y) and depths."""
    points_N3 = np.empty((len(depth_N), 3), np.float32)
    points_N3[:, 0] = (x_N - camera.cx) / camera.fx * depth_N
    points_N3[:, 1] = (y_N - camera.cy) / camera.fy * depth_N
    points_N3[:, 2] = depth_N
    return points_N3


def _links(x_N: np.ndarray, y_N: np.ndarray, config: MoversConfig) -> Links:
    """x_N, y_N: in focal lengths. Each pair once, unless its closeness alone keeps it from being one object."""
    places_N2 = np.stack([x_N, y_N], axis=1) / config.extent
    # no more than so many deviations apart in each direction, or the probability is below `inlier` already
    pairs_A2 = scipy.spatial.cKDTree(places_N2).query_pairs(farthest(config.inlier), p=np.inf, output_type="ndarray")
    first_A, second_A = pairs_A2.T
    return Links(first_A, second_A, two_sided(places_N2[first_A] - places_N2[second_A]).prod(axis=1).astype(np.float32))


def find_objects(points: Points, config: MoversConfig, rng: np.random.Generator) -> Objects:
    """The objects that one run finds; none where no proposal explains anything."""
    found = Objects.of([], len(points.cell_N))
    background, fruitless = found, 0
    for _ in range(config.iterations):
        new = _iteration(points, found, background, config, rng)
        fruitless += not len(new)
        if fruitless == _FRUITLESS:
            break
        if not len(found) and len(new) and config.background == "corrected":
            new = background = _measured(points, new, config)
        found = Objects.of([found, new], len(points.cell_N))
    return found[select(found.share_KN, found.share_KN[:0], points.reliable_N, config.objects, config)]


def _iteration(
    points: Points, found: Objects, background: Objects, config: MoversConfig, rng: np.random.Generator
) -> Objects:
    """The objects of one more motion: one that is not the background's at the background's noise, and counts where the
    background's does not explain the points.
    """
    other_N = background.share_KN.max(axis=0, initial=0) <= config.inlier
    free_N = points.reliable_N & ~(found.share_KN > config.inlier).any(axis=0)
    motions = propose(points.observed.points_N3, points.after_N3, points.together, free_N, config, rng)
    if len(background) and len(motions):
        iou_PK = soft_iou(points.explained(motions, background.noise_K3[:1]), background.share_KN)
        motions = motions[np.flatnonzero(iou_PK.max(axis=1) <= config.same_motion)]
    share_PN = points.explained(motions) * other_N
    best = select(share_PN, found.share_KN, points.reliable_N, 1, config)
    objects = Objects.of([_split(points, motions[[k]], share_PN[k], free_N, config) for k in best], len(free_N))
    objects = objects[select(objects.share_KN, found.share_KN, points.reliable_N, config.components, config)]
    return _refined(points, objects, other_N)


def select(
    share_KN: np.ndarray, before_BN: np.ndarray, reliable_N: np.ndarray, most: int, config: MoversConfig
) -> list[int]:
    """Greedily, `most` motions at most: again and again the one that explains most of the reliable points beyond those
    before it, while that is more than `gain` of them. What is one of those before it is left out.

    share_KN, before_BN: how well motions explain points, those to choose from and those that there are already.
    """
    count = max(1, np.count_nonzero(reliable_N))
    coverage_N = before_BN.max(axis=0, initial=0)
    open_K = (soft_iou(share_KN, before_BN) <= config.same_motion).all(axis=1)
    chosen: list[int] = []
    while len(chosen) < most and open_K.any():
        gain_K = np.maximum(share_KN - coverage_N, 0).sum(axis=1) / count * open_K
        best = int(gain_K.argmax())
        if gain_K[best] <= config.gain:
            break
        chosen.append(best)
        coverage_N = np.maximum(coverage_N, share_KN[best])
        open_K &= soft_iou(share_KN, share_KN[[best]])[:, 0] <= config.same_motion
        open_K[best] = False
    return chosen


def soft_iou(share_KN: np.ndarray, other_BN: np.ndarray) -> np.ndarray:
    """Σ p·p' / Σ (p + p' - p·p') of all pairs, (K, B); 0 where neither explains anything."""
    both_KB = share_KN @ other_BN.T
    any_KB = share_KN.sum(axis=1)[:, None] + other_BN.sum(axis=1) - both_KB
    return np.divide(both_KB, any_KB, out=np.zeros_like(both_KB), where=any_KB > 0)


def _split(points: Points, motion: Motions, share_N: np.ndarray, free_N: np.ndarray, config: MoversConfig) -> Objects:
    """One object for each group of points, of those that a motion explains first, that hang together in the image."""
    explained_N = free_N & (share_N > config.inlier)
    first_A, second_A = points.links.first_A, points.links.second_A
    linked_A = explained_N[first_A] & explained_N[second_A]
    # a pair holds together if the motion explains one of the two so well
    linked_A &= np.maximum(share_N[first_A], share_N[second_A]) * points.links.closeness_A > config.inlier
    graph_NN = scipy.sparse.coo_array(
        (linked_A[linked_A], (first_A[linked_A], second_A[linked_A])), (len(share_N), len(share_N))
    )
    _, group_N = scipy.sparse.csgraph.connected_components(graph_NN, directed=False)
    own_KN = np.unique(group_N[explained_N])[:, None] == np.where(explained_N, group_N, -1)
    share_KN = share_N * points.spread(own_KN)
    assigned_KN = share_KN > config.inlier
    noise_K3 = np.tile(points.noise, (len(own_KN), 1))
    return _large(Objects(motion[[0] * len(own_KN)], own_KN, assigned_KN, share_KN, noise_K3), config)


def _large(objects: Objects, config: MoversConfig) -> Objects:
    """Those whose points determine their motion; as released, all."""
    return objects[objects.assigned_KN.sum(axis=1) >= FEWEST] if config.small == "corrected" else objects


def _measured(points: Points, background: Objects, config: MoversConfig) -> Objects:
    """The background at the noise that its own points show: the clip's is at least that, and more where maps there and
    back disagree for another reason, as they do at whatever is hidden.

    Measured where two deviations end, not at one: errors of flow have long tails, and the question is what lies beyond.
    """
    assigned_N = background.assigned_KN[0]
    errors_3n = errors(background.motions[[0]], points.observed[assigned_N], points.camera, (1, 1, 1))[:, 0]
    deviation_3 = np.quantile(np.abs(errors_3n), _WITHIN_TWO, axis=1) / 2
    noise_3 = np.minimum(np.maximum(config.noise_factor * deviation_3, config.background_noise), points.noise)
    noise_K3 = np.tile(noise_3, (len(background), 1))
    share_KN = points.explained(background.motions, noise_K3) * points.spread(background.assigned_KN)
    assigned_KN = share_KN > config.inlier
    measured = replace(background, assigned_KN=assigned_KN, share_KN=share_KN, noise_K3=noise_K3)
    return _refined(points, _large(measured, config))


def _refined(points: Points, objects: Objects, other_N: np.ndarray | bool = True) -> Objects:
    """Each motion brought closest to where the object's points are seen."""
    fitted = []
    for k, assigned_N in enumerate(objects.assigned_KN):
        if np.count_nonzero(assigned_N) >= FEWEST:
            fitted.append(refine(objects.motions[[k]], points.observed[assigned_N], points.camera))
        else:  # as released; no object is so small otherwise
            fitted.append(Motions.at_rest())
    motions = Motions.of(fitted)
    share_KN = points.explained(motions, objects.noise_K3) * points.spread(objects.assigned_KN) * other_N
    return replace(objects, motions=motions, share_KN=share_KN)
