"""Digests of weights and settings, so that a run can tell that a model changed under it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from stages.late import torch


def text_digest(*parts: str) -> str:
    """SHA-256 (hex) of texts; where one text ends and the next begins counts."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode()
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over names, shapes and values of tensors of any dtype and device, in the order of their names.

    Floating-point values are compared as float32: a checkpoint kept in float16 and the model it was loaded into agree.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if tensor.is_floating_point():
            tensor = tensor.float()
        sha.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        sha.update(tensor.cpu().contiguous().numpy().data)
    return sha.hexdigest()
