"""A run's pseudo-masks as detections in the images of a COCO truth."""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.errors import ImageError, SourceError
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.coco_masks import tell_of_swapped
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import photo_size
from pipeline.results.kinds import Failed
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.run_folder import RunFolder
from pipeline.wording import counted, few_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunDetections:
    """What a run found in the images of a truth.

    by_image: COCO results of each image that can be scored, by its id in the truth, in the order of discovery.
    unlabelled: images of the run that the truth has not.
    set_aside: images that the run could not use.
    other_size: images that have another size in the truth, so that masks cannot be compared; a size that is swapped
        there is put right, see `Truth.is_of_size`.
    """

    url: str
    recipe: str
    by_image: dict[int, list[dict[str, Any]]]
    unlabelled: tuple[str, ...]
    set_aside: tuple[str, ...]
    other_size: tuple[str, ...]


def run_detections(run: RunFolder, truth: Truth, min_score: float = 0.0) -> RunDetections:
    """Read a run's pseudo-masks of at least `min_score` as detections in the images of the truth.

    An image of the run is the one of the truth with the same file_name, else the only one with the same name without
    folders, else the one with the same COCO id, if the truth has ids of its own and no image of the run has its name.
    Images of the run that may be the same one of the truth are none of it, and the log says so.

    Raises:
        SourceError: no image can be scored.
        StoreError: the run is damaged, or no shard of it is done.
    """
    reader = InstanceReader(run, min_score)
    reader.need_any()
    found, refs = _matched(run.manifest.refs, truth), {ref.id: ref for ref in run.manifest.refs}
    swapped = len(truth.swapped)
    by_image: dict[int, list[dict[str, Any]]] = {}
    unlabelled, set_aside, other_size = [], [], []
    for record in reader:
        image_id = found[record.id]
        if image_id is None:
            unlabelled.append(record.id)
        elif isinstance(record, Failed):
            set_aside.append(record.id)
        elif not truth.is_of_size(image_id, record.size, partial(_is_turned, refs[record.id])):
            other_size.append(record.id)
        else:
            by_image[image_id] = [
                {
                    "image_id": image_id,
                    "category_id": 1,
                    "segmentation": {"size": list(record.size), "counts": instance.rle},
                    "bbox": list(instance.box),
                    "score": instance.score,
                }
                for instance in record.instances
            ]
    tell_of_swapped(truth.name, len(truth.swapped) - swapped, len(truth.images))
    if not by_image:
        raise SourceError(
            f"no image of {run.url} can be scored with {truth.name}: {len(unlabelled)} are not in it (the run has "
            f"{run.manifest.refs[0].id}, the truth {next(iter(truth.images.values()))['file_name']}), "
            f"{len(set_aside)} were set aside by the run, {len(other_size)} have another size there, "
            f"{run.n_images - len(unlabelled) - len(set_aside) - len(other_size)} are not done yet"
        )
    return RunDetections(run.url, run.recipe, by_image, tuple(unlabelled), tuple(set_aside), tuple(other_size))


def need_common(refs: Sequence[ImageRef], truth: Truth) -> None:
    """SourceError when none of these images, of a run that is yet to be made, is in the truth."""
    if all(id_ is None for id_ in _matched(refs, truth).values()):
        raise SourceError(
            f"none of {counted(len(refs), 'image')} is in {truth.name}: the images have {refs[0].id}, the truth "
            f"{next(iter(truth.images.values()))['file_name']}"
        )


def _matched(refs: Sequence[ImageRef], truth: Truth) -> dict[str, int | None]:
    """By id of each image of a run the id of the same image in the truth."""
    by_path: dict[str, int] = {_plain(image["file_name"]): id_ for id_, image in truth.images.items()}
    by_name: dict[str, list[int]] = defaultdict(list)
    for path, id_ in by_path.items():
        by_name[_name(path)].append(id_)

    def named(image: str) -> int | None:
        path = _plain(image)
        same_name = by_name.get(_name(path), [])
        return by_path.get(path, same_name[0] if len(same_name) == 1 else None)

    found = {ref.id: named(ref.id) for ref in refs}
    # Two files may number their images in their own ways: a name counts for more.
    free = truth.images.keys() - found.values() if truth.has_own_ids else set()
    found |= {ref.id: ref.coco_id for ref in refs if found[ref.id] is None and ref.coco_id in free}
    return found | dict.fromkeys(_claimed_twice(found, by_path, truth))


def _claimed_twice(found: Mapping[str, int | None], by_path: Mapping[str, int], truth: Truth) -> list[str]:
    """Images of the run that may be one of the truth that others may be, too; one with its very path is it."""
    claims: dict[int, list[str]] = defaultdict(list)
    for image, id_ in found.items():
        if id_ is not None:
            claims[id_].append(image)
    several = {id_: images for id_, images in claims.items() if len(images) > 1}
    for id_, images in several.items():
        exact = [image for image in images if by_path.get(_plain(image)) == id_]
        several[id_] = [image for image in images if exact != [image]]
    if several:
        id_, images = next(iter(several.items()))
        log.warning(
            "%d images of the run are not scored, since %s does not tell them apart: %s may be %s; give it file names "
            "that do",
            *(sum(map(len, several.values())), truth.name, few_of(images), truth.images[id_]["file_name"]),
        )
    return [image for images in several.values() for image in images]


def _plain(path: str) -> str:
    """In one form of Unicode, of which names have two, and with "/" where Windows has "\\"."""
    return unicodedata.normalize("NFC", path).replace("\\", "/")


def _is_turned(ref: ImageRef) -> bool:
    """Whether EXIF data turns a photo; so it is said of one that cannot be read, for nobody knows."""
    try:
        return photo_size(ref).turned
    except ImageError:
        return True


def _name(path: str) -> str:
    return path.rpartition("/")[2]
