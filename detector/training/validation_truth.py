"""What a training is validated with, read and checked before it begins: the first validation may be hours away."""

from pipeline.errors import ImageError, SourceError
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.coco_masks import tell_of_swapped
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import PhotoSize, photo_sizes
from pipeline.storage.locations import existing, is_file, resolve
from pipeline.wording import counted, few_of, part_of


def read_validation(location: str, images: str) -> tuple[Truth, dict[int, ImageRef]]:
    """The true objects, which have masks, and their photos by the images' ids.

    location: COCO JSON, path or URL.
    images: the folder that its file names are relative to.

    Raises SourceError when the file cannot be read, what it holds cannot be scored, or a photo is not in the folder,
    broken, or of another size than the file says. Sizes that are swapped there are put right.
    """
    truth = Truth.read(location)
    refs = {
        id_: ImageRef(image["file_name"], resolve(image["file_name"], images)) for id_, image in truth.images.items()
    }
    absent = [ref.uri for ref in refs.values() if not is_file(existing(ref.uri) or ref.uri)]
    if absent:
        raise SourceError(
            f"{location}: {part_of(len(absent), len(refs), 'photo')} not in {images}, such as {absent[0]}: give the "
            "folder that its file names are relative to"
        )
    swapped = len(truth.swapped)
    sizes = zip(refs.items(), photo_sizes(list(refs.values())), strict=True)
    odd = [trouble for (id_, ref), size in sizes if (trouble := _trouble(truth, id_, ref, size))]
    if odd:
        raise SourceError(
            f"{len(odd)} of {counted(len(refs), 'photo')} of {location} cannot be validated with: {few_of(odd)}"
        )
    tell_of_swapped(location, len(truth.swapped) - swapped, len(truth.images))
    return truth, refs


def _trouble(truth: Truth, image_id: int, ref: ImageRef, size: PhotoSize | ImageError) -> str:
    if isinstance(size, ImageError):
        return f"{ref.id} ({size.detail})"
    if truth.is_of_size(image_id, (size.height, size.width), lambda: size.turned):
        return ""
    height, width = truth.size(image_id)
    return f"{ref.id} ({size.height} × {size.width} pixels, in the file {height} × {width})"
