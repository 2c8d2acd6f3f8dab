"""The constants of SF2SE3 as CUPS runs it, and of its ensemble of runs.

CUPS: arXiv 2504.01955. SF2SE3: arXiv 2209.08532. Where the two papers' released code does not do what it says it does,
there is a switch.
"""

from dataclasses import dataclass, fields
from typing import Literal

Reading = Literal["corrected", "released"]
"""What the method says, or what its released code does."""

SWITCHES = ("seeds", "growth", "small", "labels", "background")
_POSITIVE = ("near", "far", "grid", "proposals", "extent", "noise", "background_noise", "noise_factor", "runs")
_COUNTS = ("fewest", "iterations", "proposals", "group", "components", "objects", "smallest", "runs", "area")
_SHARES = ("sides", "top", "bottom", "grid", "inlier", "gain", "same_motion", "agreement", "nms")


@dataclass(frozen=True)
class MoversConfig:
    """Constants of the search for moving objects; the defaults are CUPS' unless a line says otherwise.

    near: metres, from which depth is trusted. CUPS: 5.5.
    far: metres, up to which depth is trusted.
    sides: share of the width at each side where nothing is looked for: what one camera alone sees. CUPS: 0.075 for
        Cityscapes, 0 for KITTI.
    top: share of the height at the top where nothing is looked for.
    bottom: share of the height at the bottom where nothing is looked for: the bonnet.
    edge: gradient of log disparity (Sobel's sums) above which a pixel is at an edge.
    noise: pixels, the least standard deviation of flow and disparity; the largest is 10. CUPS: 2.
    noise_factor: the standard deviation is so many times what maps there and back are measured to disagree by. CUPS: 1.
    background_noise: pixels, the least standard deviation at which the background's motion explains points; it is
        noise_factor times what its own points show, the clip's at most. CUPS: the clip's.
    fewest: reliable pixels without which nothing is looked for.
    grid: rows and columns of the grid on which motions are sought, as a share of those of the pictures.
    iterations: of a run at most; each may add objects of one motion.
    proposals: of motions in each iteration.
    group: points that a proposal is fitted to, at most.
    reach: metres between points of a group.
    rigid: metres by which the distance of two points of a group may change.
    inlier: two-sided probability of its error above which a motion explains a point; 0.0455 is two deviations.
    gain: share of the reliable points that a motion must explain beyond those before it.
    same_motion: soft IoU of the points explained, above which two motions are one.
    components: objects of one motion that an iteration may add.
    objects: that a run keeps, with the background.
    extent: deviation of the distance at which a point of an object speaks for its surroundings, in focal lengths.
    smallest: pixels of a piece of an object, at least.
    runs: whose masks are pooled.
    agreement: share of the runs that must cover a mask, on average over its pixels.
    nms: certainty that matrix NMS must leave to a mask.
    surface: square metres of an object, at least.
    area: pixels of an object, at least.
    seeds: where groups begin. "corrected": at reliable points that no motion explains yet. "released": anywhere.
    growth: which points join a group. "corrected": near one of it, and rigid with all. "released": near all, and rigid
        with one.
    small: objects of fewer than four points. "corrected": are dropped. "released": are said to stand still before the
        camera.
    labels: which pixels an object gets. "corrected": those that its motion explains, by flow alone where the depth is
        not reliable. "released": reliable ones that no other object is more likely at.
    background: what does not move. "corrected": whose points the background's motion explains, its rotation and its
        translation, at its own noise; and what moves alike is one object. "released": what turns 0.04 radians or
        more against the background; no translation counts.

    Raises ValueError, which names the field and its range, for anything else.
    """

    near: float = 2.0
    far: float = 70.0
    sides: float = 0.0
    top: float = 0.05
    bottom: float = 0.2
    edge: float = 0.2
    noise: float = 1.0
    background_noise: float = 0.3
    noise_factor: float = 2.0
    fewest: int = 512
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
    smallest: int = 128
    runs: int = 8
    agreement: float = 0.8
    nms: float = 0.6
    surface: float = 0.65
    area: int = 64
    seeds: Reading = "corrected"
    growth: Reading = "corrected"
    small: Reading = "corrected"
    labels: Reading = "corrected"
    background: Reading = "corrected"

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value, least = getattr(self, name), 1 if name in _COUNTS else 0
            if name in SWITCHES:
                if value not in ("corrected", "released"):
                    raise ValueError(f"movers.{name} is corrected or released, got {value!r}")
            elif name in _SHARES and not 0 <= value <= 1:
                raise ValueError(f"movers.{name} must lie in 0..1, got {value}")
            elif not value >= least or (name in _POSITIVE and value == 0):
                raise ValueError(f"movers.{name} must be {f'at least {least}' if least else 'above 0'}, got {value}")
        if self.far <= self.near:
            raise ValueError(f"movers.far must be above movers.near, {self.near}, got {self.far}")
        if self.group < 2:
            raise ValueError(f"movers.group must be at least 2, got {self.group}")
        if self.top + self.bottom >= 1 or self.sides >= 0.5:
            raise ValueError("movers.top, movers.bottom and movers.sides leave nothing of the picture")
