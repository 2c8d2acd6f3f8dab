"""A class and a confidence per pixel, as a kind of result.

B images · C classes
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.results.histograms import bar, histogram, histogram_lines
from pipeline.results.kinds import Counts, Failed
from pipeline.results.semantic import NONE, Classes, SemanticRecord, by_pixels, counts_of
from pipeline.results.semantic_file import SCHEMA, STATUSES, VERSION, SemanticShard, write_shard
from pipeline.wording import counted, few_of, part_of, printable

NAME = "semantic"
_NAMED = 3  # classes that a line names


@dataclass(frozen=True)
class SemanticKind:
    """A `pipeline.results.kinds.ResultKind`. classes: of the run, None for one that only reads."""

    classes: Classes | None = None

    name = NAME
    schema = f"{SCHEMA} {VERSION}"
    words = "semantic labels"
    commands = "`cuts3d evaluate-semantic`, `cuts3d export --semantic` and `cuts3d gallery`"

    def write(self, results: Sequence[SemanticRecord | Failed], attributes: Mapping[str, Any]) -> bytes:
        """See `semantic_file.write_shard`."""
        if self.classes is None:
            raise ValueError("a kind that writes labels has to know the classes")
        return write_shard(results, self.classes, attributes)

    def open(self, source: bytes | Path, name: str = "") -> SemanticShard:
        """See `semantic_file.SemanticShard.open`."""
        return SemanticShard.open(source, name)

    def counts(self, results: Iterable[SemanticRecord | Failed]) -> Counts:
        """See `semantic.counts_of`."""
        return counts_of(results)

    def log(self, result: SemanticRecord) -> dict[str, Any]:
        """Status, and the facts of a page."""
        return {"status": result.status, **self.facts(result)}

    def check(self, shard: SemanticShard) -> Iterator[str]:
        """Codes and pixels of all images."""
        images = [int(image) for image in np.flatnonzero(shard.done)]
        faults = [fault for image in images if (fault := _fault(shard, image))]
        if faults:
            yield f"{part_of(len(faults), len(images), 'map')} wrong: {few_of(faults)}"

    def summary(self, counts: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Classes that occur, and the share of pixels that have none."""
        pixels, unlabelled = counts.get("pixels", {}), counts.get("unlabelled", 0)
        total = max(sum(pixels.values()) + unlabelled, 1)
        most = ", ".join(f"{printable(name)} {count / total:.0%}" for name, count in by_pixels(pixels)[:_NAMED])
        return [
            ("classes", f"{len(pixels)} occur, most of all {most}" if pixels else "none"),
            *([("unlabelled", f"{unlabelled / total:.1%} of pixels")] if unlabelled else []),
        ]

    def brief(self, counts: Mapping[str, Any]) -> str:
        """Classes that occurred so far."""
        return counted(len(counts["pixels"]), "class", "es") if counts.get("pixels") else ""

    def survey(self, parts: Iterable[tuple[SemanticShard, np.ndarray]]) -> dict[str, Any]:
        """classes: names and colours; pixels, images: of each class that occurs; unlabelled: pixels; statuses;
        confidence: histogram over cells of 8 x 8 pixels.
        """
        pixels, images, statuses = Counter[str](), Counter[str](), Counter[str]()
        unlabelled, cells, classes = 0, np.zeros(256, np.int64), None
        for shard, counts_B in parts:
            classes = shard.classes
            statuses.update(STATUSES[status] for status in shard.status[counts_B])
            done_B = counts_B & shard.done
            pixels_BC = shard.pixels[done_B]
            pixels.update(dict(zip(classes.names, pixels_BC.sum(axis=0).tolist(), strict=True)))
            images.update(dict(zip(classes.names, (pixels_BC > 0).sum(axis=0).tolist(), strict=True)))
            unlabelled += int(shard.size[done_B].astype(np.int64).prod(axis=1).sum() - pixels_BC.sum())
            for image in np.flatnonzero(done_B):
                cells += np.bincount(shard.cells_of(int(image)), minlength=256)
        return {
            "classes": classes.to_json() if classes else [],
            "pixels": {name: count for name, count in by_pixels(pixels) if count},
            "class_images": {name: images[name] for name, count in by_pixels(pixels) if count},
            "unlabelled": unlabelled,
            "statuses": {status: statuses[status] for status in STATUSES},
            "confidence": histogram(np.arange(256) / 255, (0.0, 1.0), cells),
        }

    def survey_lines(self, survey: Mapping[str, Any]) -> list[str]:
        """Bars of text."""
        pixels = survey["pixels"]
        width = max(map(len, pixels), default=0)
        total = max(sum(pixels.values()) + survey["unlabelled"], 1)
        lines = [f"class{'':<{max(width - 2, 1)}} share of pixels, in how many images"]
        for name, count in pixels.items():
            in_images = counted(survey["class_images"][name], "image")
            lines.append(
                f"  {printable(name):<{width}}  {bar(count, max(pixels.values()))} {count / total:.1%}, {in_images}"
            )
        return [*lines, "confidence, in cells of 8 x 8 pixels", *histogram_lines(survey["confidence"])]

    def draw(self, rgb_HW3: np.ndarray, result: SemanticRecord) -> Any:
        """See `semantic_overlay.draw_overlay`."""
        from pipeline.results.semantic_overlay import draw_overlay  # fonts, for drawing alone

        return draw_overlay(rgb_HW3, result)

    def facts(self, result: SemanticRecord) -> dict[str, float | int | str]:
        """Number of classes, the largest one, percentage of pixels without a class, mean confidence."""
        largest = int(np.argmax(result.pixels))
        return {
            "classes": sum(count > 0 for count in result.pixels),
            "largest class": result.classes.names[largest] if result.pixels[largest] else "none",
            "unlabelled %": round(100 * result.unlabelled / result.n_pixels, 1),
            "mean confidence": round(result.mean_confidence, 4),
        }


def _fault(shard: SemanticShard, image: int) -> str:
    """What is wrong with the map of an image, or ""."""
    try:
        record = shard.record(image)
        labels = record.labels
    except StoreError as error:
        return error.what
    counts = np.bincount(labels.ravel(), minlength=NONE + 1)
    beyond = counts[len(record.classes) : NONE]
    if beyond.any():
        return f"{record.id}: label {len(record.classes) + int(beyond.nonzero()[0][0])} is beyond its classes"
    if tuple(counts[: len(record.classes)].tolist()) != record.pixels:
        return f"{record.id}: its classes do not have the pixels that are recorded"
    return ""
