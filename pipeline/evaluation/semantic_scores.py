"""Scores of semantic labels against true classes: which cluster stands for which class, accuracy, and IoU by class.

I images · K clusters · C classes · B resamples · N pairs of a cluster and a class in an image · H, W pixels
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy

from pipeline.errors import ConfigError
from pipeline.evaluation import class_scores
from pipeline.evaluation.class_scores import ClassScores, Measured, mean_of_classes
from pipeline.evaluation.scores import Metric

NONE = 255  # of a pixel without a prediction, and of one whose truth counts for nothing
VOID_RULES = ("wrong", "skipped")

METRICS = (
    Metric("accuracy", "pixels with the right class"),
    Metric("miou", "mean IoU of classes that occur in truth or prediction"),
    Metric("mean_accuracy", "the same, mean over classes of the truth"),
)


class Confusions:
    """Pixels by cluster and class, image after image. What is kept of an image grows with the pairs that occur in it.

    clusters: K, at most 255.
    """

    def __init__(self, clusters: int) -> None:
        if not 1 <= clusters <= NONE:
            raise ValueError(f"clusters is {clusters}: it must be 1 to {NONE}")
        self.clusters = clusters
        self._pairs: list[np.ndarray] = []  # of each image, cluster · 256 + class
        self._counts: list[np.ndarray] = []

    def __len__(self) -> int:
        """I."""
        return len(self._pairs)

    def add(self, labels_HW: np.ndarray, truth_HW: np.ndarray) -> None:
        """One more image.

        labels_HW: uint8, a cluster 0..K-1, 255 where there is none.
        truth_HW: uint8, a class, 255 for what does not count.

        Raises ValueError for other types, shapes and clusters.
        """
        if labels_HW.dtype != np.uint8 or truth_HW.dtype != np.uint8 or labels_HW.shape != truth_HW.shape:
            raise ValueError(
                f"labels and truth must be uint8 of one shape, not {labels_HW.dtype} {labels_HW.shape} and "
                f"{truth_HW.dtype} {truth_HW.shape}"
            )
        pairs_HW = labels_HW.astype(np.uint16) << 8 | truth_HW
        counts = np.bincount(pairs_HW.ravel(), minlength=1 << 16).reshape(256, 256)
        counts[:, NONE] = 0
        if (strange := counts[self.clusters : NONE].any(axis=1)).any():
            raise ValueError(f"label {self.clusters + strange.argmax()} is none of {self.clusters} clusters")
        pairs = np.flatnonzero(counts)
        self._pairs.append(pairs.astype(np.uint16))
        self._counts.append(counts.ravel()[pairs])

    def of(self, images: Sequence[int]) -> "Confusions":
        """Those of some images, in this order."""
        part = Confusions(self.clusters)
        part._pairs, part._counts = ([own[image] for image in images] for own in (self._pairs, self._counts))
        return part

    def total(self, classes: int) -> np.ndarray:
        """int64 (K + 1, C): pixels of all images; the last row is of those without a prediction."""
        _, clusters_N, classes_N, counts_N = self._all()
        rows_N = np.minimum(clusters_N, self.clusters)
        return _summed(rows_N * classes + classes_N, counts_N, (self.clusters + 1, classes)).astype(np.int64)

    @property
    def most_class(self) -> int:
        """The largest class that occurs; -1 where no pixel counts."""
        return int(self._all()[2].max(initial=-1))

    def by_class(self, class_of: Sequence[int | None], classes: int) -> "ByClass":
        """Of each image and class the pixels. class_of: of each cluster its class, None for none."""
        images_N, clusters_N, true_N, counts_N = self._all()
        table = np.full(256, classes)
        table[: self.clusters] = [classes if index is None else index for index in class_of]
        said_N = table[clusters_N]
        shape = len(self), classes

        def of(classes_N: np.ndarray, which_N: np.ndarray) -> np.ndarray:
            places_N = images_N[which_N] * classes + classes_N[which_N]
            return _summed(places_N, counts_N[which_N], shape)

        everywhere = np.ones(len(said_N), bool)
        is_void = said_N == classes
        return ByClass(of(true_N, said_N == true_N), of(said_N, ~is_void), of(true_N, everywhere), of(true_N, is_void))

    def _all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Image, cluster, class and pixels of each pair, int64 (N,)."""
        pairs_N = np.concatenate([np.empty(0, np.int64), *self._pairs])
        counts_N = np.concatenate([np.empty(0, np.int64), *self._counts])
        images_N = np.repeat(np.arange(len(self)), [len(pairs) for pairs in self._pairs])
        return images_N, pairs_N >> 8, pairs_N & 255, counts_N


@dataclass(frozen=True)
class ByClass:
    """Pixels by image and class, float (I, C): with the right class; that have the class in the prediction, and in the
    truth; and that have it in the truth, and none in the prediction.
    """

    right: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    void: np.ndarray

    def measured(self, weights_IB: np.ndarray, void: str = "wrong") -> Measured:
        """Of weights of the images. void: see `VOID_RULES`."""
        if void not in VOID_RULES:
            raise ConfigError(f"void is {void!r}: it must be one of {', '.join(VOID_RULES)}")
        true = self.true if void == "wrong" else self.true - self.void
        right_CB, predicted_CB, true_CB = (counts.T @ weights_IB for counts in (self.right, self.predicted, true))
        with np.errstate(invalid="ignore", divide="ignore"):
            iou_CB = right_CB / (predicted_CB + true_CB - right_CB)
            accuracy_CB = right_CB / true_CB
            accuracy_B = right_CB.sum(axis=0) / true_CB.sum(axis=0)
        overall = {"accuracy": accuracy_B, "miou": mean_of_classes(iou_CB)}
        overall["mean_accuracy"] = mean_of_classes(accuracy_CB)
        return Measured(overall, {"iou": iou_CB, "accuracy": accuracy_CB})


def find_assignment(total: np.ndarray) -> tuple[int | None, ...]:
    """Of each cluster its class, so that the most pixels are right.

    First one to one, by the Hungarian method. Clusters that are left over, where there are more than classes, take each
    the class that they share the most pixels with: many to one. Where there are fewer, some classes stay without. A
    cluster that shares no pixel with any class has none.

    total: (K + 1, C) as of `Confusions.total`; pixels without a prediction, the last row, have no say.
    """
    pixels_KC = total[:-1]
    class_of: list[int | None] = [int(row.argmax()) if row.any() else None for row in pixels_KC]
    occurring = [cluster for cluster, index in enumerate(class_of) if index is not None]
    rows, columns = scipy.optimize.linear_sum_assignment(pixels_KC[occurring], maximize=True)
    for row, column in zip(rows, columns, strict=True):
        class_of[occurring[row]] = int(column)
    return tuple(class_of)


def scored(
    runs: Sequence[ByClass], *, void: str = "wrong", bootstrap: int = 1000, seed: int = 0
) -> tuple[list[ClassScores], list[ClassScores]]:
    """See `class_scores.scored`; by class there are "iou" and "accuracy". void: see `VOID_RULES`."""
    return class_scores.scored(
        [partial(run.measured, void=void) for run in runs], len(runs[0].true), bootstrap=bootstrap, seed=seed
    )


def _summed(places: np.ndarray, counts: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.bincount(places, weights=counts, minlength=shape[0] * shape[1]).reshape(shape)
