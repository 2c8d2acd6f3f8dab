"""Results out of the store: COCO JSON and mask files of instances, pictures of any kind. All of them stream, a shard in
memory at a time.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from pipeline.errors import ConfigError, ImageError, StoreError
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_photo
from pipeline.methods.registry import moved_command
from pipeline.results.instance_coco import CATEGORY, annotations_of
from pipeline.results.instance_overlay import decode
from pipeline.results.instances import ImageRecord
from pipeline.results.kinds import Failed
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.ledger import by_try
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.files import VERIFY_HINT
from pipeline.storage.outputs import output_file, writing
from pipeline.views.picture_files import output_path, picture_names

T = TypeVar("T")

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
    annotations = 0
    with output_file(file) as out, tempfile.TemporaryFile("w+", encoding="utf-8") as body:
        info = {"description": "cuts3d pseudo-masks", "run": run.fingerprint, "recipe": run.recipe}
        out.write(f'{{"info": {json.dumps(info)}, "licenses": [],\n')
        out.write(f'"categories": [{json.dumps(CATEGORY)}],\n"images": [')
        first = True
        for image_id, record in _with_coco_ids(run, reader):
            if isinstance(record, Failed):
                continue
            height, width = record.size
            image = {"id": image_id, "file_name": record.id, "height": height, "width": width}
            out.write(("\n" if first else ",\n") + json.dumps(image, ensure_ascii=False))
            first = False
            for annotation in annotations_of(record, image_id):
                annotations += 1
                body.write(("\n" if annotations == 1 else ",\n") + json.dumps({"id": annotations, **annotation}))
        out.write('],\n"annotations": [')
        body.seek(0)
        while chunk := body.read(1 << 20):
            out.write(chunk)
        out.write("]}\n")
    return annotations


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
        _save(Image.fromarray(labels), root, _name_of(names, record))
        files += 1
    return files


def export_overlays(run: RunFolder, folder: str | Path, limit: int | None = None, min_score: float = 0.0) -> list[Path]:
    """Draw each image with its result, one PNG each, see `picture_names`; at most `limit` images. Returns the files.
    Results of any kind; min_score is for instance masks.

    Raises StoreError when a photo that the run has processed cannot be read any more.
    """
    root, names = Path(folder), picture_names(run)
    refs = {ref.id: ref for ref in run.manifest.refs}
    files: list[Path] = []
    reader = InstanceReader(run, min_score) if min_score else RunReader(run)
    reader.need_any()
    for record in reader:
        if limit is not None and len(files) >= limit:
            break
        if isinstance(record, Failed):
            continue
        try:
            photo = load_photo(_name_of(refs, record))
        except ImageError as error:
            raise StoreError(
                f"photo {record.id} of the run cannot be read any more: {error.detail}",
                f"If the photos have moved, `{moved_command(run)}` tells the run where they are now",
            ) from error
        files.append(_save(reader.kind.draw(photo.rgb, record), root, _name_of(names, record)))
    return files


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


def _save(image: Image.Image, root: Path, name: str) -> Path:
    path = output_path(root, name)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="PNG")
    return path


def _name_of(known: Mapping[str, T], record: Any) -> T:
    if record.id not in known:
        raise StoreError(f"a shard of the run holds image {record.id!r}, the manifest does not", VERIFY_HINT)
    return known[record.id]


def _with_coco_ids(
    run: RunFolder, records: Iterable[ImageRecord | Failed]
) -> Iterator[tuple[int, ImageRecord | Failed]]:
    """Records with their COCO image ids: the given ones when every image has its own, else their rank in the manifest.

    Both run in the manifest's order, so the two are merged and no table of a million ids is built.
    """
    refs: tuple[ImageRef, ...] = run.manifest.refs
    sound = [ref.coco_id for ref in refs if ref.trouble is None]  # the others have no result
    given = None not in sound and len(set(sound)) == len(sound)
    ranked = enumerate(refs, start=1)
    for record in records:
        rank, ref = next(((rank, ref) for rank, ref in ranked if ref.id == record.id), (0, None))
        if ref is None:
            raise StoreError(f"a shard holds image {record.id!r}, the manifest does not, or elsewhere", VERIFY_HINT)
        yield (ref.coco_id if given and ref.coco_id is not None else rank), record
