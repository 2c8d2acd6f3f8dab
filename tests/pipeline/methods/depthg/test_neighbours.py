"""Neighbours are those of brute force, to the last tie, whatever the blocks and wherever it was killed."""

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support import environment, warm
from support.waiting import wait_for

from pipeline.errors import ConfigError, StoreError
from pipeline.faults import VARIABLE
from pipeline.methods.depthg import neighbours
from pipeline.methods.depthg.neighbours import find_neighbours

CROPS, WIDTH = 300, 12


def drawn(crops: int = CROPS, width: int = WIDTH) -> np.ndarray:
    """Means with a large common part; copies, a multiple of one, and crops that are nothing at all."""
    means = np.random.default_rng(0).normal(size=(crops, width)).astype(np.float32) + 1
    if crops > 20:
        means[3:9] = means[3]
        means[200:] = means[200 % crops]
        means[12] = 2 * means[11]
        means[[10, crops // 2]] = 0
    return means


def brute_force(means: np.ndarray, kept: int) -> np.ndarray:
    wide = means.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    units = (wide / np.where(lengths > 0, lengths, 1)).astype(np.float32).astype(np.float64)
    cosines = np.array([(own * units).sum(axis=1) for own in units])
    np.fill_diagonal(cosines, np.inf)
    return np.array([np.lexsort((np.arange(len(row)), -row))[:kept] for row in cosines], np.int32)


def small_blocks(patch: pytest.MonkeyPatch, rows: int = 7, columns: int = 40) -> None:
    for name, value in (("_BLOCK_ROWS", rows), ("_BLOCK_COLUMNS", columns), ("_PAIRS", 11), ("ROWS", 100)):
        patch.setattr(neighbours, name, value)


@pytest.mark.parametrize("crops", [2, 7, 29, 30, 31, 40, CROPS])
def test_they_are_those_of_brute_force(crops: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    means = drawn(crops)
    found = find_neighbours(tmp_path, "digest", crops, lambda: iter(np.array_split(means, 3)))
    assert found.dtype == np.int32
    assert found.shape == (crops, min(30, crops))
    assert np.array_equal(found, brute_force(means, min(30, crops)))
    assert np.array_equal(found[:, 0], np.arange(crops))
    assert [file.name for file in tmp_path.iterdir()] == ["digest.npy"]


@pytest.mark.parametrize(("rows", "columns"), [(1, 300), (64, 31), (300, 1000)])
def test_they_do_not_depend_on_the_blocks(
    rows: int, columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch, rows, columns)
    means = drawn()
    found = find_neighbours(tmp_path, "digest", CROPS, lambda: iter([means]))
    assert np.array_equal(found, brute_force(means, 30))


def test_what_is_there_is_read_and_rows_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    told: list[tuple[int, int]] = []
    find_neighbours(tmp_path, "digest", 250, lambda: iter([drawn(250)]), lambda *rows: told.append(rows))
    assert told == [(100, 250), (200, 250), (250, 250)]

    def none() -> Iterator[np.ndarray]:
        raise AssertionError("nothing is computed again")

    assert len(find_neighbours(tmp_path, "digest", 250, none)) == 250


def test_what_another_process_is_finding_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    theirs = np.arange(160, dtype=np.int32).reshape(40, 4).repeat(8, axis=1)[:, :30]
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        ours = pool.submit(find_neighbours, tmp_path, "digest", 40, lambda: iter([drawn(40)]))
        wait_for(lambda: "waiting for it" in caplog.text, "the word that it waits")
        np.save(tmp_path / "digest.npy", theirs)
        os.close(descriptor)
        assert np.array_equal(ours.result(), theirs)


def test_one_crop_has_no_neighbour(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one crop, which has no neighbour: train on more images"):
        find_neighbours(tmp_path, "digest", 1, lambda: iter([drawn(1)]))


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_refused_with_the_remedy(content: bytes | None, tmp_path: Path) -> None:
    if content is None:
        np.save(tmp_path / "digest.npy", np.zeros((9, 30), np.int32))
    else:
        (tmp_path / "digest.npy").write_bytes(content)
    with pytest.raises(StoreError, match=r"digest\.npy is damaged: .*Delete it"):
        find_neighbours(tmp_path, "digest", 40, lambda: iter([drawn(40)]))


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    find_neighbours(tmp_path, "digest", 40, lambda: iter([drawn(40)]))
    file = tmp_path / "digest.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StoreError, match="damaged"):
        find_neighbours(tmp_path, "digest", 40, lambda: iter([drawn(40)]))


def test_killed_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """By SIGKILL, after the second of four parts; what was done then is not touched again."""
    words = (__file__, tmp_path / "killed")
    killed = warm.run(words, environment(**{VARIABLE: "after_neighbours:100-200"}))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    parts = tmp_path / "killed" / "digest.parts"
    done = {name: (parts / name).stat().st_mtime_ns for name in ("0-100.npy", "100-200.npy")}
    assert not (parts / "200-300.npy").exists()
    for name in done:  # to be seen in the result if it is read, and not computed again
        np.save(parts / name, np.load(parts / name)[:, ::-1])
    assert warm.run(words, environment()).returncode == 0
    expected = brute_force(drawn(400), 30)
    expected[:200] = expected[:200, ::-1]
    assert np.array_equal(np.load(tmp_path / "killed" / "digest.npy"), expected)
    assert [file.name for file in (tmp_path / "killed").iterdir()] == ["digest.npy"]


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        find_neighbours(Path(sys.argv[1]), "digest", 400, lambda: iter([drawn(400)]))
