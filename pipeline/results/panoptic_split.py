"""Which classes of a run are things, whose instances count one by one, and which are stuff.

C classes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pipeline.results.semantic import Classes

THRESHOLD = 0.08  # ψ of CUPS' configuration


@dataclass(frozen=True, eq=False)
class ThingSplit:
    """Things and stuff of a run.

    classes: C of them.
    things: bool (C,).
    ratios: float64 (C,), 0..1, of each class the share of its pixels that lie inside instances; 0 for one that does not
        occur.
    threshold: ψ, what a class's share of all ratios has to exceed to be a thing; None where the maker of the labels
        knows, as a trained detector does.

    Raises ValueError for other shapes and values.
    """

    classes: Classes
    things: np.ndarray
    ratios: np.ndarray
    threshold: float | None = THRESHOLD

    def __post_init__(self) -> None:
        shape = (len(self.classes),)
        if self.things.dtype != bool or self.things.shape != shape or self.ratios.shape != shape:
            raise ValueError(f"ThingSplit needs bool and float {shape}, not {self.things!r} and {self.ratios!r}")
        if not ((self.ratios >= 0) & (self.ratios <= 1)).all():
            raise ValueError(f"ThingSplit.ratios must be in 0..1, not {self.ratios}")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise ValueError(f"ThingSplit.threshold must be from 0 to below 1, not {self.threshold}")

    @classmethod
    def of_counts(cls, classes: Classes, counts: Mapping[str, Any], threshold: float = THRESHOLD) -> Self:
        """The split by the statistics of a whole run: a class is a thing if its ratio, divided by the sum of all
        classes' ratios, is above the threshold (CUPS, Hahn et al., CVPR 2025, section 3.1 and released code).

        counts: "pixels" and "inside" of `panoptic.counts_of`, added up.

        The shares of C classes add up to 1, so fewer than 1/ψ classes are things, and where no class has an instance
        none is.
        """
        ratios = _ratios(classes, counts)
        return cls(classes, _shares(ratios) > threshold, ratios, threshold)

    @classmethod
    def given(cls, classes: Classes, things: Sequence[bool], counts: Mapping[str, Any]) -> Self:
        """The split that the maker of the labels knows. things: of each class, whether it is one."""
        return cls(classes, np.array(things, bool), _ratios(classes, counts), None)

    @classmethod
    def made(
        cls,
        classes: Classes,
        things: Sequence[bool] | None,
        counts: Mapping[str, Any],
        threshold: float | None = None,
    ) -> Self:
        """The split that is `given`, else that `of_counts`.

        things: None where nobody knows. threshold: of `of_counts`; None for the published one.
        """
        if things is not None:
            return cls.given(classes, things, counts)
        return cls.of_counts(classes, counts, THRESHOLD if threshold is None else threshold)

    @property
    def shares(self) -> np.ndarray:
        """float64 (C,): ratios divided by their sum; all 0 where no class has an instance."""
        return _shares(self.ratios)

    @property
    def thing_classes(self) -> tuple[int, ...]:
        """Numbers of the thing classes, ascending."""
        return tuple(np.flatnonzero(self.things).tolist())

    @property
    def stuff_classes(self) -> tuple[int, ...]:
        """Numbers of the stuff classes, ascending."""
        return tuple(np.flatnonzero(~self.things).tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ThingSplit) and (
            self.classes == other.classes
            and self.threshold == other.threshold
            and np.array_equal(self.things, other.things)
            and np.array_equal(self.ratios, other.ratios)
        )


def _ratios(classes: Classes, counts: Mapping[str, Any]) -> np.ndarray:
    pixels, inside = counts.get("pixels", {}), counts.get("inside", {})
    return np.array([inside.get(name, 0) / max(pixels.get(name, 0), 1) for name in classes.names])


def _shares(ratios_C: np.ndarray) -> np.ndarray:
    total = float(ratios_C.sum())
    return ratios_C / total if total else np.zeros_like(ratios_C)
