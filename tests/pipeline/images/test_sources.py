"""Listing of every kind of source: the ids, what is skipped, and what is refused."""

import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from unicodedata import normalize

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile
from hypothesis import given
from hypothesis import strategies as st
from support.bad_images import encoded, gradient, write

from pipeline.errors import ImageError, SourceError
from pipeline.images.image_lists import LIST_READERS
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.images.photos import load_photo, photo_size
from pipeline.images.sources import Listing, expand_braces, list_images
from pipeline.storage.locations import filesystem, location_of, read_json

PNG = encoded(gradient(), "PNG")


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()


def ids(listing: Listing) -> list[str]:
    return [ref.id for ref in listing.refs]


def sound(listing: Listing) -> list[str]:
    return [ref.id for ref in listing.refs if ref.trouble is None]


def odd(listing: Listing) -> dict[str, str]:
    """Why images are set aside, by their ids."""
    return {ref.id: ref.trouble for ref in listing.refs if ref.trouble is not None}


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


# --- folders ----------------------------------------------------------------------------------------------------------


def test_folder_tree(tmp_path: Path) -> None:
    names = ["a/1.jpg", "b/1.jpg", "b/deep/er/x.JPEG", "top.PNG", "é ü/日本.webp"]
    extensions = ("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "tif", "tiff", "webp", "gif", "ppm", "pgm", "jp2")
    names += [f"all/x.{ext}" for ext in extensions]
    for name in names:
        write(tmp_path / name, PNG)
    for name in ("notes.txt", "a/b.TXT", "README", "labels.json", "phone.heic", ".DS_Store", ".git/x.jpg", "a/._1.jpg"):
        write(tmp_path / name, b"")
    listing = list_images(str(tmp_path))
    assert ids(listing) == sorted(names)
    assert listing.root == str(tmp_path)
    assert listing.skipped == {"(hidden)": 3, "(no extension)": 1, ".heic": 1, ".json": 1, ".txt": 2}
    for ref in listing.refs:
        assert ref.uri == str(tmp_path / ref.id)
    np.testing.assert_array_equal(load_photo(listing.refs[0]).rgb, gradient())


def test_one_folder_has_one_identity_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "photos" / "a" / "1.jpg", PNG)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    plain = list_images(str(tmp_path / "photos"))
    for name in (
        f"{tmp_path}/photos/",
        "../photos",
        "../photos/",
        f"{tmp_path}//photos/.",
        f"file://{tmp_path}/photos",
    ):
        assert list_images(name) == plain
    shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere")
    moved = list_images(str(tmp_path / "elsewhere"))
    assert Manifest(moved.refs, 8).digest == Manifest(plain.refs, 8).digest


def test_symlinks_are_followed_once(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    write(root / "zebra" / "1.jpg", PNG)
    write(outside / "2.jpg", PNG)
    (root / "alias").symlink_to("zebra")  # sorts before the real folder, which must win
    (root / "more").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (outside / "back").symlink_to(root)
    (root / "file.jpg").symlink_to(outside / "2.jpg")
    (root / "broken.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(root / "pipe.jpg")
    listing = list_images(str(root))
    assert ids(listing) == ["file.jpg", "more/2.jpg", "zebra/1.jpg"]
    assert listing.skipped == {"(broken link)": 1, "(folder already listed)": 3, "(not a regular file)": 1}


def test_names_that_are_not_unicode_are_set_aside(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", PNG)
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))).write_bytes(PNG)
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))).write_bytes(b"")
    listing = list_images(str(tmp_path))
    assert sound(listing) == ["a.jpg"]
    assert listing.skipped == {".txt": 1}
    ((name, why),) = odd(listing).items()
    assert name == "caf%ED%B3%A9.jpg"
    assert "its name is not UTF-8" in why
    Manifest(listing.refs, 8).to_parquet_bytes()


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jpg", PNG)
    write(tmp_path / "private" / "b.jpg", PNG)
    scandir = os.scandir

    def guarded(folder: str) -> object:
        if folder.endswith("private"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(SourceError, match=r"private cannot be listed: Permission denied"):
        list_images(str(tmp_path))


def test_remote_folder(memory: fsspec.AbstractFileSystem) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "b/notes.md", ".cache/x.jpg"):
        memory.pipe_file(f"/set/{name}", PNG)
    listing = list_images("memory://set")
    assert ids(listing) == ["a/1.jpg", "b/1.jpg"]
    assert listing.skipped == {"(hidden)": 1, ".md": 1}
    np.testing.assert_array_equal(load_photo(listing.refs[1]).rgb, gradient())


def test_single_image(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    path = write(tmp_path / "photos" / "[1] a.JPEG", PNG)
    assert list_images(str(path)) == Listing(str(path.parent), (ImageRef("[1] a.JPEG", str(path)),), {})
    memory.pipe_file("/set/a.jpg", PNG)
    assert ids(list_images("memory://set/a.jpg")) == ["a.jpg"]


def test_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere: no such file or folder"):
        list_images(str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="no such file or folder"):
        list_images("memory://nowhere")
    with pytest.raises(SourceError, match="no images found \\(it is empty\\)"):
        list_images(str(tmp_path))
    write(tmp_path / "a.heic", b"")
    write(tmp_path / "b.heic", b"")
    for source in (tmp_path, tmp_path / "a.heic"):
        with pytest.raises(SourceError, match=r"no images found \(\d .heic\); images are known by extension"):
            list_images(str(source))


def test_protocols_without_a_package(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Protocol not known: nonsense"):
        list_images("nonsense://bucket/a")
    with pytest.raises(SourceError, match="chained URLs"):
        list_images("zip://a.jpg::memory://x.zip")
    if not find_spec("s3fs"):
        with pytest.raises(SourceError, match="Install s3fs"):
            list_images("s3://bucket/folder")


# --- text lists -------------------------------------------------------------------------------------------------------


def test_text_list(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    for name in ("set/a/1.jpg", "set/b/1.jpg", "set/b/2 with space.jpg"):
        write(tmp_path / name, PNG)
    lines = ["# train split", "", "../set/a/1.jpg", "  ../set/./b//1.jpg\r", str(tmp_path / "set/b/2 with space.jpg")]
    path = write(tmp_path / "lists" / "train.txt", ("\ufeff" + "\n".join(lines)).encode())
    listing = list_images(str(path))
    assert listing.root == str(tmp_path / "set")
    assert ids(listing) == ["a/1.jpg", "b/1.jpg", "b/2 with space.jpg"]
    assert [ref.uri for ref in listing.refs] == [str(tmp_path / "set" / name) for name in ids(listing)]

    memory.pipe_file("/set/x/1.jpg", PNG)
    memory.pipe_file("/set/y/1.jpg", PNG)
    memory.pipe_file("/set/list.lst", b"x/1.jpg\ny/1.jpg\n")
    remote = list_images("memory://set/list.lst")
    assert (remote.root, ids(remote)) == ("memory:///set", ["x/1.jpg", "y/1.jpg"])

    mixed = write(tmp_path / "mixed.txt", b"memory://set/x/1.jpg\nset/a/1.jpg\n")
    listing = list_images(str(mixed))
    assert listing.root == ""
    assert ids(listing) == sorted(["memory/set/x/1.jpg", f"{tmp_path}/set/a/1.jpg".lstrip("/")])
    assert {load_photo(ref).rgb.shape for ref in listing.refs} == {(48, 64, 3)}


def test_text_list_with_a_root(tmp_path: Path) -> None:
    for name in ("set/a/1.jpg", "set/a/2.jpg"):
        write(tmp_path / name, PNG)
    path = write(tmp_path / "lists" / "train.txt", b"a/1.jpg\na/2.jpg\n")
    with pytest.raises(SourceError, match=r"none of 2 images looked for exists, for example .*lists/a/1.jpg.*--root"):
        list_images(str(path))
    listing = list_images(str(path), root=str(tmp_path / "set"))
    assert (listing.root, ids(listing)) == (str(tmp_path / "set"), ["a/1.jpg", "a/2.jpg"])
    write(tmp_path / "lists" / "train.txt", b"a/1.jpg\n../other/2.jpg\n")
    listing = list_images(str(path), root=str(tmp_path / "set"))
    assert sound(listing) == ["a/1.jpg"]
    assert "other/2.jpg is not below --root" in odd(listing)["%2E%2E/other/2.jpg"]
    write(tmp_path / "other" / "2.jpg", PNG)
    write(tmp_path / "lists" / "train.txt", b"../other/2.jpg\n")
    with pytest.raises(SourceError, match=r"none of 1 image can be taken: .*other/2.jpg is not below --root"):
        list_images(str(path), root=str(tmp_path / "set"))
    with pytest.raises(SourceError, match=r"--root .* is for lists and COCO files, not for"):
        list_images(str(tmp_path / "set"), root=str(tmp_path))


def test_some_missing_images_are_left_to_the_run(tmp_path: Path) -> None:
    write(tmp_path / "1.jpg", PNG)
    path = write(tmp_path / "list.txt", b"1.jpg\n2.jpg\n3.jpg\n")
    assert ids(list_images(str(path))) == ["1.jpg", "2.jpg", "3.jpg"]


def test_bad_text_lists(tmp_path: Path) -> None:
    write(tmp_path / "1.jpg", PNG)
    for content, match in (
        (b"# nothing\n\n", "lists no images"),
        (b"http://host/../x.jpg\n", "not allowed in a URL"),
        (b"caf\xe9.jpg", "not a text list in UTF-8 .* convert it with iconv"),
    ):
        with pytest.raises(SourceError, match=match):
            list_images(str(write(tmp_path / "list.txt", content)))


def test_lines_that_are_not_utf8_cost_no_other(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        write(tmp_path / name, PNG)
    listing = list_images(str(write(tmp_path / "list.txt", b"# photos\n1.jpg\n\ncaf\xe9.jpg\n2.jpg\n")))
    assert sound(listing) == ["1.jpg", "2.jpg"]
    assert [why.partition("list.txt")[2] for why in odd(listing).values()] == [
        ", line 4 is not UTF-8; mend the line, or convert the file with iconv"
    ]
    assert Manifest.from_parquet_bytes(Manifest(listing.refs, 2).to_parquet_bytes()).refs == listing.refs


def test_one_odd_line_costs_no_other(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        write(tmp_path / name, PNG)
    lines = "1.jpg\n./1.jpg\nhttp://host/../x.jpg\n2.jpg\n"
    listing = list_images(str(write(tmp_path / "list.txt", lines.encode())))
    assert sound(listing) == ["1.jpg", "2.jpg"]
    assert listing.skipped == {"(listed again)": 1}
    assert "not allowed in a URL" in odd(listing)["http%3A/%2Fhost/%2E%2E/x.jpg"]
    (tmp_path / "list.txt").write_text(f"{lines}s3://key:hidden@bucket/3.jpg\n")
    with pytest.raises(SourceError, match="carries a password") as caught:
        list_images(str(tmp_path / "list.txt"))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_lists_in_other_forms_of_unicode(encoding: str, tmp_path: Path) -> None:
    """As PowerShell and Excel write them."""
    write(tmp_path / "é.jpg", PNG)
    text = write(tmp_path / "list.txt", "é.jpg\r\n".encode(encoding))
    listed = coco(tmp_path / "i.json", []).encode()
    Path(os.fsdecode(listed)).write_bytes(json.dumps({"images": [{"id": 1, "file_name": "é.jpg"}]}).encode(encoding))
    assert ids(list_images(str(text))) == ids(list_images(os.fsdecode(listed))) == ["é.jpg"]


# --- parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_lists(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg"):
        write(tmp_path / name, PNG)
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": ["a/1.jpg", "b/1.jpg"], "height": [48, None], "label": [1, 2]}), path)
    listing = list_images(str(path))
    assert ids(listing) == ["a/1.jpg", "b/1.jpg"]
    assert [(ref.height, ref.width) for ref in listing.refs] == [(48, None), (None, None)]

    pq.write_table(pa.table({"uri": [str(tmp_path / "a/1.jpg"), "b/1.jpg"], "id": ["two", "one/x"]}), path)
    listing = list_images(str(path))
    assert {ref.id: ref.uri for ref in listing.refs} == {
        "one/x": str(tmp_path / "b/1.jpg"),
        "two": str(tmp_path / "a/1.jpg"),
    }


def test_a_manifest_is_a_list(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "set" / "0.tar", {"x.png": PNG, "y.png": PNG})
    refs = (*list_images(str(tar)).refs, ImageRef("z", str(tar), coco_id=3))
    path = write(tmp_path / "manifest.parquet", Manifest(refs, 8).to_parquet_bytes())
    assert list_images(str(path)).refs == refs


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"file": ["a.jpg"]}, "one must be called uri or path"),
        ({"uri": [1]}, "row 1 is empty or not text"),
        ({"uri": ["a.jpg"], "id": [True]}, "row 1 has no text and no whole number in column id"),
        ({"uri": ["a.jpg"], "id": ["../../etc/x"]}, "cannot be an image id"),
        ({"uri": ["a.jpg"], "height": ["tall"]}, "column height is string"),
        ({"uri": ["a.jpg"], "offset": [3]}, "byte range 3"),
        ({"uri": ["a.jpg"], "coco_id": pa.array([1 << 63], pa.uint64())}, "column coco_id must hold whole .* at most"),
        ({"uri": ["a.jpg"], "offset": [0.5]}, "column offset must hold whole numbers"),
        ({"uri": pa.array([], pa.string())}, "lists no images"),
    ],
)
def test_bad_parquet_lists(tmp_path: Path, columns: dict, match: str) -> None:
    write(tmp_path / "a.jpg", PNG)
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(SourceError, match=match):
        list_images(str(tmp_path / "list.parquet"))


@pytest.mark.parametrize("ids", [[7, 8], [7.0, 8.0], pa.array([7, 8], pa.uint8())])
def test_whole_numbers_are_ids(ids: object, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write(tmp_path / name, PNG)
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "id": ids}), tmp_path / "list.parquet")
    listing = list_images(str(tmp_path / "list.parquet"))
    assert [(ref.id, Path(ref.uri).name) for ref in listing.refs] == [("7", "a.jpg"), ("8", "b.jpg")]


def test_one_odd_number_costs_no_other_row(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        write(tmp_path / name, PNG)
    for column, values in {"coco_id": [7.0, 3.5, None], "offset": pa.array([0, 1 << 63, None], pa.uint64())}.items():
        table = pa.table({"uri": ["a.jpg", "b.jpg", "c.jpg"], column: values, "length": [9, 9, None]})
        pq.write_table(table.drop(["length"]) if column == "coco_id" else table, tmp_path / "list.parquet")
        first, odd, last = list_images(str(tmp_path / "list.parquet")).refs
        assert (first.trouble, last.trouble) == (None, None)
        assert f"row 2: column {column} must hold whole numbers" in str(odd.trouble)
    assert (first.offset, first.length) == (0, 9)


def test_one_odd_row_costs_no_other(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", PNG)
    columns = {
        "uri": ["a.jpg", None, "a.jpg", "a.jpg", "a.jpg", "a.jpg"],
        "id": ["a", "b", None, "../c", "a", "d"],
        "offset": [0, None, None, None, 5, 3],
        "length": [9, None, None, None, 9, None],
        "height": [48.0, None, None, None, None, -1.0],
        "coco_id": [7.0, float("nan"), None, None, None, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    listing = list_images(str(tmp_path / "list.parquet"))
    assert sound(listing) == ["a"]
    first = next(ref for ref in listing.refs if ref.id == "a")
    assert (first.offset, first.height, first.coco_id) == (0, 48, 7)
    assert set(odd(listing)) == {"%2E%2E/c", "a%2", "d", "row 2", "row 3"}
    assert "cannot be an image id" in odd(listing)["%2E%2E/c"]
    assert "the name of an image that comes before" in odd(listing)["a%2"]
    assert "byte range 3" in odd(listing)["d"]
    stored = write(tmp_path / "manifest.parquet", Manifest(listing.refs, 8).to_parquet_bytes())
    assert list_images(str(stored)).refs == listing.refs, "a manifest is a list, with what was set aside"


def test_torn_parquet(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a parquet file"):
        list_images(str(write(tmp_path / "list.parquet", b"PAR1 torn")))


# --- COCO -------------------------------------------------------------------------------------------------------------


def coco(path: Path, images: object, **more: object) -> str:
    return str(write(path, json.dumps({"images": images, **more}).encode()))


def test_coco_files(tmp_path: Path) -> None:
    images = [
        {"id": 7, "file_name": "b/x.jpg", "height": 48, "width": 64},
        {"id": 3, "file_name": "a.jpg", "height": None},
    ]
    write(tmp_path / "set" / "images" / "a.jpg", PNG)
    source = coco(tmp_path / "set" / "instances.json", images, annotations=[])
    listing = list_images(source)
    base = tmp_path / "set" / "images"
    assert listing.root == str(base)
    assert listing.refs == (
        ImageRef("a.jpg", str(base / "a.jpg"), coco_id=3),
        ImageRef("b/x.jpg", str(base / "b/x.jpg"), height=48, width=64, coco_id=7),
    )
    write(tmp_path / "set" / "b" / "x.jpg", PNG)  # the JSON's own folder comes first
    assert list_images(source).root == str(tmp_path / "set")
    write(tmp_path / "train2017" / "a.jpg", PNG)
    assert list_images(source, root=str(tmp_path / "train2017")).refs[0].uri == str(tmp_path / "train2017" / "a.jpg")
    with pytest.raises(SourceError, match=r"none of 2 images looked for in .*/other exists.*--root"):
        list_images(source, root=str(tmp_path / "other"))


def test_coco_file_elsewhere(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe_file("/set/images/a.jpg", PNG)
    memory.pipe_file("/set/i.json", json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}]}).encode())
    (ref,) = list_images("memory://set/i.json").refs
    np.testing.assert_array_equal(load_photo(ref).rgb, gradient())


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (None, 'has no list "images"'),
        ([], "lists no images"),
        ([{"id": 1}], 'no "file_name" of type str'),
        ([{"file_name": "a.jpg"}], 'no "id" of type int'),
        ([{"id": "1", "file_name": "a.jpg"}], 'no "id" of type int'),
        ([{"id": 1 << 63, "file_name": "a.jpg"}], r'has the "id" 9223372036854775808: ids may be .* at most; write'),
        (["a.jpg"], 'no "file_name"'),
        (
            [{"id": 1, "file_name": "../../a.jpg"}],
            r"i\.json: none of 1 .* which is in none of these folders; .* --root",
        ),
        ([{"id": 1, "file_name": "/etc/a.jpg"}], r"example /etc/a\.jpg, which is in none of these folders; .* --root"),
        ([{"id": 1, "file_name": "x\\a.jpg"}], r'as Windows writes it: "/" was tried'),
    ],
)
def test_bad_coco_files(tmp_path: Path, images: object, match: str) -> None:
    write(tmp_path / "a.jpg", PNG)
    with pytest.raises(SourceError, match=match):
        list_images(coco(tmp_path / "i.json", images))


@pytest.mark.parametrize(
    ("height", "width", "taken"),
    [
        (180.0, 240.0, (180, 240)),
        (-1, -1, (None, None)),
        (0, 0, (None, None)),
        ("180", "240", (None, None)),
        (4.5, True, (None, None)),
        (float("inf"), 1 << 40, (None, None)),
    ],
)
def test_sizes_that_are_none(height: object, width: object, taken: tuple[object, object], tmp_path: Path) -> None:
    """The photo's header counts, whatever a file says."""
    write(tmp_path / "a.jpg", PNG)
    image = {"id": 1, "file_name": "a.jpg", "height": height, "width": width}
    (ref,) = list_images(coco(tmp_path / "i.json", [image])).refs
    assert (ref.height, ref.width) == taken


def test_one_odd_entry_costs_no_other(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.jpg", PNG)
    write(tmp_path / "secret.jpg", PNG)
    images = [
        {"id": 1.0, "file_name": "a.jpg"},
        {"id": 2, "file_name": "../secret.jpg"},
        {"id": 3, "file_name": str(tmp_path / "secret.jpg")},
        {"id": 4},
        {"id": 1 << 63, "file_name": "b.jpg"},
        {"id": 5, "file_name": "./a.jpg"},
    ]
    listing = list_images(coco(tmp_path / "set" / "i.json", images), root=str(tmp_path / "set"))
    assert [(ref.id, ref.coco_id) for ref in listing.refs if ref.trouble is None] == [("a.jpg", 1)]
    assert len(odd(listing)) == 4, "the photo that is listed again is one image"
    for ref in listing.refs:
        if ref.trouble is not None:
            assert "i.json" in ref.trouble
            with pytest.raises(ImageError, match="odd_entry"):
                load_photo(ref)
            with pytest.raises(ImageError, match="odd_entry"):
                photo_size(ref)


def test_an_image_that_has_the_id_of_another_costs_no_other(tmp_path: Path) -> None:
    names = ("a.jpg", "b.jpg", "b.jpg", "c.jpg", "./a.jpg")
    for name in names:
        write(tmp_path / name, PNG)
    images = [{"id": id_, "file_name": name} for id_, name in zip((1, 1, 2, 1, 1), names, strict=True)]
    listing = list_images(coco(tmp_path / "i.json", images))
    assert {ref.id: ref.coco_id for ref in listing.refs if ref.trouble is None} == {"a.jpg": 1, "b.jpg": 2}
    assert set(odd(listing)) == {"b.jpg%2", "c.jpg"}
    assert 'image c.jpg has the "id" 1, which a.jpg has before it' in odd(listing)["c.jpg"]


def test_a_file_name_that_is_not_utf8_costs_no_other(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", PNG)
    file = coco(tmp_path / "i.json", [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "caf?.jpg"}])
    Path(file).write_bytes(Path(file).read_bytes().replace(b"?", b"\xe9"))
    listing = list_images(file)
    assert sound(listing) == ["a.jpg"]
    assert [str(why).partition("i.json: ")[2] for why in odd(listing).values()] == [
        "\"file_name\" 'caf\\udce9.jpg' is not UTF-8; mend it, or convert the file with iconv"
    ]


def test_file_names_as_label_tools_write_them(tmp_path: Path) -> None:
    write(tmp_path / "data" / "images" / "a" / "1.jpg", PNG)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    names = ["a/1.jpg", str(tmp_path / "data/images/a/1.jpg"), "../images/a/1.jpg", "a\\1.jpg", "a//../a/./1.jpg"]
    for number, name in enumerate(names):
        source = coco(tmp_path / "data" / f"{number}.json", [{"id": 1, "file_name": name}])
        for root in ("data/images", "link/images"):
            (ref,) = list_images(source, root=str(tmp_path / root)).refs
            assert (ref.id, ref.uri) == ("a/1.jpg", str(tmp_path / root / "a/1.jpg")), name
    absolute = coco(tmp_path / "data" / "x.json", [{"id": 1, "file_name": names[1]}])
    assert ids(list_images(absolute)) == ["images/a/1.jpg"], "a place beside the file will do"


def test_the_other_form_of_unicode(tmp_path: Path) -> None:
    """A Mac zips "é" as two characters; both parts of the path, and only one."""
    for folder, file in (("NFD", "NFD"), ("NFC", "NFD"), ("NFD", "NFC")):
        root = tmp_path / f"{folder}{file}"
        write(root / normalize(folder, "é") / normalize(file, "ü.png"), PNG)
        source = coco(root / "i.json", [{"id": 1, "file_name": normalize("NFC", "é/ü.png")}])
        (ref,) = list_images(source).refs
        assert ref.id == normalize("NFC", "é/ü.png")
        np.testing.assert_array_equal(load_photo(ref).rgb, gradient())
        assert photo_size(ref)[:2] == (48, 64)
        text = write(root / "list.txt", normalize("NFC", "é/ü.png").encode())
        assert load_photo(list_images(str(text)).refs[0]).rgb.shape == (48, 64, 3)


def test_the_other_form_of_unicode_elsewhere(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe_file(normalize("NFD", "/set/é.png"), PNG)
    memory.pipe_file("/set/list.txt", normalize("NFC", "é.png").encode())
    (ref,) = list_images("memory://set/list.txt").refs
    np.testing.assert_array_equal(load_photo(ref).rgb, gradient())


@pytest.mark.parametrize("kind", ["txt", "parquet", "json"])
def test_a_list_that_is_not_there(kind: str, tmp_path: Path) -> None:
    missing = tmp_path / f"none.{kind}"
    with pytest.raises(SourceError, match=r"^\S+ cannot be read: No such file or directory$"):
        LIST_READERS[missing.suffix](str(missing), None)


def test_json_that_an_editor_saved_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read_json(str(write(tmp_path / "i.json", b'\xef\xbb\xbf{"a": "\xc3\xa9"}'))) == {"a": "é"}


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\xfd", b"[" * 100_000])
def test_not_json(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceError, match=r"i\.json is not JSON"):
        list_images(str(write(tmp_path / "i.json", content)))


def test_not_a_coco_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a COCO file"):
        list_images(str(write(tmp_path / "i.json", b"[1]")))


def test_real_coco_file_agrees_with_the_photos(assets: Path) -> None:
    listing = list_images(str(assets / "coco" / "instances.json"))
    assert len(listing.refs) == 209
    assert {ref.id for ref in listing.refs} == {path.name for path in (assets / "coco" / "images").iterdir()}
    for ref in listing.refs[::20]:
        assert load_photo(ref).rgb.shape[:2] == (ref.height, ref.width)


def test_real_folder(assets: Path) -> None:
    listing = list_images(str(assets / "imagenet"))
    assert (len(listing.refs), listing.skipped) == (200, {})


# --- tar files --------------------------------------------------------------------------------------------------------


def shards(folder: Path, count: int = 3) -> None:
    for i in range(count):
        photo = encoded(np.full((32, 40, 3), 10 * i, np.uint8), "PNG")
        long = f"{'long/' * 40}{i}.PNG"
        members = {"./0001.png": photo, "0001.json": b"{}", "0001.cls": b"3", ".hidden.png": b"", long: photo}
        tar_of(folder / f"shard-{i:06d}.tar", members)


def test_webdataset_tars(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    shards(tmp_path / "set")
    first = str(tmp_path / "set" / "shard-000000.tar")
    listing = list_images(first)
    assert ids(listing) == ["shard-000000.tar/0001.png", f"shard-000000.tar/{'long/' * 40}0.PNG"]
    assert listing.skipped == {"(hidden)": 1, ".cls": 1, ".json": 1}
    memory.put(str(tmp_path / "set"), "/set", recursive=True)
    folder = list_images(str(tmp_path / "set"))
    for source in (
        f"{tmp_path}/set/shard-{{000000..000002}}.tar",
        f"{tmp_path}/set/shard-*.tar",
        f"{tmp_path}/se?/shard-00000{{0,1,2}}.tar",
        "memory://set",
        "memory://set/shard-{000000..000002}.tar",
        "memory://set/*.tar",
    ):
        listing = list_images(source)
        assert Manifest(listing.refs, 8).digest == Manifest(folder.refs, 8).digest
        assert listing.skipped == folder.skipped == {"(hidden)": 3, ".cls": 3, ".json": 3}
        for ref in listing.refs:
            assert load_photo(ref).rgb.max() == 10 * int(ref.id[6:12])


def test_images_win_over_tars_in_one_folder(tmp_path: Path) -> None:
    shards(tmp_path)
    write(tmp_path / "a.jpg", PNG)
    listing = list_images(str(tmp_path))
    assert (ids(listing), listing.skipped) == (["a.jpg"], {".tar": 3})


def test_patterns(tmp_path: Path) -> None:
    for name in ("set/a/1.jpg", "set/b/1.jpg", "set/b/2.png", "set/c/x.txt"):
        write(tmp_path / name, PNG)
    listing = list_images(f"{tmp_path}/set/*/*")
    assert (listing.root, ids(listing)) == (str(tmp_path / "set"), ["a/1.jpg", "b/1.jpg", "b/2.png"])
    assert listing.skipped == {".txt": 1}
    assert ids(list_images(f"{tmp_path}/set/{{a,b}}/1.jpg")) == ["a/1.jpg", "b/1.jpg"]
    with pytest.raises(SourceError, match=r"2 names without a file, the first is .*/set/x/1.jpg"):
        list_images(f"{tmp_path}/set/{{a,x,y}}/1.jpg")
    with pytest.raises(SourceError, match="1 name without a file"):
        list_images(f"{tmp_path}/none/*.tar")


def test_braces() -> None:
    assert expand_braces("a-{000..002}.tar") == ["a-000.tar", "a-001.tar", "a-002.tar"]
    assert expand_braces("a-{8..11}") == ["a-8", "a-9", "a-10", "a-11"]
    assert expand_braces("{x,y}/{1..2}") == ["x/1", "x/2", "y/1", "y/2"]
    assert expand_braces("plain") == ["plain"]
    for endless in ("{0..99999999}", "{0..9999}{0..9999}"):
        with pytest.raises(SourceError, match="more than 1000000 files"):
            expand_braces(endless)


@given(st.integers(0, 2000), st.integers(0, 50), st.integers(1, 6))
def test_zero_padded_braces(first: int, count: int, width: int) -> None:
    text = f"s{{{first:0{width}d}..{first + count:0{width}d}}}"
    assert expand_braces(text) == [f"s{i:0{width}d}" for i in range(first, first + count + 1)]


def test_compressed_and_torn_tars(tmp_path: Path) -> None:
    shards(tmp_path, 1)
    data = (tmp_path / "shard-000000.tar").read_bytes()
    packed = write(tmp_path / "packed" / "shard.tar.gz", gzip.compress(data))
    with pytest.raises(SourceError, match=r"compressed tar .* decompress it to a plain .tar"):
        list_images(str(packed))
    with pytest.raises(SourceError, match=r"no images found \(1 .gz\)"):
        list_images(str(packed.parent))
    with pytest.raises(SourceError, match="cannot be read as a plain tar"):
        list_images(str(write(tmp_path / "named" / "shard.tar", gzip.compress(data))))
    inside = list_images(str(tmp_path / "shard-000000.tar")).refs[1]
    assert inside.offset is not None
    with pytest.raises(SourceError, match="cannot be read as a plain tar"):
        list_images(str(write(tmp_path / "torn" / "shard.tar", data[: inside.offset + 20])))
    with pytest.raises(SourceError, match="cannot be read as a plain tar"):
        list_images(str(write(tmp_path / "empty" / "shard.tar", b"")))


def test_tar_members_that_are_no_plain_files(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        folder, link = tarfile.TarInfo("folder.jpg"), tarfile.TarInfo("link.jpg")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(folder)
        tar.addfile(link)
        tar.add(write(tmp_path / "x.png", PNG), "x.png")
    listing = list_images(str(path))
    assert (ids(listing), listing.skipped) == (["a.tar/x.png"], {"(not a regular file)": 1})


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png"])
def test_hostile_tar_members(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="cannot be an image id"):
        list_images(str(tar_of(tmp_path / "a.tar", {name: PNG})))
    listing = list_images(str(tar_of(tmp_path / "b.tar", {"1.png": PNG, name: PNG, "2.png": PNG})))
    assert sound(listing) == ["b.tar/1.png", "b.tar/2.png"]
    ((id_, why),) = odd(listing).items()
    assert id_.startswith("b.tar/")
    assert ".." not in id_
    assert repr(name) in why


def joined(path: Path, *parts: Path, between: bytes = b"") -> Path:
    return write(path, between.join(part.read_bytes() for part in parts))


def test_tars_that_were_joined_are_read_to_their_end(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    parts = [tar_of(tmp_path / "parts" / f"{i}.tar", {f"{i}.png": PNG, f"{i}.txt": b"x"}) for i in range(3)]
    path = joined(tmp_path / "joined.tar", *parts)
    listing = list_images(str(path))
    assert (ids(listing), listing.skipped) == ([f"joined.tar/{i}.png" for i in range(3)], {".txt": 3})
    for ref in listing.refs:
        np.testing.assert_array_equal(load_photo(ref).rgb, gradient())
    memory.put(str(path), "/joined.tar")
    assert ids(list_images("memory://joined.tar")) == ids(listing)
    # With more zeros between, and without an end mark.
    assert len(list_images(str(joined(tmp_path / "wide.tar", *parts, between=bytes(512 * 5000)))).refs) == 3
    write(tmp_path / "open.tar", parts[0].read_bytes().rstrip(b"\0").ljust(2560, b"\0") + parts[1].read_bytes())
    assert len(list_images(str(tmp_path / "open.tar")).refs) == 2


@pytest.mark.parametrize("rest", [b"x" * 512, b"x" * 5000, b"\0" * 1024 + b"junk"])
def test_what_follows_the_end_mark_and_is_no_tar(rest: bytes, tmp_path: Path) -> None:
    part = tar_of(tmp_path / "part.tar", {"1.png": PNG})
    with pytest.raises(SourceError, match=r"a.tar cannot be read as a plain tar \(at byte \d+ there is no header"):
        list_images(str(write(tmp_path / "a.tar", part.read_bytes() + rest)))


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    data = bytearray(tar_of(tmp_path / "part.tar", {f"{i}.png": PNG for i in range(3)}).read_bytes())
    second = list_images(str(tmp_path / "part.tar")).refs[1]
    assert second.offset is not None
    data[second.offset - 512 : second.offset - 412] = b"?" * 100
    with pytest.raises(SourceError, match="there is no header of a member"):
        list_images(str(write(tmp_path / "a.tar", bytes(data))))


def test_keys_with_empty_parts(memory: fsspec.AbstractFileSystem) -> None:
    """Keys of a store are no paths."""
    for key in ("/set/a.png", "/set//b.png", "/set/x//c.png", "/set/x/c.png"):
        memory.store[key] = MemoryFile(memory, key, PNG)
    listing = list_images("memory://set")
    assert sound(listing) == ["a.png", "b.png", "x/c.png"]
    assert listing.refs[2].uri == "memory:///set/x/c.png"
    assert "the name of an image that comes before" in odd(listing)["x/c.png%2"]


def test_a_member_listed_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for _ in range(2):
            tar.add(write(tmp_path / "x.png", PNG), "x.png")
    listing = list_images(str(path))
    assert sound(listing) == ["a.tar/x.png"]
    assert "a.tar/x.png is the name of an image that comes before it, too" in odd(listing)["a.tar/x.png%2"]


# --- locations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location", ["/data/a b/#1.jpg", "/data/a::b%20.jpg", "memory:///set/a.jpg", "/data/..hidden/x"]
)
def test_locations_round_trip(location: str) -> None:
    assert location_of(*filesystem(location)) == location


def test_a_text_list_from_windows(tmp_path: Path) -> None:
    write(tmp_path / "photos/1.png", PNG)
    write(tmp_path / "list.txt", b"photos\\1.png\n")
    listing = list_images(str(tmp_path / "list.txt"))
    assert (ids(listing), odd(listing)) == (["1.png"], {})
    assert load_photo(listing.refs[0]).rgb.shape[2] == 3


def test_a_row_of_an_unknown_protocol_costs_no_other(tmp_path: Path) -> None:
    write(tmp_path / "1.png", PNG)
    write(tmp_path / "list.txt", f"{tmp_path}/1.png\nnonsense://x/2.png\nhttp::s3://x/3.png\n".encode())
    listing = list_images(str(tmp_path / "list.txt"))
    assert sound(listing) == ["1.png"]
    chain, unknown = sorted(odd(listing).values())
    assert "chained URLs are not supported" in chain
    assert "Protocol not known: nonsense" in unknown


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    write(tmp_path / "1.png", PNG)
    names = ["1.png", "a" * 5000 + ".png", "é" * 300 + ".png", "a\ud800.png"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    write(tmp_path / "list.json", json.dumps({"images": images}).encode())
    listing = list_images(str(tmp_path / "list.json"))
    assert Manifest.from_parquet_bytes(Manifest(listing.refs, 2).to_parquet_bytes()).refs == listing.refs
    assert list(odd(listing)) == ["a%ED%A0%80.png"]
    for ref in listing.refs[1:]:
        with pytest.raises(ImageError):
            photo_size(ref)
