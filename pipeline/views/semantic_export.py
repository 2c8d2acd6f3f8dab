"""Semantic labels out of the store: maps as PNG with a palette, their legend, and segments as COCO-Stuff JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.results.kinds import Failed
from pipeline.results.semantic import NONE, Classes
from pipeline.results.semantic_assignment import Assignment
from pipeline.results.semantic_coco import annotations_of, categories_of
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import LabelReader, SemanticReader
from pipeline.storage.outputs import output_file
from pipeline.views.coco_file import coco_file, with_coco_ids
from pipeline.views.picture_files import of_image, picture_names, save_picture

LEGEND, SEGMENTS = "labels.json", "segments.json"
SCHEMA = "cuts3d-labels/1"


class Exported(NamedTuple):
    """Numbers of maps and of segments that were written."""

    maps: int
    segments: int


def export_semantic(run: RunFolder, folder: str | Path, assignment: Assignment | None = None) -> Exported:
    """Write each image's labels as one PNG of 8 bits with a palette, see `picture_names`: pixel = class, 255 = none,
    drawn black. Beside them two JSON files that appear whole or not at all: LEGEND, number, name and colour of each
    class, and the class of each cluster if an assignment says so; SEGMENTS, a COCO-Stuff file with one segment per
    class and image, category = class + 1, whose images name their PNG in "map". Images set aside are left out.

    assignment: whose classes are written in place of the run's clusters; clusters without a class become 255.

    A shard is in memory at a time. Raises StoreError while no shard of the run is done, ConfigError for a run of
    another kind or an assignment of other clusters.
    """
    root, names = Path(folder), picture_names(run)
    reader = SemanticReader(run, assignment)
    palette = _palette(reader.classes)
    with coco_file(root / SEGMENTS, run, "cuts3d semantic labels", categories_of(reader.classes)) as out:
        for image_id, record in with_coco_ids(run, reader):
            if isinstance(record, Failed):
                continue
            map_ = Image.fromarray(record.labels)
            map_.putpalette(palette)
            name = of_image(names, record)
            save_picture(map_, root, name)
            height, width = record.size
            image = {"id": image_id, "file_name": record.id, "height": height, "width": width, "map": name}
            out.add(image, annotations_of(record, image_id))
    with output_file(root / LEGEND) as legend:
        legend.write(_legend(reader))
    return Exported(out.images, out.annotations)


def _palette(classes: Classes) -> bytes:
    """All 256 colours, so that no writer packs the indices into fewer bits."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = classes.colours
    return table.tobytes()


def _legend(reader: SemanticReader) -> str:
    classes = [{"label": c, **one} for c, one in enumerate(reader.classes.to_json())]
    return legend_of(reader, SCHEMA, NONE, classes)


def legend_of(reader: LabelReader[Any], schema: str, none: int, classes: Sequence[Mapping[str, Any]]) -> str:
    """The text of a file that says what pixels of a run's maps mean. none: of pixels without a class."""
    run = reader.run
    legend: dict[str, object] = {"schema": schema, "run": run.fingerprint, "recipe": run.recipe, "none": none}
    legend["classes"] = classes
    if reader.assignment is not None:
        pairs = zip(reader.assignment.clusters, reader.assignment.class_of, strict=True)
        legend["clusters"] = [{"name": name, "label": index} for name, index in pairs]
    return json.dumps(legend, indent=1, ensure_ascii=False) + "\n"
