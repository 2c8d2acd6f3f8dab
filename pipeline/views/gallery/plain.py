"""The page of a run whose kind of result has no page of its own: a picture per image, drawn by the kind, and its facts.

The index has a line an image: id, status, facts by name, reason and detail of one that was set aside. A block an image
holds its picture, WebP in base64, or "" and why there is none.
"""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.errors import ImageError
from pipeline.images.photos import Photo
from pipeline.methods.registry import describe
from pipeline.results.kinds import Failed
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.status import status_of
from pipeline.views.gallery.pages import WEBP_METHOD, Gallery, Page, base64_text, begun_page, shown_images

PAGE = Page("plain.html", ("gallery.css",), ("plain.js",))
WEBP_QUALITY = 70


def write_plain_gallery(run: RunFolder, path: Path, limit: int | None, thumbnail: int) -> Gallery:
    """Write the page; see `gallery.write_gallery`."""
    reader = RunReader(run)
    with begun_page(run, path, PAGE) as page:
        for _, _, images in shown_images(run, reader, limit):
            for result, photo in images:
                is_photo = isinstance(photo, Photo)
                page.add(_line(reader, result), _block(reader, result, photo, thumbnail), has_photo=is_photo)
        return page.write(lambda: {"facts": _facts(run, reader), "images": page.lines})


def _facts(run: RunFolder, reader: RunReader) -> dict[str, str]:
    status = status_of(run.url)
    return {
        "recipe": run.recipe,
        **dict(describe(run.method, run.config)),
        "images": f"{status.done_images} of {run.n_images}",
        **dict(reader.kind.summary({**status.counts, "images": status.done_images})),
        "set aside": str(status.quarantined),
    }


def _block(reader: RunReader, result: Any, photo: Photo | ImageError, thumbnail: int) -> dict[str, str]:
    if isinstance(photo, ImageError):
        return {"picture": "", "problem": photo.detail}
    picture = Image.fromarray(photo.rgb) if isinstance(result, Failed) else reader.draw(photo.rgb, result)
    return {"picture": _webp(picture, thumbnail), "problem": ""}


def _line(reader: RunReader, result: Any) -> dict[str, Any]:
    line = {"id": result.id, "status": result.status, "facts": {}, "reason": ""}
    if isinstance(result, Failed):
        return line | {"reason": f"{result.reason}: {result.detail}"}
    return line | {"facts": dict(reader.kind.facts(result))}


def _webp(picture: Image.Image, longest: int) -> str:
    scale = min(1.0, longest / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    file = io.BytesIO()
    small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.save(file, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    return base64_text(file.getvalue())
