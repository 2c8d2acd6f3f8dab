"""The table of docs/recipes.md is what was measured."""

from pathlib import Path
from typing import Any

import compare_recipes
import pytest


def run(name: str, ap: float, low: float | None) -> dict[str, Any]:
    names = [
        name for _, metric, _ in compare_recipes.COLUMNS for name in ([metric] if isinstance(metric, str) else metric)
    ]
    estimate = {"value": ap, "low": ap / 2, "high": 2 * ap}
    difference = {"value": 0.01, "low": low, "high": 0.02}
    metrics = dict.fromkeys(names, estimate) | {"mask_recall50_small": {"value": None, "low": None, "high": None}}
    return {
        "name": name,
        "metrics": metrics,
        "difference": dict.fromkeys(names, difference),
        "seconds": {"features": 2.0},
    }


def test_the_table_goes_into_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = compare_recipes.DOCUMENT.read_text("utf-8")
    assert text.count(compare_recipes.BEGIN) == text.count(compare_recipes.END) == 1
    monkeypatch.setattr(compare_recipes, "DOCUMENT", tmp_path / "recipes.md")
    (tmp_path / "recipes.md").write_text(text, "utf-8")
    found = {"scored": 104, "bootstrap": 1000, "runs": [run("maskcut", 0.0123, None), run("cuts3d", 0.05, 0.0105)]}
    for _ in range(2):  # again and again
        compare_recipes.fill_document(found)
    filled = (tmp_path / "recipes.md").read_text("utf-8")
    head, tail = text.split(compare_recipes.BEGIN)[0], text.split(compare_recipes.END)[1]
    assert filled.startswith(head)
    assert filled.endswith(tail)
    assert "\n104 photos, 1000 resamples of them.\n\n| |" in filled
    rows = [
        line.split(" | ")
        for line in filled.splitlines()
        if line.startswith(("| `maskcut` | 1.23", "| `cuts3d` | 5.00"))
    ]
    assert [row[1] for row in rows] == ["1.23", "5.00 (+1.1 to +2.0)"]
    assert rows[0][8].startswith("– / 1.23")
    assert [row[-1] for row in rows] == ["2.00 |", "2.00 |"]
    assert len({len(row) for row in rows}) == 1
