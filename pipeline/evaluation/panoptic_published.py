"""What has been published of panoptic labels without labels, and which of it can be held against figures of ours.

Percent. The source says how far each is to be trusted:

    PAPER  summaries of the paper
    CODE   the authors' README
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PanopticFigure:
    """One published method on a benchmark: PQ, SQ, RQ, and PQ of things and stuff; None where they are not known."""

    method: str
    data: str
    pq: float
    sq: float | None
    rq: float | None
    pq_things: float | None
    pq_stuff: float | None
    source: str


PUBLISHED: tuple[PanopticFigure, ...] = (
    PanopticFigure("with labels", "Cityscapes", 62.3, 81.8, 75.1, None, None, "PAPER"),
    PanopticFigure("DepthG + CutLER", "Cityscapes", 16.1, 45.4, 21.1, None, None, "PAPER"),
    PanopticFigure("U2Seg", "Cityscapes", 18.4, 55.8, 22.7, 10.2, 24.3, "PAPER"),
    PanopticFigure("CUPS, 27 clusters", "Cityscapes", 27.8, 57.4, 35.2, 17.7, 35.1, "PAPER"),
    PanopticFigure("CUPS, 40 clusters", "Cityscapes", 30.3, None, None, None, None, "PAPER"),
    PanopticFigure("CUPS, 54 clusters", "Cityscapes", 30.6, None, None, None, None, "PAPER"),
    PanopticFigure("U2Seg", "KITTI", 20.6, None, None, None, None, "CODE"),
    PanopticFigure("CUPS", "KITTI", 25.5, None, None, None, None, "CODE"),
)

# The columns of a table, by name of the metric and of the field.
COLUMNS = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "pq_things": "PQ things", "pq_stuff": "PQ stuff"}
PUBLISHED_VOID, PUBLISHED_CLASSES = "forgiven", 19
_IMAGES = {"Cityscapes": "the 500 images of val", "KITTI": "the authors' images of it"}


def published(benchmark: str) -> tuple[PanopticFigure, ...]:
    """Those of the data of a benchmark, whatever its classes; () for none."""
    return tuple(figure for figure in PUBLISHED if figure.data == benchmark.partition("-")[0])


def not_alike(benchmark: str, void: str, given: bool) -> list[str]:
    """Why figures of ours are not those of the papers, as far as this evaluation goes; one sentence each.

    void: of ours. given: whether the assignment was found elsewhere.
    """
    data, _, classes = benchmark.partition("-")
    reasons = [f"theirs are of {_IMAGES[data]}"]
    if classes != str(PUBLISHED_CLASSES):
        reasons.append(f"the command of CUPS scores {PUBLISHED_CLASSES} classes: --classes {PUBLISHED_CLASSES}")
    if void != PUBLISHED_VOID:
        reasons.append(f"what they leave without a prediction is forgiven: --void {PUBLISHED_VOID}")
    if given:
        reasons.append("their assignment is found on the images that are scored: leave --assignment out")
    return reasons
