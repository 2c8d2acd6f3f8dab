"""cuts3d from Python: masks of images in memory, finished runs, COCO files.

    import cuts3d

    model = cuts3d.load(overrides={"features.size": 420})
    image = model.predict("photo.jpg")
    print(image.scores, image.masks.shape)

Errors are those of `pipeline.errors`, here by the same names. Importing this module is quick: torch is loaded when
`load` is called.

H, W pixels of an image · M its masks · Gh, Gw patch grid
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import (
    ConfigError,
    CutsError,
    ExtensionError,
    ImageError,
    RunMismatchError,
    SourceError,
    StoreError,
    WeightsError,
)
from pipeline.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from PIL import Image

    from pipeline.methods.protocol import Method
    from pipeline.results.instances import ImageRecord, Instance
    from pipeline.runs.reader import QuarantineRecord
    from pipeline.runs.run_folder import RunFolder

__all__ = [
    "ConfigError",
    "CutsError",
    "ExtensionError",
    "ImageError",
    "ImageMasks",
    "Model",
    "Run",
    "RunMismatchError",
    "SourceError",
    "StoreError",
    "WeightsError",
    "from_coco",
    "load",
    "open_run",
]

_COLUMNS = (
    *("image", "mask", "score", "x", "y", "width", "height", "area", "mean_confidence", "round", "crf_iou"),
    "level",
)


def load(
    recipe: str | os.PathLike[str] = "cuts3d",
    *,
    features: str | None = None,
    depth: str | None = None,
    depth_kind: str | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    device: str | torch.device = "auto",
) -> Model:
    """Load a method once, for any number of images.

    recipe: as `cuts3d recipes` lists them, or a FILE.toml with one's own.
    features, depth, depth_kind: as --features, --depth and --depth-kind of `cuts3d run`; None takes the method's own.
    overrides: {"features.size": 420}, or texts such as "features.size=420", as --set takes them. A trained detector is
        named so: load("detector", overrides={"detector.checkpoint": FILE}).
    device: "auto", "cpu", "cuda" or "cuda:N".

    Raises ConfigError for a name or value that is wrong, or a recipe that gives no masks of images; WeightsError for
    weights that cannot be had; ExtensionError when another package's method is broken.
    """
    from pipeline.methods.recipe_file import SUFFIX, OwnRecipe, read_recipe_file
    from pipeline.methods.registry import known_config, load_method
    from pipeline.models.device import check_device
    from pipeline.results.instance_kind import NAME
    from pipeline.runs.launch import Launch

    given = {"features": features, "depth": depth, "depth_kind": depth_kind}
    settings = {name: _text(name, value) for name, value in given.items() if value is not None}
    recipe, device = _text("recipe", recipe), str(device)
    own = read_recipe_file(recipe) if recipe.endswith(SUFFIX) else OwnRecipe(recipe, {}, ())
    launch = Launch(
        recipe=own.base,
        settings={**own.settings, **settings},
        overrides=(*own.overrides, *_overrides(overrides)),
    )
    check_device(device)
    known_config(launch, None)  # what is wrong is said before torch is loaded
    method = load_method(launch, device)
    if method.takes != "photos" or method.kind(None).name != NAME or not method.needs_inputs(None, {}):
        raise ConfigError(f"recipe {recipe} does not make masks of single images: run it with `cuts3d run`")
    return Model(method)


@dataclass(frozen=True)
class Model:
    """A loaded method. method: a `pipeline.methods.protocol.Method`."""

    method: Method = field(repr=False)

    def predict(self, image: np.ndarray | Image.Image | str | os.PathLike[str], id: str | None = None) -> ImageMasks:
        """The masks of one image, in the order in which a run stores them: the default recipe's best first.

        image: uint8 (H, W, 3) RGB; a PIL image of any mode, turned as its EXIF data says; or a path or URL.
        id: what the image is called in results and messages; None takes the name of its file, or "image". Depth maps
            of one's own (depth="maps:FOLDER") are found by it.

        Raises ImageError when the image cannot be used: `reason` is one of those that runs set images aside with, or
        "unsupported" for an array of another shape or type.
        """
        return self._masks_of([_photo(image, id or _name(image, "image"))])[0]

    def predict_many(
        self, images: Iterable[np.ndarray | Image.Image | str | os.PathLike[str]], batch_size: int | None = None
    ) -> Iterator[ImageMasks]:
        """The masks of each image, in their order; a batch is in memory at a time, so there may be any number.

        images: as `predict` takes them. What has no file is called by its place: "0", "1", ...
        batch_size: images that go through the networks together; None takes what suits the device.

        Raises ImageError at the first image that cannot be used. A run sets such images aside: see `cuts3d run`.
        """
        if isinstance(images, str | bytes | os.PathLike):
            raise ConfigError(f"predict_many takes many images, not {str(images)!r}: a list, or predict for one")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: it must be at least 1")
        return self._batches(iter(images), batch_size or self._batch_size)

    def _batches(self, images: Iterator[Any], size: int) -> Iterator[ImageMasks]:
        numbered = enumerate(images)
        while batch := [_photo(image, _name(image, str(number))) for number, image in islice(numbered, size)]:
            yield from self._masks_of(batch)

    def _masks_of(self, photos: Sequence[Any]) -> list[ImageMasks]:
        import torch

        from pipeline.methods.protocol import Batch
        from pipeline.results.kinds import Failed

        with torch.inference_mode():
            results = self.method.outputs(Batch(None, range(len(photos)), photos))
        for result in results:
            if isinstance(result, Failed):
                raise ImageError(result.reason, result.detail)
        return [ImageMasks(record, _kept(photo.rgb)) for record, photo in zip(results, photos, strict=True)]

    @cached_property
    def _batch_size(self) -> int:
        from pipeline.engine.batch_size import fitting_batch_size

        return fitting_batch_size(self.method) if self.method.device.type == "cuda" else self.method.batch_size


@dataclass(frozen=True, eq=False)
class ImageMasks:
    """What there is of one image; masks are decoded when they are asked for.

    record: as it is stored: `instances`, one per mask, with run-length code, round and parts of the score; `drops`,
        masks that were proposed and not kept, counted by reason; `depth`, float16 (Gh, Gw), 0..1, larger = farther, or
        None.
    """

    record: ImageRecord = field(repr=False)
    _photo: Callable[[], np.ndarray] = field(repr=False)

    def __repr__(self) -> str:
        return f"ImageMasks({self.id!r}, {self.size[0]} x {self.size[1]}, {counted(len(self), 'mask')})"

    @property
    def id(self) -> str:
        """Its path relative to the folder that was listed, or what `Model.predict` calls it."""
        return self.record.id

    @property
    def size(self) -> tuple[int, int]:
        """H, W in pixels, the right way up."""
        return self.record.size

    @property
    def instances(self) -> tuple[Instance, ...]:
        """One per mask, as stored: the default recipe's best first, those of rounds as they were found."""
        return self.record.instances

    def __len__(self) -> int:
        """M; an image without masks is false, too."""
        return len(self.instances)

    def mask(self, index: int) -> np.ndarray:
        """One mask, bool (H, W)."""
        from pipeline.results.instance_overlay import decode

        return decode(self.instances[index].rle, self.size)

    @property
    def masks(self) -> np.ndarray:
        """bool (M, H, W)."""
        masks = np.zeros((len(self), *self.size), bool)
        for index in range(len(self)):
            masks[index] = self.mask(index)
        return masks

    @property
    def boxes(self) -> np.ndarray:
        """float32 (M, 4): x, y, width, height in pixels, as in COCO."""
        return np.array([instance.box for instance in self.instances], np.float32).reshape(-1, 4)

    @property
    def scores(self) -> np.ndarray:
        """float32 (M,), larger is better."""
        return np.array([instance.score for instance in self.instances], np.float32)

    @property
    def levels(self) -> tuple[int | None, ...]:
        """Of each mask 0 if it is a whole, 1 a part, 2 a subpart; None where the recipe does not tell them apart."""
        return tuple(instance.level for instance in self.instances)

    @property
    def confidences(self) -> np.ndarray:
        """float32 (M, Gh, Gw), 0..1: Spatial Confidence on the patch grid, which covers the whole image. Without masks
        the grid may be unknown, and 0, 0.
        """
        if self.instances:
            return np.stack([instance.confidence for instance in self.instances]).astype(np.float32) / 255
        return np.zeros((0, *((0, 0) if self.record.depth is None else self.record.depth.shape)), np.float32)

    @property
    def photo(self) -> np.ndarray:
        """uint8 (H, W, 3), read again if it lies in a file; ImageError when it cannot be read any more."""
        return self._photo()

    def to_torch(self, device: str = "cpu") -> dict[str, torch.Tensor]:
        """masks, boxes, scores and confidences as tensors, shapes and types as above."""
        import torch

        names = ("masks", "boxes", "scores", "confidences")
        return {name: torch.from_numpy(getattr(self, name)).to(device) for name in names}

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """A COCO annotation for each mask, JSON-able; ids count from 1 in this image."""
        from pipeline.results.instance_coco import annotations_of

        return [{"id": number, **one} for number, one in enumerate(annotations_of(self.record, image_id), start=1)]

    def draw(self) -> Image.Image:
        """The photo with its masks on it, as strong as they are confident, and their scores."""
        from pipeline.results.instance_overlay import draw_overlay

        return draw_overlay(self.photo, self.record)


@dataclass(frozen=True)
class Run:
    """A run of masks, finished or not; iterate for the images that are done, in the run's order, those set aside left
    out. What is done is looked up when iterating begins.

    min_score: masks with lower scores are left out.
    """

    folder: RunFolder = field(repr=False)
    min_score: float = 0.0

    @property
    def url(self) -> str:
        """Where it is."""
        return self.folder.url

    @property
    def recipe(self) -> str:
        """Its name."""
        return self.folder.recipe

    @property
    def images(self) -> tuple[str, ...]:
        """Ids of all its images, done or not."""
        return tuple(ref.id for ref in self.folder.manifest.refs)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do, images set aside not counted."""
        return self.folder.is_complete()

    @property
    def set_aside(self) -> list[QuarantineRecord]:
        """Images that could not be used: id, reason (a word), detail (a sentence)."""
        return self._reader().quarantined()

    def __iter__(self) -> Iterator[ImageMasks]:
        """Raises StoreError when the run is damaged."""
        from pipeline.results.kinds import Failed

        refs = {ref.id: ref for ref in self.folder.manifest.refs}
        for result in self._reader():
            if not isinstance(result, Failed):
                yield ImageMasks(result, _read_from(refs[result.id]))

    def dataframe(self) -> pd.DataFrame:
        """A row for each mask: image, mask (its place in the image, from 0), score, x, y, width, height, area,
        mean_confidence, round, crf_iou, level (see `ImageMasks.levels`; missing where there is none), and the parts of
        the score. ConfigError without pandas.
        """
        pandas = _pandas()
        from stages.score import PARTS

        table: pd.DataFrame = pandas.DataFrame([row for image in self for row in _rows(image)])
        if "level" in table:
            table["level"] = table["level"].astype("Int64")
        return table.reindex(columns=[*_COLUMNS, *PARTS])

    def to_coco(self, file: str | os.PathLike[str]) -> int:
        """Write it as a COCO instances file, as `cuts3d export --coco` does; the number of annotations."""
        from pipeline.views.export import export_coco

        return export_coco(self.folder, Path(file), self.min_score)

    def _reader(self) -> Any:
        from pipeline.runs.instance_reader import InstanceReader

        return InstanceReader(self.folder, self.min_score)


def open_run(path: str | os.PathLike[str], min_score: float = 0.0) -> Run:
    """A run folder that `cuts3d run`, `import-coco` or `predict` made; path or URL.

    Raises StoreError when there is none, ConfigError when it holds no masks or min_score is no number.
    """
    from pipeline.runs.run_folder import RunFolder

    run = Run(RunFolder.open(os.fspath(path)), min_score)
    run._reader()  # what is wrong is said now
    return run


def from_coco(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    images_of: str | os.PathLike[str] | None = None,
    min_score: float = 0.0,
) -> Run:
    """Make a run at `out` of the masks in a COCO file, as `cuts3d import-coco` does, or resume one.

    images: folder that its file names are relative to; None looks beside the file.
    images_of: for a list of detections the COCO file that lists its images.
    min_score: masks with lower scores are not taken.

    Raises SourceError when the file is none, or none of its images is there; RunMismatchError, ConfigError when `out`
    holds another run.
    """
    from pipeline.commands.import_coco import import_coco

    optional = [None if path is None else os.fspath(path) for path in (images, images_of)]
    import_coco(os.fspath(file), os.fspath(out), optional[0], images_of=optional[1], min_score=min_score)
    return open_run(out)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name} is {value!r}: give one text, as the command line takes it")
    return os.fspath(value)


def _overrides(given: Mapping[str, Any] | Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str | bytes):
        raise ConfigError(f'overrides is {given!r}: give a mapping, {{"stage.option": value}}, or a list of texts')
    if isinstance(given, Mapping):
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in given.items()}
        return tuple(f"{name}={value}" for name, value in plain.items())
    return tuple(map(str, given))


def _name(image: Any, otherwise: str) -> str:
    return PurePath(image).name or otherwise if isinstance(image, str | os.PathLike) else otherwise


def _photo(image: Any, id: str) -> Any:
    """What a method takes; ImageError for anything that is no image."""
    from PIL import Image

    from pipeline.images.manifest import ImageRef
    from pipeline.images.photos import load_photo, photo_of

    if isinstance(image, str | os.PathLike):
        return load_photo(ImageRef(id, os.fspath(image)))
    if isinstance(image, Image.Image):
        return photo_of(id, image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = type(image).__name__
        if hasattr(image, "dtype") and hasattr(image, "shape"):
            got += f" {image.dtype} {tuple(image.shape)}"
        rule = "an image must be a NumPy array, uint8 (H, W, 3) in RGB, a PIL image or a path"
        raise ImageError("unsupported", f"{id}: {rule}, not {got}")
    return photo_of(id, Image.fromarray(image))


def _kept(rgb: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: rgb


def _read_from(ref: Any) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        from pipeline.images.photos import load_photo

        return load_photo(ref).rgb

    return read


def _rows(image: ImageMasks) -> Iterator[dict[str, Any]]:
    from pipeline.results.instances import mean_confidences

    for place, (one, confidence) in enumerate(zip(image.instances, mean_confidences(image.record), strict=True)):
        own = (image.id, place, one.score, *one.box, one.area, confidence, one.round, one.crf_iou, one.level)
        yield dict(zip(_COLUMNS, own, strict=True)) | asdict(one.parts)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ConfigError(f"a table needs pandas, which is not installed here ({error}): pip install pandas") from error
    return pandas
