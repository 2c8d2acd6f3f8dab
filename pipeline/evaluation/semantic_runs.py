"""A run's labels beside the true classes of its images.

H, W pixels
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ImageError, SourceError, StoreError
from pipeline.evaluation.semantic_scores import Confusions
from pipeline.evaluation.semantic_sizes import cropped, is_same_shape, resized
from pipeline.evaluation.semantic_truth.truth import SemanticTruth, TrueLabels
from pipeline.images.left_out import LeftOut
from pipeline.images.photos import load_ahead
from pipeline.results.kinds import Failed
from pipeline.results.semantic import SemanticRecord
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import SemanticReader

log = logging.getLogger(__name__)

_READERS = 4  # of maps, at a time


@dataclass(frozen=True)
class RunLabels:
    """What a run says of the images of a truth.

    clusters: names of its labels.
    model: digest of what made them, see `SemanticReader.model`.
    confusions: of each image that can be scored.
    numbers: of these, in the truth.
    unlabelled: images of the run that the truth has not.
    set_aside: images that the run could not use.
    other_size: images whose truth has another shape.
    odd: images whose truth cannot be read.
    resized: how many of `numbers` were brought to the truth's size.
    """

    url: str
    recipe: str
    clusters: tuple[str, ...]
    model: str
    confusions: Confusions
    numbers: tuple[int, ...]
    unlabelled: tuple[str, ...]
    set_aside: tuple[str, ...]
    other_size: tuple[str, ...]
    odd: tuple[str, ...]
    resized: int


@dataclass(frozen=True)
class _Wanted:
    """An image of a run, and its number in the truth."""

    record: SemanticRecord
    number: int


def run_labels(
    run: RunFolder, truth: SemanticTruth, crop: int | None = None, told: set[int] | None = None
) -> RunLabels:
    """Read a run's labels and the truth of its images, image by image.

    Where they are of different sizes and one shape, the labels are brought to the truth's size, by nearest pixels.

    crop: side in pixels of the middle square that is scored, see `semantic_sizes.cropped`; None for whole images.
    told: numbers in the truth of images whose faults there are said already, and not again; those said now are added.

    Raises:
        ConfigError: the run holds results of another kind.
        SourceError: no image can be scored.
        StoreError: the run is damaged, or no shard of it is done.
    """
    reader = SemanticReader(run)
    reader.need_any()
    found, refs = truth.matched(run.manifest.refs), {ref.id: ref for ref in run.manifest.refs}
    confusions = Confusions(len(reader.clusters))
    numbers: list[int] = []
    unlabelled, set_aside, other_size, odd = list[str](), list[str](), list[str](), list[str]()
    left_out, strange = LeftOut(truth.name, "maps"), LeftOut(truth.name, "numbers in maps")
    told = set() if told is None else told
    n_resized = 0

    def wanted() -> Iterator[_Wanted]:
        for record in reader:
            number = found[record.id]
            if number is None:
                unlabelled.append(record.id)
            elif isinstance(record, Failed):
                set_aside.append(record.id)
            else:
                yield _Wanted(record, number)

    def load(one: _Wanted) -> TrueLabels:
        return truth.labels(one.number, refs[one.record.id], one.record.size)

    for one, true in load_ahead(wanted(), load, _READERS):
        record = one.record
        is_new = one.number not in told
        told.add(one.number)
        if isinstance(true, ImageError):
            odd.append(record.id)
            if is_new:
                left_out.add(true.reason, true.detail)
            continue
        truth_HW, labels_HW = true.labels, _labels_of(record, run.url)
        for value, pixels in true.strange.items() if is_new else ():
            what = "a colour" if value < 0 else str(value)
            strange.add("unknown", f"{what} in {truth.paths[one.number]}, whose {pixels} pixels do not count")
        size = truth_HW.shape[0], truth_HW.shape[1]
        if not is_same_shape(record.size, size):
            other_size.append(record.id)
            continue
        n_resized += record.size != size
        if crop is None:
            labels_HW = resized(labels_HW, size)
        else:
            labels_HW, truth_HW = cropped(labels_HW, crop, size), cropped(truth_HW, crop, size)
        confusions.add(labels_HW, truth_HW)
        numbers.append(one.number)
    left_out.tell(len(numbers) + len(other_size) + len(odd))
    strange.tell()
    labels = RunLabels(
        url=run.url,
        recipe=run.recipe,
        clusters=reader.clusters.names,
        model=reader.model,
        confusions=confusions,
        numbers=tuple(numbers),
        unlabelled=tuple(unlabelled),
        set_aside=tuple(set_aside),
        other_size=tuple(other_size),
        odd=tuple(odd),
        resized=n_resized,
    )
    if not numbers:
        raise _none_scored(labels, run, truth)
    return labels


def _labels_of(record: SemanticRecord, url: str) -> np.ndarray:
    try:
        return record.labels
    except ValueError as error:
        raise StoreError(f"{url}: the labels of {record.id} are damaged ({error}): `cuts3d verify {url}`") from error


def _none_scored(labels: RunLabels, run: RunFolder, truth: SemanticTruth) -> SourceError:
    counts = [len(labels.unlabelled), len(labels.set_aside), len(labels.odd), len(labels.other_size)]
    return SourceError(
        f"no image of {run.url} can be scored with {truth.name}: {counts[0]} are not in it (the run has "
        f"{run.manifest.refs[0].id}, the truth {next(iter(truth.paths.values()))}), {counts[1]} were set aside by the "
        f"run, {counts[2]} have a truth that cannot be read, {counts[3]} have another shape there, "
        f"{run.n_images - sum(counts)} are not done yet"
    )
