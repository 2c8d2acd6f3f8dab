"""A picture of training samples as the network gets them, for people: is what it learns from what was meant?

Each sample is there twice: what the network sees, with the outlines of what it is told to find; and how sure each pixel
of that is. Pasted instances have a white line around theirs.

H, W pixels of a sample · M its masks
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detector.data.confidence_masks import CERTAIN, ConfidenceMasks
from detector.data.copy_paste import PlainCopyPaste
from detector.data.dataset import StoreDataset
from detector.data.sampling import Draw, SeededSampler, begin
from pipeline.errors import ConfigError, ImageError, StoreError
from pipeline.results.instance_overlay import instance_colours
from pipeline.storage.outputs import output_file
from pipeline.wording import counted

SIDE = 320  # pixels of a picture's longer side
COLUMNS = 3  # samples in a row
_GAP, _TEXT = 10, 20
_LEGEND = (
    "Left: what the network sees, with outlines of the masks that it should find; white around them: pasted.\n"
    "Right: the masks alone, as bright as they are confident; black: no mask."
)


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """name: id of the photo.
    rgb: uint8 (H, W, 3), at the network's size, not yet normalised.
    pasted: bool (M,).
    """

    name: str
    rgb: np.ndarray
    masks: ConfidenceMasks
    pasted: np.ndarray


def training_samples(dataset: StoreDataset, count: int, seed: int = 0) -> Iterator[TrainingSample]:
    """`count` samples of a training by this seed, from its beginning, through all of the pipeline. Images of which
    nothing is left, and photos that are gone, are passed over, as in training.

    Raises:
        ConfigError: the data set is not of this package, or its pipeline does not end in packed samples with masks.
        StoreError: not one sample can be made.
    """
    if not isinstance(dataset, StoreDataset):
        raise ConfigError(f"samples can be shown of a StoreDataset, not of a {type(dataset).__name__}")
    draws = islice(SeededSampler(dataset, seed=seed), count + 2 * len(dataset))
    made = (sample for draw in draws if (sample := _made(dataset, draw)) is not None)
    first = next(made, None)
    if first is None:
        raise StoreError("not one training sample can be made: are the photos where the run found them?")
    yield first
    yield from islice(made, count - 1)


def write_samples(dataset: StoreDataset, path: str | Path, count: int = 24, seed: int = 0) -> int:
    """Write a PNG of `count` training samples, and return how many there were; see `training_samples`.

    Raises, beside what `training_samples` does:
        StoreError: the picture cannot be written.
    """
    cells = [draw_sample(sample) for sample in training_samples(dataset, count, seed)]
    with output_file(path, "wb") as file:
        sheet(cells, _LEGEND).save(file, format="PNG")
    return len(cells)


def draw_sample(sample: TrainingSample) -> Image.Image:
    """Both pictures of a sample beside each other, at most SIDE pixels high and wide each, and a line of text."""
    scale = min(1.0, SIDE / max(sample.rgb.shape[:2]))
    masks = sample.masks.resize(tuple(max(1, round(side * scale)) for side in sample.rgb.shape[:2]))
    photo = cv2.resize(sample.rgb, (masks.width, masks.height), interpolation=cv2.INTER_AREA)
    confidence = np.zeros_like(photo)
    colours = instance_colours(len(masks))
    for m in np.argsort(-masks.areas, kind="stable"):  # small ones on top
        inside, alpha_HW1 = masks.values[m] > 0, masks.values[m][..., None] / CERTAIN
        confidence[inside] = (alpha_HW1 * colours[m])[inside]
        for picture in (photo, confidence):
            outline(picture, inside, colours[m], bool(sample.pasted[m]))
    height, width = sample.rgb.shape[:2]
    facts = f"{width} × {height}, {counted(len(masks), 'mask')}, {int(sample.pasted.sum())} pasted"
    return captioned(photo, confidence, sample.name, facts)


def _made(dataset: StoreDataset, draw: Draw) -> TrainingSample | None:
    """What the data set makes of a draw, with the knowledge of what was pasted; None if it would take another image."""
    begin(draw)
    results: dict[str, Any] | None = dataset.get_data_info(draw)
    assert results is not None
    name = results["ref"].id
    try:
        for transform in dataset.pipeline.transforms:
            results = transform(results)
            if results is None:
                return None
            if isinstance(transform, PlainCopyPaste):
                # There is one class; every transform keeps labels in step with the masks, so they can carry this.
                results["gt_bboxes_labels"] = results["gt_pasted"].astype(np.int64)
    except ImageError:
        return None
    instances = results["data_samples"].gt_instances if "data_samples" in results else None
    if instances is None or "masks" not in instances:
        raise ConfigError("the pipeline must load masks and end in PackDetInputs, as that of a training does")
    masks = instances.masks
    return TrainingSample(
        name,
        np.ascontiguousarray(results["inputs"].numpy().transpose(1, 2, 0)[..., ::-1]),
        masks if isinstance(masks, ConfidenceMasks) else ConfidenceMasks.certain(masks),
        instances.labels.numpy() > 0,
    )


def outline(picture_HW3: np.ndarray, inside_HW: np.ndarray, colour: np.ndarray, pasted: bool) -> None:
    """Draw the outline of a mask, in place; with a white line around it where the mask was pasted."""
    lines, _ = cv2.findContours(inside_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if pasted:
        cv2.drawContours(picture_HW3, lines, -1, (255, 255, 255), 5)
    cv2.drawContours(picture_HW3, lines, -1, tuple(colour.tolist()), 2)


def captioned(left: np.ndarray, right: np.ndarray, name: str, facts: str) -> Image.Image:
    """Two pictures of one size, and above them a name, of which the end is shown if it is too long, and facts."""
    picture = np.hstack([left, np.full((len(left), 2, 3), 255, np.uint8), right])
    cell = Image.new("RGB", (picture.shape[1], picture.shape[0] + _TEXT), "white")
    cell.paste(Image.fromarray(picture), (0, _TEXT))
    pen, font = ImageDraw.Draw(cell), _font(_TEXT - 7)
    room, shown = cell.width - pen.textlength(f"…   {facts}", font=font), name
    while len(shown) > 1 and pen.textlength(shown, font=font) > room:
        shown = shown[1:]
    pen.text((0, 0), f"{'…' if shown != name else ''}{shown}   {facts}", fill="black", font=font)
    return cell


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu, which Matplotlib ships: Pillow's own has ASCII alone, and photos have other names, too."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size)


def sheet(cells: Sequence[Image.Image], legend: str) -> Image.Image:
    """Rows of cells, under a legend of two lines."""
    rows = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    heights = [max(cell.height for cell in row) + _GAP for row in rows]
    width = max(sum(cell.width + _GAP for cell in row) for row in rows)
    page = Image.new("RGB", (max(width, 960), sum(heights) + 3 * _TEXT), "white")
    ImageDraw.Draw(page).text((2, 2), legend, fill="black", font=_font(_TEXT - 5), spacing=6)
    top = 3 * _TEXT
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for cell in row:
            page.paste(cell, (left, top))
            left += cell.width + _GAP
        top += height
    return page
