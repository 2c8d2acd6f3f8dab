"""Predicted segments beside the true ones of their images: of a run of panoptic labels, or of a panoptic JSON file.

H, W pixels · K clusters
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.errors import ConfigError
from pipeline.evaluation.beside_truth import BesideTruth, ScoredImages
from pipeline.evaluation.panoptic_quality import Overlaps, PredictedSegments, TrueSegments
from pipeline.evaluation.panoptic_truth import PanopticTruth, things_of
from pipeline.evaluation.semantic_scores import NONE, Confusions
from pipeline.evaluation.semantic_sizes import Size, of_one_size, resized
from pipeline.evaluation.semantic_truth.formats import json_and_folder
from pipeline.evaluation.semantic_truth.panoptic_json import PanopticFile
from pipeline.evaluation.semantic_truth.segments import panoptic_classes
from pipeline.evaluation.semantic_truth.truth import MapError
from pipeline.images.left_out import LeftOut
from pipeline.images.manifest import ImageRef
from pipeline.results.kinds import Failed
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_segments import segments_of
from pipeline.results.panoptic_split import ThingSplit
from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.runs.run_folder import RUN_FILE, RunFolder
from pipeline.storage.locations import absolute, asking, existing

_EXPORTED, _PREDICTED = "panoptic.json", "run"  # of `cuts3d export --panoptic`, and of `cuts3d predict`


@dataclass(frozen=True)
class SeenImage:
    """An image that segments have been predicted of.

    size: height, width.
    segments: gives them, at that size.
    """

    id: str
    size: Size
    segments: Callable[[], PredictedSegments]


@dataclass(frozen=True)
class Predictions:
    """Segments of images.

    url: where they are, for people.
    recipe: what made them, for people.
    clusters: names, (K,).
    things: of each cluster, whether it is one, (K,).
    model: digest of what gave the clusters their numbers, "" where nobody says.
    refs: all images that there should be.
    seen: gives those that are there, one at a time.
    run: that holds them, None for a file.
    """

    url: str
    recipe: str
    clusters: tuple[str, ...]
    things: tuple[bool, ...]
    model: str
    refs: Sequence[ImageRef]
    seen: Callable[[], Iterable[SeenImage | Failed]]
    run: RunFolder | None = None


def run_predictions(reader: PanopticReader) -> Predictions:
    """Those of a run. StoreError while no shard of it is done."""
    reader.need_any()
    run, split = reader.run, reader.split

    def seen() -> Iterator[SeenImage | Failed]:
        for one in reader:
            yield one if isinstance(one, Failed) else SeenImage(one.id, one.size, partial(_segments_of, one, split))

    things = tuple(split.things.tolist())
    return Predictions(run.url, run.recipe, split.classes.names, things, reader.model, run.manifest.refs, seen, run)


def _segments_of(record: PanopticRecord, split: ThingSplit) -> PredictedSegments:
    found = segments_of(record, split)
    clusters = np.array([one.class_ for one in found.segments], np.uint8)
    return PredictedSegments(found.ids_HW, clusters, np.array([one.is_thing for one in found.segments], bool))


def file_predictions(location: str, folder: str | None = None) -> Predictions:
    """Those of a panoptic JSON and its maps, as `cuts3d export --panoptic` writes it: categories are clusters. Maps
    that cannot be read are set aside, and the log says so.

    folder: of the maps; None is the one beside the file that has its name.

    Raises SourceError for a file that is none, and where its maps are not there.
    """
    file = PanopticFile(location, location, folder, "say where they are, JSON:FOLDER")
    clusters, cluster_of = panoptic_classes(file, location, None)
    things = things_of(file, location)

    def seen() -> Iterator[SeenImage | Failed]:
        left_out = LeftOut(location, "predicted maps")
        for number, path in file.paths.items():
            try:
                found = _segments_in(file, number, cluster_of, things)
            except MapError as error:
                left_out.add(error.reason, error.detail)
                yield Failed(path, error.reason.replace(" ", "_"), error.detail)
            else:
                yield _seen_map(path, found)
        left_out.tell(len(file.paths))

    refs = [ImageRef(path, path, coco_id=number) for number, path in file.paths.items()]
    return Predictions(location, "a panoptic file", clusters, things, "", refs, seen)


def _seen_map(path: str, found: PredictedSegments) -> SeenImage:
    return SeenImage(path, (found.ids.shape[0], found.ids.shape[1]), lambda: found)


def _segments_in(
    file: PanopticFile, number: int, cluster_of: Mapping[int, int], things: Sequence[bool]
) -> PredictedSegments:
    """Of an image of a file. MapError, too, for a segment that the file does not list."""
    map_, categories = file.map(number), file.images[number].categories
    ids = map_.ids[map_.ids > 0].tolist()
    for id_ in ids:
        if categories.get(id_) not in cluster_of:
            raise MapError(
                "of other numbers", f"{file.location(number)}, whose segment {id_} has no category in the file"
            )
    clusters = [cluster_of[categories[id_]] for id_ in ids]
    places_HW = map_.places + int(map_.ids[0] != 0)  # 0 is void
    return PredictedSegments(places_HW, np.array(clusters, np.uint8), np.array(things, bool)[clusters])


def open_predictions(place: str, threshold: float | None = None) -> Predictions:
    """A run of panoptic labels; the folder of `cuts3d predict`, or of `cuts3d export --panoptic`; JSON or JSON:FOLDER.

    threshold: of things, see `PanopticReader`.

    Raises ConfigError for a run of another kind, or a threshold where things are given; SourceError for a file that is
    no panoptic JSON; StoreError where there is no run.
    """
    location, folder = json_and_folder(place)
    if not location.lower().endswith(".json"):
        base = absolute(place).rstrip("/")
        with asking(base):
            is_there = {name: existing(f"{base}/{name}") is not None for name in (RUN_FILE, _EXPORTED)}
            is_predicted = existing(f"{base}/{_PREDICTED}/{RUN_FILE}") is not None
        if is_there[RUN_FILE] or is_predicted or not is_there[_EXPORTED]:
            run = RunFolder.open(f"{base}/{_PREDICTED}" if is_predicted and not is_there[RUN_FILE] else place)
            return run_predictions(PanopticReader(run, threshold))
        location = f"{base}/{_EXPORTED}"
    if threshold is not None:
        raise ConfigError(f"{location} says itself which classes are things: leave the threshold out")
    return file_predictions(location, folder)


@dataclass(frozen=True)
class ScoredSegments:
    """What predictions say of the images of a truth.

    predictions: whose.
    overlaps: of each image that can be scored.
    confusions: the same by classes alone.
    images: which these are.
    """

    predictions: Predictions
    overlaps: Overlaps
    confusions: Confusions
    images: ScoredImages


def scored_segments(
    predictions: Predictions, truth: PanopticTruth, crop: int | None = None, told: set[int] | None = None
) -> ScoredSegments:
    """Read predicted and true segments, image by image.

    Where they are of different sizes and one shape, predicted ones are brought to the truth's size, by nearest pixels.

    crop: side in pixels of the middle square whose classes are compared, see `semantic_sizes.cropped`; None for whole
        images. Segments are always of whole ones.
    told: see `BesideTruth`.

    Raises SourceError where no image can be scored, StoreError for a damaged run.
    """
    overlaps, confusions = Overlaps(len(predictions.clusters)), Confusions(len(predictions.clusters))

    def load(image: SeenImage, number: int, ref: ImageRef) -> TrueSegments:
        return truth.segments(number, image.size)

    beside = BesideTruth(truth, predictions.refs, predictions.url, told)
    for image, true in beside.pairs(predictions.seen(), load):
        found = image.segments()
        overlaps.add(found._replace(ids=resized(found.ids, true.size)), true)
        labels_HW = np.append(np.uint8(NONE), found.clusters)[found.ids]
        truth_HW = np.append(np.uint8(NONE), true.classes)[true.ids]
        confusions.add(*of_one_size(labels_HW, truth_HW, crop))
    return ScoredSegments(predictions, overlaps, confusions, beside.images)
