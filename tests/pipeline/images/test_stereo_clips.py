"""Lists of clips: the same rules for places, roots and odd rows as for lists of photos."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.toy_method import draw_clips

from pipeline.errors import ImageError, SourceError
from pipeline.images.sources import list_images
from pipeline.images.stereo_clips import load_clip


def rewritten(file: Path, change: dict[int, str], place: Path | None = None) -> str:
    """The list with other lines at these places, from 1 for the first row."""
    lines = file.read_text().splitlines()
    for number, line in change.items():
        lines[number] = line
    target = place or file
    target.write_text("\n".join(lines) + "\n")
    return f"clips:{target}"


def test_odd_rows_cost_no_other(tmp_path: Path) -> None:
    file = draw_clips(tmp_path / "clips", 6)
    good = file.read_text().splitlines()[1].split(",")
    bad = {
        2: [*good[:1], "", *good[2:]],
        3: [*good[:4], "far", *good[5:]],
        4: good[:3],
        5: ["", *good[1:]],
        6: [*good[:8], "-1"],
    }
    for row, values in bad.items():
        values[0] = values[0] and f"{row - 1:03d}_left.png"
    listing = list_images(rewritten(file, {row: ",".join(values) for row, values in bad.items()}))
    assert [ref.id for ref in listing.refs if ref.trouble is None] == ["000_left.png"]
    troubles = sorted(str(ref.trouble).partition("clips.csv: ")[2] for ref in listing.refs if ref.trouble)
    beginnings = (
        *("line 3: it has no right,", "line 4: camera: fx is 'far'", "line 5: it has no right_next", "line 6 is empty"),
        "line 7: camera: baseline",
    )
    for trouble, expected in zip(troubles, beginnings, strict=True):
        assert trouble.startswith(expected)


def test_the_warning_counts_each_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = draw_clips(tmp_path / "clips", 5)
    good = [line.split(",") for line in file.read_text().splitlines()]
    without_right = {row: ",".join([good[row][0], "", *good[row][2:]]) for row in (1, 3, 4)}
    list_images(rewritten(file, {**without_right, 5: ",".join([*good[5][:8], "-1"])}))
    assert "4 of them cannot be used" in caplog.text
    assert f"3 as {file}: line 2: it has no right, and" in caplog.text
    assert f"1 as {file}: line 6: camera: baseline" in caplog.text


def test_rows_that_cannot_be_read_cost_no_other(tmp_path: Path) -> None:
    file = draw_clips(tmp_path / "clips", 6)
    lines = file.read_bytes().splitlines()
    lines[2] = lines[2].replace(b"001_right", b"caf\xe9")
    lines[3] = b"x" * 200_000
    lines[5] = b'"' + lines[5]
    file.write_bytes(b"\n".join(lines))
    listing = list_images(f"clips:{file}")
    assert [ref.id for ref in listing.refs if ref.trouble is None] == ["000_left.png", "003_left.png", "005_left.png"]
    troubles = [
        str(ref.trouble).partition("clips.csv, ")[2].partition("; mend")[0] for ref in listing.refs if ref.trouble
    ]
    assert sorted(troubles) == [
        "line 3 is not UTF-8",
        "line 4: field larger than field limit (131072)",
        "line 6: a quote is not closed",
    ]


def test_a_list_of_odd_rows_alone_is_refused(tmp_path: Path) -> None:
    file = draw_clips(tmp_path / "clips", 1)
    message = "line 2: it has no right, and a clip needs all four pictures: one lens alone is not enough"
    with pytest.raises(SourceError, match=message):
        list_images(rewritten(file, {1: "000_left.png,,x,y,1,1,1,1,1"}))


def test_a_list_for_one_lens_is_refused_with_the_reason(tmp_path: Path) -> None:
    file = draw_clips(tmp_path / "clips", 1)
    file.write_text("left,left_next,fx,fy,cx,cy,baseline\n000_left.png,000_left_next.png,500,500,16,12,0.5\n")
    with pytest.raises(SourceError, match=r"has no column right, right_next: .* one lens alone is not enough, as dist"):
        list_images(f"clips:{file}")


def test_pictures_that_differ_in_size_are_said_by_name(tmp_path: Path) -> None:
    file = draw_clips(tmp_path / "clips", 2)
    for name in ("right", "left_next", "right_next"):
        path = tmp_path / f"clips/001_{name}.png"
        whole = path.read_bytes()
        Image.new("RGB", (32, 25)).save(path)
        with pytest.raises(ImageError, match=rf"001_{name}\.png has 32×25 pixels, its left picture 32×24") as caught:
            load_clip(list_images(f"clips:{file}").refs[1])
        assert caught.value.reason == "other_size"
        path.write_bytes(whole)
    assert load_clip(list_images(f"clips:{file}").refs[1]).right.rgb.shape == (24, 32, 3)


def test_pictures_that_are_nowhere_are_refused_with_the_option(tmp_path: Path) -> None:
    file = draw_clips(tmp_path / "clips", 2)
    (tmp_path / "lists").mkdir()
    moved = rewritten(file, {}, tmp_path / "lists" / "clips.csv")
    with pytest.raises(SourceError, match=r"none of 2 images looked for exists, .*lists/000_left.png; say with --root"):
        list_images(moved)
    listing = list_images(moved, root=str(tmp_path / "clips"))
    assert [ref.id for ref in listing.refs] == ["000_left.png", "001_left.png"]
    assert load_clip(listing.refs[1]).left.rgb.shape == (24, 32, 3)


def test_some_that_are_missing_are_left_to_the_run(tmp_path: Path) -> None:
    file = draw_clips(tmp_path / "clips", 2)
    (tmp_path / "clips" / "001_left.png").unlink()
    listing = list_images(f"clips:{file}")
    assert all(ref.trouble is None for ref in listing.refs)
    with pytest.raises(ImageError, match="missing"):
        load_clip(listing.refs[1])


@pytest.mark.parametrize("column", ["left", "right", "right_next"])
def test_no_picture_is_outside_of_the_root(column: str, tmp_path: Path) -> None:
    file = draw_clips(tmp_path / "clips", 2)
    names = file.read_text().splitlines()[0].split(",")
    row = file.read_text().splitlines()[2].split(",")
    secret = tmp_path / "secret.png"
    secret.write_bytes((tmp_path / "clips" / "001_left.png").read_bytes())
    for outside in (str(secret), "../secret.png"):
        row[names.index(column)] = outside
        listing = list_images(rewritten(file, {2: ",".join(row)}), root=str(tmp_path / "clips"))
        (trouble,) = [ref.trouble for ref in listing.refs if ref.trouble is not None]
        assert "secret.png is not below --root" in trouble


def test_tables_in_parquet_and_in_utf_16(tmp_path: Path) -> None:
    file = draw_clips(tmp_path / "clips", 3)
    expected = list_images(f"clips:{file}").refs
    lines = [line.split(",") for line in file.read_text().splitlines()]
    columns = {name: [row[i] for row in lines[1:]] for i, name in enumerate(lines[0])}
    pq.write_table(pa.table(columns), file.with_suffix(".parquet"))
    assert list_images(f"clips:{file.with_suffix('.parquet')}").refs == expected
    file.write_text(file.read_text(), encoding="utf-16")
    assert list_images(f"clips:{file}").refs == expected
