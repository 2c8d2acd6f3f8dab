"""What a recipe proposes for an image before refinement, and how sure it is of each patch.

Gh, Gw patch grid
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pipeline.methods.cuts.recipes import Recipe
from stages.filters import DropReason
from stages.score import ScoreParts
from stages.spatial_confidence import spatial_confidence, threshold_ladder


class StopReason(StrEnum):
    """Why the search of an image ended."""

    ROUNDS = "rounds"  # all rounds of the recipe were run
    NOTHING_LEFT = "nothing_left"  # the group holds no patch that was not taken before
    REST = "rest"  # the group is just what the earlier rounds left over
    TREE = "tree"  # no rounds: the tree of cuts was searched to its depth
    MERGED = "merged"  # no rounds: all masks that matched were merged
    REGIONS = "regions"  # no rounds: regions were merged down to the last threshold


@dataclass(frozen=True)
class Proposal:
    """What one round found, or one of the best of a tree of cuts or of merging, or one region of a hierarchy.

    round: 0-based; of tree and merging the place among the proposals, best first; of a hierarchy that of its threshold.
    level: NCuts that lead to it, one after the other, >= 1; always 1 for rounds, which all cut the whole image, and for
        merging and hierarchies, which have no NCuts.
    eigenvector: (Gh, Gw) float32, foreground positive; of a tree search 0 outside of what was cut; of merging and of a
        hierarchy each patch's cosine with the mean features of the group.
    eigenvalue, gap: λ₂ and λ₃ - λ₂ of its NCut; 0 where there is none.
    parts: of the score; stability is filled in when the confidence is known, and stays 1 for rounds before.
    group: (Gh, Gw) bool, the semantic group; of a tree search the part; of merging what was merged.
    mask: (Gh, Gw) bool, the candidate for an instance as it is cut, without the patches of earlier masks.
    settled: (Gh, Gw) bool, the same with its boundary settled, which is what is scored and refined; the mask itself for
        recipes without that stage.
    tau: LocalCut's threshold that cut it out of the group, the highest where several cut the same; infinity where no
        edge had to be cut in 3D: without LocalCut, and for a part as it is. Of a hierarchy the threshold of merging.
    source, sink: flat patch indices of LocalCut's terminals; without LocalCut the source is the seed (of a hierarchy
        the region's patch most like its mean feature) and the sink -1.
    dropped: why it is not kept, or None.
    """

    round: int
    level: int
    eigenvector: np.ndarray
    eigenvalue: float
    gap: float
    parts: ScoreParts
    group: np.ndarray
    mask: np.ndarray
    settled: np.ndarray
    tau: float
    source: int
    sink: int
    dropped: DropReason | None

    @property
    def was_cut(self) -> np.ndarray:
        """(Gh, Gw) bool, what its NCut parted, of a tree search; the whole image on the first level."""
        if self.level == 1:
            return np.ones_like(self.group)
        return (self.eigenvector != 0) | self.group  # an entry may be 0 by chance


@dataclass(frozen=True)
class Eigenvectors:
    """First-round NCut of a batch, as the `ncut` stage keeps it: eigenvector_BN float32, eigenvalue_B, gap_B
    float32.
    """

    eigenvector_BN: np.ndarray
    eigenvalue_B: np.ndarray
    gap_B: np.ndarray

    def solutions(self) -> list[tuple[np.ndarray, float, float]]:
        """Of each image its eigenvector, (N,) float32, λ₂ and λ₃ - λ₂."""
        return list(zip(self.eigenvector_BN, self.eigenvalue_B.tolist(), self.gap_B.tolist(), strict=True))


@dataclass(frozen=True)
class ImageProposals:
    """All proposals of an image in the order of their rounds, kept and dropped, and why the rounds ended."""

    proposals: tuple[Proposal, ...]
    stop: StopReason


def cut_thresholds(recipe: Recipe, grid: tuple[int, int]) -> np.ndarray:
    """LocalCut's thresholds on a (Gh, Gw) patch grid, ascending, float64: those of Spatial Confidence, or τ_knn alone;
    empty without LocalCut.
    """
    if recipe.local_cut is None:
        return np.zeros(0)
    tau = recipe.local_cut.tau_on(grid)
    return np.array([tau]) if recipe.spatial_confidence is None else threshold_ladder(tau, recipe.spatial_confidence)


def confidence_of(proposal: Proposal, depth_GhGw: np.ndarray | None, recipe: Recipe) -> np.ndarray:
    """Spatial Confidence of a proposal before its floor, (Gh, Gw) float32 in 0..1, 0 outside its mask; 1 inside for
    recipes without it.
    """
    if recipe.spatial_confidence is None or recipe.local_cut is None or depth_GhGw is None:
        return proposal.mask.astype(np.float32)
    return spatial_confidence(
        depth_GhGw,
        proposal.group,
        proposal.mask,
        proposal.source,
        proposal.sink,
        recipe.local_cut,
        recipe.spatial_confidence,
    )
