"""Results out of the store: COCO JSON and mask files of instances, pictures of any kind. All of them stream, a shard in
memory at a time.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import ConfigError, ImageError, StoreError
from pipeline.images.photos import load_photo
from pipeline.methods.registry import moved_command
from pipeline.results.instance_coco import CATEGORY, annotations_of
from pipeline.results.instance_kind import NAME as INSTANCES
from pipeline.results.instance_overlay import decode
from pipeline.results.kinds import Failed
from pipeline.results.panoptic_kind import NAME as PANOPTIC
from pipeline.results.semantic_assignment import Assignment
from pipeline.results.semantic_kind import NAME as SEMANTIC
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.ledger import by_try
from pipeline.runs.needed_kind import need_kind
from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import SemanticReader
from pipeline.views.coco_file import coco_file, with_coco_ids
from pipeline.views.picture_files import of_image, picture_names, save_picture

_MOST_IN_8_BITS, _MOST_IN_16_BITS = (1 << 8) - 1, (1 << 16) - 1


def export_coco(run: RunFolder, file: str | Path, min_score: float = 0.0) -> int:
    """Write the run as COCO JSON, class-agnostic (one category, "foreground"); returns the number of annotations.

    Image ids are those of the COCO file that the run was made from, else 1, 2, ... in manifest order; file_name is the
    image's id in the manifest. Quarantined images are left out: whether they hold objects is not known. Each
    annotation has score, mean_confidence (0..1, over the mask's patches), iscrowd 0 and, where the method tells them
    apart, level (0 whole, 1 part, 2 subpart). The file appears whole or not at all. min_score: masks with lower scores
    are left out, of this and of the other exports.

    Raises StoreError, as the other exports do, while no shard of the run is done.
    """
    reader = InstanceReader(run, min_score)
    reader.need_any()
    with coco_file(file, run, "cuts3d pseudo-masks", [CATEGORY]) as out:
        for image_id, record in with_coco_ids(run, reader):
            if not isinstance(record, Failed):
                height, width = record.size
                image = {"id": image_id, "file_name": record.id, "height": height, "width": width}
                out.add(image, annotations_of(record, image_id))
        return out.annotations


def export_masks(run: RunFolder, folder: str | Path, min_score: float = 0.0) -> int:
    """Write each image's masks as one PNG, see `picture_names`: 0 background, i+1 for its i-th mask; 8 bit, 16 for an
    image with more than 255 masks; smaller masks over larger ones where they overlap. Returns the number of files.
    Images without masks get an all-zero file.

    Raises ConfigError, before anything is written, for an image with more masks than 16 bits can number.
    """
    root, names = Path(folder), picture_names(run)
    reader = InstanceReader(run, min_score)
    reader.need_any()
    _refuse_too_many(reader)
    files = 0
    for record in reader:
        if isinstance(record, Failed):
            continue
        labels = np.zeros(record.size, np.uint8 if len(record.instances) <= _MOST_IN_8_BITS else np.uint16)
        for i, instance in sorted(enumerate(record.instances), key=lambda pair: -pair[1].area):
            labels[decode(instance.rle, record.size)] = i + 1
        save_picture(Image.fromarray(labels), root, of_image(names, record))
        files += 1
    return files


def export_overlays(
    run: RunFolder,
    folder: str | Path,
    limit: int | None = None,
    min_score: float = 0.0,
    assignment: Assignment | None = None,
    threshold: float | None = None,
) -> list[Path]:
    """Draw each image with its result, one PNG each, see `picture_names`; at most `limit` images. Returns the files.
    Results of any kind; min_score is for instance masks, assignment for labels, threshold for panoptic ones, see
    `PanopticReader`.

    Raises StoreError when a photo that the run has processed cannot be read any more.
    """
    root, names = Path(folder), picture_names(run)
    refs = {ref.id: ref for ref in run.manifest.refs}
    files: list[Path] = []
    reader = _drawn(run, min_score, assignment, threshold)
    reader.need_any()
    for record in reader:
        if limit is not None and len(files) >= limit:
            break
        if isinstance(record, Failed):
            continue
        try:
            photo = load_photo(of_image(refs, record))
        except ImageError as error:
            raise StoreError(
                f"photo {record.id} of the run cannot be read any more: {error.detail}",
                f"If the photos have moved, `{moved_command(run)}` tells the run where they are now",
            ) from error
        files.append(save_picture(reader.draw(photo.rgb, record), root, of_image(names, record)))
    return files


def _drawn(run: RunFolder, min_score: float, assignment: Assignment | None, threshold: float | None) -> RunReader:
    if run.result == PANOPTIC or threshold is not None:
        return PanopticReader(run, threshold, assignment)
    if assignment is not None:
        return SemanticReader(run, assignment)
    return InstanceReader(run, min_score) if min_score else RunReader(run)


def refuse_misfits(
    run: RunFolder, of_masks: Mapping[str, object], of_labels: Mapping[str, object], of_panoptic: Mapping[str, object]
) -> None:
    """ConfigError, before anything is written, for options that do not go with what the run holds.

    of_masks, of_labels, of_panoptic: values of the options, by name, that need instance masks, labels of any kind, and
        panoptic labels.
    """
    for kind, also, options in (
        (INSTANCES, (), of_masks),
        (SEMANTIC, (PANOPTIC,), of_labels),
        (PANOPTIC, (), of_panoptic),
    ):
        for option, value in options.items():
            if value:
                need_kind(run, kind, option, also)


def _refuse_too_many(reader: InstanceReader) -> None:
    """Shards have to be opened only where one has more masks than an image may have."""
    for key in by_try(reader.commits)[0]:
        if reader.commits[key].counts["masks"] <= _MOST_IN_16_BITS:
            continue
        for record in reader.results(key):
            if not isinstance(record, Failed) and len(record.instances) > _MOST_IN_16_BITS:
                raise ConfigError(
                    f"{record.id} has {len(record.instances)} masks, and a PNG of 16 bits numbers {_MOST_IN_16_BITS}: "
                    "raise --min-score, or export as COCO JSON"
                )
