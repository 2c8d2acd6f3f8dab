"""What is wrong with the bytes of an image file, where Pillow does not say or does not notice."""

import struct

from pipeline.errors import ImageError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_TIFF_MAGIC = (b"II*\0", b"MM\0*")
_MAGIC = (b"\xff\xd8\xff", PNG_MAGIC, *_TIFF_MAGIC, b"GIF8", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_FOREIGN = {b"8BPS": "Photoshop", b"%PDF": "PDF", b"%!PS": "PostScript", b"\xff\x0a": "JPEG XL", b"<svg": "SVG"}


def why_unidentified(data: bytes) -> ImageError:
    """Why Pillow recognises nothing in `data`."""
    foreign = next((name for magic, name in _FOREIGN.items() if data.startswith(magic)), None)
    if data[4:8] == b"ftyp":
        foreign = "HEIF, AVIF or video"
    if foreign:
        return ImageError("unsupported", f"{foreign} is not decoded here; convert it to JPEG or PNG")
    if data.startswith(_TIFF_MAGIC):
        order = "<I" if data.startswith(b"II") else ">I"
        directory = struct.unpack(order, data[4:8].ljust(4, b"\xff"))[0]
        if directory + 2 <= len(data):
            return ImageError("unsupported", "a TIFF of a layout that Pillow does not decode; convert it to PNG")
    if data.startswith(_MAGIC) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return ImageError("truncated", "the file begins like an image, but its header is cut or corrupt")
    return ImageError("not_an_image", "the file is not an image")


def check_complete(data: bytes, form: str) -> None:
    """ImageError "truncated" when a file that Pillow opened as `form` is cut in a way that its decoder passes over."""
    if form == "PNG":
        _check_png(data)
    elif form in ("JPEG", "MPO"):
        _check_jpeg(data)


def _check_jpeg(data: bytes) -> None:
    """Refuses a JPEG whose scan has no end marker: libjpeg decodes a zero-filled tail to grey without a word."""
    # Segments before the scan are stepped over, as the thumbnail in the EXIF data has an end marker of its own.
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        position += 1 if data[position + 1] == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4])
    if data.rfind(b"\xff\xd9", position) < 0:
        raise ImageError("truncated", "the pixels are cut or corrupt (the JPEG has no end)")


def _check_png(data: bytes) -> None:
    """Refuses a PNG whose chunks do not lead to its end: Pillow gives black rows for a zero-filled tail."""
    position = len(PNG_MAGIC)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return
        if not kind.isalpha():
            break
        position += 12 + length
    raise ImageError("truncated", "the pixels are cut or corrupt (the PNG has no end)")
