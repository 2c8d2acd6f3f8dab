"""Yes and no, and what is left out: one reading, one way to say it."""

from typing import Any

import pytest

from pipeline.errors import SourceError
from pipeline.images.coco_masks import UnusableMaskError, is_crowd
from pipeline.images.flags import read_flag
from pipeline.images.left_out import LeftOut


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "1.0", " true ", "TRUE", "Yes"])
def test_yes(value: Any) -> None:
    assert read_flag(value)


@pytest.mark.parametrize("value", [0, 0.0, False, None, float("nan"), "0", "0.0", "-0", "False", "no", "", " "])
def test_no(value: Any) -> None:
    assert not read_flag(value)


@pytest.mark.parametrize("value", [2, -1, 0.5, "2", "none", "nan", "maybe", [], [1], {}, float("inf")])
def test_neither(value: Any) -> None:
    with pytest.raises(ValueError, match="is neither yes nor no: write 1 or 0"):
        read_flag(value)
    with pytest.raises(UnusableMaskError, match=r"^iscrowd: .* is neither yes nor no") as caught:
        is_crowd({"iscrowd": value})
    assert caught.value.reason == "malformed"


def test_what_a_format_has_for_unknown_is_no() -> None:
    assert not read_flag("Unspecified", {"unspecified"})
    with pytest.raises(ValueError, match="neither"):
        read_flag("Unspecified")


def test_what_is_left_out_is_said_by_reason(caplog: pytest.LogCaptureFixture) -> None:
    LeftOut("a.csv", "rows").tell(9)
    assert caplog.text == ""
    left_out = LeftOut("a.csv", "rows")
    for number, reason in enumerate(("odd", "empty", "odd"), start=1):
        left_out.add(reason, f"line {number}")
    left_out.tell(9)
    assert "a.csv: 3 of 9 rows left out: 2 odd, such as line 1; 1 empty, such as line 2" in caplog.text
    with pytest.raises(SourceError, match=r"^a\.csv: none of its 3 rows can be used: 2 odd, such as line 1; 1 empty"):
        left_out.tell(3)
