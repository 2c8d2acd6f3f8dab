"""Reading photos: any file of a data set becomes 8-bit RGB the right way up, or an `ImageError` with a reason.

Reasons, the words that quarantine records carry:

    missing       no such file
    zero_byte     the file or tar member is empty
    unreadable    the file system refuses: permissions, I/O errors, a network that fails
    not_an_image  nothing that looks like a picture
    unsupported   a picture in a format or layout that is not decoded here
    too_large     more pixels than the limit, seen in the header before anything is decoded (decompression bombs)
    too_small     a side of fewer than MIN_SIDE pixels: no patch grid to speak of
    truncated     the header is fine, the pixels end early or are corrupt
    odd_entry     the source names it in a way that cannot be taken, see `pipeline.images.oddities`
"""

import io
import struct
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from pipeline.errors import ConfigError, ImageError, SourceError
from pipeline.images.damage import check_complete, why_unidentified
from pipeline.images.levels import colour_8bit, grey_8bit, is_deep_colour, is_misread
from pipeline.images.manifest import ImageRef
from pipeline.images.metadata import without_metadata
from pipeline.images.oddities import REASON
from pipeline.storage.locations import existing, filesystem, is_file, is_url

R = TypeVar("R")
T = TypeVar("T")

MAX_PIXELS = 178_000_000
MIN_SIDE = 16
# No photo file is larger; guards against reading a disk image called .tif into memory.
MAX_BYTES = 4 << 30

_HEADERS_LOCAL, _HEADERS_REMOTE = 4, 32  # that are read at a time

# Formats handed to Pillow. Its other plug-ins stay out of reach of hostile files (EPS starts an interpreter).
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")


_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A decoded image.

    rgb: uint8 (H, W, 3), C-contiguous, rotated as its EXIF orientation says.
    remark: what was done to a picture of more than 8 bits that would be nearly black otherwise, or has no full scale
        (`pipeline.images.levels`); "" for nothing.
    """

    id: str
    rgb: np.ndarray
    remark: str = ""


class PhotoSize(NamedTuple):
    """height, width: pixels of the image the right way up.
    turned: whether its EXIF orientation swaps the two.
    """

    height: int
    width: int
    turned: bool


def photo_size(ref: ImageRef) -> PhotoSize:
    """The size that `load_photo` gives an image, from its header where that will do.

    Raises as `load_photo` does where there is no usable header; damage further on is not seen.
    """
    # Opening a pipe or a device could block for ever.
    if ref.offset is None and ref.trouble is None and (is_url(ref.uri) or is_file(ref.uri)):
        fs, path = filesystem(ref.uri)
        with suppress(Exception), _pillow_keeps_quiet(), fs.open(path, "rb") as file:
            image = Image.open(file, formats=FORMATS)
            width, height = image.size
            if min(width, height) >= MIN_SIDE and width * height <= MAX_PIXELS and image.format != "TIFF":
                turned = _orientation(image) in _TURNED
                return PhotoSize(width, height, True) if turned else PhotoSize(height, width, False)
    # A part of a tar; a TIFF, which Pillow may turn while it reads; or not to be used, and this says why.
    height, width = load_photo(ref).rgb.shape[:2]
    return PhotoSize(height, width, False)


def photo_sizes(refs: Sequence[ImageRef]) -> list[PhotoSize | ImageError]:
    """The sizes of many images, read in several threads; of one that cannot be used, the error."""

    def attempt(ref: ImageRef) -> PhotoSize | ImageError:
        try:
            return photo_size(ref)
        except ImageError as error:
            return error

    if not refs:
        return []
    workers = _HEADERS_REMOTE if is_url(refs[0].uri) else _HEADERS_LOCAL
    with ThreadPoolExecutor(workers, thread_name_prefix="headers") as pool:
        return list(pool.map(attempt, refs))


def load_photo(ref: ImageRef, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads and decodes one image.

    Grey, palette, CMYK, 1-bit, 16-bit, float and animated images (their first frame) become RGB; transparent ones are
    laid on white. Texts and profiles that Pillow gives up on are left out. Pillow's own limit on pixels
    (`PIL.Image.MAX_IMAGE_PIXELS`) holds too where it is the smaller.

    Raises:
        ImageError: the image cannot be used; the reasons are listed at the top of this module.
        SourceError: its URL needs an fsspec package that is not installed (the fault of the machine, not of the image).
    """
    if max_pixels < 1:
        raise ConfigError(f"max_pixels is {max_pixels}: it must be at least 1")
    data = _read(ref)
    if not data:
        raise ImageError("zero_byte", f"{ref.uri} is empty")
    try:
        with _pillow_keeps_quiet():
            return Photo(ref.id, *_decode(data, max_pixels))
    except ImageError as error:
        raise ImageError(error.reason, f"{_name(ref)}: {error.detail}") from error.__cause__


def photo_of(id_: str, image: Image.Image) -> Photo:
    """An image that Pillow has opened or made, as `load_photo` gives it; ImageError as there."""
    try:
        _check_size(image, MAX_PIXELS)
        with _pillow_keeps_quiet():
            return Photo(id_, *_upright_rgb(image))
    except ImageError as error:
        raise ImageError(error.reason, f"{id_}: {error.detail}") from error.__cause__


def load_photos(
    refs: Iterable[ImageRef], workers: int = 2, max_pixels: int = MAX_PIXELS
) -> Iterator[Photo | tuple[ImageRef, ImageError]]:
    """Decodes ahead in `workers` threads and yields in the order of `refs`; at most 2 * workers photos wait in memory.

    An image that cannot be used comes as the pair of its ref and the error.
    """
    for ref, loaded in load_ahead(refs, partial(load_photo, max_pixels=max_pixels), workers):
        yield (ref, loaded) if isinstance(loaded, ImageError) else loaded


def load_ahead(refs: Iterable[R], load: Callable[[R], T], workers: int = 2) -> Iterator[tuple[R, T | ImageError]]:
    """Each ref, or whatever stands for an image, with what `load` gives for it, or the ImageError that it raises, in
    the order of `refs`; loaded ahead in `workers` threads, at most 2 * workers wait in memory.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}: at least 1 thread must decode")

    def attempt(ref: R) -> tuple[R, T | ImageError]:
        try:
            return ref, load(ref)
        except ImageError as error:
            return ref, error

    pending: deque[Future[tuple[R, T | ImageError]]] = deque()
    queue = iter(refs)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            pending.extend(pool.submit(attempt, ref) for ref in islice(queue, 2 * workers))
            while pending:
                loaded = pending.popleft().result()
                pending.extend(pool.submit(attempt, ref) for ref in islice(queue, 1))
                yield loaded
        finally:
            # A consumer that stops early waits for what is being decoded, not for what is queued.
            for future in pending:
                future.cancel()


def _name(ref: ImageRef) -> str:
    return ref.uri if ref.offset is None else f"{ref.uri} ({ref.id})"


def _read(ref: ImageRef) -> bytes:
    """The bytes of one image, from the local disk directly and from elsewhere through fsspec."""
    if ref.trouble is not None:
        raise ImageError(REASON, ref.trouble)
    if ref.length is not None and ref.length > MAX_BYTES:
        raise ImageError("too_large", f"{_name(ref)} has {ref.length} bytes")
    try:
        try:
            data = _bytes_of(ref)
        except (FileNotFoundError, NotADirectoryError):
            # The same name in its other form of Unicode is the same name to people.
            other = None if ref.uri.isascii() else existing(ref.uri)
            if other is None or other == ref.uri:
                raise
            data = _bytes_of(replace(ref, uri=other))
    except (ImageError, SourceError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = ' (its name has "\\" in it, which between folders must be "/")' if "\\" in ref.id else ""
        raise ImageError("missing", f"{ref.uri}: no such file{hint}") from error
    except OSError as error:
        raise ImageError("unreadable", f"{ref.uri}: {error.strerror or error}") from error
    # File systems of fsspec raise the exceptions of whatever client they use; all of them are a refusal to read.
    except Exception as error:
        raise ImageError("unreadable", f"{ref.uri}: {type(error).__name__}: {error}") from error
    if ref.length is not None and len(data) < ref.length:
        raise ImageError("truncated", f"{_name(ref)}: {len(data)} of {ref.length} bytes are there")
    return data


def _bytes_of(ref: ImageRef) -> bytes:
    if not is_url(ref.uri):
        return _read_local(ref)
    fs, path = filesystem(ref.uri)
    end = None if ref.offset is None or ref.length is None else ref.offset + ref.length
    return bytes(fs.cat_file(path, start=ref.offset, end=end))


def _read_local(ref: ImageRef) -> bytes:
    path = Path(ref.uri)
    stat = path.stat()
    # Opening a pipe or a device could block for ever.
    if not S_ISREG(stat.st_mode):
        raise ImageError("unreadable", f"{ref.uri} is not a regular file")
    if ref.length is None and stat.st_size > MAX_BYTES:
        raise ImageError("too_large", f"{ref.uri} has {stat.st_size} bytes")
    with path.open("rb") as file:
        file.seek(ref.offset or 0)
        return file.read(-1 if ref.length is None else ref.length)


def _decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, str]:
    """RGB of encoded bytes, uint8 (H, W, 3), and the remark on it."""
    try:
        return _decode_whole(data, max_pixels)
    except ImageError as error:
        if error.reason != "truncated" or len(plain := without_metadata(data)) == len(data):
            raise
        try:
            return _decode_whole(plain, max_pixels)
        except ImageError:
            raise error from error.__cause__


def _decode_whole(data: bytes, max_pixels: int) -> tuple[np.ndarray, str]:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise why_unidentified(data) from error
    # Decoders meet hostile bytes here and raise almost anything (struct.error, KeyError, zlib.error, ...).
    except Exception as error:
        raise ImageError("truncated", f"the header is cut or corrupt ({error})") from error
    _check_size(image, max_pixels)
    if is_misread(image):
        raise ImageError("unsupported", "16-bit colours in planes of their own are not decoded here; convert it to PNG")
    check_complete(data, str(image.format))
    return _upright_rgb(image, data)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}x{height} pixels, the limit is {max_pixels}")
    if min(width, height) < MIN_SIDE:
        raise ImageError("too_small", f"{width}x{height} pixels, each side must have at least {MIN_SIDE}")


def _upright_rgb(image: Image.Image, data: bytes | None = None) -> tuple[np.ndarray, str]:
    """Pixels of an opened image, which may still have to be decoded, uint8 (H, W, 3), and the remark on it.

    data: its file, where there is one.
    """
    try:
        deep = data if is_deep_colour(image) else None
        image.load()
        orientation = _orientation(image)
        flat, remark = (image, "") if deep is None else colour_8bit(image, deep, FORMATS)
        rgb, said = _rgb(flat)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("too_large", f"{image.width}x{image.height} pixels do not fit in memory") from error
    except Exception as error:
        if "not available" in str(error):
            raise ImageError("unsupported", f"Pillow was built without a codec: {error}") from error
        raise ImageError("truncated", f"the pixels are cut or corrupt ({error})") from error
    return np.ascontiguousarray(_upright(rgb, orientation)), remark or said


def _rgb(image: Image.Image) -> tuple[np.ndarray, str]:
    """Pixels of a loaded image of any mode as uint8 (H, W, 3), and the remark on it."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey, remark = grey_8bit(image)
        return np.repeat(grey[..., None], 3, axis=2), remark
    return _rgb_of_8bit(image), ""


def _rgb_of_8bit(image: Image.Image) -> np.ndarray:
    if image.has_transparency_data:
        # On white, as on a page. Dropping alpha would bring to light colours that nobody ever saw, often black or the
        # remains of a removed background, and they would be cut into objects.
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB"))
    if image.mode in ("LAB", "HSV"):
        raise ImageError("unsupported", f"pixels are stored as {image.mode}; convert the image to RGB")
    return np.asarray(image.convert("RGB"))


def _orientation(image: ImageFile | Image.Image) -> int:
    """EXIF orientation 1..8; 1 when there is none, or the EXIF data cannot be read (which harms no pixel).

    To be asked after `load`: Pillow rotates TIFFs by itself while loading and then takes the tag away.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    # Parsing the EXIF block of arbitrary files raises many kinds of errors, and none of them makes the pixels unusable.
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, OverflowError, struct.error, AttributeError):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """The image turned upright. EXIF 2.32, tag 0x0112: the orientation says on which sides row 0 and column 0 are."""
    if orientation in _TURNED:
        rgb = rgb.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb


# Pillow warns of oddities in metadata and of large images. Whatever of that matters is judged here and becomes an
# ImageError, so its warnings are dropped, but only those of this thread while it decodes: warnings.catch_warnings swaps
# process-wide state and is not safe when threads overlap, and a permanent filter would silence the user's own Pillow.
_decoding = threading.local()


class _WhileDecoding(type):
    def __subclasscheck__(cls, subclass: type) -> bool:
        return getattr(_decoding, "active", False)


class _PillowWarning(Warning, metaclass=_WhileDecoding):
    """Stands for every warning raised in a thread that is decoding, and for no other."""


@contextmanager
def _pillow_keeps_quiet() -> Iterator[None]:
    if not warnings.filters or warnings.filters[0][2] is not _PillowWarning:
        warnings.simplefilter("ignore", _PillowWarning)
    _decoding.active = True
    try:
        yield
    finally:
        _decoding.active = False
