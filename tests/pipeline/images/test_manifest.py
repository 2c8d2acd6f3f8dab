"""Identity, order, shards and the parquet form of a manifest."""

import dataclasses
import io
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from pipeline.errors import ConfigError, SourceError, StoreError
from pipeline.images.manifest import ImageRef, Manifest, _is_plain_and_sorted, default_shard_size, safe_id, sort_refs


def refs(count: int = 20, root: str = "/data") -> list[ImageRef]:
    return [ImageRef(f"a/{i:04d}.jpg", f"{root}/a/{i:04d}.jpg", height=10 + i, width=20) for i in range(count)]


def test_sorted_by_id_and_cut_into_contiguous_shards() -> None:
    shuffled = refs(20)
    random.Random(0).shuffle(shuffled)
    manifest = Manifest(shuffled, 6)
    assert list(manifest.refs) == refs(20)
    shards = manifest.shards()
    assert [shard.key for shard in shards] == ["00000", "00001", "00002", "00003"]
    assert [len(shard.refs) for shard in shards] == [6, 6, 6, 2]
    assert [ref for shard in shards for ref in shard.refs] == refs(20)
    assert (len(manifest), manifest.n_shards) == (20, 4)
    assert "20 images in 4 shards of 6" in repr(manifest)


@pytest.mark.slow
def test_keys_stay_sortable_beyond_five_digits() -> None:
    keys = [shard.key for shard in Manifest(refs(100_001), 1).shards()]
    assert (keys[0], keys[-1]) == ("000000", "100000")
    assert keys == sorted(keys)


def test_digest_ignores_order_and_place_and_nothing_else() -> None:
    digest = Manifest(refs(), 8).digest
    assert len(digest) == 64
    assert Manifest(reversed(refs()), 8).digest == digest
    assert Manifest(refs(root="s3://bucket"), 8).digest == digest
    changes = [{"id": "a/0000.png"}, {"offset": 0, "length": 5}, {"height": None}, {"width": 21}, {"coco_id": 0}]
    others = [Manifest(refs(), 9).digest, Manifest(refs(19), 8).digest, Manifest(refs(21), 8).digest]
    others += [Manifest([dataclasses.replace(refs()[0], **change), *refs()[1:]], 8).digest for change in changes]
    assert len({digest, *others}) == 1 + len(others)


def test_unknown_is_not_zero_and_fields_do_not_run_together() -> None:
    digests = {
        Manifest([ImageRef("a", "u", height=0)], 8).digest,
        Manifest([ImageRef("a", "u", width=0)], 8).digest,
        Manifest([ImageRef("a", "u")], 8).digest,
        Manifest([ImageRef("a", "u"), ImageRef("b", "u")], 8).digest,
        Manifest([ImageRef("ab", "u")], 8).digest,
    }
    assert len(digests) == 5


@pytest.mark.slow
def test_digest_does_not_depend_on_the_process() -> None:
    code = (
        "from pipeline.images.manifest import *; "
        "print(Manifest([ImageRef(i, 'x') for i in {*'321'}], 8).digest, end='')"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    # The figure is part of the format: a run begun by an earlier version is resumed only if it stays as it is.
    assert digests == {Manifest([ImageRef(i, "y") for i in "123"], 8).digest}
    assert digests == {"41bb1cd96eb7d88d349d00ec284127f4e396fa692afe754c015d8d6f457608a3"}


def test_parquet_round_trip_is_exact_and_deterministic() -> None:
    several = [
        *refs(5),
        ImageRef("t.tar/x.jpg", "s3://b/t.tar", 512, 1000, coco_id=7),
        ImageRef("ä/日本.png", "/data/ä/日本.png", height=1),
    ]
    manifest = Manifest(several, 3)
    data = manifest.to_parquet_bytes()
    back = Manifest.from_parquet_bytes(data)
    assert back.refs == manifest.refs
    assert (back.shard_size, back.digest) == (3, manifest.digest)
    assert Manifest(reversed(several), 3).to_parquet_bytes() == data == back.to_parquet_bytes()


def test_parquet_columns(tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_bytes(Manifest(refs(5), 2).to_parquet_bytes())
    table = pq.read_table(tmp_path / "manifest.parquet")
    assert table.column_names == ["id", "uri", "offset", "length", "height", "width", "coco_id", "shard"]
    assert table["shard"].to_pylist() == ["00000", "00000", "00001", "00001", "00002"]
    assert table["coco_id"].null_count == 5


def test_torn_foreign_and_altered_manifests_are_refused() -> None:
    data = Manifest(refs(), 8).to_parquet_bytes()
    for broken in (b"", b"not parquet", data[: len(data) // 2], data[:-1]):
        with pytest.raises(StoreError, match="torn or foreign"):
            Manifest.from_parquet_bytes(broken)
    for position in random.Random(0).sample(range(len(data)), 200):
        altered = bytearray(data)
        altered[position] ^= 0x40
        try:
            back = Manifest.from_parquet_bytes(bytes(altered))
        except StoreError:
            continue
        assert back.refs == tuple(refs())  # a byte that carries nothing, such as the name of the writer

    table = pq.read_table(io.BytesIO(data))

    def written(table: pa.Table) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()

    with pytest.raises(StoreError, match="corrupt: its digest"):
        Manifest.from_parquet_bytes(written(table.slice(1)))
    with pytest.raises(StoreError, match="torn or foreign"):
        Manifest.from_parquet_bytes(written(table.replace_schema_metadata({})))
    with pytest.raises(StoreError, match="torn or foreign"):
        Manifest.from_parquet_bytes(written(table.drop_columns(["offset"])))


def test_differences_are_explained() -> None:
    old = Manifest(refs(20), 8)
    assert old.explain_difference(Manifest(refs(20, "/elsewhere"), 8)) == ""
    assert old.explain_difference(Manifest(refs(20), 16)) == "shard size 16 instead of 8"
    assert old.explain_difference(Manifest(refs(19), 8)) == "1 image removed (a/0019.jpg)"
    more = old.explain_difference(Manifest(refs(28), 8))
    assert more == "8 images added (a/0020.jpg, a/0021.jpg, a/0022.jpg, a/0023.jpg, a/0024.jpg and 3 more)"
    changed = [dataclasses.replace(refs()[0], height=99), *refs()[1:]]
    assert old.explain_difference(Manifest(changed, 8)) == "1 image changed (a/0000.jpg)"
    both = old.explain_difference(Manifest([*refs()[1:], ImageRef("z.jpg", "z")], 4))
    assert both == "1 image added (z.jpg), 1 image removed (a/0000.jpg), shard size 4 instead of 8"


def test_duplicates_empty_and_bad_values_are_refused() -> None:
    with pytest.raises(SourceError, match=r"2 image ids occur more than once: a/0001.jpg, a/0003.jpg;"):
        Manifest([*refs(), refs()[3], refs()[1], refs()[1]], 8)
    with pytest.raises(SourceError, match="no images"):
        Manifest([], 8)
    with pytest.raises(ConfigError, match="shard_size is 0"):
        Manifest(refs(), 0)
    with pytest.raises(SourceError, match="plain form"):
        Manifest([ImageRef("./a.jpg", "a.jpg")], 8)
    with pytest.raises(SourceError, match="cannot be an image id"):
        Manifest([ImageRef("../a.jpg", "a.jpg")], 8)
    for offset, length in ((1, None), (None, 1), (-1, 5), (5, -1)):
        with pytest.raises(SourceError, match="byte range"):
            ImageRef("a", "a", offset, length)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            "..",
            "\\\\server\\x",
            "..\\x",
            "a\\..\\b",
            "C:\\x",
            "C:/x",
            "a\0b",
        ),
        *("", ".", "./", "//", "http://host/x.jpg", "bad\udcff.jpg", "./\\", "./C:/x", ".//C:\\x"),
    ],
)
def test_hostile_ids_are_refused(name: str) -> None:
    with pytest.raises(SourceError):
        safe_id(name)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        *(("a/b.jpg", "a/b.jpg"), ("./a/./b//c.jpg", "a/b/c.jpg"), ("a..b/..c/d...jpg", "a..b/..c/d...jpg")),
        *((".hidden/x", ".hidden/x"), ("ü ñ/#1?.png", "ü ñ/#1?.png"), ("a/", "a"), ("a/.", "a")),
    ],
)
def test_plain_ids(name: str, plain: str) -> None:
    assert safe_id(name) == plain


@given(st.text(alphabet="ab./\\:\0 C", max_size=12))
def test_ids_never_leave_their_folder(name: str) -> None:
    try:
        plain = safe_id(name)
    except SourceError:
        return
    root = Path("/out/masks")
    assert (root / plain).resolve().is_relative_to(root)
    assert (root / plain).resolve() != root
    assert safe_id(plain) == plain


@given(st.lists(st.text(alphabet="ab./\\:\0Cä", max_size=6), min_size=1, max_size=4))
def test_a_column_is_taken_as_plain_only_if_every_id_is(names: list[str]) -> None:
    """The short way into a stored manifest accepts nothing that the long one refuses or changes."""
    if _is_plain_and_sorted(pa.chunked_array([names], pa.string())):
        assert [safe_id(name) for name in names] == names
        assert sorted(set(names)) == names


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        *((["a"], True), (["B", "a", "a/b", "ä", "\U0001f600"], True), (["a", "a"], False), (["b", "a"], False)),
        *((["a", "b/../c"], False), ([".a"], False), ([], False), (["a", None], False)),
    ],
)
def test_plain_columns(names: list[str | None], plain: bool) -> None:
    assert _is_plain_and_sorted(pa.chunked_array([names], pa.string())) is plain


def test_default_shard_size_keeps_losses_small() -> None:
    assert [default_shard_size(n) for n in (1, 8, 256, 257, 1000, 8192, 1_300_000)] == [2, 2, 8, 9, 32, 256, 256]


def test_sort_refs_returns_a_tuple_sorted_by_code_point() -> None:
    names = ["b", "B", "a/b", "a.b", "ä", "a"]
    assert [ref.id for ref in sort_refs(ImageRef(n, n) for n in names)] == sorted(names)
