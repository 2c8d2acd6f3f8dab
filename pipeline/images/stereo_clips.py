"""What a method looks at, loaded: photos, or clips, which are a stereo pair with the next one and the camera."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.errors import ImageError, SourceError
from pipeline.images.beside import below
from pipeline.images.clip_files import NO_RIGHT, NUMBERS, PICTURES, ClipFiles, camera_of
from pipeline.images.image_lists import ROOT_REMEDY, placed_refs
from pipeline.images.manifest import ImageRef
from pipeline.images.oddities import odd_ref
from pipeline.images.photos import Photo, load_ahead, load_photo
from pipeline.images.tables import read_table
from pipeline.storage.locations import absolute, contents_of, parent_of, resolve
from stages.motion.camera import Camera

PREFIX = "clips:"
COLUMNS = ("left", *PICTURES, *NUMBERS)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A stereo pair, the next pair, and the camera, decoded. All four pictures have one size.

    id: of the image, whose file is the left picture.
    left, right, left_next, right_next: `Photo`s.
    camera: see `Camera`.
    """

    id: str
    left: Photo
    right: Photo
    left_next: Photo
    right_next: Photo
    camera: Camera

    @property
    def remark(self) -> str:
        """See `Photo`; of the first picture that has one."""
        return next((photo.remark for photo in self.photos if photo.remark), "")

    @property
    def photos(self) -> tuple[Photo, Photo, Photo, Photo]:
        """The pair, and the next one."""
        return self.left, self.right, self.left_next, self.right_next


def load_clip(ref: ImageRef) -> Clip:
    """Reads and decodes the four pictures of a clip.

    Raises ImageError when one of them cannot be used (reasons as of `load_photo`), when they differ in size
    ("other_size"), when the camera is not theirs ("other_camera"), or when the row of the manifest is no clip
    ("no_clip").
    """
    if ref.clip is None:
        raise ImageError("no_clip", f"{ref.uri} is a picture alone: this method needs clips, --images {PREFIX}FILE")
    left = load_photo(ref)
    others = {}
    for name in PICTURES:
        photo = load_photo(ImageRef(ref.id, getattr(ref.clip, name)))
        if photo.rgb.shape != left.rgb.shape:
            (height, width), (h, w) = left.rgb.shape[:2], photo.rgb.shape[:2]
            raise ImageError(
                "other_size", f"{getattr(ref.clip, name)} has {w}×{h} pixels, its left picture {width}×{height}"
            )
        others[name] = photo
    _need_camera_of(left.rgb.shape, ref)
    return Clip(ref.id, left, **others, camera=ref.clip.camera)


def _need_camera_of(shape: tuple[int, ...], ref: ImageRef) -> None:
    """ImageError for a camera whose axis does not pass through the picture: it is that of another size."""
    assert ref.clip is not None
    camera, (height, width) = ref.clip.camera, shape[:2]
    if not (-0.5 <= camera.cx <= width - 0.5 and -0.5 <= camera.cy <= height - 0.5):
        raise ImageError(
            "other_camera",
            f"{ref.uri} has {width}×{height} pixels, but the principal point of its camera is ({camera.cx:g}, "
            f"{camera.cy:g}): give the camera of pictures of this size, moved by what was cut off",
        )


def scaled_to_fit(clip: Clip, height: int, width: int) -> Clip:
    """The clip with pictures of at most `height` by `width` pixels, and the camera that goes with them; itself when it
    fits. They are scaled, by one factor but for rounding to whole pixels, and nothing is cut off.
    """
    h, w = clip.left.rgb.shape[:2]
    factor = min(height / h, width / w)
    if factor >= 1:
        return clip
    size = (max(1, round(h * factor)), max(1, round(w * factor)))
    camera = clip.camera.scaled(size[0] / h, size[1] / w)
    left, right, left_next, right_next = (_scaled(photo, size) for photo in clip.photos)
    return Clip(clip.id, left, right, left_next, right_next, camera)


def _scaled(photo: Photo, size: tuple[int, int]) -> Photo:
    """Every pixel counts: bilinear by a triangle as wide as the reduction."""
    scaled = Image.fromarray(photo.rgb).resize(size[::-1], Image.Resampling.BILINEAR)
    return replace(photo, rgb=np.asarray(scaled))


LOADERS: dict[str, Callable[[ImageRef], Any]] = {"photos": load_photo, "clips": load_clip}


def load_inputs(refs: Iterable[ImageRef], takes: str, workers: int = 2) -> Iterator[Any]:
    """Photos or clips in the order of `refs`, see `load_ahead`; for one that cannot be used the ImageError.

    takes: "photos", of a clip the left one, or "clips".
    """
    for _, loaded in load_ahead(refs, LOADERS[takes], workers):
        yield loaded


def noise_inputs(count: int, takes: str) -> list[Any]:
    """Photos or clips of 480×640 pixels of noise, the same at every call, to measure a method by."""
    noise = np.random.default_rng(0)

    def photo(i: int) -> Photo:
        return Photo(f"noise {i}", noise.integers(0, 255, (480, 640, 3), np.uint8))

    if takes == "photos":
        return [photo(i) for i in range(count)]
    camera = Camera(500.0, 500.0, 320.0, 240.0, 0.5)
    return [Clip(f"noise {i}", photo(i), photo(i), photo(i), photo(i), camera) for i in range(count)]


def read_clips(source: str, root: str | None, remedy: str = ROOT_REMEDY) -> tuple[str, list[ImageRef]]:
    """The clips of `clips:FILE`, a .csv with a line of names first or a .parquet, with the columns of COLUMNS; paths
    are relative to the file's folder, or to `root`. remedy: see `read_text_list`.

    Returns the common root of the left pictures, to which their ids are relative (or `root`), and the images; a row in
    which something is missing, no number or outside of `root` with its trouble, line or row (from 1) and column.

    Raises SourceError when there are no rows, or no left picture is there.
    """
    location = absolute(source.removeprefix(PREFIX))
    root = absolute(root) if root else None
    rows = _parquet_rows(location) if location.endswith(".parquet") else _csv_rows(location)
    if not rows:
        raise SourceError(f"{location} has no rows: a line for each clip, with {', '.join(COLUMNS)}")
    lefts = [row if isinstance(row, SourceError) else _text(row["left"]) for row in rows.values()]
    found, refs = placed_refs(location, lefts, root, rows=list(rows), remedy=remedy)
    labelled = zip(refs, rows.items(), strict=True)
    return found, [_with_clip(ref, row, root, location, f"{location}: {label}") for ref, (label, row) in labelled]


def _with_clip(
    ref: ImageRef, row: Mapping[str, Any] | SourceError, root: str | None, location: str, place: str
) -> ImageRef:
    """The image of a left picture with the rest of its row."""
    if ref.trouble is not None or isinstance(row, SourceError):
        return ref
    try:
        base = root or parent_of(location)
        right, left_next, right_next = (_picture(name, _text(row[name]), base, root) for name in PICTURES)
        camera = camera_of(**{name: _number(row[name]) for name in NUMBERS})
    except SourceError as error:
        return odd_ref(ref.id, location, f"{place}: {error}")
    return replace(ref, clip=ClipFiles(right, left_next, right_next, camera))


def _picture(name: str, path: str, base: str, root: str | None) -> str:
    if not path:
        why = f": {NO_RIGHT}" if name.startswith("right") else ""
        raise SourceError(f"it has no {name}, and a clip needs all four pictures{why}")
    uri = resolve(path, base)
    if root is not None and below(uri, root) is None:
        raise SourceError(f"{uri} is not below --root {root}; give one that holds all")
    return uri


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


# Rows by what messages call them; of one that cannot be read the error.
_Rows = Mapping[str, Mapping[str, Any] | SourceError]


def _csv_rows(location: str) -> _Rows:
    table = read_table(contents_of(location), location)
    _refuse_missing(location, table.names)
    return {f"line {row.line}": row.fields for row in table.rows}


def _parquet_rows(location: str) -> _Rows:
    try:
        table = pq.read_table(io.BytesIO(contents_of(location)))
    except pa.ArrowException as error:
        raise SourceError(f"{location} is not a parquet file that can be read: {error}") from error
    _refuse_missing(location, table.column_names)
    return {f"row {number}": row for number, row in enumerate(table.select(COLUMNS).to_pylist(), start=1)}


def _refuse_missing(location: str, names: Iterable[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        why = f"; {NO_RIGHT}" if "right" in missing else ""
        raise SourceError(f"{location} has no column {', '.join(missing)}: clips need {', '.join(COLUMNS)}{why}")


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value  # which `Camera` refuses by name
