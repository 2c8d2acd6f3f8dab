"""What differs between two settings, and how it is told."""

from pipeline.runs.changed_settings import ABSENT, differences, in_lines


def test_nested_settings_by_dotted_names() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "gone": None, "lists": [{"x": 1}, {"x": 2}], "same": {}}
    now = {"a": {"b": 2, "c": [1, 3]}, "lists": [{"x": 1}, {"x": 3}], "same": {}, "new": ""}
    assert differences(before, now) == {
        "a.b": (1, 2),
        "a.c": ([1, 2], [1, 3]),
        "gone": (None, ABSENT),
        "lists.1.x": (2, 3),
        "new": (ABSENT, ""),
    }
    assert differences(before, before) == {}


def test_a_line_each() -> None:
    assert in_lines({"a": ("é", None), "b": (ABSENT, [1])}, "run has") == [
        '  a: run has "é", now none',
        "  b: run has no such setting, now [1]",
    ]
    assert in_lines({}, "run has") == []


def test_no_more_than_people_read() -> None:
    lines = in_lines({str(i): ("x" * 1000, i) for i in range(30)}, "before")
    assert lines[-1] == "  and 10 more"
    assert len(lines) == 21
    assert max(map(len, lines)) < 250


def test_another_recipe_is_told_without_noise() -> None:
    """One line for a model that is not used any more, and no digest beside what it is a digest of."""
    before = {"depth": {"name": "fastdepth", "sha256": "a" * 64}, "features": {"size": 840, "fingerprint": "b" * 64}}
    now = {"depth": None, "features": {"size": 420, "fingerprint": "c" * 64}}
    assert in_lines(differences(before, now), "run has") == [
        '  depth: run has "fastdepth", now none',
        "  features.size: run has 840, now 420",
    ]
    assert in_lines(differences(now, before), "run has")[0] == '  depth: run has none, now "fastdepth"'
    other = {**before, "features": {"size": 840, "fingerprint": "c" * 64}}
    assert in_lines(differences(before, other), "run has") == [
        "  features.fingerprint: run has bbbbbbbbbbbb…, now cccccccccccc…: other contents, or read in another way"
    ]
