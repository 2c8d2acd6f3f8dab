"""Files of an ONNX model: the graph, and those beside it in which exporters keep its weights."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import WeightsError


def weights_beside(path: Path, content: bytes) -> list[tuple[str, str]]:
    """Name and SHA-256 (hex) of each file with weights of an .onnx file; [] where all are in it. content: of the file.

    Raises WeightsError when one is not there, and whatever onnx does for what is no model.
    """
    if b"location" not in content:  # which every tensor that is elsewhere has; onnx takes a while to import
        return []
    import onnx

    names = {
        entry.value
        for tensor in _tensors(onnx.load_model_from_string(content).graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [(name, _digest(path, name)) for name in sorted(names)]


def _tensors(graph: Any) -> Iterator[Any]:
    """Weights and constants of a graph and of those within it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _digest(path: Path, name: str) -> str:
    file = path.parent / name
    if not file.is_file():
        raise WeightsError(f"{path}: its weights are in {name}, which is not beside it: copy it to {file}")
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
