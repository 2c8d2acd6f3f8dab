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


def test_parts_of_a_list_are_told_in_one_line() -> None:
    a, b, c = ({"net": net, "size": size, "mean": [0.5]} for net, size in (("a", 8), ("a", 9), ("b", 8)))
    lines = [
        in_lines(differences({"voters": before}, {"voters": now}), "run has")
        for before, now in (([a, b, c], [c]), ([a], [c, b, a]), ([a, b], [b, a]), ([b, b], [c, a]), ([a, b], [a, c]))
    ]
    assert lines == [
        ["  voters: run has 3, now 1; no more: net a, size 8 | net a, size 9"],
        ["  voters: run has 1, now 3; new: net b, size 8 | net a, size 9"],
        ["  voters: in another order"],
        ["  voters: run has 2, now 2; no more: net a, size 9 | net a, size 9; new: net b, size 8 | net a, size 8"],
        ['  voters.1.net: run has "a", now "b"', "  voters.1.size: run has 9, now 8"],
    ]
    digests = ({"voters": [{"size": 8, "sha256": digit * 64}] * 2} for digit in "ab")
    assert in_lines(differences(*digests), "run has") == [
        "  voters: run has 2, now 2; no more: sha256 aaaaaaaaaaaa… | sha256 aaaaaaaaaaaa…; "
        "new: sha256 bbbbbbbbbbbb… | sha256 bbbbbbbbbbbb…"
    ]


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
