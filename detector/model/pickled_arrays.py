"""Pickles of NumPy arrays by name, as Detectron2's model zoo has them (.pkl), read without running anything in them.

A pickle names functions and classes of Python, and reading it calls them. Here what it names is looked up in a short
list of stand-ins, which note down what an array is made of: not even NumPy's own code sees it before it is checked.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import WeightsError
from pipeline.wording import brief
from stages.late import torch

_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save began with before it wrote zip files
_PROTOCOL = b"\x80"  # of pickles since Python 2.3
_NUMBERS = re.compile(r"f[248]|[iu][1248]|b1")


def is_pickle(path: Path, start: bytes) -> bool:
    """Whether this is a plain pickle, and nothing of torch's. start: its first bytes, at least 16 where it has them."""
    if start.startswith(_TORCH[: len(start)] or _TORCH) or start.startswith(b"PK"):
        return False
    return start.startswith(_PROTOCOL) or path.suffix == ".pkl"


def read_pickle(path: Path) -> dict[str, Any]:
    """What a pickle holds by name: arrays as tensors, mappings with their arrays as tensors, and texts. Other values
    are left out.

    Raises:
        WeightsError: it is damaged, holds no mapping, or more than arrays and plain containers; one line.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file, encoding="latin1").load()  # NumPy's bytes, as Python 2 wrote them
        if not isinstance(content, Mapping):
            raise ValueError(f"it is a {type(content).__name__}")
        return {name: value for name, part in content.items() if (value := _plain(part)) is not None}
    except _RefusedError as error:
        raise WeightsError(
            f"{path} cannot be read as weights: it holds more than arrays and plain containers ({error}), and is not "
            'run to find out what; if you trust it, save its tensors: torch.save({"model": {name: tensor, …}}, NEW)'
        ) from error
    except Exception as error:  # whatever a broken pickle makes of its reader
        raise WeightsError(
            f"{path} cannot be read as weights, it is damaged or no pickle of arrays: copy it again ({brief(error)})"
        ) from error


class _RefusedError(Exception):
    """What a pickle asked for that is not in the list."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        made = _STAND_INS.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")
        if made is None:
            raise _RefusedError(f"{module}.{name}")
        return lambda *given: made(*given)  # one of its own: a pickle may set attributes of what it names


@dataclass
class _Type:
    """numpy.dtype: its code, such as f4, and the order of its bytes."""

    code: Any
    order: Any = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        if not _NUMBERS.fullmatch(str(self.code)) or self.order not in ("=", "<", ">", "|"):
            raise _RefusedError(f"an array of {self.code}")
        return np.dtype(f"{self.order}{self.code}")


@dataclass
class _Array:
    """numpy.ndarray. fortran: the first index runs fastest."""

    shape: Any = ()
    type: Any = None
    fortran: Any = False
    data: Any = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.type, self.fortran, self.data = state

    def tensor(self) -> torch.Tensor:
        dtype = self.type.dtype()
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        if not isinstance(data, (bytes, bytearray)) or len(data) != math.prod(self.shape) * dtype.itemsize:
            raise ValueError(f"an array of shape {self.shape} has not as many bytes")
        array = np.frombuffer(data, dtype).reshape(self.shape, order="F" if self.fortran else "C")
        return torch.from_numpy(np.array(array, dtype.newbyteorder("="), order="C"))  # a copy, to be written to


def _plain(value: Any) -> Any:
    """The tensor of an array, a mapping with those of its arrays, a text; None for what is none of them."""
    if isinstance(value, _Array):
        return value.tensor()
    if isinstance(value, Mapping):
        return {name: part.tensor() for name, part in value.items() if isinstance(part, _Array)}
    return value if isinstance(value, str) else None


def _frombuffer(data: Any, type_: Any, shape: Any, order: Any) -> _Array:
    return _Array(shape, type_, order == "F", data)


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    return text.encode("latin1" if encoding == "latin1" else "ascii")


_STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.ndarray": lambda *_: _Array(),
    "numpy.dtype": lambda code, *_: _Type(code),
    "collections.OrderedDict": dict,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",  # an array of no numbers, in protocol 2
}
