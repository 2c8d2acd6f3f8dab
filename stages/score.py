"""The score of an instance, which ranks masks: a product of parts, each 0..1, that say how much of a thing it is.

MaskCut scores every mask 1, and the papers rank nothing before a detector does. Which parts rank masks best was
measured on photos with true masks: docs/decisions/0007-tree-and-score.md. `stages.mask_parts` computes them.
"""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ScoreParts:
    """What a score is made of, all 0..1, larger speaks for the mask.

    contrast: half of 1 - cosine of the mean features inside the mask and in a ring around it.
    uniqueness: of all patches that are like the mask, the share inside of it: low for a piece of a larger thing.
    nearness: share of the outline beyond which the scene is farther: things occlude what is behind them.
    clearance: share of the image's border that the mask leaves free: backgrounds run along it.
    stability: mean Spatial Confidence over the mask, without its floor.
    novelty: 1 for a mask that overlaps no better one of its image, less the more it does (`stages.select`).
    """

    contrast: float = 1.0
    uniqueness: float = 1.0
    nearness: float = 1.0
    clearance: float = 1.0
    stability: float = 1.0
    novelty: float = 1.0


PARTS = tuple(field.name for field in fields(ScoreParts))
CONSTANT = "constant"  # MaskCut as published: every mask scores 1
OBJECTNESS = "*".join(PARTS)


def factors(score: str) -> tuple[str, ...]:
    """Names of what a recipe's `score` is the product of; none for "constant"."""
    return () if score == CONSTANT else tuple(score.split("*"))


def check_score(score: str) -> None:
    """Raise ValueError unless `score` is "constant" or a product of PARTS such as "contrast*stability"."""
    names = factors(score)
    if not set(names) <= set(PARTS) or len(set(names)) < len(names):
        raise ValueError(f'score must be "{CONSTANT}" or a product of {", ".join(PARTS)} like "contrast*stability", '
                         f"got {score!r}")  # fmt: skip


def score_of(parts: ScoreParts, score: str) -> float:
    """The score that a recipe's `score` makes of the parts, 0..1."""
    return math.prod((getattr(parts, name) for name in factors(score)), start=1.0)
