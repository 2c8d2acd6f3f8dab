"""The manifest of a run: every image, its shard, and a digest that tells whether two runs mean the same images.

Identity is the sorted list of ids with what is known of each image, never where the data set happens to be mounted: the
same data set on another machine, or listed in another order, has the same digest.
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import pairwise
from operator import attrgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, SourceError, StoreError
from pipeline.images.clip_files import NUMBERS, PICTURES, ClipFiles
from pipeline.images.many_objects import without_gc
from pipeline.wording import counted, few_of
from stages.motion.camera import Camera

# The second has clips; the third has images that were set aside when they were listed, and may have clips.
SCHEMA, CLIP_SCHEMA, TROUBLE_SCHEMA = "cuts3d-manifest/1", "cuts3d-manifest/2", "cuts3d-manifest/3"
MIN_SHARD_SIZE, MAX_SHARD_SIZE = 2, 256
_INTEGER_FIELDS = ("offset", "length", "height", "width", "coco_id")
_MOST_PER_SHARD = (1 << 31) - 1
# Without any of these an id is safe and plain, whatever it is.
_ODD_START, _ODD = ("", ".", "/"), ("..", "//", "/.", ":", "\\", "\0")
# The same for a whole column. Arrow's text is always Unicode.
_ODD_COLUMN = r"^$|^\.|^/|\.\.|//|/\.|:|\\|\x00|/$"
_UNSAFE_ID = re.compile(r"\0|^[A-Za-z]:[\\/]|^[\\/]|(?:^|[\\/])\.\.(?:[\\/]|$)|://|[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of a data set.

    id: path relative to the root of the data set, "/" between folders, unique over the data set.
    uri: local path or fsspec URL of the file that holds it.
    offset, length: byte range inside that file (a member of a tar); both None for a whole file.
    height, width: pixels as listed, before any EXIF rotation; None when unknown.
    coco_id: `id` of the image in the COCO file it was listed in, else None.
    clip: the other pictures of a clip whose left one this is, else None.
    trouble: why it is set aside without being looked at, found when it was listed; else None.
    """

    id: str
    uri: str
    offset: int | None = None
    length: int | None = None
    height: int | None = None
    width: int | None = None
    coco_id: int | None = None
    clip: ClipFiles | None = None
    trouble: str | None = None

    def __post_init__(self) -> None:
        if (self.offset is None) != (self.length is None) or (self.offset or 0) < 0 or (self.length or 0) < 0:
            raise SourceError(f"{self.id}: byte range {self.offset} + {self.length}: both must be given, none below 0")


@dataclass(frozen=True, slots=True)
class Shard:
    """A contiguous run of the manifest: the unit of work, of commit and of storage."""

    key: str
    refs: tuple[ImageRef, ...]


class Manifest:
    """Every image of a run, sorted by id and cut into contiguous shards of `shard_size` images. Not to be changed.

    Raises:
        SourceError: no images, an id that occurs twice, or an id that is not `safe_id`.
        ConfigError: shard_size below 1.
    """

    def __init__(self, refs: Iterable[ImageRef], shard_size: int) -> None:
        if not 1 <= shard_size <= _MOST_PER_SHARD:
            raise ConfigError(f"shard_size is {shard_size}: it must be 1 to {_MOST_PER_SHARD} images")
        self.refs = tuple(refs) if isinstance(refs, _InOrder) else sort_refs(refs)
        self.shard_size = shard_size
        self._file: bytes | None = None  # that it was read from: to write it again takes seconds for millions

    def __len__(self) -> int:
        return len(self.refs)

    def __repr__(self) -> str:
        shards = f"{counted(self.n_shards, 'shard')} of {self.shard_size}"
        return f"Manifest({counted(len(self), 'image')} in {shards}, {self.digest[:12]})"

    @property
    def n_shards(self) -> int:
        return -(-len(self.refs) // self.shard_size)

    @cached_property
    def digest(self) -> str:
        """sha256, in hexadecimal, of everything but the URIs."""
        digest = hashlib.sha256(f"{SCHEMA}\nshard_size {self.shard_size}\nimages {len(self)}\n".encode())
        # NUL cannot occur in an id, so no two lists of ids give the same bytes.
        digest.update("\0".join(ref.id for ref in self.refs).encode())
        for name, column in self._integers().items():
            known = column.is_valid().to_numpy(zero_copy_only=False)
            digest.update(name.encode())
            digest.update(np.packbits(known).tobytes())
            digest.update(column.fill_null(0).to_numpy().astype("<i8", copy=False).tobytes())
        if self.has_clips:
            digest.update(b"cameras")
            digest.update(np.array(self._cameras(), "<f8").tobytes())
        return digest.hexdigest()

    @cached_property
    def has_clips(self) -> bool:
        """Whether any image is the left picture of a clip."""
        return any(ref.clip is not None for ref in self.refs)

    @cached_property
    def has_troubles(self) -> bool:
        """Whether any image was set aside when it was listed."""
        return any(ref.trouble is not None for ref in self.refs)

    def shards(self) -> list[Shard]:
        """Shards in order. Keys are zero-padded to one width, five digits or more, so that they sort as text."""
        with without_gc():
            return [
                Shard(key, self.refs[i * self.shard_size : (i + 1) * self.shard_size])
                for i, key in enumerate(self._shard_keys())
            ]

    def explain_difference(self, other: "Manifest") -> str:
        """What `other` has that this manifest has not, in a sentence for people; "" when the digests are equal."""
        if self.digest == other.digest:
            return ""
        mine, theirs = ({ref.id: ref for ref in manifest.refs} for manifest in (self, other))
        # A dict keeps the order of the manifest, so the names shown are the first ones.
        added = [name for name in theirs if name not in mine]
        removed = [name for name in mine if name not in theirs]
        changed = [name for name, ref in mine.items() if name in theirs and _facts(ref) != _facts(theirs[name])]
        parts = [
            f"{len(names)} {'image' if len(names) == 1 else 'images'} {verb} ({few_of(names)})"
            for verb, names in (("added", added), ("removed", removed), ("changed", changed))
            if names
        ]
        if self.shard_size != other.shard_size:
            parts.append(f"shard size {other.shard_size} instead of {self.shard_size}")
        return ", ".join(parts)

    def to_parquet_bytes(self) -> bytes:
        """Parquet file: id, uri, offset, length, height, width, coco_id, shard, and with clips right, left_next,
        right_next, fx, fy, cx, cy, baseline, and with images in trouble trouble. Same manifest, same bytes.
        """
        if self._file is not None:
            return self._file
        shards = np.arange(len(self), dtype=np.int64) // self.shard_size
        columns = {
            "id": pa.array([ref.id for ref in self.refs], pa.string()),
            "uri": pa.array([ref.uri for ref in self.refs], pa.string()),
            **self._integers(),
            "shard": pa.array(self._shard_keys(), pa.string()).take(pa.array(shards)),
        }
        if self.has_clips:
            columns |= self._clip_columns()
        if self.has_troubles:
            columns["trouble"] = pa.array([ref.trouble for ref in self.refs], pa.string())
        meta = {
            "schema": TROUBLE_SCHEMA if self.has_troubles else CLIP_SCHEMA if self.has_clips else SCHEMA,
            "shard_size": self.shard_size,
            "digest": self.digest,
        }
        table = pa.table(columns).replace_schema_metadata({"cuts3d": json.dumps(meta, sort_keys=True)})
        buffer = io.BytesIO()
        # Page checksums cover the URIs, which the digest leaves out.
        pq.write_table(table, buffer, compression="zstd", row_group_size=1 << 17, write_page_checksum=True)
        return buffer.getvalue()

    @classmethod
    def from_parquet_bytes(cls, data: bytes) -> "Manifest":
        """Inverse of `to_parquet_bytes`; StoreError when the bytes are torn, foreign or do not match their digest."""
        try:
            table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
            meta = json.loads((table.schema.metadata or {})[b"cuts3d"])
            if meta["schema"] not in (SCHEMA, CLIP_SCHEMA, TROUBLE_SCHEMA):
                raise ValueError(f"its schema is {meta['schema']}, this version reads {SCHEMA} to {TROUBLE_SCHEMA}")
            with without_gc():
                columns = [table[name].to_pylist() for name in ("id", "uri", *_INTEGER_FIELDS)]
                if meta["schema"] != SCHEMA:
                    columns += _clips(table), _troubles(table)
                refs = map(ImageRef, *columns)
                manifest = cls(_InOrder(refs) if _is_plain_and_sorted(table["id"]) else refs, meta["shard_size"])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the manifest of the run cannot be read, it is torn or foreign: {error}") from error
        if manifest.digest != meta["digest"]:
            raise StoreError(f"the manifest is corrupt: its digest is {manifest.digest}, recorded was {meta['digest']}")
        manifest._file = data
        return manifest

    def _shard_keys(self) -> list[str]:
        return [shard_key(i, self.n_shards) for i in range(self.n_shards)]

    def _cameras(self) -> list[tuple[float, ...]]:
        """The numbers of each image's camera, NaN for those that are no clip."""
        unknown = (float("nan"),) * len(NUMBERS)
        return [astuple(ref.clip.camera) if ref.clip else unknown for ref in self.refs]

    def _clip_columns(self) -> dict[str, pa.Array]:
        clips = [ref.clip for ref in self.refs]
        pictures = {name: pa.array([clip and getattr(clip, name) for clip in clips], pa.string()) for name in PICTURES}
        numbers = zip(NUMBERS, np.array(self._cameras(), np.float64).T, strict=True)
        return pictures | {name: pa.array(column, from_pandas=True) for name, column in numbers}

    def _integers(self) -> dict[str, pa.Array]:
        return {name: pa.array(map(attrgetter(name), self.refs), pa.int64()) for name in _INTEGER_FIELDS}


def _clips(table: pa.Table) -> list[ClipFiles | None]:
    """The clips of a stored manifest's rows; SourceError, a ValueError, for a camera that cannot be."""
    if PICTURES[0] not in table.column_names:
        return [None] * len(table)
    rows = zip(*(table[name].to_pylist() for name in (*PICTURES, *NUMBERS)), strict=True)
    return [
        None if right is None else ClipFiles(right, left_next, right_next, Camera(*numbers))
        for right, left_next, right_next, *numbers in rows
    ]


def _troubles(table: pa.Table) -> list[str | None]:
    found: list[str | None] = table["trouble"].to_pylist() if "trouble" in table.column_names else [None] * len(table)
    return found


class _InOrder(list[ImageRef]):
    """Images that have been found sorted, unique and with plain ids."""


def _is_plain_and_sorted(ids: pa.ChunkedArray) -> bool:
    """Whether a column of ids needs no closer look, told without a Python object per id."""
    if len(ids) == 0 or ids.null_count or pc.any(pc.match_substring_regex(ids, _ODD_COLUMN)).as_py():
        return False
    # Arrow compares bytes of UTF-8, which is the order of code points, and Python's.
    return bool(pc.all(pc.less(ids[:-1], ids[1:])).as_py()) if len(ids) > 1 else True


def default_shard_size(n_images: int) -> int:
    """Images per shard: a 32nd of them, 2 to 256, so that what is killed in a small run loses two photos."""
    return min(max(-(-n_images // 32), MIN_SHARD_SIZE), MAX_SHARD_SIZE)


def shard_key(index: int, n_shards: int) -> str:
    """Key of a shard, zero-padded to one width for all shards of a run."""
    return f"{index:0{max(5, len(str(n_shards - 1)))}d}"


def safe_id(name: str) -> str:
    """`name` as an id: "./" and "//" taken out, and refused what could leave a folder, as ids become names of files.

    Raises:
        SourceError: empty, absolute, with a ".." part, a URL, or with characters that are NUL or not Unicode.
    """
    if name[:1] not in _ODD_START and name.isascii() and not any(map(name.__contains__, _ODD)) and name[-1] != "/":
        return name  # nearly all are, and there may be a billion
    plain = name
    if name.startswith("./") or "/./" in name or "//" in name or name.endswith(("/", "/.")) or name in ("", "."):
        plain = "/".join(part for part in name.split("/") if part not in ("", "."))
    # Both: what is taken out can hide the beginning of an absolute path ("./C:/x").
    if _UNSAFE_ID.search(name) or _UNSAFE_ID.search(plain):
        raise SourceError(f"{name!r} cannot be an image id: it must be a plain relative path without '..'; rename it")
    if not plain:
        raise SourceError("an image has an empty name: give every image a relative path as its name")
    return plain


def sort_refs(refs: Iterable[ImageRef]) -> tuple[ImageRef, ...]:
    """The images sorted by id; SourceError when there are none, or an id is unsafe or occurs twice."""
    ordered = tuple(sorted(refs, key=attrgetter("id")))
    if not ordered:
        raise SourceError("there are no images: a manifest needs at least one")
    unsafe = [ref.id for ref in ordered if safe_id(ref.id) != ref.id]
    if unsafe:
        raise SourceError(f"ids are not in their plain form, pass them through safe_id: {few_of(unsafe)}")
    if any(a.id == b.id for a, b in pairwise(ordered)):
        counts = Counter(ref.id for ref in ordered)
        twice = [name for name, count in counts.items() if count > 1]
        raise SourceError(
            f"{len(twice)} image ids occur more than once: {few_of(twice)}; each image must be listed once"
        )
    return ordered


def _facts(ref: ImageRef) -> tuple[object, ...]:
    return *(getattr(ref, name) for name in _INTEGER_FIELDS), ref.clip and ref.clip.camera
