"""Walking over the entries of a large JSON document, against json.loads of the whole."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.storage import json_lists
from pipeline.storage.json_lists import ROOT, JsonLists, open_lists

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def lists_of(document: Any) -> list[tuple[str, Any]]:
    """What `entries` should find, from the whole document."""
    if isinstance(document, list):
        return [(ROOT, entry) for entry in document]
    return [(key, entry) for key, value in document.items() if isinstance(value, list) for entry in value]


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@given(
    document=st.dictionaries(st.text(max_size=5), VALUES, max_size=5) | st.lists(VALUES, max_size=6),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_entries_are_those_of_the_whole_document(
    chunk: int, document: Any, ascii_only: bool, indent: int | None
) -> None:
    data = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lists, "_CHUNK", chunk)
        lists = JsonLists(io.BytesIO(data), "it")
        found = list(lists.entries())
    assert [(entry.key, entry.value) for entry in found] == lists_of(document)
    assert [lists.read(entry.start, entry.end) for entry in found] == [entry.value for entry in found]


def test_a_file_and_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b'\xef\xbb\xbf {"a": [1, "\xc3\xa9"], "b": 2 }\n')
    with open_lists(str(file)) as lists:
        assert [entry.value for entry in lists.entries()] == [1, "é"]
        assert lists.sha256() == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_url(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/lists/a.json", b"[1, 2]")
    with open_lists("memory://lists/a.json") as lists:
        assert [entry.value for entry in lists.entries()] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", 'is not JSON.*"{" or "\\[" is expected at byte 0'),
        ('{"a": [1, 2', "cut short.* at byte 11 of 11"),
        ('{"a": [{"b": "c', "cut short.*Unterminated string"),
        ('{"a": [1 2]}', 'is not JSON.*"," is expected at byte 9'),
        ('{"a": [1], }', "is not JSON"),
        ('{"a": [1]} x', "the document ends before this at byte 11"),
        ("{a: [1]}", "is not JSON"),
        ("{1: [1]}", "a key is expected"),
        ('{"a": [tru, 1]}', "Expecting value at byte 7"),
        ("[" * 100_000, "is not JSON"),
        ("", "is not JSON, or was cut short.* at byte 0 of 0"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(SourceError, match=message), open_lists(str(file)) as lists:
        list(lists.entries())


def test_damage_early_in_a_long_file_is_told_before_all_of_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lists, "_CHUNK", 1000)
    monkeypatch.setattr(json_lists, "_LONGEST", 10_000)
    text = '{"a": [' + ", ".join(["1"] * 100_000) + "]}"
    with pytest.raises(SourceError, match="Expecting value at byte 10 of"):
        list(JsonLists(io.BytesIO(text.replace("1, 1", "1, ?", 1).encode()), "it").entries())
    with pytest.raises(SourceError, match="an entry of over"):
        list(JsonLists(io.BytesIO(('{"a": ["' + "x" * 100_000).encode()), "it").entries())


def test_text_that_is_not_utf8_costs_no_other() -> None:
    lists = JsonLists(io.BytesIO(b'{"a": ["caf\xe9", "caf\xc3\xa9"]}'), "it")
    first, second = lists.entries()
    assert (first.value, second.value) == ("caf\udce9", "café")
    assert lists.read(first.start, first.end) == first.value


def test_missing(tmp_path: Path) -> None:
    with (
        pytest.raises(SourceError, match=r"none\.json cannot be read: No such file"),
        open_lists(f"{tmp_path}/none.json"),
    ):
        pass
