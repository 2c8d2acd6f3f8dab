"""FlatStore: what is in it is what the runs hold, once, whoever opens it; and nothing half-made is left behind."""

import copy
import errno
import json
import logging
import multiprocessing
import pickle
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import environment
from support.sample_run import masks_of
from support.stored_run import (
    GRID,
    StoredRun,
    commit,
    instance,
    make_run,
    random_record,
    sample_records,
    unreadable,
)
from support.waiting import wait_for

from detector.data import flat_build, flat_store
from detector.data.flat_build import grid_window
from detector.data.flat_store import FlatStore
from detector.data.instance_filter import InstanceFilter, MaskFacts, passing
from pipeline.errors import ConfigError, RunMismatchError, StoreError
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.images.sources import list_images
from pipeline.results.instances import ImageRecord, mean_confidence
from pipeline.storage import file_lock
from pipeline.storage.files_at import files_at

ALL = {"min_per_image": 0}


@pytest.fixture
def made(tmp_path: Path) -> StoredRun:
    return make_run(tmp_path, sample_records())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def assert_holds(store: FlatStore, first: int, made: StoredRun, records: list[ImageRecord]) -> None:
    """Images from `first` on are these records, in every particular."""
    refs = {ref.id: ref for ref in made.refs}
    for image, record in enumerate(records, first):
        rows = store.masks_of(image)
        assert store.ref(image) == refs[record.id]
        assert store.size(image) == record.size
        assert store.run_url(image) == made.url
        assert len(rows) == len(masks_of(record))
        for row, stored in zip(rows.tolist(), masks_of(record), strict=True):
            assert store.coco_rle(image, row) == {"size": list(record.size), "counts": stored.rle}
            assert tuple(store.box[row].tolist()) == stored.box
            assert (float(store.score[row]), int(store.area[row])) == (stored.score, stored.area)
            assert store.mean_confidence[row] == mean_confidence(stored.confidence[None])[0]
            confidence = store.confidence(image, row)
            assert confidence.shape == stored.confidence.shape
            inside = stored.confidence > 0
            np.testing.assert_array_equal(confidence[inside], stored.confidence[inside])
            uniform = np.unique(stored.confidence[inside])
            assert set(np.unique(confidence[~inside])) <= {0, *(uniform if len(uniform) == 1 else [])}


def processed(records: list[ImageRecord]) -> list[ImageRecord]:
    return [record for record in records if record.status != "quarantined"]


def test_holds_what_the_run_holds(made: StoredRun, cache: Path) -> None:
    store = FlatStore.open(made.url, cache, ALL)
    expected = processed(made.records)
    assert len(store) == len(expected) == 9
    assert store.n_masks == sum(len(masks_of(record)) for record in expected) > 5
    assert_holds(store, 0, made, expected)


def test_images_without_masks_go_by_default(made: StoredRun, cache: Path) -> None:
    with_masks = [record for record in made.records if masks_of(record)]
    store = FlatStore.open(made.url, cache)
    assert len(store) == len(with_masks) < 9
    assert_holds(store, 0, made, with_masks)


def test_several_runs_with_different_grids_stay_apart(made: StoredRun, tmp_path: Path, cache: Path) -> None:
    records = [random_record(f"{i:03}.png", (33, 47), 90 + i, 2, (5, 4)) for i in range(5)]
    other = make_run(tmp_path / "other", records, grid=(5, 4))
    store = FlatStore.open([made.url, other.url], cache, ALL)
    first = processed(made.records)
    assert len(store) == len(first) + 5, "an image that is in both is there twice"
    assert_holds(store, 0, made, first)
    assert_holds(store, len(first), other, records)


def test_retried_images_come_with_the_try_that_counts(made: StoredRun, cache: Path) -> None:
    before = FlatStore.open(made.url, cache, ALL)
    mended = random_record(made.records[2].id, (30, 40), 77, 2)
    (shard,) = made.run.retry_shards([mended.id])
    commit(made.run, shard.key, [mended])
    store = FlatStore.open(made.url, cache, ALL)
    assert store.folder != before.folder
    assert len(store) == len(made.records)
    assert_holds(store, 0, made, [*processed(made.records), mended])


def test_members_of_a_tar(tmp_path: Path, cache: Path) -> None:
    records = [random_record(f"photos.tar/{i:03}.png", (31, 29), i, 1) for i in range(3)]
    plain = make_run(tmp_path, records)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for ref in plain.refs:
            tar.add(ref.uri, Path(ref.id).name)
    packed = make_run(tmp_path / "packed", records, list_images(str(tmp_path / "photos.tar")).refs)
    assert all(ref.offset for ref in packed.refs)
    assert_holds(FlatStore.open(packed.url, cache), 0, packed, records)


def test_all_fields_of_a_reference(tmp_path: Path, cache: Path) -> None:
    refs = [
        ImageRef("a/ä.jpg", "s3://bucket/ä%20.tar", 0, 512, 20, 30, 0),
        ImageRef("b.jpg", "/data/b.jpg", None, None, 20, None, 2**40),
    ]
    made = make_run(tmp_path, [random_record(ref.id, (20, 30), i, 1) for i, ref in enumerate(refs)], refs)
    store = FlatStore.open(made.url, cache)
    assert [store.ref(i) for i in range(2)] == refs


def test_a_run_that_is_not_complete_is_taken_as_far_as_it_is(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = sample_records()
    made = make_run(tmp_path, records, leave_out=["00001"])
    store = FlatStore.open(made.url, cache, ALL)
    assert "1 of 3 shards is missing" in caplog.text
    assert_holds(store, 0, made, processed(records[:4] + records[8:]))
    commit(made.run, "00001", records[4:8])
    assert len(FlatStore.open(made.url, cache, ALL)) == 9, "what is committed later is another cache"


def test_it_is_written_once_and_mapped_read_only(made: StoredRun, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FlatStore.open(made.url, cache)
    monkeypatch.setattr(flat_store, "write_store", None)
    monkeypatch.setattr(flat_store, "write_selection", None)
    again = FlatStore.open(made.url, cache)
    assert again.folder == first.folder
    for array in (again.score, again.box, again.masks_of(0)):
        assert not array.flags.writeable
        assert not array.flags.owndata


def test_other_uris_of_the_same_images_are_another_cache(made: StoredRun, cache: Path) -> None:
    before = FlatStore.open(made.url, cache)
    moved = [ImageRef(ref.id, ref.uri.replace("photos", "elsewhere")) for ref in made.refs]
    made.run.files.write_atomic("manifest.parquet", Manifest(moved, 4).to_parquet_bytes())
    assert "elsewhere" in FlatStore.open(made.url, cache).ref(0).uri
    assert "elsewhere" not in before.ref(0).uri


def test_default_folder_is_the_cache_of_cuts3d(
    made: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "own"))
    assert FlatStore.open(made.url).folder.parent == tmp_path / "own" / "flat"


def test_pickled_it_is_a_path_and_copied_it_is_itself(made: StoredRun, cache: Path) -> None:
    store = FlatStore.open(made.url, cache, {"min_score": 0.2})
    data = pickle.dumps(store)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert (len(again), again.n_masks, again.filters) == (len(store), store.n_masks, store.filters)
    assert copy.deepcopy({"store": store})["store"] is store
    assert copy.copy(store) is store


def test_a_cache_deleted_meanwhile_is_said(made: StoredRun, cache: Path) -> None:
    data = pickle.dumps(FlatStore.open(made.url, cache))
    next(cache.glob("*/selection-*/mask.npy")).unlink()
    with pytest.raises(StoreError, match="open the runs again"):
        pickle.loads(data)


# --- filters ---------------------------------------------------------------------------------------------------------

bounds = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
filters_ = st.builds(
    lambda low, high, **rest: InstanceFilter(min_area=min(low, high), max_area=max(low, high), **rest),
    bounds,
    bounds,
    min_score=st.sampled_from([None, 0.0, 0.25, 0.5]),
    min_confidence=bounds,
    max_per_image=st.sampled_from([None, 3, 4]),
    min_per_image=st.integers(0, 3),
)


@st.composite
def facts_(draw: st.DrawFn) -> MaskFacts:
    counts = np.array(draw(st.lists(st.integers(0, 6), max_size=8)), np.int64)
    n = int(counts.sum())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    box = rng.integers(0, 12, (n, 4)).astype(np.float32)
    score, confidence = ((rng.integers(0, 9, n) / 8).astype(np.float32) for _ in range(2))
    return MaskFacts(score, confidence, rng.integers(0, 101, n), box, counts, np.full(len(counts), 100))


def brute_force(facts: MaskFacts, filters: InstanceFilter) -> tuple[list[int], list[int], dict[str, int]]:
    """Mask by mask, image by image."""
    masks, images, dropped, start = (
        [],
        [],
        dict.fromkeys(
            ("empty", "min_score", "min_confidence", "min_area", "max_area", "max_per_image", "min_per_image"), 0
        ),
        0,
    )
    for image, count in enumerate(facts.counts.tolist()):
        kept = []
        for m in range(start, start + count):
            share = facts.area[m] / 100
            if facts.area[m] <= 0 or facts.box[m, 2] <= 0 or facts.box[m, 3] <= 0:
                dropped["empty"] += 1
            elif filters.min_score is not None and facts.score[m] < filters.min_score:
                dropped["min_score"] += 1
            elif facts.confidence[m] < np.float32(filters.min_confidence):
                dropped["min_confidence"] += 1
            elif share < filters.min_area:
                dropped["min_area"] += 1
            elif share > filters.max_area:
                dropped["max_area"] += 1
            else:
                kept.append(m)
        best = sorted(kept, key=lambda m: (-facts.score[m], m))[: filters.max_per_image]
        dropped["max_per_image"] += len(kept) - len(best)
        if len(best) >= filters.min_per_image:
            images.append(image)
            masks += sorted(best)
        else:
            dropped["min_per_image"] += len(best)
        start += count
    return masks, images, dropped


@given(facts=facts_(), filters=filters_)
@settings(max_examples=150)
def test_filters_as_brute_force_has_it(facts: MaskFacts, filters: InstanceFilter) -> None:
    keep_M, keep_B, dropped = passing(facts, filters)
    masks, images, counts = brute_force(facts, filters)
    assert np.flatnonzero(keep_M).tolist() == masks
    assert np.flatnonzero(keep_B).tolist() == images
    assert {name: dropped[name] for name in counts} == counts
    assert len(masks) + sum(counts.values()) == facts.counts.sum()


@pytest.mark.parametrize("block", [1, 2, 4, 9, 1 << 16])
def test_filters_are_the_same_in_blocks_of_any_size(
    made: StoredRun, cache: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(flat_build, "_BLOCK", block)
    store = FlatStore.open(made.url, cache, {"min_score": 0.3, "max_per_image": 1})
    expected = [
        (record.id, max(good, key=lambda i: i.score).rle)
        for record in made.records
        if (good := [i for i in masks_of(record) if i.score >= 0.3])
    ]
    found = [(store.ref(i).id, store.coco_rle(i, int(store.masks_of(i)[0]))["counts"]) for i in range(len(store))]
    assert found == expected
    assert store.n_masks == len(expected)
    masks = sum(len(masks_of(record)) for record in made.records)
    assert sum(store.dropped.values()) == masks - len(expected)
    assert f"{len(expected)} of {masks} masks are left" in store.summary()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"min_area": 1.5}, "min_area must lie in 0..1"),
        ({"min_confidence": float("nan")}, "min_confidence"),
        ({"min_score": float("nan")}, "NaN"),
        ({"min_score": "high"}, "min_score must be a number, not 'high'"),
        ({"max_per_image": 2.5}, "max_per_image must be a whole number, not 2.5"),
        ({"min_area": 0.5, "max_area": 0.4}, "above max_area"),
        ({"max_per_image": 0}, "at least 1"),
        ({"min_per_image": -1}, "at least 0"),
        ({"min_per_image": 3, "max_per_image": 2}, "no image can have both"),
        ({"min_scores": 0.5}, "there is no min_scores"),
    ],
)
def test_filters_that_cannot_be(options: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        InstanceFilter.of(options)  # type: ignore[arg-type]


# --- what is missing, wrong or damaged -------------------------------------------------------------------------------


def test_no_runs_and_one_twice(made: StoredRun, cache: Path) -> None:
    with pytest.raises(ConfigError, match="no runs"):
        FlatStore.open([], cache)
    with pytest.raises(ConfigError, match="named twice"):
        FlatStore.open([made.url, made.url + "/"], cache)


def test_no_run_there(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(StoreError, match="is not a run"):
        FlatStore.open(str(tmp_path), cache)


def test_nothing_committed_yet(tmp_path: Path, cache: Path) -> None:
    made = make_run(tmp_path, sample_records(), leave_out=["00000", "00001", "00002"])
    with pytest.raises(StoreError, match="no committed shard yet"):
        FlatStore.open(made.url, cache)


def test_filters_that_leave_nothing_say_which_dropped_how_many(made: StoredRun, cache: Path) -> None:
    masks = sum(len(masks_of(record)) for record in made.records)
    with pytest.raises(ConfigError, match=rf"of {masks} masks in 9 images none is left \(dropped: min_score {masks}\)"):
        FlatStore.open(made.url, cache, {"min_score": 1.0})


def test_runs_without_any_mask(tmp_path: Path, cache: Path) -> None:
    bare = make_run(tmp_path / "bare", [random_record(f"{i}.png", (20, 20), i, 0) for i in range(3)])
    with pytest.raises(StoreError, match=r"none of 3 images .* has a mask"):
        FlatStore.open(bare.url, cache)
    assert len(FlatStore.open(bare.url, cache, ALL)) == 3
    broken = make_run(tmp_path / "broken", [unreadable("0.png")])
    with pytest.raises(StoreError, match="were set aside: `cuts3d info` says why"):
        FlatStore.open(broken.url, cache, ALL)


def test_a_run_of_another_schema(made: StoredRun, cache: Path) -> None:
    path = Path(made.url, "run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": "cuts3d-run/9"}))
    with pytest.raises(RunMismatchError, match="cuts3d-run/9"):
        FlatStore.open(made.url, cache)


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_a_damaged_shard_leaves_no_half_cache(made: StoredRun, cache: Path) -> None:
    shard = sorted(Path(made.url, "shards").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:-30])
    with pytest.raises(StoreError, match=shard.name):
        FlatStore.open(made.url, cache)
    assert left_in(cache) == []


def test_a_missing_manifest_is_said(made: StoredRun, cache: Path) -> None:
    Path(made.url, "manifest.parquet").unlink()
    with pytest.raises(StoreError, match="to restore it"):
        FlatStore.open(made.url, cache)


def test_shards_of_two_grids_in_one_run(tmp_path: Path, cache: Path) -> None:
    records = [random_record(f"{i}.png", (20, 20), i, 1) for i in range(8)]
    made = make_run(tmp_path, records, leave_out=["00001"])
    commit(made.run, "00001", [random_record(f"{i}.png", (20, 20), i, 1, (3, 3)) for i in range(4, 8)], (3, 3))
    with pytest.raises(StoreError, match="two runs were mixed"):
        FlatStore.open(made.url, cache)


def test_an_image_that_the_manifest_has_not(tmp_path: Path, cache: Path) -> None:
    made = make_run(tmp_path, sample_records(), leave_out=["00002"])
    commit(made.run, "00002", [random_record(name, (20, 20), 0, 1) for name in ("008.png", "9999.png")])
    with pytest.raises(StoreError, match=r"9999\.png"):
        FlatStore.open(made.url, cache)


def test_a_cache_that_was_cut_short_is_made_anew(
    made: StoredRun, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = FlatStore.open(made.url, cache, ALL).folder
    for name in ("rle.npy", "meta.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-20])
        caplog.clear()
        store = FlatStore.open(made.url, cache, ALL)
        assert "damaged and is rebuilt" in caplog.text
        assert_holds(store, 0, made, processed(made.records))


def test_a_full_disk_is_said_and_leaves_nothing(made: StoredRun, cache: Path) -> None:
    script = (
        "import resource, sys\n"
        "from detector.data.flat_store import FlatStore\n"
        "from pipeline.errors import StoreError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "try:\n    FlatStore.open(sys.argv[1], sys.argv[2])\n"
        "except StoreError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", script, made.url, str(cache)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout
    assert "make room" in done.stdout
    assert left_in(cache) == []


# --- many at once ----------------------------------------------------------------------------------------------------


def _open_slowly(url: str, cache: Path, notes: Path, barrier: "multiprocessing.synchronize.Barrier") -> None:  # type: ignore[name-defined]
    original = flat_store.write_store

    def slow(*arguments: object) -> None:
        with notes.open("a") as file:
            file.write("built\n")
        wait_for(lambda: "waiting" in notes.read_text(), "the other one to meet the lock")
        original(*arguments)  # type: ignore[arg-type]

    flat_store.write_store = slow
    logging.basicConfig(level=logging.INFO, filename=str(notes), force=True)
    barrier.wait()
    store = FlatStore.open(url, cache, ALL)
    with notes.open("a") as file:
        file.write(f"opened {len(store)}\n")


def test_two_processes_at_once_build_once(made: StoredRun, cache: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, notes = context.Barrier(2), tmp_path / "notes"
    arguments = (made.url, cache, notes, barrier)
    processes = [context.Process(target=_open_slowly, args=arguments, daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    lines = notes.read_text()
    assert lines.count("built\n") == 1
    assert lines.count("opened 9\n") == 2
    # For the filters' result they may wait for one another again.
    assert lines.count(f"waiting for another process, which is writing {cache}\n") == 1


def test_what_a_killed_process_left_is_swept(made: StoredRun, cache: Path) -> None:
    name = FlatStore.open(made.url, cache / "first").folder.name
    half = cache / f".{name}.1234-abcd.tmp"
    half.mkdir()
    (half / "rle.npy").write_bytes(b"half")
    FlatStore.open(made.url, cache)
    assert left_in(cache) == sorted([name, "first"])


def test_without_locks_each_process_builds_and_one_result_stays(
    made: StoredRun, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_lock.fcntl, "flock", no_locks)
    original = flat_store.write_store

    def overtaken(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(flat_store, "write_store", original)
        FlatStore.open(made.url, cache, ALL)  # somebody else, who finishes first

    monkeypatch.setattr(flat_store, "write_store", overtaken)
    store = FlatStore.open(made.url, cache, ALL)
    assert "no locks here" in caplog.text
    assert left_in(cache) == [store.folder.name]
    assert_holds(store, 0, made, processed(made.records))


@pytest.mark.slow
def test_runs_in_a_bucket(made: StoredRun, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("moto", "s3fs"):
        pytest.importorskip(package)
    from s3fs import S3FileSystem
    from support.s3_server import S3Server

    S3FileSystem.clear_instance_cache()  # fsspec goes on with a connection whatever the environment says now
    with S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        files = files_at(f"{server.make_bucket('flat-store')}/run")
        for path in Path(made.url).rglob("*"):
            if path.is_file():
                files.write_atomic(path.relative_to(made.url).as_posix(), path.read_bytes())
        store = FlatStore.open(files.url, cache, ALL)
    data = pickle.dumps(store)
    assert_holds(pickle.loads(data), 0, replace(made, url=files.url), processed(made.records))


# --- the window of a box ---------------------------------------------------------------------------------------------


@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
@settings(max_examples=200)
def test_the_window_holds_the_patches_that_the_box_touches(
    size: tuple[int, int], grid: tuple[int, int], data: st.DataObject
) -> None:
    y, x = (data.draw(st.integers(0, n - 1)) for n in size)
    height, width = data.draw(st.integers(1, size[0] - y)), data.draw(st.integers(1, size[1] - x))
    top, bottom, left, right = grid_window((x, y, width, height), size, grid)
    for start, stop, first, last, pixels, patches in (
        (top, bottom, y, y + height, size[0], grid[0]),
        (left, right, x, x + width, size[1], grid[1]),
    ):
        # Patch i covers pixels i·n/G to (i+1)·n/G; in whole numbers, with both sides times G.
        touched = [i for i in range(patches) if i * pixels < last * patches and (i + 1) * pixels > first * patches]
        assert list(range(start, stop)) == touched


def test_a_box_beyond_the_image_has_a_window_inside_the_grid() -> None:
    assert grid_window((-5.0, 90.0, 500.0, 3.0), (20, 30), GRID) == (5, 6, 0, 8)


def test_a_confidence_that_is_the_same_all_over_is_one_byte(tmp_path: Path, cache: Path) -> None:
    mask = np.zeros((40, 40), bool)
    mask[3:30, 5:33] = True
    flat, varied = np.full(GRID, 200, np.uint8), np.arange(1, 49, dtype=np.uint8).reshape(GRID)
    instances = (instance(mask, flat), instance(mask, varied))
    made = make_run(tmp_path, [ImageRecord("0.png", (40, 40), "ok", instances, {}, None)])
    store = FlatStore.open(made.url, cache)
    assert np.diff(store._store["confidence_offsets"]).tolist() == [1, 5 * 6]
    assert_holds(store, 0, made, made.records)
