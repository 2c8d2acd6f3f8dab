"""Truths that are a folder of label maps, found by the frame's name anywhere below it.

H, W pixels
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from pipeline.errors import ConfigError, SourceError
from pipeline.evaluation.same_images import same_images
from pipeline.evaluation.semantic_truth.class_maps import ClassMap
from pipeline.evaluation.semantic_truth.pixel_maps import ENDINGS, read_pixels
from pipeline.evaluation.semantic_truth.truth import MapError, TrueLabels
from pipeline.images.left_out import LeftOut
from pipeline.images.manifest import ImageRef
from pipeline.images.sources import files_below, is_image
from pipeline.storage.locations import absolute, asking, filesystem, is_local, is_url, location_of

_SAMPLE = 50  # maps that are looked at to tell how a folder numbers its classes,
_SIGNS = 5  # until so many of them have told


def _as_they_are(values: np.ndarray) -> np.ndarray:
    return values


def _of_this_size(labels_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return labels_HW


@dataclass(frozen=True)
class MapFormat:
    """How a benchmark lays out its maps, and what they hold.

    benchmark: its name in papers, "" for none.
    classes: by their number, the first one by default; of each the ways in which files number them.
    endings: of the maps' names, after the frame's name. The first group counts of which there is any file. Within it an
        ending counts where a frame has none before; of two mere extensions nobody knows which is right.
    folders: names of folders; where there is one, maps elsewhere are none.
    photo_endings: of photos' names, before the extension.
    numbers: the numbers that `classes` knows, of what a file holds.
    colours: the numbers that colours stand for, of formats that have such maps.
    open_ended: see `truth.SemanticTruth`.
    fitted: labels cut to the photo's height and width, of formats whose maps are larger.
    """

    benchmark: str
    classes: Mapping[int, tuple[ClassMap, ...]]
    endings: tuple[tuple[str, ...], ...]
    folders: tuple[str, ...] = ()
    photo_endings: tuple[str, ...] = ()
    numbers: Callable[[np.ndarray], np.ndarray] = _as_they_are
    colours: Mapping[tuple[int, int, int], int] = field(default_factory=dict)
    open_ended: bool = False
    fitted: Callable[[np.ndarray, tuple[int, int]], np.ndarray] = _of_this_size


class MapFolder:
    """A `truth.SemanticTruth`.

    name: as the user gave it.
    place: folder, or folder/PATTERN with one "*", which stands for the frame's name.
    classes: how many; None is the format's default.

    Raises ConfigError for a number of classes that the format does not have, SourceError when there is no map.
    """

    def __init__(self, name: str, place: str, form: MapFormat, classes: int | None = None) -> None:
        self.name, self._form = name, form
        number = next(iter(form.classes)) if classes is None else classes
        if number not in form.classes:
            raise ConfigError(f"--classes {number}: {name} has {' or '.join(map(str, form.classes))} classes")
        self.benchmark = f"{form.benchmark}-{number}" if form.benchmark else ""
        files = _maps_below(place, form, name)
        self.paths: Mapping[int, str] = dict(enumerate(files))
        self._locations = list(files.values())
        self._map = self._numbering(form.classes[number])
        self.classes, self.numbering = self._map.names, self._map.numbering
        self.open_ended = form.open_ended

    def matched(self, refs: Sequence[ImageRef]) -> dict[str, int | None]:
        """See `truth.SemanticTruth`."""
        frames = {ref.id: _frame(ref.id, self._form.photo_endings) for ref in refs}
        return same_images(frames, self.paths, self.name)

    def labels(self, number: int, ref: ImageRef, size: tuple[int, int]) -> TrueLabels:
        """See `truth.SemanticTruth`."""
        labels_HW, strange = self.classified(number, self.values(number))
        return TrueLabels(self._form.fitted(labels_HW, size), strange)

    def values(self, number: int) -> np.ndarray:
        """What the map of an image holds, whole numbers (H, W). MapError, its detail naming the file, when it cannot
        be read.
        """
        return self._values(self._locations[number])

    def fitted(self, values_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A map cut to the height and width of its photo, of formats whose maps are larger."""
        return self._form.fitted(values_HW, size)

    def classified(self, number: int, values_HW: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """Classes of what the map of an image holds, see `ClassMap.labels`. MapError where nothing of it is known."""
        labels_HW, strange = self._map.labels(self._form.numbers(values_HW))
        if (labels_HW == 255).all() and sum(strange.values()) == labels_HW.size:
            values = "values" if max(strange) < 0 else f"values, such as {max(strange)},"
            raise MapError("of other numbers", f"{self._locations[number]}, none of whose {values} is known")
        return labels_HW, strange

    def _values(self, location: str) -> np.ndarray:
        values = read_pixels(location)
        if values.ndim == 2:
            return values
        if not self._form.colours:
            raise MapError("of colours", f"{location}, which has colours where maps have numbers of classes")
        red_HW, green_HW, blue_HW = (values[..., channel].astype(np.uint32) for channel in range(3))
        codes = red_HW << 16 | green_HW << 8 | blue_HW
        numbers = np.full(codes.shape, -1, np.int8)
        for (red, green, blue), number in self._form.colours.items():
            numbers[codes == (red << 16 | green << 8 | blue)] = number
        return numbers

    def _numbering(self, ways: tuple[ClassMap, ...]) -> ClassMap:
        """The way of which a sample of the maps has most signs; the first one where they have none."""
        if len(ways) == 1:
            return ways[0]
        signs = np.zeros(len(ways), int)
        for location in self._locations[:: -(-len(self._locations) // _SAMPLE)]:
            try:
                found = set(np.unique(self._form.numbers(self._values(location))).tolist())
            except MapError:
                continue
            signs += [bool(found & way.telling) for way in ways]
            if signs.max() == _SIGNS:
                break
        return ways[int(signs.argmax())]


def _maps_below(place: str, form: MapFormat, name: str) -> dict[str, str]:
    """By path of the frame, as below the folder and without what comes after its name, where its map is."""
    folder, start, groups = _place(place, form.endings)
    files = _files_below(folder, name)
    wanted = [file for file in files if PurePosixPath(file).name.startswith(start)]
    group = next((group for group in groups if any(file.endswith(group) for file in wanted)), None)
    if group is None:
        what = " or ".join(f"{start}*{ending}" for group in groups for ending in group)
        raise SourceError(f"{name}: no map is below {folder}, which has {len(files)} files: it must hold {what}")
    inside = [file for file in wanted if set(form.folders) & set(file.removeprefix(folder).split("/")[:-1])]
    found: dict[str, str] = {}
    better: set[str] = set()  # frames, by their names alone, that have a map of an earlier ending
    twice = LeftOut(name, "maps")
    for ending in group:
        of_ending: dict[str, str] = {}
        for file in inside or wanted:
            above, _, last = file.removeprefix(folder).strip("/").rpartition("/")
            frame = _without(last.removeprefix(start).removesuffix(ending), form.photo_endings)
            if not file.endswith(ending) or (frame in better and ending not in ENDINGS):
                continue
            path = f"{above}/{frame}" if above else frame
            first = found.get(path) or of_ending.setdefault(path, file)
            if first != file:
                twice.add("for a frame that has one", f"{file}, beside {first}")
        better |= {path.rpartition("/")[2] for path in of_ending}
        found |= of_ending
    twice.tell()
    return found


def _place(place: str, endings: tuple[tuple[str, ...], ...]) -> tuple[str, str, tuple[tuple[str, ...], ...]]:
    """Folder, how the names of maps begin, and how they end."""
    above, _, last = place.rpartition("/")
    if "*" not in last:
        return absolute(place).rstrip("/") or "/", "", endings
    start, _, ending = last.partition("*")
    if not ending or "*" in ending or "*" in above:
        raise SourceError(f'{place}: a pattern has one "*", for the frame\'s name, and an ending: FOLDER/*_labels.png')
    return absolute(above or ".").rstrip("/") or "/", start, ((ending,),)


def _files_below(folder: str, name: str) -> list[str]:
    files, path = filesystem(folder)
    with asking(folder):
        if not is_url(folder) and not files.exists(path):
            raise SourceError(f"{name}: {folder} is not there")
        if not is_url(folder) and not files.isdir(path):
            raise SourceError(f"{name}: {folder} is a file: give the folder that the maps are in")
        if is_local(files):
            return files_below(folder)
        return sorted(location_of(files, file) for file in files.find(path) if "/." not in file)


def _frame(image: str, photo_endings: tuple[str, ...]) -> str:
    """The path of a photo without its ending and the camera's word."""
    stem = image.rpartition(".")[0] if is_image(image) else image
    above, slash, last = stem.rpartition("/")
    return f"{above}{slash}{_without(last, photo_endings)}"


def _without(name: str, endings: tuple[str, ...]) -> str:
    return next((name.removesuffix(ending) for ending in endings if name.endswith(ending)), name)


ANY_ENDING = (ENDINGS,)
