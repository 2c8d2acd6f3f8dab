"""Named arrays in one file: a zarr v3 group in a ZIP, written once as a whole and read lazily.

Why one ZIP: docs/decisions/0002-one-zip-per-shard.md. Any zarr reader opens it with `zarr.open_group(ZipStore(path))`,
and xarray group by group, since every array names its dimensions. Importing zarr takes half a second: it is left to
those who read or write an array, which is not before a run's first images are done.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline.errors import StoreError
from pipeline.storage.files import VERIFY_HINT

if TYPE_CHECKING:
    import zarr
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore, ZipStore

# Features take a chunk per image, small arrays one chunk in all; a reader of a few images loads little more than those.
CHUNK_BYTES = 1 << 20

# What zipfile, zarr and the codecs raise on bytes that make no sense; any of it means damage here.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
)

_KINDS = frozenset("biuf")  # truth values and numbers

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a ZIP can hold: bytes must not depend on the clock


def damaged(name: str, what: object) -> StoreError:
    """The error for a file that is damaged."""
    return StoreError(f"{name} is damaged: {what}", VERIFY_HINT)


def write_arrays(
    arrays: Mapping[str, np.ndarray],
    dims: Mapping[str, tuple[str, ...]],
    attributes: Mapping[str, Any],
    array_attributes: Mapping[str, Mapping[str, Any]] | None = None,
    plain: Collection[str] = (),
) -> bytes:
    """The file as bytes, the same bytes for the same content.

    arrays: by name; "group/name" puts an array in a subgroup. Cut along the first axis into chunks of about 1 MiB.
    dims: a name for each axis of each array; within one (sub)group a name means one length.
    attributes: JSON-able, of the root group.
    array_attributes: the same for single arrays.
    plain: arrays that are kept as they are in memory, in one piece, for `pipeline.storage.mapped_file` to map.

    Raises:
        ValueError: names of dimensions are missing, too many, or stand for two lengths.
    """
    import zarr
    from zarr.codecs import BloscCodec
    from zarr.storage import MemoryStore

    _check_dims(arrays, dims)
    # Measured in the decision record: for float16 maps and features smaller and faster to read than plain zstd; one
    # byte items are not shuffled, and the same level of zstd is left.
    compressor = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")
    entries: dict[str, Buffer] = {}
    root = zarr.create_group(MemoryStore(entries), attributes=_sorted(attributes))
    for group in sorted({str(PurePosixPath(name).parent) for name in arrays} - {"."}):
        root.require_group(group)
    for name, array in arrays.items():
        stored = root.create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=_whole(array) if name in plain else _chunks(array),
            compressors=None if name in plain else compressor,
            dimension_names=dims[name],
            attributes=_sorted((array_attributes or {}).get(name, {})),
            # zarr would leave out what is zeros, and there would be nothing to map
            config={"write_empty_chunks": name in plain},
        )
        stored[...] = array
    return _pack(entries)


class ArrayFile:
    """A file of `write_arrays`, open for reading. `file["name"]` is a zarr array: slice it to load just those images.

    A context manager; `close` it, or let it go, when done.
    """

    def __init__(self, store: MemoryStore | ZipStore, group: zarr.Group, name: str) -> None:
        self._store = store
        self._group = group
        self.name = name
        self.attributes: dict[str, Any] = dict(group.attrs)

    @classmethod
    def open(cls, source: bytes | Path, name: str = "") -> Self:
        """Open bytes, or a local path. `name` is what messages call it; default: the path.

        Raises:
            StoreError: the file is missing, torn, not a ZIP, or holds no zarr group.
        """
        import zarr
        from zarr.storage import MemoryStore, ZipStore

        name = name or (str(source) if isinstance(source, Path) else "array file")
        store: MemoryStore | ZipStore
        try:
            if isinstance(source, Path):
                store = ZipStore(source, mode="r")
            else:
                store = MemoryStore(_unpack(source), read_only=True)
            return cls(store, zarr.open_group(store, mode="r", zarr_format=3), name)
        except _DAMAGE as error:
            raise damaged(name, error) from error

    def __contains__(self, name: str) -> bool:
        """Whether there is such an array; one that is there may still be damaged."""
        return name in self._group

    def __getitem__(self, name: str) -> zarr.Array:
        import zarr

        try:
            array = self._group[name]
        except _DAMAGE as error:
            raise damaged(self.name, f"array {name} is missing or unreadable ({error})") from error
        if not isinstance(array, zarr.Array):
            raise damaged(self.name, f"{name} is a group where an array should be")
        # Nothing else is ever written; objects would have to be brought to life, as pickle does with foreign code.
        if array.dtype.kind not in _KINDS:
            raise damaged(self.name, f"array {name} holds {array.dtype}, not numbers")
        return array

    def read(self, name: str) -> np.ndarray:
        """The whole array in memory; StoreError when its bytes are damaged."""
        array = self[name]
        try:
            return np.asarray(array[...])
        except _DAMAGE as error:
            raise damaged(self.name, f"array {name} cannot be decoded ({error})") from error

    def array_attributes(self, name: str) -> dict[str, Any]:
        """Attributes of one array."""
        return dict(self[name].attrs)

    def names(self) -> list[str]:
        """Names of all arrays, those of subgroups included."""
        import zarr

        try:
            return sorted(name for name, node in self._group.members(max_depth=None) if isinstance(node, zarr.Array))
        except _DAMAGE as error:
            raise damaged(self.name, error) from error

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _check_dims(arrays: Mapping[str, np.ndarray], dims: Mapping[str, tuple[str, ...]]) -> None:
    lengths: dict[tuple[str, str], int] = {}
    for name, array in arrays.items():
        names = dims.get(name, ())
        if len(names) != array.ndim:
            raise ValueError(f"array {name} has shape {array.shape}: name its {array.ndim} dimensions, not {names}")
        group = str(PurePosixPath(name).parent)
        for dim, length in zip(names, array.shape, strict=True):
            if lengths.setdefault((group, dim), length) != length:
                raise ValueError(f"dimension {dim} of {name} is {length}, elsewhere in {group} {lengths[group, dim]}")


def _chunks(array: np.ndarray) -> tuple[int, ...]:
    if array.ndim == 0:
        return ()
    row_bytes = max(1, array[:1].nbytes)
    rows = min(max(1, CHUNK_BYTES // row_bytes), array.shape[0])
    return _whole(array[:rows])


def _whole(array: np.ndarray) -> tuple[int, ...]:
    return tuple(max(1, length) for length in array.shape)


def _sorted(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: attributes[key] for key in sorted(attributes)}


def _pack(entries: dict[str, Buffer]) -> bytes:
    """ZIP of `entries` as they are, in order of their names; empties `entries`, so that memory holds them once."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for key in sorted(entries):
            info = zipfile.ZipInfo(key, date_time=_EPOCH)
            info.create_system = 3  # Unix on every platform: the byte is part of the file
            info.external_attr = 0o644 << 16
            archive.writestr(info, entries.pop(key).to_bytes())
    return packed.getvalue()


def _unpack(packed: bytes) -> dict[str, Buffer]:
    from zarr.core.buffer import default_buffer_prototype

    buffer = default_buffer_prototype().buffer
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return {key: buffer.from_bytes(archive.read(key)) for key in archive.namelist()}
