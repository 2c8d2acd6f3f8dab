"""Array files and shard files: round trips, determinism, laziness, layout, and damage found on opening."""

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from support.sample_run import GRID, drops_of, masks_of, sample_instance, sample_manifest, sample_record, shard_records

from pipeline.errors import RunMismatchError, StoreError
from pipeline.results.instance_file import ShardFile, write_shard
from pipeline.results.instance_overlay import decode
from pipeline.results.instances import ImageRecord, Instance, counts_of, mean_confidence
from pipeline.results.kinds import Failed, quarantine_of
from pipeline.storage.array_file import ArrayFile, write_arrays
from stages.score import ScoreParts

RECORDS = [record for shard in sample_manifest().shards() for record in shard_records(shard)]
SCORE_PARTS = ("contrast", "uniqueness", "nearness", "clearance", "stability", "novelty")
IDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=30)


@st.composite
def image_records(draw: st.DrawFn) -> ImageRecord | Failed:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    image_id = draw(IDS)
    drops = draw(st.dictionaries(st.sampled_from(["too_small", "covered", "empty_cut"]), st.integers(1, 9)))
    if draw(st.booleans()):
        reason, detail = draw(IDS), draw(st.text(st.characters(blacklist_categories=("Cs",)), max_size=20))
        return Failed(image_id, reason, detail, (0, draw(st.integers(0, 9))))
    size = draw(st.tuples(st.integers(4, 40), st.integers(4, 40)))
    instances = tuple(sample_instance(rng, size, i) for i in range(draw(st.integers(0, 3))))
    depth = rng.random(GRID).astype(np.float16) if draw(st.booleans()) else None
    return ImageRecord(image_id, size, "ok" if instances else "no_masks", instances, drops, depth)


@settings(max_examples=25)
@given(st.lists(image_records(), max_size=6))
def test_records_come_back_as_they_were(records: list[ImageRecord | Failed]) -> None:
    data = write_shard(records, GRID, {"recipe": "maskcut"})
    shard = ShardFile.open(data)
    assert list(shard.results()) == records
    assert shard.grid == GRID
    assert len(shard) == len(records)
    assert shard.n_masks == sum(len(masks_of(record)) for record in records)
    assert write_shard(records, GRID, {"recipe": "maskcut"}) == data, "the same content must give the same bytes"


def test_masks_decode_at_the_original_size() -> None:
    shard = ShardFile.open(write_shard(RECORDS, GRID, {}))
    for i, record in enumerate(RECORDS):
        for m, instance in zip(shard.masks_of(i), masks_of(record), strict=True):
            pixels = shard.mask(m)
            assert pixels.shape == record.size
            assert pixels.sum() == instance.area
            assert shard.coco_rle(m) == {"size": list(record.size), "counts": instance.rle}


def test_masks_keep_their_pixels_when_saved_as_safetensors() -> None:
    """Which writes memory as it lies, while pycocotools decodes by columns: findings/safetensors_coco_mask.sh."""
    shard = ShardFile.open(write_shard(RECORDS, GRID, {}))
    record = next(record for record in RECORDS if masks_of(record))
    first = masks_of(record)[0]
    for mask in (shard.mask(0), decode(first.rle, record.size)):
        saved = safetensors.numpy.load(safetensors.numpy.save({"mask": mask}))["mask"]
        np.testing.assert_array_equal(saved, coco_mask.decode({"size": list(record.size), "counts": first.rle}))


def test_layout_is_plain_zarr_v3_with_named_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "00000-a.zarr.zip"
    path.write_bytes(write_shard(RECORDS, GRID, {"recipe": "cuts3d"}))
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    assert group.metadata.zarr_format == 3
    assert group.attrs["schema"] == "cuts3d-pseudo-masks"
    assert (group.attrs["version"], group.attrs["recipe"]) == (1, "cuts3d")
    n_masks = sum(len(masks_of(record)) for record in RECORDS)
    expected = {
        "masks/rle": ("uint8", None, ("byte",)),
        "masks/offsets": ("int64", (n_masks + 1,), ("mask_edge",)),
        "masks/image_offsets": ("int64", (11,), ("image_edge",)),
        "masks/score": ("float32", (n_masks,), ("mask",)),
        "masks/box": ("float32", (n_masks, 4), ("mask", "xywh")),
        "masks/area": ("int64", (n_masks,), ("mask",)),
        "masks/round": ("uint8", (n_masks,), ("mask",)),
        "masks/proposal": ("int32", (n_masks,), ("mask",)),
        **{f"masks/{part}": ("float32", (n_masks,), ("mask",)) for part in SCORE_PARTS},
        "masks/crf_iou": ("float32", (n_masks,), ("mask",)),
        "masks/confidence": ("uint8", (n_masks, *GRID), ("mask", "grid_y", "grid_x")),
        "images/id": ("uint8", None, ("byte",)),
        "images/id_offsets": ("int64", (11,), ("image_edge",)),
        "images/size": ("int32", (10, 2), ("image", "height_width")),
        "images/status": ("uint8", (10,), ("image",)),
        "images/drops": ("int32", (10, 1), ("image", "reason")),
        "images/depth": ("float16", (10, *GRID), ("image", "grid_y", "grid_x")),
    }
    found = {name: array for name, array in group.members(max_depth=None) if isinstance(array, zarr.Array)}
    assert found.keys() == expected.keys()
    for name, (dtype, shape, dims) in expected.items():
        assert found[name].dtype == dtype
        assert found[name].metadata.dimension_names == dims
        assert shape is None or found[name].shape == shape
    assert group["images/status"].attrs["names"] == ["ok", "no_masks", "quarantined"]
    assert group["images/drops"].attrs["names"] == ["too_small"]


def test_the_parts_of_the_score_have_a_column_each(tmp_path: Path) -> None:
    """Each part under its own name, in the masks' order, whichever of them the recipe multiplies."""
    data = write_shard(RECORDS, GRID, {})
    instances = [instance for record in RECORDS for instance in masks_of(record)]
    shard = ShardFile.open(data)
    assert tuple(shard.parts) == SCORE_PARTS
    path = tmp_path / "00000-a.zarr.zip"
    path.write_bytes(data)
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    for part in SCORE_PARTS:
        values = np.array([getattr(instance.parts, part) for instance in instances], np.float32)
        assert len(np.unique(values)) == len(instances) > 3
        np.testing.assert_array_equal(shard.parts[part], values)
        np.testing.assert_array_equal(np.asarray(group[f"masks/{part}"]), values)
    np.testing.assert_array_equal(shard.crf_iou, np.array([i.crf_iou for i in instances], np.float32))
    assert [i.parts for r in shard.results() for i in masks_of(r)] == [instance.parts for instance in instances]
    lacking = write_arrays({"masks/score": np.zeros(3)}, {"masks/score": ("mask",)}, dict(shard.attributes))
    with pytest.raises(StoreError, match="is missing"):
        ShardFile.open(lacking)


def test_a_shard_without_proposals_is_written_as_before_there_were_any() -> None:
    instance = next(instance for record in RECORDS for instance in masks_of(record))
    record = ImageRecord("a", (40, 40), "ok", (dataclasses.replace(instance, proposal=None),), {}, None)
    assert "masks/proposal" not in ArrayFile.open(write_shard([record], GRID, {})).names()
    third = dataclasses.replace(instance, proposal=2)
    data = write_shard([dataclasses.replace(record, instances=(*record.instances, third))], GRID, {})
    assert ShardFile.open(data).proposal.tolist() == [-1, 2]


def test_a_shard_without_levels_is_written_as_before_there_were_any() -> None:
    instance = next(instance for record in RECORDS for instance in masks_of(record))
    record = ImageRecord("a", (40, 40), "ok", (instance,), {}, None)
    data = write_shard([record], GRID, {})
    assert "masks/level" not in ArrayFile.open(data).names()
    assert ShardFile.open(data).level.tolist() == [-1]
    leveled = [dataclasses.replace(instance, level=level) for level in (0, 1, 2)]
    records = [dataclasses.replace(record, instances=(*record.instances, *leveled))]
    shard = ShardFile.open(write_shard(records, GRID, {}))
    assert shard.level.tolist() == [-1, 0, 1, 2]
    assert [shard.result(0)] == records
    wrong = write_shard(records, GRID, {}).replace(np.array([-1, 0, 1, 2], np.int8).tobytes(), b"\0\0\0\7")
    with pytest.raises(StoreError):
        ShardFile.open(wrong)


def test_maps_are_decoded_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_shard(RECORDS, GRID, {})
    read: list[str] = []
    original = zarr.Array.__getitem__
    monkeypatch.setattr(zarr.Array, "__getitem__", lambda self, item: (read.append(self.path), original(self, item))[1])
    shard = ShardFile.open(data)
    assert not {"masks/confidence", "images/depth"} & set(read)
    assert shard.confidence.shape == (shard.n_masks, *GRID)
    assert "masks/confidence" in read
    assert "images/depth" not in read


def test_counts_and_quarantine_for_the_commit() -> None:
    counts = counts_of(RECORDS)
    assert counts["images"] == 10
    assert counts["masks"] == sum(len(masks_of(record)) for record in RECORDS) > 0
    assert counts["drops"] == {"too_small": sum(drops_of(record).get("too_small", 0) for record in RECORDS)}
    assert counts["quarantined"] == 2
    assert quarantine_of(RECORDS)[0] == {
        "id": "000/4.jpg",
        "reason": "truncated",
        "detail": "000/4.jpg ends too early",
    }


def test_mean_confidence_is_over_the_instance_only() -> None:
    confidence = np.zeros((3, *GRID), np.uint8)
    confidence[0, 0, :4] = [255, 255, 0, 51]
    confidence[1] = 255
    np.testing.assert_allclose(mean_confidence(confidence), [(1 + 1 + 0.2) / 3, 1.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_torn_file_is_told(kept: float) -> None:
    data = write_shard(RECORDS, GRID, {})
    with pytest.raises(StoreError, match=r"00042.zarr.zip is damaged.*cuts3d verify"):
        ShardFile.open(data[: int(kept * len(data)) if kept < 1 else int(kept)], "00042.zarr.zip")


def test_flipped_bytes_are_told_or_harmless() -> None:
    """No flipped byte gives another mask without a word: the ZIP's checksums cover all contents."""
    data = bytearray(write_shard(RECORDS, GRID, {}))
    rng = np.random.default_rng(0)
    told = 0
    for position in rng.integers(0, len(data), 60):
        data[position] ^= 0x10
        try:
            assert list(ShardFile.open(bytes(data)).results()) == RECORDS
        except (StoreError, RunMismatchError):
            told += 1
        data[position] ^= 0x10
    assert told > 20


def test_missing_file_and_foreign_schema(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot read shard .*none\.zip"):
        ShardFile.open(tmp_path / "none.zip")
    other = write_arrays({"a": np.zeros(3)}, {"a": ("x",)}, {"schema": "cuts3d-pseudo-masks", "version": 2})
    with pytest.raises(RunMismatchError, match="version 2, cuts3d reads cuts3d-pseudo-masks version 1"):
        ShardFile.open(other)


def test_code_that_is_too_long_for_its_image_cannot_be_decoded() -> None:
    big = coco_mask.encode(np.ones((50, 50), np.uint8, order="F"))
    small = Instance(big["counts"], (0.0, 0.0, 4.0, 4.0), 16, 0.5, np.zeros(GRID, np.uint8), 0)
    shard = ShardFile.open(write_shard([ImageRecord("a", (4, 4), "ok", (small,), {}, None)], GRID, {}), "s.zip")
    with pytest.raises(StoreError, match=r"s\.zip is damaged: mask 0 cannot be decoded"):
        shard.mask(0)


def test_map_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"000/0.jpg: confidence and depth must have the shape of the patch grid"):
        write_shard(RECORDS, (5, 5), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rle": b""}, "rle must be non-empty bytes"),
        ({"box": (0.0, 0.0, 0.0, 3.0)}, "width > 0"),
        ({"box": (0.0, 0.0, float("nan"), 3.0)}, "width > 0"),
        ({"area": 0}, "at least 1 pixel"),
        ({"score": float("nan")}, "score must be finite"),
        ({"parts": ScoreParts(nearness=float("nan"))}, "nearness must be finite, not nan"),
        ({"parts": ScoreParts(novelty=float("inf"))}, "novelty must be finite, not inf"),
        ({"crf_iou": float("nan")}, "crf_iou must be finite"),
        ({"confidence": np.zeros(GRID, np.float32)}, r"must be uint8 \(Gh, Gw\)"),
        ({"round": 256}, r"0\.\.255"),
        ({"proposal": -1}, "at least 0, or None, not -1"),
        ({"level": 3}, r"0\.\.2, or None, not 3"),
    ],
)
def test_instance_says_what_is_wrong(change: dict, message: str) -> None:
    good = {"rle": b"1", "box": (0.0, 0.0, 1.0, 1.0), "area": 1, "score": 0.0}
    good |= {"confidence": np.zeros(GRID, np.uint8), "round": 0}
    Instance(**good)
    with pytest.raises(ValueError, match=message):
        Instance(**(good | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "must not be empty"),
        ({"status": "fine"}, "must be ok or no_masks"),
        ({"status": "ok"}, "does not go with 0 instances"),
        ({"status": "quarantined"}, "must be ok or no_masks"),
        ({"size": (-1, 4)}, "size must be"),
        ({"drops": {"covered": -1}}, "count from 0 up"),
        ({"depth": np.zeros(GRID)}, "must be float16"),
        ({"depth": np.full(GRID, np.inf, np.float16)}, "must be finite"),
    ],
)
def test_image_record_says_what_is_wrong(change: dict, message: str) -> None:
    good = {"id": "a", "size": (4, 4), "status": "no_masks", "instances": (), "drops": {}, "depth": None}
    ImageRecord(**good)
    with pytest.raises(ValueError, match=message):
        ImageRecord(**(good | change))


@pytest.mark.parametrize("change", [{"id": ""}, {"reason": ""}])
def test_a_failed_image_has_a_name_and_a_reason(change: dict) -> None:
    good = {"id": "a", "reason": "torn", "detail": "it ends early"}
    assert Failed(**good).status == "quarantined"
    with pytest.raises(ValueError, match="image's id and a reason"):
        Failed(**(good | change))


def test_records_differ_when_a_map_or_a_part_does() -> None:
    first = sample_record("000/0.jpg")
    assert first == sample_record("000/0.jpg")
    assert first != sample_record("000/1.jpg")
    instance = sample_instance(np.random.default_rng(0), (20, 20))
    assert instance == dataclasses.replace(instance, parts=dataclasses.replace(instance.parts))
    for part in SCORE_PARTS:
        other = dataclasses.replace(instance.parts, **{part: 0.125})
        assert instance != dataclasses.replace(instance, parts=other)


def test_few_images_of_a_big_array_are_read_alone(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((20, 900, 384)).astype(np.float16)
    path = tmp_path / "00000-a.zarr.zip"
    dims = {"features": ("image", "patch", "width")}
    path.write_bytes(write_arrays({"features": features}, dims, {"stage": "features"}))
    with ArrayFile.open(path) as arrays:
        assert arrays.attributes == {"stage": "features"}
        assert arrays.names() == ["features"]
        assert arrays["features"].chunks == (1, 900, 384)
        np.testing.assert_array_equal(arrays["features"][7:9], features[7:9])
        np.testing.assert_array_equal(arrays["features"][3], features[3])
    # Damage elsewhere in the file does not reach who reads other images, and is told to who reads it.
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("features/c/5/0/0")
    data = bytearray(path.read_bytes())
    data[entry.header_offset + 1000] ^= 1
    path.write_bytes(data)
    with ArrayFile.open(path) as arrays:
        np.testing.assert_array_equal(arrays["features"][7:9], features[7:9])
        with pytest.raises(StoreError, match="features cannot be decoded"):
            arrays.read("features")


def test_arrays_of_all_ranks_and_empty_ones() -> None:
    arrays = {"scalar": np.array(3.5), "none": np.zeros((0, 3), np.int32), "group/deep/bool": np.array([True, False])}
    dims = {"scalar": (), "none": ("a", "b"), "group/deep/bool": ("a",)}
    with ArrayFile.open(write_arrays(arrays, dims, {})) as stored:
        assert stored.names() == sorted(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(stored.read(name), array)
            assert stored.read(name).dtype == array.dtype
        with pytest.raises(StoreError, match="array other is missing"):
            stored.read("other")


def test_bytes_do_not_depend_on_clock_or_order_of_attributes() -> None:
    first = write_arrays({"a": np.arange(5)}, {"a": ("x",)}, {"p": 1, "q": 2})
    assert first == write_arrays({"a": np.arange(5)}, {"a": ("x",)}, {"q": 2, "p": 1})
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.namelist() == sorted(archive.namelist())


@pytest.mark.parametrize(
    ("dims", "message"), [({}, "name its 2 dimensions"), ({"a": ("x", "x")}, "dimension x of a is 3, elsewhere in . 2")]
)
def test_dimensions_must_be_named_and_agree(dims: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_arrays({"a": np.zeros((2, 3))}, dims, {})
