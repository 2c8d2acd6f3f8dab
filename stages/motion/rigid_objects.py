"""One run of SF2SE3: rigid motions that explain the points of a clip, and the objects that have them.

N points of the grid that are used · P proposals · K objects

Source: SF2SE3 (arXiv 2209.08532), section 3, as CUPS (arXiv 2504.01955) runs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from stages.motion.camera import Camera
from stages.motion.grid import Grid, Surroundings, make_grid
from stages.motion.movers_config import MoversConfig
from stages.motion.proposals import Pairs, pairs, propose
from stages.motion.reliable import Seen
from stages.motion.rigid_motion import Motions, Observed, errors, refine, stacked, two_sided

_FEWEST = 4  # points of an object: no fewer determine a motion by their pixels
_FRUITLESS = 2  # iterations that end a run


@dataclass(frozen=True, eq=False)
class Points:
    """What every run on a clip begins with.

    cell_N: int, where the points are in the grid. reliable_N: bool. observed: the points at t, and what was seen of
    them at t + 1. after_N3: where they are at t + 1, metres. closeness_NN: how near two points are in the image, 0..1.
    """

    camera: Camera
    noise: tuple[float, float, float]
    surroundings: Surroundings
    cell_N: np.ndarray
    reliable_N: np.ndarray
    observed: Observed
    after_N3: np.ndarray
    together: Pairs
    closeness_NN: np.ndarray

    def shares(self, motions: Motions) -> np.ndarray:
        """How well motions explain the points, float32 (M, N), 0..1: the product of the two-sided probabilities of
        the errors in u, v and disparity; 0 for points that are not reliable.
        """
        return consensus(motions, self.observed, self.camera, self.noise) * self.reliable_N

    def spread(self, assigned_KN: np.ndarray) -> np.ndarray:
        """How well the points of objects speak for all points, float32 (K, N), 0..1."""
        grid_KG = np.zeros((len(assigned_KN), self.surroundings.grid.count), bool)
        grid_KG[:, self.cell_N] = assigned_KN
        return self.surroundings.shares(grid_KG)[:, self.cell_N]


@dataclass(frozen=True, eq=False)
class Objects:
    """motions: K. assigned_KN: bool, the points of each. share_KN: how well each explains each point, 0..1."""

    motions: Motions
    assigned_KN: np.ndarray
    share_KN: np.ndarray

    def __len__(self) -> int:
        return len(self.motions)

    def __getitem__(self, chosen: list[int]) -> Objects:
        return Objects(self.motions[chosen], self.assigned_KN[chosen], self.share_KN[chosen])


def consensus(motions: Motions, seen: Observed, camera: Camera, noise: tuple[float, float, float]) -> np.ndarray:
    shares = 1
    for e in errors(motions, seen, camera, noise):
        shares = shares * two_sided(e)
    return shares


def grid_points(seen: Seen, camera: Camera, config: MoversConfig) -> Points:
    """The points of a clip: the reliable ones, and where seeds may be others, too, all of known depth."""
    grid = make_grid(seen.depth_HW.shape, config.grid)
    reliable_G = grid.sampled(seen.reliable_HW)
    depth_G, landing_G2, disparity_G = map(grid.sampled, (seen.depth_HW, seen.landing_HW2, seen.disparity_next_HW))
    known_G = np.isfinite(depth_G) & (disparity_G > 0)
    cell_N = np.flatnonzero(known_G if config.seeds == "released" else reliable_G)
    row_N, column_N = grid.pixels(cell_N)
    before_N3 = in_space(np.stack([column_N, row_N], axis=1), depth_G[cell_N], camera)
    after_N3 = in_space(landing_G2[cell_N], camera.fx * camera.baseline / disparity_G[cell_N], camera)
    closeness_NN = 1
    for at_N, focal in ((column_N, camera.fx), (row_N, camera.fy)):
        normal_N = (at_N / focal / config.extent).astype(np.float32)
        closeness_NN = closeness_NN * two_sided(normal_N[:, None] - normal_N)
    return Points(
        camera,
        seen.noise,
        Surroundings(grid, camera, config.extent),
        cell_N,
        reliable_G[cell_N],
        Observed(before_N3, landing_G2[cell_N], disparity_G[cell_N]),
        after_N3,
        pairs(before_N3, after_N3, config),
        closeness_NN,
    )


def in_space(pixels_N2: np.ndarray, depth_N: np.ndarray, camera: Camera) -> np.ndarray:
    """Points (N, 3) in metres, float32, of pixels (x, y) whose depth is known."""
    x_N, y_N = (pixels_N2[:, 0] - camera.cx) / camera.fx, (pixels_N2[:, 1] - camera.cy) / camera.fy
    return np.stack([x_N * depth_N, y_N * depth_N, depth_N], axis=1).astype(np.float32)


def find_objects(points: Points, config: MoversConfig, rng: np.random.Generator) -> Objects:
    """The rigid objects of a clip by one run, those that explain most first; none where no proposal explains anything."""
    n = len(points.cell_N)
    found = Objects(Motions(np.zeros((0, 3, 3)), np.zeros((0, 3))), np.zeros((0, n), bool), np.zeros((0, n), np.float32))
    fruitless = 0
    for _ in range(config.iterations):
        new = _iteration(points, found, config, rng)
        if not len(new):
            fruitless += 1
        if fruitless == _FRUITLESS:
            break
        found = _joined(found, new)
    return found[select(found.share_KN, found.share_KN[:0], points.reliable_N, config.objects, config)]


def _iteration(points: Points, found: Objects, config: MoversConfig, rng: np.random.Generator) -> Objects:
    """The objects of one more motion."""
    free_N = points.reliable_N & ~(found.share_KN > config.inlier).any(axis=0)
    seeds_N = np.ones_like(free_N) if config.seeds == "released" else free_N
    motions = propose(points.observed.points_N3, points.after_N3, points.together, free_N, seeds_N, config, rng)
    share_PN = points.shares(motions)
    best = select(share_PN, found.share_KN, points.reliable_N, 1, config)
    if not best:
        return found[[]]
    objects = _split(points, motions[best], share_PN[best[0]], free_N, config)
    objects = objects[select(objects.share_KN, found.share_KN, points.reliable_N, config.components, config)]
    return _refined(points, objects, config)


def select(
    share_KN: np.ndarray, before_BN: np.ndarray, reliable_N: np.ndarray, most: int, config: MoversConfig
) -> list[int]:
    """Greedily, at most so many motions: the one that explains most of the reliable points beyond those before it,
    while it is more than `gain` of them, and unless it is one of those before it.

    share_KN, before_BN: how well motions, and those that there are already, explain the points.
    """
    count = max(1, np.count_nonzero(reliable_N))
    coverage_N = before_BN.max(axis=0, initial=0)
    open_K = ~(soft_iou(share_KN, before_BN) > config.same_motion).any(axis=1)
    chosen: list[int] = []
    while len(chosen) < most and open_K.any():
        gain_K = np.where(open_K, np.maximum(share_KN - coverage_N, 0).sum(axis=1) / count, 0)
        best = int(gain_K.argmax())
        if gain_K[best] <= config.gain:
            break
        chosen.append(best)
        coverage_N = np.maximum(coverage_N, share_KN[best])
        open_K &= soft_iou(share_KN, share_KN[[best]])[:, 0] <= config.same_motion
        open_K[best] = False
    return chosen


def soft_iou(share_KN: np.ndarray, other_BN: np.ndarray) -> np.ndarray:
    """Σp·p' / Σ(p + p' - p·p'), (K, B); 0 where neither explains anything."""
    both_KB = share_KN @ other_BN.T
    any_KB = share_KN.sum(axis=1)[:, None] + other_BN.sum(axis=1) - both_KB
    return np.divide(both_KB, any_KB, out=np.zeros_like(both_KB), where=any_KB > 0)


def _split(points: Points, motion: Motions, share_N: np.ndarray, free_N: np.ndarray, config: MoversConfig) -> Objects:
    """One object for each group of points that a motion explains and that hang together in the image."""
    inlier = np.flatnonzero(free_N & (share_N > config.inlier))
    links_II = share_N[inlier, None] * points.closeness_NN[np.ix_(inlier, inlier)] > config.inlier
    count, group_I = scipy.sparse.csgraph.connected_components(scipy.sparse.csr_array(links_II), connection="weak")
    members_KN = np.zeros((count, len(share_N)), bool)
    members_KN[group_I, inlier] = True
    share_KN = share_N * points.spread(members_KN)
    assigned_KN = share_KN > config.inlier
    if config.small == "corrected":
        kept = assigned_KN.sum(axis=1) >= _FEWEST
        share_KN, assigned_KN = share_KN[kept], assigned_KN[kept]
    return Objects(motion[[0] * len(share_KN)], assigned_KN, share_KN)


def _refined(points: Points, objects: Objects, config: MoversConfig) -> Objects:
    """Each motion fitted to the pixels of the object's points."""
    fitted = []
    for index, assigned_N in enumerate(objects.assigned_KN):
        own = points.observed[assigned_N]
        if len(own.points_N3) < _FEWEST:  # as released
            fitted.append(Motions(np.eye(3)[None], np.zeros((1, 3))))
        else:
            fitted.append(refine(objects.motions[[index]], own.points_N3, own.landing_N2, points.camera))
    motions = stacked(fitted)
    return Objects(motions, objects.assigned_KN, points.shares(motions) * points.spread(objects.assigned_KN))


def _joined(first: Objects, second: Objects) -> Objects:
    return Objects(
        stacked([first.motions, second.motions]),
        np.concatenate([first.assigned_KN, second.assigned_KN]),
        np.concatenate([first.share_KN, second.share_KN]),
    )
