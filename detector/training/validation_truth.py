"""What a training is validated with, read and checked before it begins: the first validation may be hours away."""

from dataclasses import dataclass
from functools import lru_cache

from pipeline.errors import ImageError, SourceError
from pipeline.evaluation.truth.coco import Truth
from pipeline.evaluation.truth.formats import read_truth
from pipeline.images.coco_masks import tell_of_swapped
from pipeline.images.left_out import LeftOut
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import PhotoSize, photo_sizes

IMAGES_REMEDY = "say with --val-images what folder its names are relative to"


@dataclass(frozen=True)
class Validation:
    """The true objects, which have masks, and the photos that can be validated with, by the images' ids."""

    truth: Truth
    photos: dict[int, ImageRef]


@lru_cache(maxsize=1)
def read_validation(location: str, images: str) -> Validation:
    """Read and checked once for all that ask: the checks before a training, its photos, and its metric. The training
    forgets it when it ends (`cache_clear`).

    location: COCO JSON, path or URL.
    images: the folder that its file names are relative to.

    Photos that are missing, broken or of another size than the file says are left out, and the log says how many, as
    `evaluate-detector` does. Sizes that are swapped in the file are put right.

    Raises SourceError when the file cannot be read, has no masks, or no photo is left.
    """
    found = read_truth(f"coco:{location}", images)
    truth = found.truth
    if not truth.has_masks:
        raise SourceError(
            f"{location} has boxes and no masks (no_mask): a validation scores masks; give one with masks"
        )
    _, refs = found.refs(IMAGES_REMEDY)
    left_out, swapped = LeftOut(location, "photos"), len(truth.swapped)
    photos: dict[int, ImageRef] = {}
    for image_id, ref, size in zip(truth.images, refs, photo_sizes(refs), strict=True):
        if isinstance(size, ImageError):
            left_out.add(size.reason, size.detail)
        elif not _fits(truth, image_id, size):
            height, width = truth.size(image_id)
            left_out.add("other_size", f"{ref.id}: {size.height} × {size.width} pixels, in the file {height} × {width}")
        else:
            photos[image_id] = ref
    left_out.tell(len(refs))
    tell_of_swapped(location, len(truth.swapped) - swapped, len(truth.images))
    return Validation(truth, photos)


def _fits(truth: Truth, image_id: int, size: PhotoSize) -> bool:
    return truth.is_of_size(image_id, (size.height, size.width), lambda: size.turned)
