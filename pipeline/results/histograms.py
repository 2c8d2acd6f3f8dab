"""Figures of a run as bars of text."""

from collections.abc import Mapping, Sequence

import numpy as np

BINS = 20


def histogram(
    values: np.ndarray, bounds: tuple[float, float] | None = None, times: np.ndarray | None = None
) -> dict[str, list[float]]:
    """counts[i] values lie in [edges[i], edges[i+1]), the last bin includes its upper edge.

    bounds: values beyond count to the outermost bins; None takes those of the values.
    times: how often each value occurs, None for once.
    """
    if bounds is None:
        bounds = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    counts, edges = np.histogram(np.clip(values, *bounds), bins=BINS, range=bounds, weights=times)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def histogram_lines(histogram: Mapping[str, Sequence[float]]) -> list[str]:
    """A line for each bin that holds anything."""
    counts = [int(count) for count in histogram["counts"]]
    most = max([1, *counts])
    labels = _distinct(histogram["edges"])
    width = max(6, *map(len, labels))
    return [
        f"  {low:>{width}}  {bar(count, most)} {count}" for low, count in zip(labels, counts, strict=False) if count
    ]


def number_lines(counts: Mapping[int, int]) -> list[str]:
    """A line for each number that occurs, ascending. counts: how often it does."""
    most = max(counts.values(), default=1)
    return [f"  {n:>6}  {bar(count, most)} {count}" for n, count in sorted(counts.items())]


def titled(title: str, lines: Sequence[str]) -> list[str]:
    """Lines below their title; nothing where there is none."""
    return [title, *lines] if lines else []


def bar(count: int, most: int) -> str:
    """Of 30 characters for the most; one at least for any that is not 0."""
    return "█" * max(1, round(30 * count / most)) if count else ""


def _distinct(edges: Sequence[float]) -> list[str]:
    """Numbers with two decimals, or as many more as tell them apart."""
    for decimals in range(2, 16):
        labels = [f"{edge:.{decimals}f}" for edge in edges]
        if len(set(labels)) == len(labels):
            break
    return labels
