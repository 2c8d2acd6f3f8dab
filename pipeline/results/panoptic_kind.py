"""A class per pixel, and which pixels are one instance, as a kind of result.

B images · C classes
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.results.empty_reasons import likely_cause
from pipeline.results.histograms import histogram, histogram_lines, number_lines, titled
from pipeline.results.kinds import Counts, Failed
from pipeline.results.panoptic import UNKNOWN_REASON, PanopticRecord, counts_of, measured
from pipeline.results.panoptic_file import SCHEMA, STATUSES, VERSION, PanopticShard, write_shard
from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic import Classes
from pipeline.results.semantic_figures import LabelFigures, class_summary, figure_lines, label_facts, label_fault
from pipeline.wording import by_reason, counted, few_of, part_of, printable

NAME = "panoptic"


@dataclass(frozen=True)
class PanopticKind:
    """A `pipeline.results.kinds.ResultKind`.

    classes: of the run, None for one that only reads.
    things: of each class whether it is a thing, where the maker of the labels knows, as a detector does; None where the
        statistics of the whole run decide.
    """

    classes: Classes | None = None
    things: tuple[bool, ...] | None = None

    name = NAME
    schema = f"{SCHEMA} {VERSION}"
    words = "panoptic labels"
    commands = (
        "`cuts3d things`, `cuts3d train --config cups_r50_fpn`, `cuts3d self-train --config cups_self_r50_fpn`, "
        "`cuts3d evaluate-panoptic`, `cuts3d export --panoptic` and `cuts3d gallery`"
    )

    def __post_init__(self) -> None:
        if self.things is not None and (self.classes is None or len(self.things) != len(self.classes)):
            raise ValueError(f"PanopticKind.things must say of each class whether it is a thing, not {self.things}")

    def write(self, results: Sequence[PanopticRecord | Failed], attributes: Mapping[str, Any]) -> bytes:
        """See `panoptic_file.write_shard`."""
        if self.classes is None:
            raise ValueError("a kind that writes labels has to know the classes")
        return write_shard(results, self.classes, self.things, attributes)

    def open(self, source: bytes | Path, name: str = "") -> PanopticShard:
        """See `panoptic_file.PanopticShard.open`."""
        return PanopticShard.open(source, name)

    def counts(self, results: Iterable[PanopticRecord | Failed]) -> Counts:
        """See `panoptic.counts_of`."""
        return counts_of(results)

    def log(self, result: PanopticRecord) -> dict[str, Any]:
        """Status, the facts of a page, and why there is no instance."""
        empty = {"empty": result.why_empty} if result.why_empty else {}
        return {"status": result.status, **self.facts(result), **empty}

    def check(self, shard: PanopticShard) -> Iterator[str]:
        """Codes, pixels and instances of all images."""
        images = [int(image) for image in np.flatnonzero(shard.done)]
        faults = [fault for image in images if (fault := _fault(shard, image))]
        if faults:
            yield f"{part_of(len(faults), len(images), 'map')} wrong: {few_of(faults)}"

    def summary(self, counts: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Classes that occur, pixels that have none, instances, and why images have no instance."""
        empty, done = counts.get("empty", {}), counts["images"] - counts.get("quarantined", 0)
        return [
            *class_summary(counts),
            ("instances", str(counts.get("instances", 0))),
            *([("none in", f"{counted(sum(empty.values()), 'image')}: {by_reason(empty)}")] if empty else []),
            *likely_cause(empty, done),
        ]

    def brief(self, counts: Mapping[str, Any]) -> str:
        """Instances per image, and images without one by reason."""
        facts = [f"{counts['instances'] / counts['images']:.1f} instances/image"] if counts.get("instances") else []
        return ", ".join([*facts, *([by_reason(counts["empty"])] if counts.get("empty") else [])])

    def survey(self, parts: Iterable[tuple[PanopticShard, np.ndarray]]) -> dict[str, Any]:
        """What `semantic_figures.LabelFigures` has; inside: pixels of each class that lie in instances; things: names
        of the thing classes; instances, by name of the class, too; per_image; empty: images without one, by reason;
        instance_confidence and reliable as histograms, the latter where images have it.
        """
        figures, inside, of_class = LabelFigures(STATUSES), Counter[str](), Counter[str]()
        per_image, empty, given = Counter[int](), Counter[str](), None
        confidences, reliable = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
        for shard, counts_B in parts:
            figures.add(shard, counts_B)
            given = shard.things
            for image in np.flatnonzero(counts_B & shard.done):
                own = shard.instances_of(int(image))
                per_image[own.stop - own.start] += 1
                if own.start == own.stop:
                    empty[shard.reasons[image] or UNKNOWN_REASON] += 1
                confidences.append(shard.instance_confidence[own])
                for class_, area in zip(shard.instance_class[own], shard.instance_area[own].tolist(), strict=True):
                    inside[shard.classes.names[class_]] += area
                    of_class[shard.classes.names[class_]] += 1
            reliable.append(shard.reliable[counts_B & shard.done & ~np.isnan(shard.reliable)])
        own_figures = figures.as_dict()
        motion = np.concatenate(reliable)
        return {
            **own_figures,
            "inside": dict(sorted(inside.items())),
            "things": _things(figures.classes, given, own_figures["pixels"], inside),
            "instances": sum(of_class.values()),
            "class_instances": dict(sorted(of_class.items())),
            "per_image": dict(sorted(per_image.items())),
            "empty": dict(sorted(empty.items())),
            "instance_confidence": histogram(np.concatenate(confidences), (0.0, 1.0)),
            **({"reliable": histogram(motion, (0.0, 1.0))} if len(motion) else {}),
        }

    def survey_lines(self, survey: Mapping[str, Any]) -> list[str]:
        """Bars of text."""
        if not survey["classes"]:  # no shard is there
            return []
        things = ", ".join(map(printable, survey["things"])) or "none"
        lines = [f"things       {part_of(len(survey['things']), len(survey['classes']), 'class', 'es')}: {things}"]
        lines += [*figure_lines(survey), *titled("instances per image", number_lines(survey["per_image"]))]
        lines += titled("confidence of instances", histogram_lines(survey["instance_confidence"]))
        if "reliable" in survey:
            lines += titled("share of pixels whose motion is reliable", histogram_lines(survey["reliable"]))
        return lines

    def draw(self, rgb_HW3: np.ndarray, result: PanopticRecord) -> Any:
        """See `panoptic_overlay.draw_overlay`."""
        from pipeline.results.panoptic_overlay import draw_overlay  # fonts, for drawing alone

        return draw_overlay(rgb_HW3, result, self.things)

    def facts(self, result: PanopticRecord) -> dict[str, float | int | str]:
        """Number of instances, and `semantic_figures.label_facts`."""
        return {"instances": len(result.instances), **label_facts(result.semantic)}


def _things(
    classes: Classes | None, given: Sequence[bool] | None, pixels: Mapping[str, int], inside: Mapping[str, int]
) -> list[str]:
    if classes is None:
        return []
    split = ThingSplit.made(classes, given, {"pixels": pixels, "inside": inside})
    return [classes.names[c] for c in split.thing_classes]


def _fault(shard: PanopticShard, image: int) -> str:
    """What is wrong with the maps of an image, or ""."""
    try:
        record = shard.record(image)
        return label_fault(record.semantic) or _instance_fault(record)
    except StoreError as error:
        return error.what


def _instance_fault(record: PanopticRecord) -> str:
    ids_HW, n = record.instance_ids, len(record.instances)
    if int(ids_HW.max()) > n:
        return f"{record.id}: its map has an instance {ids_HW.max()}, recorded are {n}"
    try:
        found = measured(ids_HW, record.labels, n)
    except ValueError as error:
        return f"{record.id}: {error}"
    for k, (own, recorded) in enumerate(zip(found, record.instances, strict=True), start=1):
        if own != (recorded.class_, recorded.area, recorded.box):
            return f"{record.id}: instance {k} has class, area and box {own}, recorded is {recorded}"
    return ""
