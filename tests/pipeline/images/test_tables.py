"""CSV tables: what is odd about a row costs no other row."""

import pytest

from pipeline.errors import SourceError
from pipeline.images.tables import read_table


def rows_of(content: bytes) -> dict[int, list[str | None] | str]:
    """By line, the fields or what is wrong with them."""
    return {
        row.line: str(row.fields) if isinstance(row.fields, SourceError) else list(row.fields.values())
        for row in read_table(content, "a.csv").rows
    }


def test_rows_by_the_line_that_they_begin_in() -> None:
    content = b'id,name\n1,a\r\n\n2,"b ""c"",\nd"\n3\n4,e,f\n'
    assert read_table(content, "a.csv").names == ["id", "name"]
    assert rows_of(content) == {2: ["1", "a"], 4: ["2", 'b "c",\nd'], 6: ["3", None], 7: ["4", "e"]}
    assert read_table(b"", "a.csv") == ([], [])
    assert rows_of("id,name\n1,é\n".encode("utf-16")) == {2: ["1", "é"]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"2," + b"x" * 200_000, "a.csv, line 3: field larger than field limit (131072); mend the row"),
        (b"2,caf\xe9", "a.csv, line 3 is not UTF-8; mend the line, or convert the file with iconv"),
        (b'2,"b', "a.csv, line 3: a quote is not closed; mend the row"),
        (b'"2,b', "a.csv, line 3: a quote is not closed; mend the row"),
    ],
)
@pytest.mark.parametrize("more", [1, 30_000])
def test_an_odd_row(line: bytes, message: str, more: int) -> None:
    rest = [b"%d,z" % number for number in range(more)]
    found = rows_of(b"\n".join([b"id,name", b"1,a", line, *rest]))
    assert found.pop(3) == message
    assert list(found.values()) == [["1", "a"], *([str(number), "z"] for number in range(more))]


def test_tables_in_another_encoding_are_refused() -> None:
    with pytest.raises(SourceError, match=r"a\.csv is not a table in UTF-8 .* convert it with iconv"):
        read_table("name\nä\nö\n".encode("latin-1"), "a.csv")
    with pytest.raises(SourceError, match=r"a\.csv, line 1 is not UTF-8"):
        read_table("größe\n1\n2\n".encode("latin-1"), "a.csv")
