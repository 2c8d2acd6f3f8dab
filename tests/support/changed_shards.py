"""Files of shards whose arrays or attributes are changed, and which are whole as files."""

from collections.abc import Callable

import numpy as np

from pipeline.results.semantic_codes import encoded
from pipeline.storage.array_file import ArrayFile, write_arrays

Change = Callable[[dict[str, np.ndarray], dict], object]


def rewritten(data: bytes, change: Change) -> bytes:
    """The file with what `change` makes of its arrays and attributes."""
    file = ArrayFile.open(data)
    arrays = {name: file.read(name).copy() for name in file.names()}
    attributes = dict(file.attributes)
    change(arrays, attributes)
    dims = {name: tuple(file[name].metadata.dimension_names) for name in arrays}  # type: ignore[union-attr]
    of_arrays = {name: own for name in arrays if (own := file.array_attributes(name))}
    return write_arrays(arrays, dims, attributes, of_arrays)


def setting(name: str, index: object, value: object) -> Change:
    """A value of an array."""

    def change(arrays: dict[str, np.ndarray], attributes: dict) -> None:
        arrays[name][index] = value

    return change


def last_code(name: str, edges: str, new: np.ndarray | bytes) -> Change:
    """Another code for the last image. name, edges: of the codes and of where they begin."""

    def change(arrays: dict[str, np.ndarray], attributes: dict) -> None:
        code = new if isinstance(new, bytes) else encoded(new)
        start = arrays[edges][-2]
        arrays[name] = np.concatenate([arrays[name][:start], np.frombuffer(code, np.uint8)])
        arrays[edges][-1] = len(arrays[name])

    return change
