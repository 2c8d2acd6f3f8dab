"""Options of the recipe `detector`, as `--set detector.OPTION=VALUE` gives them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from detector.prediction.detections import Limits
from detector.prediction.merging import KEEP_BELOW_IOU
from detector.prediction.panoptic import PanopticRule
from pipeline.errors import ConfigError
from pipeline.methods.overrides import parse_overrides

NAME = "detector"
BOXES = ("mask", "detector")

# What is of use to one kind of detector only.
OF_INSTANCES = ("previous", "keep_iou", "grid", "boxes")
OF_PANOPTIC = ("max_cover", "stuff_area", "stuff_at")


@dataclass(frozen=True)
class DetectorOptions:
    """What `--set detector.OPTION=VALUE` can say.

    checkpoint: file of a trained detector.
    min_score: least score of what is kept, 0..1; None: 0, of a panoptic detector 0.5.
    max_per_image: that many are kept, the best by score.
    nms_iou: of two boxes that overlap more, the worse goes; None leaves it to the checkpoint.
    previous: run whose masks stay where no prediction overlaps them.
    keep_iou: from this IoU on a prediction overlaps a mask of the previous run.
    grid: patches a side of the confidences; None takes those of the previous run, or 60.
    boxes: "mask", the boxes of the masks, which is what the store of pseudo-masks means by a box, or "detector", its
        own, by which detectors are scored.
    amp: half precision.
    max_cover: of a panoptic detector: an instance of which a larger share lies below better ones is left out.
    stuff_area: of a panoptic detector: stuff with fewer pixels is void, in a photo of 1024 x 2048.
    stuff_at: of a panoptic detector: "scaled" takes that area in proportion to the photo's, "released" as it is.
    """

    checkpoint: str
    min_score: float | None = None
    max_per_image: int = Limits.max_per_image
    nms_iou: float | None = Limits.nms_iou
    previous: str | None = None
    keep_iou: float = KEEP_BELOW_IOU
    grid: int | None = None
    boxes: str = BOXES[0]
    amp: bool = False
    max_cover: float = PanopticRule.max_cover
    stuff_area: int = PanopticRule.stuff_area
    stuff_at: str = PanopticRule.stuff_at

    def __post_init__(self) -> None:
        if not 0 < self.keep_iou <= 1:
            raise ConfigError(f"detector.keep_iou is {self.keep_iou}: it must lie above 0 and up to 1")
        if self.grid is not None and not 1 <= self.grid <= 1024:
            raise ConfigError(f"detector.grid is {self.grid}: it must lie in 1..1024")
        if self.boxes not in BOXES:
            raise ConfigError(f"detector.boxes is {self.boxes!r}: it must be one of {', '.join(BOXES)}")
        self.rule(0.5)

    def limits(self, min_score: float) -> Limits:
        """Of the detections. min_score: where none is given."""
        return Limits(min_score if self.min_score is None else self.min_score, self.max_per_image, self.nms_iou)

    def rule(self, mask_threshold: float) -> PanopticRule:
        """How a panoptic detector's instances and stuff become one map."""
        score = PanopticRule.min_score if self.min_score is None else self.min_score
        return PanopticRule(score, self.max_cover, self.stuff_area, self.stuff_at, mask_threshold)

    def refuse(self, names: Sequence[str], of: str) -> None:
        """ConfigError where one of these options is given; of: what it is for."""
        for name in names:
            if getattr(self, name) != getattr(DetectorOptions, name):
                raise ConfigError(f"detector.{name} is for {of}, and {self.checkpoint} is none: leave it out")


def detector_options(overrides: Sequence[str]) -> DetectorOptions:
    """The options that a launch's overrides stand for; ConfigError names what is wrong."""
    foreign = [override for override in overrides if not override.startswith(f"{NAME}.")]
    if foreign:
        raise ConfigError(f"recipe {NAME} has no option {foreign[0].partition('=')[0]!r}: its options are {NAME}.…")
    given = parse_overrides(DetectorOptions, [override.removeprefix(f"{NAME}.") for override in overrides], f"{NAME}.")
    if not given.get("checkpoint"):
        raise ConfigError(f"recipe {NAME} needs a trained detector: --set {NAME}.checkpoint=FILE, from `cuts3d train`")
    return DetectorOptions(**given)


def overrides_of(options: DetectorOptions) -> tuple[str, ...]:
    """The inverse of `detector_options`; options that are at their defaults are left out."""
    plain = asdict(DetectorOptions(options.checkpoint))
    changed = {name: value for name, value in asdict(options).items() if value != plain[name]}
    return tuple(f"{NAME}.{name}={value}" for name, value in {"checkpoint": options.checkpoint, **changed}.items())
