"""Instance masks from Python: of images in memory, of finished runs, of COCO files.

H, W pixels of an image · M its masks · Gh, Gw patch grid
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cuts3d.loading import LoadedMethod, OfOneImage, Overrides, ReadRun, loaded_method
from pipeline.errors import ConfigError
from pipeline.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from PIL import Image

    from pipeline.results.instances import ImageRecord, Instance
    from pipeline.runs.instance_reader import InstanceReader
    from pipeline.runs.run_folder import RunFolder

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
    overrides: Overrides = (),
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
    from pipeline.results.instance_kind import NAME

    settings = {"features": features, "depth": depth, "depth_kind": depth_kind}
    otherwise = "does not make masks of single images: load_labels is for labels, `cuts3d run` for all else"
    return Model(loaded_method(recipe, settings, overrides, device, NAME, otherwise))


class Model(LoadedMethod["ImageMasks"]):
    """A loaded method that makes masks."""

    def _of(self, result: ImageRecord, photo: Callable[[], np.ndarray]) -> ImageMasks:
        return ImageMasks(result, photo)


@dataclass(frozen=True, eq=False)
class ImageMasks(OfOneImage):
    """What there is of one image; masks are decoded when they are asked for.

    record: as it is stored: `instances`, one per mask, with run-length code, round and parts of the score; `drops`,
        masks that were proposed and not kept, counted by reason; `depth`, float16 (Gh, Gw), 0..1, larger = farther, or
        None.
    """

    record: ImageRecord = field(repr=False)

    def __repr__(self) -> str:
        return f"ImageMasks({self.id!r}, {self.size[0]} x {self.size[1]}, {counted(len(self), 'mask')})"

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
class Run(ReadRun["ImageMasks"]):
    """A run of masks, finished or not; iterate for the images that are done, in the run's order, those set aside left
    out. What is done is looked up when iterating begins.

    min_score: masks with lower scores are left out.
    """

    folder: RunFolder = field(repr=False)
    min_score: float = 0.0

    def _of(self, result: ImageRecord, photo: Callable[[], np.ndarray]) -> ImageMasks:
        return ImageMasks(result, photo)

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

    def _reader(self) -> InstanceReader:
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
