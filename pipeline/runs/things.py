"""Which classes of a run of panoptic labels are things, and by what figures."""

from collections.abc import Mapping
from typing import Any

from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.wording import by_reason, counted, part_of, printable


def things_of(reader: PanopticReader) -> dict[str, Any]:
    """All of it as JSON-able values, from the commits alone: run; threshold (null where the maker of the labels knows);
    assignment, the truth that it is to (null without one); unlabelled, pixels without a class; instances; empty (images
    without an instance, by reason), both null with an assignment, since only the labels tell which instances have a
    class; and classes, the largest ratio first: number, name, pixels, inside (those of them in
    instances), ratio (inside / pixels), share (of the sum of all ratios), thing.
    """
    split, counts = reader.split, reader.named_counts(reader.counts)
    assignment = reader.assignment
    order = sorted(range(len(split.classes)), key=lambda c: -split.ratios[c])
    names = split.classes.names
    return {
        "run": reader.run.url,
        "threshold": reader.cluster_split.threshold,
        "assignment": None if assignment is None else assignment.truth,
        "unlabelled": counts["unlabelled"],
        "instances": counts["instances"] if assignment is None else None,
        "empty": counts["empty"] if assignment is None else None,
        "classes": [
            {
                "number": c,
                "name": names[c],
                "pixels": counts["pixels"].get(names[c], 0),
                "inside": counts["inside"].get(names[c], 0),
                "ratio": float(split.ratios[c]),
                "share": float(split.shares[c]),
                "thing": bool(split.things[c]),
            }
            for c in order
        ],
    }


def thing_lines(found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    classes = found["classes"]
    width = max([8, *(len(printable(one["name"])) for one in classes)])
    total = max(sum(one["pixels"] for one in classes) + found["unlabelled"], 1)
    lines = [f"{'class':<{width}}  of all pixels  in instances  share of ratios"]
    for one in classes:
        ratio = f"{one['ratio']:.2%}" if one["pixels"] else "-"
        figures = f"{one['pixels'] / total:>13.2%}  {ratio:>12}  {one['share']:>15.3f}"
        lines.append(f"{printable(one['name']):<{width}}  {figures}  {'thing' if one['thing'] else 'stuff'}")
    if found["unlabelled"]:
        lines.append(f"{'no class':<{width}}  {found['unlabelled'] / total:>13.2%}")
    things = sum(one["thing"] for one in classes)
    number = f"{part_of(things, len(classes), 'class', 'es')} {'a thing' if things == 1 else 'things'}"
    threshold = found["threshold"]
    by = "so the labels' maker says" if threshold is None else f"a share of ratios above {threshold:g}"
    if found["assignment"] is not None:
        by = f"a cluster of each is one, {by if threshold is None else f'by {by}'}"
    lines.append(f"{number}: {by}")
    empty = found["empty"]
    if empty is None:
        return lines
    without = f"; {counted(sum(empty.values()), 'image')} without any: {by_reason(empty)}" if empty else ""
    return [*lines, f"{counted(found['instances'], 'instance')}{without}"]
