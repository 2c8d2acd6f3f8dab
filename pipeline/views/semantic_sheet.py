"""A picture of a run of semantic labels: photos, their classes beside them, and one legend for all.

H, W pixels of a picture
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import ImageError
from pipeline.images.photos import load_photo
from pipeline.results.kinds import Failed
from pipeline.results.semantic import NONE, SemanticRecord
from pipeline.results.semantic_overlay import colour_table, edges
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import SemanticReader
from pipeline.storage.outputs import writing

CELL = 300, 220  # pixels, of a photo and of its classes
_PAIRS = 2  # in a row
_GAP, _LINE, _TEXT = 12, 26, 16
_STRENGTH = 0.75  # of the colours over the photo
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_LEAST = 0.005  # of all pixels: what a class must have to be in the legend


def write_sheet(run: RunFolder, file: str | Path, most: int = 12) -> int:
    """Draw up to `most` images of a run, the first ones, as one PNG; returns how many. Images that were set aside, or
    whose photo cannot be read, are left out.

    Raises StoreError while no shard of the run is done, ConfigError for a run of another kind.
    """
    reader = SemanticReader(run)
    reader.need_any()
    refs = {ref.id: ref for ref in run.manifest.refs}
    pairs: list[Image.Image] = []
    pixels_C = np.zeros(len(reader.classes), np.int64)
    for record in reader:
        if len(pairs) == most:
            break
        if isinstance(record, Failed):
            continue
        try:
            photo = load_photo(refs[record.id])
        except ImageError:
            continue
        pairs.append(_pair(photo.rgb, record))
        pixels_C += record.pixels
    sheet = _sheet(pairs, _legend(reader, pixels_C))
    with writing(file):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        sheet.save(file)
    return len(pairs)


def _pair(rgb_HW3: np.ndarray, record: SemanticRecord) -> Image.Image:
    """A photo, and its classes to the right of it, each fitted into a cell."""
    width, height = CELL
    scale = min(width / record.size[1], height / record.size[0])
    size = max(1, round(record.size[1] * scale)), max(1, round(record.size[0] * scale))
    photo = Image.fromarray(rgb_HW3).resize(size, Image.Resampling.LANCZOS)
    labels_HW = np.asarray(Image.fromarray(record.labels).resize(size, Image.Resampling.NEAREST))
    alpha_HW1 = (_STRENGTH * (labels_HW != NONE))[..., None]
    grey_HW1 = np.asarray(photo.convert("L"))[..., None]
    classes_HW3 = grey_HW1 * (1 - alpha_HW1) + colour_table(record)[labels_HW] * alpha_HW1
    classes_HW3[edges(labels_HW)] = _PAPER
    pair = Image.new("RGB", (2 * width + _GAP // 2, height), _PAPER)
    for picture, left in ((photo, width - size[0]), (Image.fromarray(classes_HW3.astype(np.uint8)), width + _GAP // 2)):
        pair.paste(picture, (left, (height - size[1]) // 2))
    return pair


def _legend(reader: SemanticReader, pixels_C: np.ndarray) -> list[tuple[tuple[int, int, int], str]]:
    """Colour and text of the classes that can be seen, the largest first."""
    total = max(pixels_C.sum(), 1)
    order = np.argsort(-pixels_C, kind="stable")
    return [
        (reader.classes.colours[c], f"{reader.classes.names[c]}  {pixels_C[c] / total:.0%}")
        for c in order
        if pixels_C[c] / total >= _LEAST
    ]


def _sheet(pairs: list[Image.Image], legend: list[tuple[tuple[int, int, int], str]]) -> Image.Image:
    font = ImageFont.load_default(size=_TEXT)
    pair_width = 2 * CELL[0] + _GAP // 2
    columns = min(_PAIRS, max(len(pairs), 1))
    width = columns * pair_width + (columns + 1) * _GAP
    column = int(max((font.getlength(text) for _, text in legend), default=0)) + _LINE + _GAP
    in_line = max(1, (width - _GAP) // column)
    rows, lines = -(-len(pairs) // columns), -(-len(legend) // in_line)
    top = rows * (CELL[1] + _GAP) + _GAP
    sheet = Image.new("RGB", (width, top + lines * _LINE + _GAP), _PAPER)
    for i, pair in enumerate(pairs):
        sheet.paste(pair, (_GAP + i % columns * (pair_width + _GAP), _GAP + i // columns * (CELL[1] + _GAP)))
    pen = ImageDraw.Draw(sheet)
    for i, (colour, text) in enumerate(legend):
        left, line = _GAP + i % in_line * column, top + i // in_line * _LINE
        pen.rectangle((left, line, left + _TEXT, line + _TEXT), fill=colour)
        pen.text((left + _LINE - 2, line + _TEXT / 2), text, fill=_INK, font=font, anchor="lm")
    return sheet
