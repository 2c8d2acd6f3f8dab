"""How a map of labels or of instances is compressed, and on which grid confidence is kept.

A code is zlib of the map's rows, each XOR the row above it (the first as it is): maps are the same over many rows, and
become zeros. Anybody reads it: `numpy.bitwise_xor.accumulate(rows, axis=0)` of what zlib gives, (H, W) bytes, or
little-endian words of 16 bits.

benchmarks/semantic_bytes.py measured it on 24 COCO photos of 0.28 MP (k-means of DINOv2 features, 27 clusters, without
and with a CRF). Labels: 3.9 and 2.6 kB per image; as PNG 5.3 and 4.0. Confidence in 8 bits per pixel: 81 and 19 kB; in
cells of 8 pixels 2.7 and 0.8 kB, with a root mean square error of 0.046 and 0.040. Patches have 16 to 23 pixels there.
"""

import zlib
from itertools import pairwise
from typing import Any

import numpy as np

CELL = 8  # pixels
_LEVEL = 6


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the cells of an image of this height and width; they cover it evenly, and have `CELL` pixels
    a side or a little less.
    """
    return -(-size[0] // CELL), -(-size[1] // CELL)


def encoded(map_HW: np.ndarray) -> bytes:
    """The code of a map, uint8 or uint16 (H, W)."""
    rows = np.array(map_HW, map_HW.dtype.newbyteorder("<"), order="C")
    rows[1:] ^= map_HW[:-1]
    return zlib.compress(rows.tobytes(), _LEVEL)


def decoded(code: bytes, size: tuple[int, int], dtype: type[np.unsignedinteger[Any]] = np.uint8) -> np.ndarray:
    """The map of a code, (H, W) of the type that it was made of. ValueError for a code that is damaged, or of another
    size.

    A damaged code takes no more memory than a right one.
    """
    stored = np.dtype(dtype).newbyteorder("<")
    n_bytes = size[0] * size[1] * stored.itemsize
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(code, n_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"it cannot be decoded ({error})") from error
    if len(data) != n_bytes or not unpacking.eof or unpacking.unused_data:
        raise ValueError(f"it does not cover the {size[0]} x {size[1]} pixels of the image")
    map_HW = np.frombuffer(data, stored).reshape(size).astype(dtype)
    for above, row in pairwise(map_HW):  # ten times as fast as ufunc.accumulate
        row ^= above
    return map_HW
