"""Panoptic quality of segments against true ones (Kirillov et al., CVPR 2019), and which cluster is which class there.

A predicted and a true segment of one class match where their IoU is above 1/2, so that each matches one at most. Of a
class, over all images, with TP matches, FP predicted and FN true segments without one:

    SQ = mean IoU of its matches        RQ = TP / (TP + FP / 2 + FN / 2)        PQ = SQ · RQ

There are two rules of what void is, `VOID_RULES`:

    panopticapi   of COCO and Cityscapes. Void of the truth counts in no union. A predicted segment is no FP if more
                  than half of it lies in void or in crowds of its class. A crowd matches nothing, and is no FN.
                  Void of the prediction is a miss.
    forgiven      of torchmetrics and the figures of CUPS. Void of the prediction counts in no union, either, and a true
                  segment is no FN if more than half of it is void in the prediction. A crowd is a segment like others.

A match is unique under both: each IoU is of parts of the same pixels, among which segments do not overlap.

I images · K clusters · C classes · B resamples · P predicted, T true segments of an image · N pairs of a predicted and
a true segment in an image, void among them · H, W pixels
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import ConfigError
from pipeline.evaluation.class_scores import Measured, mean_of_classes
from pipeline.evaluation.scores import Metric
from pipeline.evaluation.semantic_scores import find_assignment

VOID_RULES = ("panopticapi", "forgiven")
GROUPS = ("", "_things", "_stuff")  # endings of metrics: of all classes, of things, of stuff

_ABOUT = {"pq": "panoptic quality, SQ · RQ of a class", "sq": "mean IoU of matches", "rq": "F1 of segments"}
_OF = {"": "mean over classes", "_things": "over things", "_stuff": "over stuff"}
_IN = {"": "pixels", "_things": "the pixels of things", "_stuff": "the pixels of stuff"}

METRICS = (
    *(Metric(f"{name}{group}", f"{_ABOUT[name]}, {_OF[group]}") for group in GROUPS for name in ("pq", "sq", "rq")),
    *(Metric(f"void{group}", f"share of {_IN[group]} without a prediction", better="") for group in GROUPS),
)


class PredictedSegments(NamedTuple):
    """The segments that a run sees in an image.

    ids: whole numbers (H, W), 0 for void, s for segment s.
    clusters: uint8 (P,), of segment 1, 2, ... 0..K-1.
    instances: bool (P,), whether the segment is an instance; others are all that an image has of their cluster.
    """

    ids: np.ndarray
    clusters: np.ndarray
    instances: np.ndarray


class TrueSegments(NamedTuple):
    """The true segments of an image.

    ids: whole numbers (H, W), 0 for void, s for segment s.
    classes: uint8 (T,), of segment 1, 2, ... 0..C-1.
    crowd: bool (T,), whether the segment is a group of objects that nobody has told apart.
    strange: pixels by value that the truth does not know; these are void.
    """

    ids: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    strange: Mapping[int, int] = {}

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        return self.ids.shape[0], self.ids.shape[1]


class Overlaps:
    """Pixels that each predicted segment shares with each true one, image after image. What is kept of an image grows
    with the pairs that occur in it, not with its pixels.

    clusters: K, at most 255.
    """

    def __init__(self, clusters: int) -> None:
        if not 1 <= clusters <= 255:
            raise ValueError(f"clusters is {clusters}: it must be 1 to 255")
        self.clusters = clusters
        self._images: list[_Image] = []

    def __len__(self) -> int:
        """I."""
        return len(self._images)

    def add(self, predicted: PredictedSegments, true: TrueSegments) -> None:
        """One more image, whose maps have one shape.

        Raises ValueError for other shapes, and for numbers of segments and clusters that there are not.
        """
        if predicted.ids.shape != true.ids.shape:
            raise ValueError(f"segments must have one shape, not {predicted.ids.shape} and {true.ids.shape}")
        n_predicted, n_true = len(predicted.clusters) + 1, len(true.classes) + 1
        for ids, n in ((predicted.ids, n_predicted), (true.ids, n_true)):
            if ids.min() < 0 or ids.max() >= n:
                raise ValueError(f"segments must be 0..{n - 1}, not {ids.min()}..{ids.max()}")
        if max(predicted.clusters, default=0) >= self.clusters:
            raise ValueError(f"cluster {max(predicted.clusters)} is none of {self.clusters}")
        pairs_HW = predicted.ids.astype(np.int64) * n_true + true.ids
        counts = np.bincount(pairs_HW.ravel(), minlength=n_predicted * n_true)
        pairs = np.flatnonzero(counts).astype(np.uint32)
        self._images.append(
            _Image(predicted._replace(ids=_NO_MAP), true._replace(ids=_NO_MAP), pairs, counts[pairs].astype(np.uint32))
        )

    def of(self, images: Sequence[int]) -> "Overlaps":
        """Those of some images, in this order."""
        part = Overlaps(self.clusters)
        part._images = [self._images[image] for image in images]
        return part

    def total(self, classes: int) -> np.ndarray:
        """int64 (K + 1, C): pixels of all images by cluster and true class; the last row is of those without a
        prediction.
        """
        table = np.zeros((self.clusters + 1, classes + 1), np.int64)
        for one in self._images:
            rows, columns = np.append(self.clusters, one.predicted.clusters), np.append(classes, one.true.classes)
            np.add.at(table, (rows[:, None], columns), one.shared)
        return table[:, :classes]

    def counts(self, class_of: Sequence[int | None], things: Sequence[bool], void: str) -> "PanopticCounts":
        """Matches, and segments without one, under an assignment.

        Instances of a thing class are segments of their own. Of a stuff class all is one segment in an image, whatever
        clusters it has; of a thing class, too, what is no instance. Segments of clusters without a class match nothing,
        and are not void.

        class_of: of each cluster its class, None for none.
        things: of each class, whether it is one.
        void: see `VOID_RULES`.
        """
        if void not in VOID_RULES:
            raise ConfigError(f"void is {void!r}: it must be one of {', '.join(VOID_RULES)}")
        table_K = np.array([len(things) if index is None else index for index in class_of])
        things_C = np.array(things, bool)
        found = [_counted(one, table_K, things_C, void) for one in self._images]
        return PanopticCounts(*(np.array(values, float) for values in zip(*found, strict=True)))


_NO_MAP = np.zeros((0, 0), np.uint8)


class _Image(NamedTuple):
    """Segments of an image without their maps; predicted · (T + 1) + true of each pair (N,), and its pixels (N,)."""

    predicted: PredictedSegments
    true: TrueSegments
    pairs: np.ndarray
    pixels: np.ndarray

    @property
    def shared(self) -> np.ndarray:
        """int64 (P + 1, T + 1): pixels of each pair; row and column 0 are void."""
        shape = len(self.predicted.clusters) + 1, len(self.true.classes) + 1
        return np.bincount(self.pairs, self.pixels, shape[0] * shape[1]).astype(np.int64).reshape(shape)


def _counted(one: _Image, table_K: np.ndarray, things_C: np.ndarray, void: str) -> tuple[Any, ...]:
    """The fields of `PanopticCounts`, of one image."""
    none = len(things_C)
    class_P, class_T, crowd_T = table_K[one.predicted.clusters], one.true.classes, one.true.crowd
    is_own_P = one.predicted.instances & np.append(things_C, True)[class_P]
    keys_P = np.where(is_own_P, none + 1 + np.arange(len(class_P)), class_P)
    _, first, joined_P = np.unique(keys_P, return_index=True, return_inverse=True)
    shared = np.zeros((len(first) + 1, len(class_T) + 1), np.int64)
    np.add.at(shared, np.append(0, joined_P + 1), one.shared)
    class_P = class_P[first]

    inside_PT, void_P, void_T = shared[1:, 1:], shared[1:, 0], shared[0, 1:]
    area_P, area_T = shared[1:].sum(axis=1), shared[:, 1:].sum(axis=0)
    is_same_PT = class_P[:, None] == class_T
    union_PT = (area_P - void_P)[:, None] + area_T - inside_PT
    if void == "forgiven":
        union_PT = union_PT - void_T
        match_PT = is_same_PT & (2 * inside_PT > union_PT)
        excused_P, counts_T = void_P, 2 * void_T <= area_T
    else:
        match_PT = is_same_PT & ~crowd_T & (2 * inside_PT > union_PT)
        excused_P, counts_T = void_P + (inside_PT * (is_same_PT & crowd_T)).sum(axis=1), ~crowd_T
    is_false_P = ~match_PT.any(axis=1) & (area_P > 0) & (2 * excused_P <= area_P)
    is_missed_T = ~match_PT.any(axis=0) & counts_T

    def by_class(classes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(classes, weights, none + 1)[:none]

    return (
        by_class(class_P[match_PT.nonzero()[0]], inside_PT[match_PT] / union_PT[match_PT]),
        by_class(class_P[match_PT.any(axis=1)]),
        by_class(class_P[is_false_P]),
        by_class(class_T[is_missed_T]),
        by_class(class_T, area_T),
        by_class(class_T, void_T),
        int((class_P == none).sum()),
    )


@dataclass(frozen=True)
class PanopticCounts:
    """Of each image and class, float (I, C), unless it says otherwise.

    iou: sum of its matches.
    matched, false, missed: TP, FP and FN, in segments.
    true, void: pixels of the truth; those of them without a prediction.
    unassigned: segments of clusters without a class, (I,).
    """

    iou: np.ndarray
    matched: np.ndarray
    false: np.ndarray
    missed: np.ndarray
    true: np.ndarray
    void: np.ndarray
    unassigned: np.ndarray

    def measured(self, weights_IB: np.ndarray, things: Sequence[bool]) -> Measured:
        """Of weights of the images; a class without any segment has no value. things: of each class, whether it is
        one.
        """
        things_C = np.array(things, bool)
        iou, matched, false, missed, true, void = (
            counts.T @ weights_IB for counts in (self.iou, self.matched, self.false, self.missed, self.true, self.void)
        )
        half = matched + (false + missed) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            sq = np.where((matched == 0) & (half > 0), 0, iou / matched)
            by_class = {"pq": iou / half, "sq": sq, "rq": matched / half, "void": void / true}
        overall = dict[str, np.ndarray]()
        for group, which_C in zip(GROUPS, (np.ones_like(things_C), things_C, ~things_C), strict=True):
            overall |= {f"{name}{group}": mean_of_classes(by_class[name][which_C]) for name in ("pq", "sq", "rq")}
            with np.errstate(invalid="ignore"):
                overall[f"void{group}"] = void[which_C].sum(axis=0) / true[which_C].sum(axis=0)
        return Measured(overall, by_class)


def find_panoptic_assignment(
    total: np.ndarray, thing_clusters: Sequence[bool], things: Sequence[bool]
) -> tuple[int | None, ...]:
    """Of each cluster its class, so that the most pixels are right: thing clusters are matched with thing classes and
    stuff with stuff, each as `semantic_scores.find_assignment` does it. A cluster that shares no pixel with any class
    of its kind has none.

    total: (K + 1, C) as of `Overlaps.total`.
    thing_clusters, things: of each cluster and class, whether it is a thing.
    """
    class_of: list[int | None] = [None] * len(thing_clusters)
    clusters_K, things_C = np.array(thing_clusters, bool), np.array(things, bool)
    for kind in (True, False):
        rows, columns = np.flatnonzero(clusters_K == kind), np.flatnonzero(things_C == kind)
        part = total[np.append(rows, len(clusters_K))][:, columns]
        for row, index in zip(rows, find_assignment(part), strict=True):
            class_of[row] = None if index is None else int(columns[index])
    return tuple(class_of)
