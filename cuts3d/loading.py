"""What masks and labels have in common: a loaded method that takes images of any form, and a run that is read."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from pipeline.errors import ConfigError, ImageError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from pipeline.methods.protocol import Method
    from pipeline.runs.reader import QuarantineRecord, RunReader
    from pipeline.runs.run_folder import RunFolder

OfImage = TypeVar("OfImage")

Overrides = Mapping[str, Any] | Iterable[str]


def loaded_method(
    recipe: str | os.PathLike[str],
    settings: Mapping[str, Any],
    overrides: Overrides,
    device: str | torch.device,
    kind: str,
    otherwise: str,
) -> Method:
    """The method of a recipe. The arguments: as of `masks.load`.

    kind: of the results that it has to give, for single photos.
    otherwise: what a method that does not has to be told instead.
    """
    from pipeline.methods.recipe_file import SUFFIX, OwnRecipe, read_recipe_file
    from pipeline.methods.registry import known_config, load_method
    from pipeline.models.device import check_device
    from pipeline.runs.launch import Launch

    given = {name: _text(name, value) for name, value in settings.items() if value is not None}
    recipe, device = _text("recipe", recipe), str(device)
    own = read_recipe_file(recipe) if recipe.endswith(SUFFIX) else OwnRecipe(recipe, {}, ())
    launch = Launch(
        recipe=own.base,
        settings={**own.settings, **given},
        overrides=(*own.overrides, *_overrides(overrides)),
    )
    check_device(device)
    known_config(launch, None)  # what is wrong is said before torch is loaded
    method = load_method(launch, device)
    if method.takes != "photos" or method.kind(None).name != kind or not method.needs_inputs(None, {}):
        raise ConfigError(f"recipe {recipe} {otherwise}")
    return method


@dataclass(frozen=True, eq=False)
class OfOneImage:
    """What there is of one image. record: as it is stored."""

    record: Any = field(repr=False)
    _photo: Callable[[], np.ndarray] = field(repr=False)

    @property
    def id(self) -> str:
        """Its path relative to the folder that was listed, or what `predict` calls it."""
        id_: str = self.record.id
        return id_

    @property
    def size(self) -> tuple[int, int]:
        """H, W in pixels, the right way up."""
        size: tuple[int, int] = self.record.size
        return size

    @property
    def photo(self) -> np.ndarray:
        """uint8 (H, W, 3), read again if it lies in a file; ImageError when it cannot be read any more."""
        return self._photo()


@dataclass(frozen=True)
class LoadedMethod(ABC, Generic[OfImage]):
    """A loaded method. method: a `pipeline.methods.protocol.Method`."""

    method: Method = field(repr=False)

    @abstractmethod
    def _of(self, result: Any, photo: Callable[[], np.ndarray]) -> OfImage:
        """What users see of a result."""

    def predict(self, image: np.ndarray | Image.Image | str | os.PathLike[str], id: str | None = None) -> OfImage:
        """The result for one image, as a run stores it; masks in the order in which a run stores them: the default
        recipe's best first.

        image: uint8 (H, W, 3) RGB; a PIL image of any mode, turned as its EXIF data says; or a path or URL.
        id: what the image is called in results and messages; None takes the name of its file, or "image". Depth maps
            of one's own (depth="maps:FOLDER") are found by it.

        Raises ImageError when the image cannot be used: `reason` is one of those that runs set images aside with, or
        "unsupported" for an array of another shape or type.
        """
        return self._results([_photo(image, id or _name(image, "image"))])[0]

    def predict_many(
        self, images: Iterable[np.ndarray | Image.Image | str | os.PathLike[str]], batch_size: int | None = None
    ) -> Iterator[OfImage]:
        """The result for each image, in their order; a batch is in memory at a time, so there may be any number.

        images: as `predict` takes them. What has no file is called by its place: "0", "1", ...
        batch_size: images that go through the networks together; None takes what suits the device.

        Raises ImageError at the first image that cannot be used. A run sets such images aside: see `cuts3d run`.
        """
        if isinstance(images, str | bytes | os.PathLike):
            raise ConfigError(f"predict_many takes many images, not {str(images)!r}: a list, or predict for one")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: it must be at least 1")
        return self._batches(iter(images), batch_size or self._batch_size)

    def _batches(self, images: Iterator[Any], size: int) -> Iterator[OfImage]:
        numbered = enumerate(images)
        while batch := [_photo(image, _name(image, str(number))) for number, image in islice(numbered, size)]:
            yield from self._results(batch)

    def _results(self, photos: Sequence[Any]) -> list[OfImage]:
        import torch

        from pipeline.methods.protocol import Batch
        from pipeline.results.kinds import Failed

        with torch.inference_mode():
            results = self.method.outputs(Batch(None, range(len(photos)), photos))
        for result in results:
            if isinstance(result, Failed):
                raise ImageError(result.reason, result.detail)
        return [self._of(result, _kept(photo.rgb)) for result, photo in zip(results, photos, strict=True)]

    @cached_property
    def _batch_size(self) -> int:
        from pipeline.engine.batch_size import fitting_batch_size

        return fitting_batch_size(self.method) if self.method.device.type == "cuda" else self.method.batch_size


class ReadRun(ABC, Generic[OfImage]):
    """A run, finished or not; iterate for the images that are done, in the run's order, those set aside left out. What
    is done is looked up when iterating begins.
    """

    folder: RunFolder

    @abstractmethod
    def _reader(self) -> RunReader:
        """What is done by now."""

    @abstractmethod
    def _of(self, result: Any, photo: Callable[[], np.ndarray]) -> OfImage:
        """What users see of a result."""

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

    def __iter__(self) -> Iterator[OfImage]:
        """Raises StoreError when the run is damaged."""
        from pipeline.results.kinds import Failed

        refs = {ref.id: ref for ref in self.folder.manifest.refs}
        for result in self._reader():
            if not isinstance(result, Failed):
                yield self._of(result, _read_from(refs[result.id]))


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
