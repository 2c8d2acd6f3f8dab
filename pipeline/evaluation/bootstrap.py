"""Measures that can be taken of any resample of the images, and the bootstrap's confidence intervals.

A resample is a weight for each image: how often it was drawn. All resamples are taken at once, as columns of a matrix.

I images · B resamples
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
# Resamples taken at a time, and how many weights these have at most.
_CHUNK, _WEIGHTS = 200, 2**22


@dataclass(frozen=True)
class Ratio:
    """A sum over images divided by another: a mean over objects, masks or pairs, wherever the images put them."""

    numerator_I: np.ndarray
    denominator_I: np.ndarray

    def __call__(self, weights_IB: np.ndarray) -> np.ndarray:
        """Float (B,); nan where a resample has nothing to count."""
        with np.errstate(invalid="ignore", divide="ignore"):
            total_B = self.denominator_I @ weights_IB
            return np.where(total_B > 0, (self.numerator_I @ weights_IB) / total_B, np.nan)


def resamples(n_images: int, n: int, seed: int) -> Iterator[np.ndarray]:
    """Weights of `n` resamples of the images with replacement, float (I, some of the B) at a time."""
    rng = np.random.default_rng(seed)
    share = np.full(n_images, 1 / n_images)
    chunk = min(_CHUNK, max(1, _WEIGHTS // n_images))
    for start in range(0, n, chunk):
        yield rng.multinomial(n_images, share, size=min(chunk, n - start)).T.astype(float)


def interval(samples_B: np.ndarray) -> tuple[float, float]:
    """Percentile interval at CONFIDENCE, of the resamples where the measure is defined; nan, nan if there are none.

    Its ends are values that occurred, the outer ones: a ratio may be infinite in some.
    """
    defined = samples_B[~np.isnan(samples_B)]
    if not len(defined):
        return np.nan, np.nan
    tail = (1 - CONFIDENCE) / 2
    return (
        float(np.quantile(defined, tail, method="lower")),
        float(np.quantile(defined, 1 - tail, method="higher")),
    )
