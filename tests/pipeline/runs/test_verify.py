"""`verify_run` finds every kind of damage, names the file and the remedy, and the remedy works."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from support.sample_run import GRID, launch

from pipeline.runs.ledger import Outcome
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import Problem, verify_run
from pipeline.storage.array_file import ArrayFile, write_arrays

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("intact") / "run"
    run = launch(str(path))
    for key in ("00000", "00001"):
        data = write_arrays({"depth": np.ones((4, *GRID), np.float16)}, {"depth": ("image", "y", "x")}, {})
        run.stage_ledger("depth").commit(key, "a", Outcome(data, {"images": 4}))
    return path


@pytest.fixture
def run(intact: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(intact, tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


def shard_path(run: RunFolder, key: str = "00001") -> Path:
    return Path(run.url, run.ledger.read(key).shard.name)


def edit_commit(run: RunFolder, change: Callable[[dict], object], key: str = "00001") -> None:
    path = Path(run.url, f"commits/{key}.json")
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def reseal(run: RunFolder, data: bytes) -> None:
    """Another content for shard 00001, with a commit that vouches for it: damage made before the bytes were sealed."""
    shard_path(run).write_bytes(data)
    edit_commit(run, lambda c: c["shard"].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))


def edit_arrays(run: RunFolder, change: Callable[[Arrays], object]) -> None:
    with ArrayFile.open(shard_path(run)) as file:
        arrays = {name: file.read(name).copy() for name in file.names()}
        dims = {name: file[name].metadata.dimension_names for name in arrays}
        notes = {name: file.array_attributes(name) for name in arrays}
        attributes = file.attributes
    change(arrays)
    reseal(run, write_arrays(arrays, dims, attributes, notes))


def error_of(run: RunFolder) -> Problem:
    problems = verify_run(run)
    assert [problem.severity for problem in problems] == ["error"], problems
    return problems[0]


def put(name: str, index: object, value: object) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        assert not np.array_equal(arrays[name][index], value)  # type: ignore[index]
        arrays[name][index] = value  # type: ignore[index]

    return change


def other_code(arrays: Arrays, mask: np.ndarray) -> None:
    """Another run-length code in the place of mask 0."""
    code = np.frombuffer(coco_mask.encode(np.asfortranarray(mask))["counts"], np.uint8)
    end = int(arrays["masks/offsets"][1])
    arrays["masks/rle"] = np.concatenate([code, arrays["masks/rle"][end:]])
    arrays["masks/offsets"][1:] += len(code) - end


def test_intact_run_has_no_problems(run: RunFolder) -> None:
    seen: list[str] = []
    assert verify_run(run, seen.append) == []
    assert seen == ["00000", "00001", "00002"]


@pytest.mark.parametrize("position", [0, 100, 0.5, -1])
def test_flipped_byte(run: RunFolder, position: float) -> None:
    path = shard_path(run)
    data = bytearray(path.read_bytes())
    data[int(position * len(data)) if 0 < position < 1 else int(position)] ^= 1
    path.write_bytes(data)
    problem = error_of(run)
    assert problem.where == f"shards/{path.name}"
    assert "was altered: its sha256" in problem.message
    assert "delete commits/00001.json and start the run again" in problem.message
    # The remedy mends it.
    Path(run.url, "commits/00001.json").unlink()
    launch(run.url)
    run.gc(0)
    assert verify_run(run) == []


@pytest.mark.parametrize("kept", [0, 0.5, 0.999])
def test_truncated_shard(run: RunFolder, kept: float) -> None:
    path = shard_path(run)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert "bytes, committed were" in error_of(run).message


def test_deleted_shard(run: RunFolder) -> None:
    shard_path(run).unlink()
    assert "is committed but missing" in error_of(run).message


def test_deleted_commit(run: RunFolder) -> None:
    Path(run.url, "commits/00001.json").unlink()
    problems = verify_run(run)
    assert [problem.severity for problem in problems] == ["error", "note"]
    assert "1 of 3 shards is not done: 00001; start the run again" in problems[0].message
    assert "2 files of no commit" in problems[1].message
    assert "clean up with `cuts3d gc`" in problems[1].message


def test_orphans_are_no_errors(run: RunFolder) -> None:
    Path(run.url, "shards/00001-dead.zarr.zip").write_bytes(b"x")
    (note,) = verify_run(run)
    assert (note.severity, note.where) == ("note", run.url)
    assert "shards/00001-dead.zarr.zip" in note.message


def test_torn_commit_record(run: RunFolder) -> None:
    path = Path(run.url, "commits/00001.json")
    path.write_text(path.read_text()[:80])
    problem = error_of(run)
    assert "commits/00001.json" in problem.message
    assert "delete that file and start the run again" in problem.message


def test_commit_of_another_run(run: RunFolder) -> None:
    edit_commit(run, lambda record: record.update(fingerprint="0" * 64))
    assert "two runs were mixed in one folder" in error_of(run).message


@pytest.mark.parametrize("name", ["quarantine", "shard"])
def test_altered_quarantine_or_zip_that_is_none(run: RunFolder, name: str) -> None:
    if name == "quarantine":
        Path(run.url, run.ledger.read("00001").quarantine.name).write_text("[]")  # type: ignore[union-attr]
        assert "quarantine/00001-" in error_of(run).message
    else:
        reseal(run, b"no zip at all")
        assert "is damaged: File is not a zip file" in error_of(run).message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("masks/offsets", 1, 10**6), r"masks/offsets must rise from 0"),
        (put("masks/offsets", 0, 1), r"masks/offsets must rise from 0"),
        (put("masks/image_offsets", -1, 99), r"masks/image_offsets must rise from 0"),
        (put("masks/image_offsets", 1, -3), r"masks/image_offsets must rise from 0"),
        (put("images/id_offsets", 2, 0), r"images/id_offsets must rise from 0"),
        (put("images/status", 0, 7), r"images/status must be below 3"),
        (put("masks/area", 0, 1), r"mask 0: area is \d+, recorded 1"),
        (put("masks/area", 0, 0), r"Instance.area must be at least 1 pixel"),
        (put("masks/box", (0, 0), 900.0), r"mask 0: box is .*, recorded \[900.0"),
        (put("masks/score", 0, np.nan), r"score must be finite"),
        (put("images/size", 1, (3, 3)), r"mask 0 cannot be decoded|does not cover the 3 x 3 pixels"),
        (put("images/size", 1, (999, 999)), r"does not cover the 999 x 999 pixels"),
        (put("images/drops", (1, 0), 1000), r"it holds drops .*, but its commit says"),
        (put("images/id", 9, ord("9")), r"images, not those that the manifest has for shard 00001"),
        (lambda a: other_code(a, np.ones((90, 90), np.uint8)), r"mask 0 cannot be decoded"),
        (lambda a: other_code(a, np.ones((2, 2), np.uint8)), r"mask 0: its code does not cover"),
    ],
)
def test_content_that_was_wrong_when_it_was_sealed(run: RunFolder, change: Callable, message: str) -> None:
    edit_arrays(run, change)
    problem = error_of(run)
    assert problem.where.startswith("shards/00001-")
    assert re.search(message, problem.message), problem.message


def test_shard_in_the_place_of_another(run: RunFolder) -> None:
    reseal(run, shard_path(run, "00000").read_bytes())
    messages = " | ".join(problem.message for problem in verify_run(run))
    assert "it holds 4 images, not those that the manifest has for shard 00001" in messages


@pytest.mark.parametrize("name", ["images", "masks", "drops", "quarantined"])
def test_counts_of_the_commit_that_are_not_so(run: RunFolder, name: str) -> None:
    edit_commit(run, lambda record: record["counts"].update({name: 12345}))
    assert f"it holds {name} " in error_of(run).message
    assert "but its commit says 12345" in error_of(run).message


def test_quarantine_that_is_not_the_shards(run: RunFolder) -> None:
    edit_commit(run, lambda record: record.update(quarantine=None))
    errors = [problem for problem in verify_run(run) if problem.severity == "error"]
    assert len(errors) == 1
    assert "quarantined images are not those of its commit" in errors[0].message


def test_lost_manifest(run: RunFolder) -> None:
    Path(run.url, "manifest.parquet").unlink()
    problem = error_of(run)
    assert problem.where == "manifest.parquet"
    assert "start the run again with the same images" in problem.message


def test_kept_stage_is_checked_and_need_not_be_whole(run: RunFolder) -> None:
    path = Path(run.url, "stages/depth/shards/00001-a.zarr.zip")
    path.write_bytes(path.read_bytes()[:-5])
    problem = error_of(run)
    assert problem.where == "stages/depth/shards/00001-a.zarr.zip"
    assert "delete stages/depth/commits/00001.json and start the run again" in problem.message


def test_retry_shard_of_strangers(run: RunFolder) -> None:
    for folder, end in (("shards", "zarr.zip"), ("quarantine", "json")):
        source = next(Path(run.url, folder).glob(f"00001-*.{end}"))
        shutil.copy(source, source.with_name(f"retry-00000-b.{end}"))
    commit = Path(run.url, "commits/00001.json").read_text()
    attempt = run.ledger.read("00001").attempt
    Path(run.url, "commits/retry-00000.json").write_text(commit.replace("00001", "retry-00000").replace(attempt, "b"))
    assert verify_run(run) == []
    edit = Path(run.url, "shards/retry-00000-b.zarr.zip")
    edit.write_bytes(edit.read_bytes()[:-1])
    assert "delete commits/retry-00000.json and run `cuts3d retry-quarantined`" in error_of(run).message
