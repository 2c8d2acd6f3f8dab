"""The guide lists every reason for which an image is set aside or a mask is dropped, and no other."""

import ast
import re
from collections.abc import Iterator

from support import ROOT

from cluster.driver import VERDICTS
from detector.prediction import merging
from pipeline.images import oddities
from pipeline.methods.coco_import.importing import BAD_PART
from pipeline.methods.cups.fusing import AT_BORDER, NO_CLASS
from pipeline.results.empty_reasons import LIKELY
from stages.filters import DropReason
from stages.motion.movers import EMPTY_REASONS

PACKAGES = ("stages", "pipeline", "cluster", "detector")
# Where the reason stands among the arguments of what is made of it.
SET_ASIDE = {"ImageError": 0, "Failed": 1}
DROPPED = {"UnusableMaskError": 0}


def reasons(places: dict[str, int]) -> Iterator[str]:
    """Words of the source that stand as a reason."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    place = places.get(name)
                    if place is not None and len(node.args) > place and isinstance(node.args[place], ast.Constant):
                        yield str(node.args[place].value)  # type: ignore[attr-defined]


def listed(heading: str) -> set[str]:
    """Words between backticks in the first column of the guide's table with this heading."""
    text = (ROOT / "docs/user-guide.md").read_text()
    table = text.partition(f"| {heading} |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return {word for row in rows for word in re.findall(r"`(\w+)`", row)}


def test_why_images_are_set_aside() -> None:
    of_maps = {f"{fault}_{kind}" for kind in reasons({"MapFolder": 2}) for fault in ("no", "bad")}
    assert listed("set aside as") == {*reasons(SET_ASIDE), *of_maps, *VERDICTS, oddities.REASON}


def test_why_masks_are_dropped() -> None:
    found = {*reasons(DROPPED), *map(str, DropReason), merging.EMPTY, merging.REPLACED, BAD_PART}
    assert listed("dropped as") == found | {*EMPTY_REASONS, AT_BORDER}


def test_why_a_clip_has_no_instance() -> None:
    text = (ROOT / "docs/panoptic.md").read_text()
    table = text.partition("| reason |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == {*EMPTY_REASONS, AT_BORDER, NO_CLASS} == set(LIKELY)
