"""The constants of SF2SE3 as CUPS runs it, and of its ensemble of runs.

CUPS: arXiv 2504.01955. SF2SE3: arXiv 2209.08532. Defaults are the published ones unless a line says otherwise.
"""

from dataclasses import dataclass, fields
from typing import Literal

Reading = Literal["corrected", "released"]
"""What the method says, or what its released code does."""


@dataclass(frozen=True)
class MoversConfig:
    """Constants of the search for moving objects, and switches between the method and its released code.

    Where to look:
    near, far: depth in metres that is trusted.
    sides, top, bottom: share of the width at each side, and of the height, in which nothing is looked for: what only
        one camera sees, and the bonnet. CUPS: 0.075 at the sides for Cityscapes, 0 for KITTI.
    grid: rows and columns of the grid on which motions are sought, as a share of those of the pictures.

    One run:
    iterations: at most, each of which may add objects of one motion.
    proposals: of rigid motions in each iteration.
    group: points that a proposal is fitted to, at most.
    reach: metres between points of one proposal.
    rigid: metres by which the distance of two points may change between the pictures.
    inlier: two-sided probability of its error above which a motion explains a point; 0.0455 is two deviations.
    gain: share of the reliable points that a motion must explain beyond those before it.
    same_motion: soft IoU of the points explained, above which two motions are one.
    components: objects of one motion that an iteration may add.
    objects: kept at the end of a run.
    extent: deviation in which a point of an object speaks for its surroundings, in normalised image coordinates.
    smallest: pixels of a piece, at least.

    The ensemble:
    runs: whose masks are pooled.
    agreement: share of the runs that must cover a mask, on average over its pixels.
    nms: score that must be left to a mask after matrix NMS, as a share of 1.
    surface: square metres of an object, at least.
    area: pixels of an object, at least.

    Switches:
    background: what is no object. "corrected": what moves as the background does, in rotation and translation.
        "released": what turns unlike the background; translation does not count.
    """

    near: float = 5.5
    far: float = 70.0
    sides: float = 0.0
    top: float = 0.05
    bottom: float = 0.2
    grid: float = 0.06
    iterations: int = 6
    proposals: int = 100
    group: int = 5
    reach: float = 5.0
    rigid: float = 0.03
    inlier: float = 0.0455
    gain: float = 0.0015
    same_motion: float = 0.15
    components: int = 3
    objects: int = 10
    extent: float = 0.05
    moved: float = 0.1
    smallest: int = 128
    runs: int = 8
    agreement: float = 0.8
    nms: float = 0.6
    surface: float = 0.65
    area: int = 64
    seeds: Reading = "corrected"
    growth: Reading = "corrected"
    small: Reading = "corrected"
    background: Reading = "corrected"

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type in (int, float) and not getattr(self, field.name) >= 0:
                raise ValueError(f"movers.{field.name} must be at least 0, got {getattr(self, field.name)}")
