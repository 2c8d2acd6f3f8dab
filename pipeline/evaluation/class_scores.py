"""Scores with a value of their own for each class, and their estimates over resamples of the images.

I images · C classes · B resamples
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError
from pipeline.evaluation.bootstrap import interval, resamples
from pipeline.evaluation.scores import Estimate


@dataclass(frozen=True)
class Measured:
    """Of weights of the images; nan where nothing defines a value.

    overall: by name of a metric, float (B,).
    by_class: by name of a metric, float (C, B).
    """

    overall: Mapping[str, np.ndarray]
    by_class: Mapping[str, np.ndarray]

    def minus(self, other: "Measured") -> "Measured":
        """The differences, resample by resample."""
        overall, by_class = (
            {name: value - theirs[name] for name, value in own.items()}
            for own, theirs in ((self.overall, other.overall), (self.by_class, other.by_class))
        )
        return Measured(overall, by_class)


# Of weights of the images, float (I, B).
Measure = Callable[[np.ndarray], Measured]


@dataclass(frozen=True)
class ClassScores:
    """Estimates by name of a metric, overall and of each class; nan where nothing defines a value."""

    overall: dict[str, Estimate]
    by_class: dict[str, tuple[Estimate, ...]]

    @classmethod
    def of(cls, value: Measured, samples: Sequence[Measured]) -> "ClassScores":
        """value: of the images as they are, B = 1. samples: of their resamples, some at a time."""

        def estimates(values_C: np.ndarray, samples_CB: Sequence[np.ndarray]) -> tuple[Estimate, ...]:
            joined_CB = np.concatenate([np.empty((len(values_C), 0)), *samples_CB], axis=1)
            return tuple(
                Estimate(float(one), *interval(many)) for one, many in zip(values_C[:, 0], joined_CB, strict=True)
            )

        overall = {
            name: estimates(values[None], [sample.overall[name][None] for sample in samples])[0]
            for name, values in value.overall.items()
        }
        by_class = {
            name: estimates(values, [sample.by_class[name] for sample in samples])
            for name, values in value.by_class.items()
        }
        return cls(overall, by_class)


def scored(
    measures: Sequence[Measure], n_images: int, *, bootstrap: int = 1000, seed: int = 0
) -> tuple[list[ClassScores], list[ClassScores]]:
    """Scores of runs on the same images and resamples, and of each but the first: the first run minus it.

    The assignments are those that were found on all images, or given: they are part of what is scored, and the interval
    says what other images would do to it.

    Raises ConfigError for a setting that is out of range.
    """
    if bootstrap < 0 or seed < 0:
        raise ConfigError(f"bootstrap is {bootstrap} and seed is {seed}: both must be at least 0")
    values = [measure(np.ones((n_images, 1))) for measure in measures]
    chunks = [[measure(weights) for measure in measures] for weights in resamples(n_images, bootstrap, seed)]
    own = [ClassScores.of(value, [chunk[k] for chunk in chunks]) for k, value in enumerate(values)]
    differences = [
        ClassScores.of(values[0].minus(values[k]), [chunk[0].minus(chunk[k]) for chunk in chunks])
        for k in range(1, len(measures))
    ]
    return own, differences


def mean_of_classes(values_CB: np.ndarray) -> np.ndarray:
    """Over the classes that have a value, (B,); nan where none has."""
    has_value = ~np.isnan(values_CB)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(has_value, values_CB, 0).sum(axis=0) / has_value.sum(axis=0)
    return mean
