"""Which image of a run is which one of a truth: by path, by name, or by the id that both have for it."""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence

from pipeline.errors import ImageError, SourceError
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import photo_size
from pipeline.wording import few_of

log = logging.getLogger(__name__)


def none_scored(run: str, truth: str, names: tuple[str, str], why: Mapping[str, int]) -> SourceError:
    """What is said where no image of a run can be scored.

    run, truth: what they are called. names: of the first image of the run, and of the truth.
    why: how many images, by the reason; those that are not in the truth are under "not in it".
    """
    told = dict(why)
    lacking = told.pop("not in it")
    parts = [f"{lacking} are not in it (the run has {names[0]}, the truth {names[1]})"] if lacking else []
    parts += [f"{count} {reason}" for reason, count in told.items() if count]
    return SourceError(f"no image of {run} can be scored with {truth}: {', '.join(parts) or 'there is none'}")


def same_images(
    images: Mapping[str, str], truth: Mapping[int, str], name: str, coco_ids: Mapping[str, int | None] | None = None
) -> dict[str, int | None]:
    """By id of each image of a run the number of the same image in the truth.

    That is the one with the same path, else the one with the same name whose folders, from the last one up, are the
    same for longest, if it is one alone; else the one whose number is the image's COCO id. Images that may be the same
    one of the truth are none of it, and the log says so.

    images: path of each, by id.
    truth: path of each, by number.
    name: of the truth, for the log.
    coco_ids: of the images; None where numbers of the truth mean nothing.
    """
    by_path = {_plain(path): number for number, path in truth.items()}
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in by_path:
        by_name[_name(path)].append(path)

    unclear = []
    found: dict[str, int | None] = {}
    for id_, image in images.items():
        path = _plain(image)
        others = [path] if path in by_path else by_name.get(_name(path), [])
        closest = _closest(path, others)
        found[id_] = by_path[closest] if closest is not None else None
        if others and closest is None:
            unclear.append((image, others))
    if unclear:
        image, others = unclear[0]
        log.warning(
            "%d images of the run are not scored, since %s has several of their name: %s may be %s",
            *(len(unclear), name, image, few_of(others)),
        )
    # Two files may number their images in their own ways: a name counts for more.
    free = truth.keys() - found.values() if coco_ids else set()
    found |= {id_: coco_id for id_, coco_id in (coco_ids or {}).items() if found[id_] is None and coco_id in free}
    return found | dict.fromkeys(_claimed_twice(found, images, by_path, truth, name))


def is_turned(ref: ImageRef) -> bool:
    """Whether EXIF data turns a photo; so it is said of one that cannot be read, for nobody knows."""
    try:
        return photo_size(ref).turned
    except ImageError:
        return True


def _closest(path: str, others: Sequence[str]) -> str | None:
    """Of paths with one name that with the most folders in common before it, if it is one alone."""
    if len(others) < 2:
        return others[0] if others else None
    ranked = sorted((_common_folders(path, other), other) for other in others)
    return ranked[-1][1] if ranked[-1][0] > ranked[-2][0] else None


def _common_folders(path: str, other: str) -> int:
    parts, others = path.split("/")[-2::-1], other.split("/")[-2::-1]
    pairs = zip(parts, others, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(parts), len(others)))


def _claimed_twice(
    found: Mapping[str, int | None],
    images: Mapping[str, str],
    by_path: Mapping[str, int],
    truth: Mapping[int, str],
    name: str,
) -> list[str]:
    """Images of the run that may be one of the truth that others may be, too; one with its very path is it."""
    claims: dict[int, list[str]] = defaultdict(list)
    for image, number in found.items():
        if number is not None:
            claims[number].append(image)
    several = {number: claimants for number, claimants in claims.items() if len(claimants) > 1}
    for number, claimants in several.items():
        exact = [image for image in claimants if by_path.get(_plain(images[image])) == number]
        several[number] = [image for image in claimants if exact != [image]]
    if several:
        number, claimants = next(iter(several.items()))
        log.warning(
            "%d images of the run are not scored, since %s does not tell them apart: %s may be %s; give it file names "
            "that do",
            *(sum(map(len, several.values())), name, few_of(claimants), truth[number]),
        )
    return [image for claimants in several.values() for image in claimants]


def _plain(path: str) -> str:
    """In one form of Unicode, of which names have two, and with "/" where Windows has "\\"."""
    return unicodedata.normalize("NFC", path).replace("\\", "/")


def _name(path: str) -> str:
    return path.rpartition("/")[2]
