"""A run's pseudo-masks as detections in the images of a COCO truth."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
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

    Raises:
        SourceError: two images of the run are the same one of the truth, or none can be scored.
        StoreError: the run is damaged.
    """
    find, refs = _finder(run.manifest.refs, truth), {ref.id: ref for ref in run.manifest.refs}
    swapped = len(truth.swapped)
    by_image: dict[int, list[dict[str, Any]]] = {}
    unlabelled, set_aside, other_size = [], [], []
    for record in InstanceReader(run, min_score):
        image_id = find(record.id)
        if image_id is None:
            unlabelled.append(record.id)
        elif isinstance(record, Failed):
            set_aside.append(record.id)
        elif not truth.is_of_size(image_id, record.size, partial(_is_turned, refs[record.id])):
            other_size.append(record.id)
        elif image_id in by_image:
            raise SourceError(
                f"{record.id} and another image of {run.url} are both {truth.images[image_id]['file_name']} of "
                f"{truth.name}: give the truth file names that tell them apart"
            )
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
    find = _finder(refs, truth)
    if all(find(ref.id) is None for ref in refs):
        raise SourceError(
            f"none of {len(refs)} images is in {truth.name}: the images have {refs[0].id}, the truth "
            f"{next(iter(truth.images.values()))['file_name']}"
        )


def _finder(refs: Sequence[ImageRef], truth: Truth) -> Callable[[str], int | None]:
    """From the id of an image of the run to the id of the same image in the truth."""
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
    by_id = {ref.id: ref.coco_id for ref in refs if ref.coco_id in free}
    return lambda image: by_id.get(image) if found[image] is None else found[image]


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
