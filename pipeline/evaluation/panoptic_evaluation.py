"""Scoring predicted segments against true ones: one set of predictions, or two compared.

K clusters · C classes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.errors import SourceError
from pipeline.evaluation.beside_truth import common_images
from pipeline.evaluation.class_report import ClassReport
from pipeline.evaluation.class_scores import ClassScores, Measure, Measured, scored
from pipeline.evaluation.panoptic_quality import (
    METRICS,
    VOID_RULES,
    Overlaps,
    PanopticCounts,
    find_panoptic_assignment,
)
from pipeline.evaluation.panoptic_runs import Predictions, ScoredSegments, scored_segments
from pipeline.evaluation.panoptic_truth import PanopticTruth
from pipeline.evaluation.scores import Metric
from pipeline.evaluation.semantic_scores import Confusions, find_assignment
from pipeline.results.semantic_assignment import Assignment
from pipeline.wording import counted

_SEMANTIC_METRICS = (
    Metric("accuracy", "pixels with the right class; all clusters and classes matched together"),
    Metric("miou", "mean IoU of classes; the same"),
)
ALL_METRICS = (*METRICS, *_SEMANTIC_METRICS)
# What accuracy and mIoU make of pixels without a prediction.
_SEMANTIC_VOID = {"panopticapi": "wrong", "forgiven": "skipped"}


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions, their assignment, and their scores on the images that count.

    confusion: int64 (K + 1, C), pixels by cluster and class; the last row is of those without a prediction.
    counts: of matches, by the rule of void of the report.
    by_rule: overall values by each rule of void, without intervals.
    """

    segments: ScoredSegments
    assignment: Assignment
    scores: ClassScores
    confusion: np.ndarray
    counts: PanopticCounts
    by_rule: Mapping[str, Mapping[str, float]]

    @property
    def predictions(self) -> Predictions:
        """What was scored."""
        return self.segments.predictions


@dataclass(frozen=True, kw_only=True)
class PanopticReport(ClassReport):
    """The result, and of what. things: of each class, whether it is one, (C,)."""

    things: tuple[bool, ...]
    runs: tuple[ScoredPredictions, ...]


def evaluate_panoptic(
    truth: PanopticTruth,
    predictions: Predictions,
    other: Predictions | None = None,
    *,
    assignment: Assignment | None = None,
    given: str = "",
    void: str = "panopticapi",
    crop: int | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> PanopticReport:
    """Score predictions, or compare them with others, on the images that the truth and all of them have.

    assignment: of the clusters of all predictions; None finds one for each on these images.
    given: where it is from, for people.
    void: see `panoptic_quality.VOID_RULES`.
    crop: see `scored_segments`.
    bootstrap, seed: see `class_scores.scored`.

    Raises:
        ConfigError: a setting is out of range, or the assignment is of other clusters or classes.
        SourceError: there is no image or pixel to score, or the truth does not fit.
        StoreError: a run is damaged.
    """
    compared = [one for one in (predictions, other) if one is not None]
    if assignment is not None:
        assignment.refuse_other_classes(truth.classes, truth.name)
        for one in compared:
            assignment.refuse_others(one.clusters, one.model, one.url)
    told: set[int] = set()
    found = [scored_segments(one, truth, crop, told) for one in compared]
    common = common_images([(own.predictions.url, own.images) for own in found], truth.name)
    overlaps = [one.overlaps.of(one.images.places(common)) for one in found]
    confusions = [one.confusions.of(one.images.places(common)) for one in found]
    totals = [one.total(len(truth.classes)) for one in overlaps]
    if not totals[0].any():
        raise SourceError(f"{truth.name}: no pixel of {counted(len(common), 'image')} has a class that counts")
    assignments = [
        assignment or _found_assignment(*parts, truth, len(common))
        for parts in zip(found, totals, confusions, strict=True)
    ]
    measures = [_Measures(*parts, truth.things) for parts in zip(overlaps, confusions, assignments, strict=True)]
    own, differences = scored([one.by_rule(void) for one in measures], len(common), bootstrap=bootstrap, seed=seed)
    runs = tuple(
        ScoredPredictions(one, a, scores, total, by.counts(void), by.values())
        for one, a, scores, total, by in zip(found, assignments, own, totals, measures, strict=True)
    )
    return PanopticReport(
        truth=truth.name,
        benchmark=truth.benchmark,
        classes=truth.classes,
        things=truth.things,
        runs=runs,
        difference=differences[0] if differences else None,
        images=len(common),
        missing=len(truth.paths) - len(common),
        given=given,
        void=void,
        crop=crop,
        bootstrap=bootstrap,
        seed=seed,
    )


def _found_assignment(
    one: ScoredSegments, total: np.ndarray, confusions: Confusions, truth: PanopticTruth, images: int
) -> Assignment:
    by, classes = one.predictions, truth.classes
    apart = find_panoptic_assignment(total, by.things, truth.things)
    jointly = find_assignment(confusions.total(len(classes)))
    return Assignment(by.clusters, classes, apart, truth.name, images, by.model, jointly)


class _Measures:
    """What is measured of predictions under an assignment."""

    def __init__(
        self, overlaps: Overlaps, confusions: Confusions, assignment: Assignment, things: Sequence[bool]
    ) -> None:
        self._things = things
        self._counts = {rule: overlaps.counts(assignment.class_of, things, rule) for rule in VOID_RULES}
        jointly = assignment.class_of if assignment.jointly is None else assignment.jointly
        self._by_class = confusions.by_class(jointly, len(things))

    def counts(self, void: str) -> PanopticCounts:
        return self._counts[void]

    def values(self) -> dict[str, dict[str, float]]:
        """By each rule, overall."""
        once = np.ones((len(self._by_class.true), 1))
        return {
            rule: {name: float(value[0]) for name, value in self._measured(once, rule).overall.items()}
            for rule in VOID_RULES
        }

    def by_rule(self, void: str) -> Measure:
        return partial(self._measured, void=void)

    def _measured(self, weights_IB: np.ndarray, void: str) -> Measured:
        panoptic = self._counts[void].measured(weights_IB, self._things)
        semantic = self._by_class.measured(weights_IB, _SEMANTIC_VOID[void])
        overall = {metric.name: semantic.overall[metric.name] for metric in _SEMANTIC_METRICS}
        by_class = {"iou": semantic.by_class["iou"]}
        return Measured({**panoptic.overall, **overall}, {**panoptic.by_class, **by_class})
