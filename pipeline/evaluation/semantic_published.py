"""What has been published of semantic classes without labels, and which of it can be held against figures of ours.

Percent. The source says how far each is to be trusted:

    PAPER  summaries of the paper
    CODE   the authors' issue threads or README
    MEM    from memory of the paper
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SemanticFigure:
    """One published method on a benchmark. accuracy, miou: None where they are not known."""

    method: str
    benchmark: str
    accuracy: float | None
    miou: float | None
    source: str


_CITYSCAPES, _COCO, _POTSDAM = "Cityscapes-27", "COCO-Stuff-27", "Potsdam-3"

PUBLISHED: tuple[SemanticFigure, ...] = (
    SemanticFigure("STEGO, ViT-B/8", _CITYSCAPES, 73.2, 21.0, "PAPER"),
    SemanticFigure("HP", _CITYSCAPES, 79.5, 18.4, "PAPER"),
    SemanticFigure("DepthG, ViT-B/8", _CITYSCAPES, 81.6, 23.1, "PAPER"),
    SemanticFigure("U2Seg", _CITYSCAPES, 79.1, 21.6, "PAPER"),
    SemanticFigure("CUPS", _CITYSCAPES, 83.2, 26.8, "PAPER"),
    SemanticFigure("STEGO, ViT-S/8", _COCO, None, 24.5, "PAPER, MEM"),
    SemanticFigure("DepthG, ViT-S/8", _COCO, 56.3, 25.6, "PAPER, MEM"),
    SemanticFigure("STEGO, ViT-B/8", _COCO, 56.9, 28.2, "PAPER, MEM"),
    SemanticFigure("DepthG, ViT-B/8", _COCO, 58.6, 29.0, "PAPER, MEM"),
    SemanticFigure("STEGO", _POTSDAM, 77.0, None, "PAPER"),
    SemanticFigure("STEGO, released checkpoint", _POTSDAM, 77.03, 62.6, "CODE"),
    SemanticFigure("STEGO, a user's training", _POTSDAM, 64.2, 47.7, "CODE"),
    SemanticFigure("DepthG", _POTSDAM, 80.4, None, "PAPER"),
)

IMAGES = {
    _CITYSCAPES: "500 images of val",
    _COCO: "2,175 images of STEGO's val list",
    _POTSDAM: "the labelled tiles of the release",
}

# The crop of the papers: short side 320 pixels, nearest, and the middle square of it.
PUBLISHED_CROP = 320


def published(benchmark: str) -> tuple[SemanticFigure, ...]:
    """Those of a benchmark, () for none."""
    return tuple(figure for figure in PUBLISHED if figure.benchmark == benchmark)


def not_alike(benchmark: str, crop: int | None, void: str, given: bool) -> list[str]:
    """Why figures of ours are not those of the papers, as far as this evaluation goes; one sentence each.

    crop, void: of ours. given: whether the assignment was found elsewhere.
    """
    reasons = [f"theirs are of {IMAGES[benchmark]}"]
    if crop != PUBLISHED_CROP and benchmark != _POTSDAM:
        reasons.append(f"of the middle square at {PUBLISHED_CROP} pixels: --crop {PUBLISHED_CROP}")
    if void != "skipped":
        reasons.append("they leave pixels without a prediction out: --void skipped")
    if given:
        reasons.append("their assignment is found on the images that are scored: leave --assignment out")
    return reasons
