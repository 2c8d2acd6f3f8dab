"""Pickles of arrays are read; whatever else a pickle names is refused and not run."""

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.model.checkpoint_files import read_content
from detector.model.pickled_arrays import is_pickle, read_pickle
from pipeline.errors import WeightsError

ARRAYS = {
    "floats": np.arange(12, dtype=np.float32).reshape(3, 4),
    "turned": np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4)),
    "part": np.arange(24, dtype=np.int64).reshape(4, 6)[1:3, ::2],
    "large end": np.arange(5, dtype=">f4"),
    "half": np.ones((2, 1), np.float16),
    "number": np.array(7),
    "none": np.zeros((0, 3), np.uint8),
    "true": np.array([True, False]),
}


def write(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_back(tmp_path: Path, protocol: int) -> None:
    content = {"model": collections.OrderedDict(ARRAYS), "__author__": "zoo", "alone": ARRAYS["floats"], "epoch": 3}
    found = read_content(write(tmp_path / "a.pkl", content, protocol))
    assert found.keys() == {"model", "__author__", "alone"}
    assert torch.equal(found["alone"], torch.from_numpy(ARRAYS["floats"]))
    for name, array in ARRAYS.items():
        tensor = found["model"][name]
        assert tensor.is_contiguous(), name
        np.testing.assert_array_equal(tensor.numpy(), array, name)
        tensor.zero_()  # may be written to


def test_pickles_of_python_2(tmp_path: Path) -> None:
    """Bytes are text there: the model zoo has such files from Detectron 1."""
    text = (
        b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01}q\x02U\x01aq\x03cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\n"
        b"ndarray\nq\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\x09(K\x01K\x02\x85q\x0acnumpy\ndtype\nq\x0bU\x02f4q\x0cK\x00"
        b"K\x01\x87q\x0dRq\x0e(K\x03U\x01<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89"
        b"U\x08\x00\x00\x80?\x00\x00\x00\xc0q\x11tq\x12bss."
    )
    (tmp_path / "a.pkl").write_bytes(text)
    assert read_pickle(tmp_path / "a.pkl")["model"]["a"].tolist() == [1.0, -2.0]


class Opaque:
    """What a pickle may run: harmless here."""

    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"model": {"a": Opaque()}}, r"(builtins|__builtin__)\.print"),
        ({"model": {"a": torch.ones(2)}}, r"torch\._utils\._rebuild_tensor_v2"),
        ({"a": Path("x")}, r"pathlib"),
        ({"a": collections.Counter("x")}, r"collections\.Counter"),
        ({"a": np.float32(1)}, r"numpy\.(_core|core)\.multiarray\.scalar"),
        ({"a": np.array(["x"], object)}, r"an array of O8"),
        ({"a": np.array(["x"])}, r"an array of U1"),
        ({"a": np.array([(1, 2.0)], [("b", "i4"), ("c", "f4")])}, r"an array of V8"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_else_is_read_or_run(
    tmp_path: Path, content: Any, named: str, protocol: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.pkl", content, protocol)
    with pytest.raises(WeightsError, match=rf"a\.pkl .*more than arrays and plain containers \({named}.*torch\.save"):
        read_content(path)
    assert capsys.readouterr().out == ""


def test_damage_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pkl", {"model": ARRAYS})
    content = path.read_bytes()
    for broken in (b"", content[:40], content[:-20], b"\x80\x02" + b"\xff" * 30, pickle.dumps([1])):
        path.write_bytes(broken)
        with pytest.raises(WeightsError, match=r"a\.pkl .*copy it again") as refused:
            read_content(path)
        assert "\n" not in str(refused.value)
    path.write_bytes(content.replace(b"K\x03K\x04\x86", b"K\x03K\x05\x86", 1))  # a row more than there are numbers
    with pytest.raises(WeightsError, match="an array of shape"):
        read_content(path)


def test_which_files_are_pickles(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    torch.save({"a": torch.ones(1)}, tmp_path / "new.pkl")
    for name in ("old.pkl", "new.pkl"):
        path = tmp_path / name
        assert not is_pickle(path, path.read_bytes()[:64])
        assert torch.equal(read_content(path)["a"], torch.ones(1))
    other = write(tmp_path / "zoo.pth", {"a": ARRAYS["floats"]})
    assert is_pickle(other, other.read_bytes()[:64])
