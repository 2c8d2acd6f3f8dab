"""The evaluators that benchmarks/big_truth.py compares say the same of what it draws."""

import math
from collections.abc import Callable
from typing import Any

import big_truth
import pytest


def test_figures_are_equal_on_drawn_truths() -> None:
    ours, theirs = (figures(evaluator) for evaluator in (big_truth.by_cuts3d, big_truth.by_pycocotools))
    assert ours == pytest.approx([math.nan if value < 0 else value for value in theirs], abs=1e-12, nan_ok=True)
    assert 0.1 < ours[0] < 0.5, "the detections are neither all wrong nor all right"


def figures(evaluator: Callable[[Any, Any], Callable[[], list[float]]]) -> list[float]:
    return evaluator(*big_truth.drawn(12))()


def test_looping_evaluators_are_extrapolated() -> None:
    """From their seconds an image at the largest size that they were given."""
    assert set(big_truth.LOOPING) < set(big_truth.EVALUATORS)
    assert "before" not in big_truth.installed(None)
