"""A class and a confidence per pixel, as a kind of result.

B images of a shard
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.results.kinds import Counts, Failed
from pipeline.results.semantic import Classes, SemanticRecord, counts_of
from pipeline.results.semantic_figures import LabelFigures, class_summary, figure_lines, label_facts, label_fault
from pipeline.results.semantic_file import SCHEMA, STATUSES, VERSION, SemanticShard, write_shard
from pipeline.wording import counted, few_of, part_of

NAME = "semantic"


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
        return class_summary(counts)

    def brief(self, counts: Mapping[str, Any]) -> str:
        """Classes that occurred so far."""
        return counted(len(counts["pixels"]), "class", "es") if counts.get("pixels") else ""

    def survey(self, parts: Iterable[tuple[SemanticShard, np.ndarray]]) -> dict[str, Any]:
        """See `semantic_figures.LabelFigures`."""
        figures = LabelFigures(STATUSES)
        for shard, counts_B in parts:
            figures.add(shard, counts_B)
        return figures.as_dict()

    def survey_lines(self, survey: Mapping[str, Any]) -> list[str]:
        """Bars of text."""
        return figure_lines(survey)

    def draw(self, rgb_HW3: np.ndarray, result: SemanticRecord) -> Any:
        """See `semantic_overlay.draw_overlay`."""
        from pipeline.results.semantic_overlay import draw_overlay  # fonts, for drawing alone

        return draw_overlay(rgb_HW3, result)

    def facts(self, result: SemanticRecord) -> dict[str, float | int | str]:
        """See `semantic_figures.label_facts`."""
        return label_facts(result)


def _fault(shard: SemanticShard, image: int) -> str:
    """What is wrong with the map of an image, or ""."""
    try:
        return label_fault(shard.record(image))
    except StoreError as error:
        return error.what
