"""A score table as a picture."""

from pathlib import Path

import numpy as np

from pipeline.evaluation.by_score import ScoreTable
from pipeline.storage.outputs import output_file
from pipeline.wording import counted

_SIZE, _DPI = (6.4, 4.8), 150  # inches


def write_score_plot(table: ScoreTable, file: str | Path) -> None:
    """Write a PNG: precision and objects found against the score, with their intervals, and how many masks are left.

    Raises StoreError when it cannot be written.
    """
    from matplotlib.figure import Figure  # half a second

    figure = Figure(figsize=_SIZE, layout="constrained")
    shares, masks = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    scores = [row.score for row in table.rows]
    for name, label, colour in (
        ("precision", "masks with an object", "#00736b"),
        ("objects_found", "objects found", "#b5541c"),
    ):
        estimates = [getattr(row, name) for row in table.rows]
        low, value, high = (
            100 * np.array([getattr(one, end) for one in estimates], float) for end in ("low", "value", "high")
        )
        shares.plot(scores, value, color=colour, marker="o", markersize=3, label=label)
        shares.fill_between(scores, low, high, color=colour, alpha=0.2, linewidth=0)
    shares.set_ylabel("%")
    shares.set_ylim(0, 103)  # room for the marks at 100
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    shares.set_title(f"{counted(table.images, 'image')}, {counted(table.rows[0].masks, 'mask')}", fontsize="medium")
    masks.plot(scores, [row.per_image for row in table.rows], color="#555555", marker="o", markersize=3)
    masks.set_ylabel("masks\nper image")
    masks.set_ylim(bottom=0)
    masks.set_xlabel("score, at least")
    with output_file(file, "wb") as out:
        figure.savefig(out, format="png", dpi=_DPI)
