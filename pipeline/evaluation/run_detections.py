"""A run's pseudo-masks as detections in the images of a COCO truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.errors import SourceError
from pipeline.evaluation.same_images import is_turned, none_scored, same_images
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.coco_masks import tell_of_swapped
from pipeline.images.manifest import ImageRef
from pipeline.images.many_objects import without_gc
from pipeline.results.kinds import Failed
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.run_folder import RunFolder
from pipeline.wording import counted


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


@without_gc()
def run_detections(run: RunFolder, truth: Truth, min_score: float = 0.0) -> RunDetections:
    """Read a run's pseudo-masks of at least `min_score` as detections in the images of the truth.

    Which image is which, see `same_images`.

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
        elif not truth.is_of_size(image_id, record.size, partial(is_turned, refs[record.id])):
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
        why = {
            "not in it": len(unlabelled),
            "were set aside by the run": len(set_aside),
            "have another size there": len(other_size),
        }
        names = run.manifest.refs[0].id, str(next(iter(truth.images.values()))["file_name"])
        raise none_scored(run.url, truth.name, names, {**why, "are not done yet": run.n_images - sum(why.values())})
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
    names = {id_: str(image["file_name"]) for id_, image in truth.images.items()}
    own_ids = {ref.id: ref.coco_id for ref in refs} if truth.has_own_ids else None
    return same_images({ref.id: ref.id for ref in refs}, names, truth.name, own_ids)
