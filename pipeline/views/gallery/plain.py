"""The page of a run whose kind of result has no page of its own: a picture an image, drawn by the kind, and its facts.

The index has a line an image: id, status, facts by name, reason and detail of one that was set aside. A block an image
holds its picture, WebP in base64, or "" and why there is none.
"""

import io
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from pipeline.errors import ImageError, StoreError
from pipeline.methods.registry import describe
from pipeline.results.kinds import Failed
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.status import status_of
from pipeline.views.gallery.pages import Gallery, Page, base64_text, data_block, shown_images, write_page

PAGE = Page("plain.html", "gallery.css", ("plain.js",))
WEBP_QUALITY = 70


def write_plain_gallery(run: RunFolder, path: Path, limit: int | None, thumbnail: int) -> Gallery:
    """Write the page; see `gallery.write_gallery`."""
    reader = RunReader(run)
    lines: list[dict[str, Any]] = []
    without_photo = 0
    with tempfile.TemporaryFile("w+", encoding="ascii") as blocks:
        for _, _, images in shown_images(run, reader, limit):
            for result, photo in images:
                block = {"picture": "", "problem": photo.detail if isinstance(photo, ImageError) else ""}
                without_photo += isinstance(photo, ImageError)
                if not isinstance(photo, ImageError):
                    picture = (
                        Image.fromarray(photo.rgb)
                        if isinstance(result, Failed)
                        else reader.kind.draw(photo.rgb, result)
                    )
                    block["picture"] = _webp(picture, thumbnail)
                blocks.write(data_block(f"image-{len(lines)}", block))
                lines.append(_line(reader, result))
        if not lines:
            raise StoreError(f"no image of {run.url} is finished: `cuts3d run --out {run.url}` resumes it")
        facts = {"recipe": run.recipe, **dict(describe(run.method, run.config))}
        status = status_of(run.url)
        facts |= {"images": f"{status.done_images} of {run.n_images}"}
        facts |= dict(reader.kind.summary({**status.counts, "images": status.done_images}))
        facts |= {"set aside": str(status.quarantined)}
        blocks.seek(0)
        write_page(path, PurePosixPath(run.url).name, PAGE, {"facts": facts, "images": lines}, blocks)
    return Gallery(path, len(lines), without_photo, path.stat().st_size)


def _line(reader: RunReader, result: Any) -> dict[str, Any]:
    line = {"id": result.id, "status": result.status, "facts": {}, "reason": ""}
    if isinstance(result, Failed):
        return line | {"reason": f"{result.reason}: {result.detail}"}
    return line | {"facts": dict(reader.kind.facts(result))}


def _webp(picture: Image.Image, longest: int) -> str:
    scale = min(1.0, longest / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    file = io.BytesIO()
    picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(file, "WEBP", quality=WEBP_QUALITY, method=6)
    return base64_text(file.getvalue())
