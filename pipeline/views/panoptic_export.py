"""Panoptic labels out of the store: as COCO has them, and as Cityscapes has instances.

H, W pixels
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.results.kinds import Failed
from pipeline.results.panoptic_coco import categories_of, coloured_segments
from pipeline.results.panoptic_segments import VOID, Segments, segments_of
from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.storage.outputs import output_file
from pipeline.views.coco_file import coco_file, with_coco_ids
from pipeline.views.picture_files import of_image, picture_names, save_picture
from pipeline.views.semantic_export import LEGEND, Exported, legend_of

PANOPTIC = "panoptic.json"
SCHEMA = "cuts3d-instance-ids/1"
PER_CLASS = 1000  # instances of a class that Cityscapes' ids can tell apart, from 0
_LARGEST = np.iinfo(np.uint16).max
_PHOTO, _MAP = "_leftImg8bit.png", "_gtFine_instanceIds.png"


def export_panoptic(reader: PanopticReader, folder: str | Path) -> Exported:
    """Write a run as COCO has panoptic labels: PANOPTIC, and beside it in a folder of its name, `panoptic/`, a PNG an
    image, see `picture_names` and `panoptic_coco`. The JSON appears whole or not at all. Images set aside are left out.

    Image ids are those of the COCO file that the run was made from, else 1, 2, ... in manifest order. Void is what has
    no class, or is of a thing class and in no instance.

    A shard is in memory at a time. Raises StoreError while no shard of the run is done.
    """
    run, root = reader.run, Path(folder)
    names, split, segments = picture_names(run), reader.split, 0
    pictures = root / Path(PANOPTIC).stem
    with coco_file(root / PANOPTIC, run, "cuts3d panoptic labels", categories_of(split), numbered=False) as out:
        for image_id, record in with_coco_ids(run, reader):
            if isinstance(record, Failed):
                continue
            colours_HW3, info = coloured_segments(segments_of(record, split), split.classes)
            name = of_image(names, record)
            save_picture(Image.fromarray(colours_HW3), pictures, name)
            height, width = record.size
            image = {"id": image_id, "file_name": record.id, "height": height, "width": width}
            out.add(image, [{"image_id": image_id, "file_name": name, "segments_info": info}])
            segments += len(info)
    return Exported(out.images, segments)


def export_instance_ids(reader: PanopticReader, folder: str | Path, ids: Sequence[int] | None = None) -> Exported:
    """Write each image as a PNG of 16 bits as Cityscapes' instanceIds: an instance of a thing class is id · 1000 + n,
    n from 0 in the order of the record's instances, stuff its class's id, void 0. Beside them LEGEND, which says id,
    name, colour and thing of each class. It appears whole or not at all; images set aside are left out.

    A PNG is called as its photo, without `_leftImg8bit`, with `_gtFine_instanceIds` before its ending.

    ids: of each class, different, from 1; None for the number of the class plus 1.

    Raises StoreError while no shard of the run is done, and ConfigError, before anything is written, for a thing class
    whose ids do not fit 16 bits, and for an image with more than 1000 instances of one.
    """
    root, split = Path(folder), reader.split
    ids = [c + 1 for c in range(len(split.classes))] if ids is None else ids
    _refuse_large_ids(reader, ids)
    _refuse_many(reader)
    names, maps, segments = _map_names(reader), 0, 0
    for record in reader:
        if isinstance(record, Failed):
            continue
        found = segments_of(record, split)
        save_picture(Image.fromarray(_instance_ids(found, ids)), root, of_image(names, record))
        maps += 1
        segments += len(found.segments)
    things, own = split.things.tolist(), split.classes.to_json()
    classes = [{"id": ids[c], "label": c, **one, "thing": things[c]} for c, one in enumerate(own)]
    with output_file(root / LEGEND) as legend:
        legend.write(legend_of(reader, SCHEMA, VOID, classes))
    return Exported(maps, segments)


def _instance_ids(found: Segments, ids: Sequence[int]) -> np.ndarray:
    """uint16 (H, W)."""
    number: Counter[int] = Counter()
    table = [VOID]
    for one in found.segments:
        table.append(ids[one.class_] * PER_CLASS + number[one.class_] if one.is_thing else ids[one.class_])
        number[one.class_] += 1
    return np.array(table, np.uint16)[found.ids_HW]


def _map_names(reader: PanopticReader) -> dict[str, str]:
    """Of each image; where two would have the same, all keep the ending of their photos."""
    plain = picture_names(reader.run)
    short = {id_: name.removesuffix(_PHOTO).removesuffix(".png") + _MAP for id_, name in plain.items()}
    if len({name.casefold() for name in short.values()}) == len(short):
        return short
    return {id_: name.removesuffix(".png") + _MAP for id_, name in plain.items()}


def _refuse_large_ids(reader: PanopticReader, ids: Sequence[int]) -> None:
    split, largest = reader.split, (_LARGEST + 1) // PER_CLASS - 1
    for c in split.thing_classes:
        if ids[c] > largest:
            raise ConfigError(
                f"{split.classes.names[c]} is a thing with id {ids[c]}, and the ids of things in 16 bits end at "
                f"{largest}: export with --panoptic, which has no such limit"
            )


def _refuse_many(reader: PanopticReader) -> None:
    """Shards have to be opened only if one of them has more instances than an image may have."""
    if max(commit.counts["instances"] for commit in reader.commits.values()) <= PER_CLASS:
        return
    names, things = reader.split.classes.names, reader.split.things
    for record in reader:
        if isinstance(record, Failed):
            continue
        for c, number in Counter(one.class_ for one in record.instances).items():
            if things[c] and number > PER_CLASS:
                raise ConfigError(
                    f"{record.id} has {number} instances of {names[c]}, and Cityscapes numbers {PER_CLASS}: "
                    "export with --panoptic, which has no such limit"
                )
