"""Files that torch.save has written, read without running anything of what is in them."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import WeightsError
from pipeline.wording import brief, counted, few_of
from stages.late import torch

# Counts batches for a running mean without momentum, which networks in use do not have: files may lack it.
_COUNTER = "num_batches_tracked"
_REFUSED = re.compile(r"GLOBAL (\S+) was not an allowed global")


def read_torch(path: Path, remedy: str) -> Any:
    """What was saved, tensors on the CPU: tensors, plain values, and what training scripts keep beside them, their
    command line (argparse.Namespace) and NumPy's numbers.

    remedy: what to do about a file that holds more, for the message.

    Raises:
        WeightsError: the file is damaged, is none of torch's, or holds more; one line, which names what it holds.
    """
    with torch.serialization.safe_globals(_harmless()):
        try:
            with path.open("rb") as file:  # by a path, torch would go by its suffix
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if more := _refused(path, error):
                raise WeightsError(
                    f"{path} cannot be read as weights: it holds more than tensors and plain values ({few_of(more)}), "
                    f"and is not run to find out what; {remedy}"
                ) from error
            raise _damaged(path, "unknown content") from error  # torch's words are advice to run it
        except (RuntimeError, EOFError, ValueError, OSError, LookupError, AttributeError, TypeError) as error:
            raise _damaged(path, brief(error, 200)) from error


def need_weights(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """WeightsError that names tensors in a form that no network computes with as it is: sparse, quantised, complex, of
    8 bits, without values. Converting them in silence would make other weights of them, or fail.
    """
    odd = [f"{name}: {form}" for name, tensor in state.items() if (form := _odd_form(name, tensor))]
    if odd:
        raise WeightsError(
            f"{path} has {counted(len(odd), 'tensor')} that cannot be used as weights ({few_of(odd)}): save the "
            "network's weights as ordinary tensors of 16 or 32 bits"
        )


def misfits(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """In which tensors weights differ from those that a network has, in names and shapes: "2 missing (a, b); ..."; ""
    for none.
    """
    missing = [name for name in wanted if name not in state and not name.endswith(_COUNTER)]
    left_over = [name for name in state if name not in wanted]
    other = [name for name in state if name in wanted and state[name].shape != wanted[name].shape]
    parts = [("missing", missing), ("not of the network", left_over), ("of another shape", other)]
    return "; ".join(f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in parts if names)


def _odd_form(name: str, tensor: torch.Tensor) -> str:
    """What keeps a tensor from being used as it is; "" for nothing."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "without values"
    if tensor.is_complex():
        return "complex"
    if tensor.is_floating_point():
        return "of 8 bits" if tensor.element_size() < 2 else ""
    return "whole numbers" if name.endswith(("weight", "bias")) else ""


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} cannot be read as weights, it is damaged or no checkpoint: copy it again ({why})")


def _harmless() -> list[Any]:
    """What may be made while a file is read, all of it plain data: no object of Python is in any of NumPy's numbers."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    dtypes = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type) and kind is not np.dtypes.ObjectDType]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # as NumPy 1 and 2 write it
    return [argparse.Namespace, np.dtype, *dtypes, *((scalar, name) for name in names)]


def _refused(path: Path, error: Exception) -> Sequence[str]:
    """Names of classes and functions in the file that are not read; none where something else is wrong with it."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, OSError, pickle.UnpicklingError):  # not the kind of file that can be asked
        found = []
    return sorted(found) or _REFUSED.findall(str(error))
