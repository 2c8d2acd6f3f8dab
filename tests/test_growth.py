"""benchmarks/growth.py: what it draws is found, what it stores is read, and exponents are those of what was put in."""

from pathlib import Path
from typing import Any

import growth
import numpy as np
import pytest


def test_exponents_are_those_of_powers() -> None:
    values = [1, 4, 16, 64]
    assert growth.exponents(values, [0.3 * value**1.7 for value in values]) == pytest.approx((1.7, 1.7))
    # A constant part hides growth from a fit of all, and less from the upper three.
    fitted, upper = growth.exponents(values, [100 + value**2 for value in values])
    assert fitted < 1 < upper < 2


def points(power: float, machine: float) -> list[dict[str, Any]]:
    return [
        {
            "stages": {"ncut": side ** (2 * power), "encode": 1e-6},
            "masks": 3,
            "grown": 5 * side**2,
            "control": dict.fromkeys(growth.CONTROLS, side ** (2 * machine)),
        }
        for side in (30, 60, 120)
    ]


@pytest.mark.parametrize(
    ("power", "machine", "bar"), [(1.9, 1.8, "met"), (2.5, 2.0, "missed"), (2.3, 2.25, "met"), (2.5, 2.25, "missed")]
)
def test_what_grows_faster_than_the_square_of_patches_is_told(power: float, machine: float, bar: str) -> None:
    found = points(power, machine)
    values = [growth.abscissa("patches", side, one) for side, one in zip((30, 60, 120), found, strict=True)]
    assert values == [900, 3600, 14400]
    fits = growth.fits_of("patches", "cuts3d", values, found)
    assert [(fit["stage"], fit["exponent"], fit["bar"]) for fit in fits] == [
        ("total", power, bar),
        ("ncut", power, bar),
        ("memory", 1, "met"),
        *((name, machine, "") for name in growth.CONTROLS),
    ]


def test_the_drawn_objects_are_found() -> None:
    found = growth.cut("cuts3d", 24, more=["refine.crf=none"])
    assert found["masks"] >= 6, "an object is a mask, and some are groups of them"
    assert {"affinity", "ncut", "localcut", "confidence", "refine", "encode"} == found["stages"].keys()
    assert min(found["stages"].values()) > 0


def test_objects_lie_in_a_grid() -> None:
    numbers = growth.labels((40, 60), (3, 2))
    assert np.unique(numbers).tolist() == list(range(7))
    assert numbers[10, 10] == 1
    assert numbers[30, 50] == 6
    assert numbers[0, 0] == 0


def test_what_is_stored_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(growth, "SHARD", 3)
    found = growth.stored(30, str(tmp_path / "run"))
    assert found["stages"].keys() == {"write", "read", "launch", "open"}
    assert min(found["stages"].values()) > 0


def test_a_plot_and_a_line_a_point(tmp_path: Path) -> None:
    rows = [
        {"what": "patches", "recipe": "cuts3d", "value": value, "stage": "total", "cpu_s": 1e-3 * value}
        for value in (900, 3600)
    ]
    fits = [{"what": "patches", "recipe": "cuts3d", "stage": "total", "exponent": 1.0}]
    growth.plot(rows, fits, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
