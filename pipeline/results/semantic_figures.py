"""What is said of labels to people, whether they come alone or with instances: figures of a run, facts of an image, and
what is wrong with a map.

B images of a shard · C classes
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.results.histograms import bar, histogram, histogram_lines, titled
from pipeline.results.semantic import NONE, Classes, SemanticRecord, by_pixels
from pipeline.results.semantic_file import LabelShard
from pipeline.wording import counted, printable

_NAMED = 3  # classes that a line names


class LabelFigures:
    """Adds up the labels of a run's shards. Attributes: `classes`, those of the last shard, None before the first.

    statuses: of the kind.
    """

    def __init__(self, statuses: Sequence[str]) -> None:
        self.classes: Classes | None = None
        self._names = statuses
        self._pixels, self._images, self._statuses = Counter[str](), Counter[str](), Counter[str]()
        self._unlabelled, self._cells = 0, np.zeros(256, np.int64)

    def add(self, shard: LabelShard[Any], counts_B: np.ndarray) -> None:
        """Take in a shard. counts_B: bool (B,), the images that count."""
        self.classes = shard.classes
        self._statuses.update(self._names[status] for status in shard.status[counts_B])
        done_B = counts_B & shard.done
        pixels_BC = shard.pixels[done_B]
        self._pixels.update(dict(zip(shard.classes.names, pixels_BC.sum(axis=0).tolist(), strict=True)))
        self._images.update(dict(zip(shard.classes.names, (pixels_BC > 0).sum(axis=0).tolist(), strict=True)))
        self._unlabelled += int(shard.size[done_B].astype(np.int64).prod(axis=1).sum() - pixels_BC.sum())
        for image in np.flatnonzero(done_B):
            self._cells += np.bincount(shard.cells_of(int(image)), minlength=256)

    def as_dict(self) -> dict[str, Any]:
        """classes: names and colours; pixels, class_images: of each class that occurs; unlabelled: pixels; statuses;
        confidence: histogram over cells of 8 x 8 pixels.
        """
        return {
            "classes": self.classes.to_json() if self.classes else [],
            "pixels": {name: count for name, count in by_pixels(self._pixels) if count},
            "class_images": {name: self._images[name] for name, count in by_pixels(self._pixels) if count},
            "unlabelled": self._unlabelled,
            "statuses": {status: self._statuses[status] for status in self._names},
            "confidence": histogram(np.arange(256) / 255, (0.0, 1.0), self._cells),
        }


def class_summary(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of counts: classes that occur, and the share of pixels that have none."""
    pixels, unlabelled = counts.get("pixels", {}), counts.get("unlabelled", 0)
    total = max(sum(pixels.values()) + unlabelled, 1)
    most = ", ".join(f"{printable(name)} {count / total:.0%}" for name, count in by_pixels(pixels)[:_NAMED])
    return [
        ("classes", f"{len(pixels)} occur, most of all {most}" if pixels else "none"),
        *([("unlabelled", f"{unlabelled / total:.1%} of pixels")] if unlabelled else []),
    ]


def figure_lines(figures: Mapping[str, Any]) -> list[str]:
    """Of `LabelFigures.as_dict`, bars of text."""
    pixels = figures["pixels"]
    width = max(map(len, pixels), default=0)
    total = max(sum(pixels.values()) + figures["unlabelled"], 1)
    lines = []
    for name, count in pixels.items():
        in_images = counted(figures["class_images"][name], "image")
        lines.append(
            f"  {printable(name):<{width}}  {bar(count, max(pixels.values()))} {count / total:.1%}, {in_images}"
        )
    title = f"class{'':<{max(width - 2, 1)}} share of pixels, in how many images"
    confidence = titled("confidence, in cells of 8 x 8 pixels", histogram_lines(figures["confidence"]))
    return [*titled(title, lines), *confidence]


def label_facts(record: SemanticRecord) -> dict[str, float | int | str]:
    """Number of classes, the largest one, percentage of pixels without a class, mean confidence."""
    largest = int(np.argmax(record.pixels))
    return {
        "classes": sum(count > 0 for count in record.pixels),
        "largest class": record.classes.names[largest] if record.pixels[largest] else "none",
        "unlabelled %": round(100 * record.unlabelled / record.n_pixels, 1),
        "mean confidence": round(record.mean_confidence, 4),
    }


def label_fault(record: SemanticRecord) -> str:
    """What is wrong with the labels of an image, or "". StoreError for a code that is damaged."""
    counts = np.bincount(record.labels.ravel(), minlength=NONE + 1)
    beyond = counts[len(record.classes) : NONE]
    if beyond.any():
        return f"{record.id}: label {len(record.classes) + int(beyond.nonzero()[0][0])} is beyond its classes"
    if tuple(counts[: len(record.classes)].tolist()) != record.pixels:
        return f"{record.id}: its classes do not have the pixels that are recorded"
    return ""
