"""Files of tensors by name and texts by name: safetensors are written and read, torch's own (.pth) and pickles of NumPy
arrays (.pkl) are read. Reading runs nothing of what is in them.

A detector is written as safetensors, which other programs and languages read, and of which a part can be had without
the rest. Texts are the file's metadata. The same tensors and texts make the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors

from detector.model.pickled_arrays import is_pickle, read_pickle
from detector.model.weight_files import need_checkpoint
from pipeline.errors import WeightsError
from pipeline.models.broken_files import refuse_pointer
from pipeline.models.torch_files import read_torch
from pipeline.storage.outputs import output_file
from pipeline.wording import brief
from stages.late import torch

STATE_DICT = "state_dict"
_ZIP = b"PK\x03\x04"
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_PLAIN = (
    "give a checkpoint of `cuts3d train`, or of a training with the hook PlainCheckpoints; or, if you trust it, save "
    'its weights alone: torch.save({"state_dict": torch.load(FILE, weights_only=False)["state_dict"]}, NEW)'
)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Tensors may be anywhere, share memory and have any strides."""
    import safetensors.torch  # and torch with it

    plain = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format).cpu() for name, tensor in tensors.items()
    }
    content = memoryview(safetensors.torch.save(plain, {"format": "pt", **texts}))
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = _ordered(bytes(content[_LENGTH_BYTES:end]))
    with output_file(path, "wb") as file:
        file.write(len(header).to_bytes(_LENGTH_BYTES, "little"))
        file.write(header)
        file.write(content[end:])


def read_content(path: Path) -> Mapping[str, Any]:
    """What is in a file: of safetensors the tensors as "state_dict", and the texts by their names; of torch's files and
    of pickles what was saved, tensors on the CPU. Which of them it is, its first bytes say.

    Raises:
        WeightsError: there is no such file, it is none of these, it is damaged, or it holds more than tensors and plain
        values; the message says what to do.
    """
    need_checkpoint(path)
    start = refuse_pointer(path)
    if _is_safetensors(path, start):
        return _read_safetensors(path)
    return read_pickle(path) if is_pickle(path, start) else _read_torch(path)


def _is_safetensors(path: Path, start: bytes) -> bool:
    if start.startswith(_ZIP):
        return False
    return path.suffix == ".safetensors" or start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{"


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {
                **(file.metadata() or {}),
                STATE_DICT: {name: file.get_tensor(name) for name in sorted(file.keys())},
            }
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or no safetensors file, copy it again: {brief(error)}") from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    content = read_torch(path, _PLAIN)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, and no detector")
    return content


def _ordered(header: bytes) -> bytes:
    """The header with its texts in the order of their names: safetensors writes them in another one each time."""
    fields = json.loads(header)
    fields["__metadata__"] = dict(sorted(fields["__metadata__"].items()))
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % _ALIGNMENT)
