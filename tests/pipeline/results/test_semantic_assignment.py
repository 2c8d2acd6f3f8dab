"""The file that says which cluster is which class."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError, SourceError
from pipeline.results.semantic_assignment import Assignment

OWN = Assignment(("c0", "c1", "c2"), ("road", "sky"), (1, None, 0), "cityscapes:gtFine", 500, "abc")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(OWN.to_json())
    assert Assignment.read(str(file)) == OWN
    facts = json.loads(OWN.to_json())
    assert facts["clusters"][2] == {"name": "c2", "class": 0, "class_name": "road"}


def test_classes_of_a_second_matching_are_kept_beside_the_first(tmp_path: Path) -> None:
    both, file = replace(OWN, jointly=(0, None, 1)), tmp_path / "a.json"
    file.write_text(both.to_json())
    assert Assignment.read(str(file)) == both
    facts = json.loads(both.to_json())
    assert [one["class_jointly"] for one in facts["clusters"]] == [0, None, 1]
    assert both.table.tolist() == OWN.table.tolist()
    del facts["clusters"][1]["class_jointly"]
    file.write_text(json.dumps(facts))
    with pytest.raises(SourceError, match="'class_jointly' is missing"):
        Assignment.read(str(file))
    for wrong in ((0, 1), (0, 1, 2)):
        with pytest.raises(ValueError, match=r"3 clusters need|class 2 is none of"):
            replace(OWN, jointly=wrong)


def test_labels_become_classes() -> None:
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    assert OWN.table[labels].tolist() == [[1, 255, 0, 255]]


def test_labels_of_other_clusters_are_refused() -> None:
    OWN.refuse_others(("c0", "c1", "c2"), "abc", "run")
    OWN.refuse_others(("c0", "c1", "c2"), "", "run")
    with pytest.raises(ConfigError, match=r"of 3 clusters .*run has 2"):
        OWN.refuse_others(("c0", "c1"), "abc", "run")
    with pytest.raises(ConfigError, match="of another model"):
        OWN.refuse_others(("c0", "c1", "c2"), "def", "run")
    OWN.refuse_other_classes(("road", "sky"), "truth")
    with pytest.raises(ConfigError, match=r"is to 2 classes .*truth has 1"):
        OWN.refuse_other_classes(("road",), "truth")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema", "cuts3d-assignment/9", "is no assignment"),
        ("classes", [], "1 to 255"),
        ("classes", "road", '"classes" must be texts'),
        ("classes", None, '"classes" must be texts'),
        ("clusters", [{"name": "c0", "class": 7}], "class 7 is none of 0 to 1"),
        ("clusters", [{"name": "c0", "class": "road"}], '"class" must be a whole number'),
        ("clusters", [{"name": "c0", "class": True}], '"class" must be a whole number'),
        ("clusters", [{"name": 3, "class": 0}], '"name" must be texts'),
        *(("clusters", value, '"clusters" must be a list of name and class') for value in ([3], 3, "c0", {"c0": 0})),
        ("images", -1, '"images" must be a whole number'),
    ],
)
def test_a_file_that_is_none(field: str, value: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({**json.loads(OWN.to_json()), field: value}))
    with pytest.raises(SourceError, match=message) as error:
        Assignment.read(str(file))
    assert str(file) in str(error.value)


def test_what_does_not_fit() -> None:
    for arguments in ((("a",), ("x",), ()), ((), ("x",), ()), (("a",), ("x",), (1,)), (("a",), ("x",) * 256, (0,))):
        with pytest.raises(ValueError):  # noqa: PT011
            Assignment(*arguments)
