"""Image files without what is no pixel: texts, histories and profiles on which Pillow gives up, and which others read
past.
"""

import struct
import zlib
from collections.abc import Iterator

from pipeline.images.damage import PNG_MAGIC

_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")
# Of a JPEG's segments EXIF, which has the orientation, and Adobe, which has the colour space, stay; not ones cut short.
_JPEG_KEPT, _SHORTEST = (0xE1, 0xEE), 16
_WEBP_LEFT_OUT = (b"ICCP", b"XMP ")


def without_metadata(data: bytes) -> bytes:
    """The file without its metadata; the very same bytes where there is none to leave out, or the format is another.

    Of a PNG what is left out is also every chunk that is not needed for the pixels and has a wrong checksum.
    """
    if data.startswith(PNG_MAGIC):
        return PNG_MAGIC + b"".join(_png_chunks(data))
    if data.startswith(b"\xff\xd8\xff"):
        return b"".join(_jpeg_segments(data))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        body = b"".join(_webp_chunks(data))
        return data if len(body) == len(data) - 12 else b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    return data


def _png_chunks(data: bytes) -> Iterator[bytes]:
    position = len(PNG_MAGIC)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk = data[position : position + 12 + length]
        position += 12 + length
        is_needed = kind[:1].isupper()
        if is_needed or (kind not in _PNG_TEXTS and chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))):
            yield chunk
    yield data[position:]


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        kind = data[position + 1]
        if kind == 0xFF or 0xD0 <= kind <= 0xD7:
            position += 1 if kind == 0xFF else 2
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        is_whole = kind in _JPEG_KEPT and end - position >= _SHORTEST
        is_metadata = kind == 0xFE or (0xE0 <= kind <= 0xEF and not is_whole)
        if not is_metadata:
            yield data[position:end]
        position = end
    yield data[position:]


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length + length % 2
        if kind not in _WEBP_LEFT_OUT:
            yield data[position:end]
        position = end
    yield data[position:]
