"""From an eigenvector to a semantic group: the cut at the mean, and which of its sides is foreground.

N = Gh·Gw patches · Gh, Gw patch grid
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

FOUR_CONNECTED = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


@dataclass(frozen=True)
class BipartitionConfig:
    """foreground: which side of the cut is the semantic group.
    "corners_and_peak" (CutLER): the side of the largest |x|, unless it holds 3 or more of the 4 image corners;
    "peak" (TokenCut): the side of the largest |x|; "smaller" (DiffNCuts): the side with fewer patches.
    """

    foreground: Literal["corners_and_peak", "peak", "smaller"] = "corners_and_peak"

    def __post_init__(self) -> None:
        if self.foreground not in ("corners_and_peak", "peak", "smaller"):
            raise ValueError(
                f'bipartition.foreground must be "corners_and_peak", "peak" or "smaller", got {self.foreground!r}'
            )


@dataclass(frozen=True)
class Bipartition:
    """group: (Gh, Gw) bool, the semantic group.
    eigenvector: (Gh, Gw) float32, its sign turned so that the group lies above the mean.
    seed: flat index of the eigenvector's maximum, a patch of the group.
    """

    group: np.ndarray
    eigenvector: np.ndarray
    seed: int


def bipartition(eigenvector_GhGw: np.ndarray, config: BipartitionConfig) -> Bipartition:
    """Cut an eigenvector, (Gh, Gw) float of either sign, at its mean and turn it to the foreground (CutLER).

    The result is the same for x and -x.
    """
    x = eigenvector_GhGw
    # No solver promises a sign, and the published rule depends on it where the peak's side holds three corners.
    # Making the peak positive first decides those cases the same way every time.
    if x.flat[int(np.abs(x).argmax())] < 0:
        x = -x
    group = x > x.mean()
    if config.foreground == "corners_and_peak":
        reverse = int(group[[0, 0, -1, -1], [0, -1, 0, -1]].sum()) >= 3
    else:
        reverse = config.foreground == "smaller" and 2 * int(group.sum()) > group.size
    if reverse:
        x, group = -x, ~group
    return Bipartition(group=group, eigenvector=x, seed=int(x.argmax()))


def component_of(mask_GhGw: np.ndarray, patch: int) -> np.ndarray:
    """4-connected component of a (Gh, Gw) bool mask that holds the patch of that flat index; empty if the mask lacks
    it.
    """
    labels, _ = scipy.ndimage.label(mask_GhGw, structure=FOUR_CONNECTED)
    label = labels.flat[patch]
    return (labels == label) & mask_GhGw
