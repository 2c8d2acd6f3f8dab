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


def test_pycocotools_is_extrapolated_where_it_did_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"pycocotools": 30.0, "cuts3d": 1.5}
    monkeypatch.setattr(
        big_truth,
        "of_process",
        lambda name, *_: {"read": 9.0, "index": 0.5, "score": seconds[name] - 0.5, "peak": 1e6, "figures": [0.5, -1]},
    )
    both = big_truth.rows_of(2, ["pycocotools", "cuts3d"], None, None)
    assert [(row["ratio"], row["ratio_is"]) for row in both] == [(1, "measured"), (20, "measured")]
    alone = big_truth.rows_of(4, ["cuts3d"], None, known=15.0)
    assert [(row["ratio"], row["ratio_is"], row["difference"]) for row in alone] == [(40, "extrapolated", "")]
