"""The page of a run of panoptic labels: its images with classes and instances in colour, a legend that filters and says
which classes are things, and confidence.

Index and blocks are those of `semantic`, and: the index has `things`, of each class whether it is one, and in a line
`instances`, their number, and `empty`, why there is none, "" where there is one. A block has `instances`, class,
confidence and area of each, and `ids`, deflated bytes: of each pixel of the thumbnail the number of its instance, 0 for
none, first the lower bytes of all pixels, then the upper ones.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ImageError
from pipeline.images.photos import Photo
from pipeline.results.kinds import Failed
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.semantic_assignment import Assignment
from pipeline.results.semantic_overlay import shown_map
from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.runs.run_folder import RunFolder
from pipeline.views.gallery import semantic
from pipeline.views.gallery.pages import Gallery, begun_page, shown_images

PAGE = semantic.label_page("panoptic.js")


def write_panoptic_gallery(
    run: RunFolder,
    path: Path,
    limit: int | None,
    thumbnail: int,
    threshold: float | None = None,
    assignment: Assignment | None = None,
) -> Gallery:
    """Write the page; see `gallery.write_gallery`. threshold, assignment: see `PanopticReader`."""
    reader = PanopticReader(run, threshold, assignment)
    with begun_page(run, path, PAGE) as page:
        for _, _, images in shown_images(run, reader, limit):
            for result, photo in images:
                block = image_block(result, photo, thumbnail)
                page.add(_index_line(result), block, has_photo=bool(block["photo"]))
        return page.write(lambda: _index(run, reader, page.lines))


def image_block(result: PanopticRecord | Failed, photo: Photo | ImageError, thumbnail: int) -> dict[str, Any]:
    """All that the page shows of one image. photo: or why there is none. thumbnail: longest side, pixels."""
    if isinstance(result, Failed):
        return {**semantic.image_block(result, photo, thumbnail), "instances": [], "ids": semantic.packed()}
    block = semantic.image_block(result.semantic, photo, thumbnail)
    height, width = block["small"]
    small = shown_map(result.instance_ids, (width, height))
    return {
        **block,
        "status": result.status,
        "instances": [
            {"class": one.class_, "confidence": round(one.confidence, 4), "area": one.area} for one in result.instances
        ],
        "ids": semantic.packed((small & 255).astype(np.uint8), (small >> 8).astype(np.uint8)),
    }


def _index(run: RunFolder, reader: PanopticReader, lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "run": _facts(run, reader),
        "grid": [1, 1],
        "classes": reader.classes.to_json(),
        "things": reader.split.things.tolist(),
        "images": lines,
    }


def _facts(run: RunFolder, reader: PanopticReader) -> dict[str, Any]:
    """With an assignment, which instances have a class is not known from the commits."""
    own = {name: None if reader.assignment else reader.counts[name] for name in ("instances", "empty")}
    return {**semantic.facts_of(run, reader), **own}


def _index_line(result: PanopticRecord | Failed) -> dict[str, Any]:
    """What images are sorted and filtered by."""
    if isinstance(result, Failed):
        return {**semantic.index_line(result), "instances": 0, "empty": ""}
    own = {"status": result.status, "instances": len(result.instances), "empty": result.why_empty}
    return {**semantic.index_line(result.semantic), **own}
