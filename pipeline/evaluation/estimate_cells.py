"""Estimates as reports have them: in tables on the terminal, in CSV and in JSON."""

import math
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from pipeline.evaluation.scores import Estimate

_WIDTH = 140  # where output is no terminal, so that a table in a log does not wrap


def report_console() -> Console:
    """What reports are printed on: stdout."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def cell(estimate: Estimate, column: str, better: str = "higher", is_share: bool = True) -> Text:
    """The value and its interval; green where a comparison is surely for the run, red where surely against it.

    column: "difference" and "ratio" compare, others do not.
    better: "higher", "lower" or "", which is neither.
    is_share: shown in percent, but for a ratio.
    """
    if math.isnan(estimate.value):
        return Text("–")
    scale = 100 if is_share and column != "ratio" else 1
    sign = "+" if column == "difference" else ""
    # Adding 0 to what was rounded to -0 takes its sign away.
    value, low, high = (
        f"{round(scale * number, 2) + 0:{sign}.2f}" for number in (estimate.value, estimate.low, estimate.high)
    )
    text = value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"
    even = {"difference": 0.0, "ratio": 1.0}.get(column, math.nan)
    above, below = estimate.low > even, estimate.high < even
    if not better or not (above or below):
        return Text(text)
    return Text(text, "green" if above == (better == "higher") else "red")


def csv_cells(estimate: Estimate) -> list[str]:
    """Value, low and high; empty where they are undefined."""
    return ["" if math.isnan(value) else repr(value) for value in asdict(estimate).values()]


def json_values(estimate: Estimate) -> dict[str, float | None]:
    """Value, low and high by name; None where they are undefined or infinite."""
    return {end: value if math.isfinite(value) else None for end, value in asdict(estimate).items()}
