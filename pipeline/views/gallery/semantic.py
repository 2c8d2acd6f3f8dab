"""The page of a run of semantic labels: its images with their classes in colour, a legend that filters, and confidence.

The index has name and colour of each class, and a line an image: id, status, reason of one that was set aside, mean
confidence (null where it was) and shares, by number of the class, 255 for pixels without one, of the image's pixels. A
block an image holds `photo`, `problem`, `size` and `small` as in the gallery of masks; `cells`, rows and columns of
confidence; `detail`; and `maps`, deflated bytes: labels of small[0] · small[1] pixels, each row XOR the row above it,
then confidence, 255 = 1, each row minus the row above it, modulo 256.
"""

import zlib
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images.photos import Photo
from pipeline.methods.registry import describe
from pipeline.results.kinds import Failed, added
from pipeline.results.semantic import NONE, SemanticRecord
from pipeline.results.semantic_assignment import Assignment
from pipeline.results.semantic_overlay import shown_map
from pipeline.runs.ledger import by_try
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import LabelReader, SemanticReader
from pipeline.views.gallery.blocks import picture_fields
from pipeline.views.gallery.pages import Gallery, Page, base64_text, begun_page, shown_images


def label_page(kind: str) -> Page:
    """The page of a kind of labels. kind: the file of its script that has what only this kind shows, see labels.js."""
    scripts = ("common.js", "viewer.js", "facets.js", "cards.js", "panels.js", "drawing.js", kind, "labels.js")
    return Page("labels.html", ("gallery.css", "labels.css"), scripts)


PAGE = label_page("semantic.js")
_PIXELS_PER_CELL = 4  # of the thumbnail: finer confidence is not shown


def write_semantic_gallery(
    run: RunFolder, path: Path, limit: int | None, thumbnail: int, assignment: Assignment | None = None
) -> Gallery:
    """Write the page; see `gallery.write_gallery`. assignment: whose classes are shown in place of clusters."""
    reader = SemanticReader(run, assignment)
    with begun_page(run, path, PAGE) as page:
        for _, _, images in shown_images(run, reader, limit):
            for result, photo in images:
                block = image_block(result, photo, thumbnail)
                page.add(index_line(result), block, has_photo=bool(block["photo"]))
        return page.write(lambda: _index(run, reader, page.lines))


def image_block(result: SemanticRecord | Failed, photo: Photo | ImageError, thumbnail: int) -> dict[str, Any]:
    """All that the page shows of one image. photo: or why there is none. thumbnail: longest side, pixels."""
    picture = picture_fields(result.size, photo, thumbnail)
    if isinstance(result, Failed):
        return {**picture, "status": result.status, "detail": result.detail, "cells": [0, 0], "maps": packed()}
    height, width = picture["small"]
    labels = shown_map(result.labels, (width, height))
    most = -(-height // _PIXELS_PER_CELL), -(-width // _PIXELS_PER_CELL)
    rows, columns = (min(own, shown) for own, shown in zip(result.cells.shape, most, strict=True))
    cells = np.asarray(Image.fromarray(result.cells).resize((columns, rows), Image.Resampling.BOX))
    crossed = np.vstack([labels[:1], labels[1:] ^ labels[:-1]])
    steps = np.diff(cells, axis=0, prepend=np.zeros((1, columns), np.uint8))
    return {
        **picture,
        "status": result.status,
        "detail": "",
        "cells": [rows, columns],
        "maps": packed(crossed, steps),
    }


def packed(*maps: np.ndarray) -> str:
    """Maps one after the other, deflated, as text."""
    return base64_text(zlib.compress(b"".join(map_.tobytes() for map_ in maps), 9))


def _index(run: RunFolder, reader: SemanticReader, lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "run": facts_of(run, reader),
        "grid": [1, 1],  # cells of confidence differ from image to image
        "classes": reader.classes.to_json(),
        "images": lines,
    }


def facts_of(run: RunFolder, reader: LabelReader[Any]) -> dict[str, Any]:
    """What the head of the page says of the whole run. From the commits alone: the shards are read once."""
    counts = [commit.counts for commit in reader.commits.values()]
    first_tries = [reader.commits[key].counts for key in by_try(reader.commits)[0]]
    total = reader.named_counts(reduce(added, counts))
    return {
        "name": PurePosixPath(run.url).name,
        "created": run.created,
        "fingerprint": run.fingerprint[:12],
        "recipe": run.recipe,
        "method": dict(describe(run.method, run.config)),
        "images": run.n_images,
        "finished": sum(count["images"] for count in first_tries),
        "pixels": sum(total["pixels"].values()),
        "occurring": len(total["pixels"]),
        "unlabelled": total["unlabelled"],
        "quarantined": len(reader.quarantined()),
    }


def index_line(result: SemanticRecord | Failed) -> dict[str, Any]:
    """What images are sorted and filtered by."""
    line: dict[str, Any] = {"id": result.id, "status": result.status, "reason": "", "confidence": None, "shares": {}}
    if isinstance(result, Failed):
        return line | {"reason": result.reason}
    shares = {c: _share(count, result) for c, count in enumerate(result.pixels) if count}
    none = {NONE: _share(result.unlabelled, result)} if result.unlabelled else {}
    return line | {"confidence": round(result.mean_confidence, 4), "shares": {**shares, **none}}


def _share(pixels: int, result: SemanticRecord) -> float:
    """With six digits, so that a single pixel counts."""
    return float(f"{pixels / result.n_pixels:.6g}")
