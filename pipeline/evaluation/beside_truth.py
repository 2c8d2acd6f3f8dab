"""Results of a run beside the truth of their images, whatever results and truth hold, and what cannot be scored."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

from pipeline.errors import ImageError, SourceError
from pipeline.evaluation.same_images import none_scored
from pipeline.evaluation.semantic_sizes import Size, is_same_shape
from pipeline.images.left_out import LeftOut
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_ahead
from pipeline.results.kinds import Failed

_READERS = 4  # of truths, at a time


class Truth(Protocol):
    """Images with a truth.

    name: as the user gave it.
    paths: of each image a path to compare with those of a run, by its number.
    """

    name: str
    paths: Mapping[int, str]

    def matched(self, refs: Sequence[ImageRef]) -> dict[str, int | None]:
        """By id of each image of a run the number of the same one here, None where there is none."""


class TrueMap(Protocol):
    """The truth of one image."""

    @property
    def size(self) -> Size:
        """Height, width."""

    @property
    def strange(self) -> Mapping[int, int]:
        """Pixels by value that the truth does not know, -1 for a colour; these do not count."""


class Result(Protocol):
    """What a run holds for one image."""

    @property
    def id(self) -> str:
        """Of the image."""

    @property
    def size(self) -> Size:
        """Height, width."""


R = TypeVar("R", bound=Result)
T = TypeVar("T", bound=TrueMap)


@dataclass(frozen=True)
class ScoredImages:
    """Which images of a run can be scored, and which cannot.

    numbers: of those that can, in the truth.
    unlabelled: images of the run that the truth has not.
    set_aside: images that the run could not use.
    other_size: images whose truth has another shape.
    odd: images whose truth cannot be read.
    resized: how many of `numbers` were brought to the truth's size.
    """

    numbers: tuple[int, ...]
    unlabelled: tuple[str, ...] = ()
    set_aside: tuple[str, ...] = ()
    other_size: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    resized: int = 0

    def places(self, numbers: Sequence[int]) -> list[int]:
        """Of images, by number, their places among those that can be scored."""
        place = dict(zip(self.numbers, range(len(self.numbers)), strict=True))
        return [place[number] for number in numbers]

    def to_json(self) -> dict[str, object]:
        """Without the images that can be scored."""
        return {
            "unlabelled": len(self.unlabelled),
            "set_aside": self.set_aside,
            "other_size": self.other_size,
            "odd_truth": self.odd,
            "resized": self.resized,
        }


class BesideTruth:
    """Takes the results of a run through the truth of their images.

    refs: images of the run.
    url: of the run, for messages.
    told: numbers of images whose faults in the truth are said already, by another run, and not again; those said now
        are added.

    Attribute `images`: of those that `pairs` has given; whole at its end.
    """

    def __init__(self, truth: Truth, refs: Sequence[ImageRef], url: str, told: set[int] | None = None) -> None:
        self.images = ScoredImages(())
        self._told = set[int]() if told is None else told
        self._truth, self._refs, self._url = truth, {ref.id: ref for ref in refs}, url
        self._found = truth.matched(refs)

    def pairs(self, results: Iterable[R | Failed], load: Callable[[R, int, ImageRef], T]) -> Iterator[tuple[R, T]]:
        """Each result with a truth of its shape, and that truth, one at a time.

        load: gives the truth of a result, by its number and photo; some are read ahead, in threads.

        Raises SourceError at the end where there was none.
        """
        numbers, unlabelled, set_aside = list[int](), list[str](), list[str]()
        other_size, odd, n_resized = list[str](), list[str](), 0
        left_out = LeftOut(self._truth.name, "maps")
        strange = LeftOut(self._truth.name, "numbers in maps")

        def wanted() -> Iterator[tuple[R, int]]:
            for result in results:
                number = self._found[result.id]
                if number is None:
                    unlabelled.append(result.id)
                elif isinstance(result, Failed):
                    set_aside.append(result.id)
                else:
                    yield result, number

        def truth_of(one: tuple[R, int]) -> T:
            return load(*one, self._refs[one[0].id])

        for (result, number), true in load_ahead(wanted(), truth_of, _READERS):
            is_told = number in self._told
            self._told.add(number)
            if isinstance(true, ImageError):
                odd.append(result.id)
                if not is_told:
                    left_out.add(true.reason, true.detail)
                continue
            for value, pixels in () if is_told else true.strange.items():
                what = "a colour" if value < 0 else str(value)
                strange.add("unknown", f"{what} in {self._truth.paths[number]}, whose {pixels} pixels do not count")
            if not is_same_shape(result.size, true.size):
                other_size.append(result.id)
                continue
            n_resized += result.size != true.size
            numbers.append(number)
            yield result, true
        left_out.tell(len(numbers) + len(other_size) + len(odd))
        strange.tell()
        self.images = ScoredImages(
            tuple(numbers), tuple(unlabelled), tuple(set_aside), tuple(other_size), tuple(odd), n_resized
        )
        if not numbers:
            raise self._none_scored()

    def _none_scored(self) -> SourceError:
        images = self.images
        why = {
            "not in it": len(images.unlabelled),
            "were set aside by the run": len(images.set_aside),
            "have a truth that cannot be read": len(images.odd),
            "have another shape there": len(images.other_size),
        }
        names = next(iter(self._refs)), next(iter(self._truth.paths.values()))
        not_done = {"are not done yet": len(self._refs) - sum(why.values())}
        return none_scored(self._url, self._truth.name, names, {**why, **not_done})


def common_images(found: Sequence[tuple[str, ScoredImages]], truth: str) -> list[int]:
    """Images that all runs can be scored on, ascending. found: url and images of each run.

    Raises SourceError where there is none.
    """
    common = sorted(set.intersection(*(set(images.numbers) for _, images in found)))
    if not common:
        raise SourceError(f"{found[0][0]} and {found[1][0]} have no image of {truth} in common")
    return common


def images_line(found: Sequence[tuple[str, ScoredImages]], scored: int, missing: int) -> str:
    """How many images were scored, and what became of the others.

    found: url and images of each run.
    scored: images that all runs were scored on.
    missing: images of the truth that were not scored.
    """
    parts = [f"{scored} scored"]
    without = missing
    if len(found) == 1:  # which says of each of the others why it is not scored
        one = found[0][1]
        without -= len(one.set_aside) + len(one.odd) + len(one.other_size)
    if without:
        parts.append(f"{without} of the truth left out: not in {'the run' if len(found) == 1 else 'both'}")
    for url, images in found:
        of = f" by {PurePosixPath(url).name}" if len(found) > 1 else ""
        parts += [
            f"{count} {what}{of}"
            for count, what in (
                (len(images.set_aside), "set aside"),
                (len(images.odd), "with a truth that cannot be read"),
                (len(images.other_size), "of another shape in the truth"),
                (images.resized, "brought to the truth's size"),
            )
            if count
        ]
    unlabelled = {name for _, images in found for name in images.unlabelled}
    if unlabelled:
        parts.append(f"{len(unlabelled)} of the run not in the truth")
    return "; ".join(parts)
