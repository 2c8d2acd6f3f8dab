"""Rows of plain arrays, read by mapping the file."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.storage.array_file import ArrayFile, write_arrays
from pipeline.storage.mapped_file import MappedFile, places

MAPS = np.arange(60, dtype=np.float16).reshape(5, 3, 4)
ZEROS = np.zeros((7, 2), np.float32)
DIMS = {"rows/maps": ("row", "y", "x"), "rows/zeros": ("other", "z"), "few": ("byte",)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    arrays: dict[str, np.ndarray] = {"rows/maps": MAPS, "rows/zeros": ZEROS, "few": np.arange(3, dtype=np.uint8)}
    dims = {**DIMS, "rows/zeros": ("zero_row", "z")}
    file = tmp_path / "arrays.zarr.zip"
    file.write_bytes(write_arrays(arrays, dims, {"a": 1}, plain=("rows/maps", "rows/zeros")))
    return file


def test_rows_are_those_of_the_array_and_zeros_are_kept(path: Path) -> None:
    found = places(path, ("rows/maps", "rows/zeros"))
    mapped = MappedFile(path, found)
    mapped.announce("rows/maps", [0, 4])
    assert np.array_equal(mapped.rows("rows/maps").copy().view(np.float16).reshape(5, 3, 4), MAPS)
    assert np.array_equal(mapped.rows("rows/zeros")[6].copy().view(np.float32), ZEROS[6])
    assert found["rows/maps"].shape == (5, 3, 4)


def test_any_reader_of_zarr_reads_a_plain_array(path: Path) -> None:
    with ArrayFile.open(path) as file:
        assert np.array_equal(file.read("rows/maps"), MAPS)
        assert np.array_equal(file.read("rows/zeros"), ZEROS)
        assert file.read("few").tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["few", "rows/none", "rows"])
def test_an_array_that_is_not_there_or_not_plain_is_refused(path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=r"arrays\.zarr\.zip is damaged"):
        places(path, (name,))


@pytest.mark.parametrize("length", [0, 10, 300])
def test_a_cut_file_is_refused(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(StoreError, match="is damaged"):
        places(path, ("rows/maps",))


def test_a_file_that_is_gone_is_refused(path: Path) -> None:
    found = places(path, ("rows/maps",))
    path.unlink()
    with pytest.raises(StoreError, match=r"is damaged: .*No such file"):
        MappedFile(path, found)
