"""A class, here a cluster, and a confidence at every pixel of a photo, from the codes of its windows.

H, W pixels of the photo · S, T height and width at which the CRF works · K width of the codes · C clusters

Memory is bounded by bands of rows: at the photo's own size there are only the labels and one number per pixel.

Source: STEGO's and DepthG's evaluation: codes interpolated, log softmax of twice the cosine, a dense CRF. CUPS's
pseudo-labels mix two such maps by depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from stages.crf import CrfConfig, label_crf
from stages.late import torch
from stages.semantics.windows import Window, at_points, centres, log_shares, resampled

if TYPE_CHECKING:
    from stages.semantics.clusters import ClusterProbe

# Numbers that a band has, of codes or shares: 16 MB in float32.
_BAND = 1 << 22


def published_crf() -> CrfConfig:
    """The constants of STEGO, DepthG and CUPS."""
    return CrfConfig(10, gaussian_sxy=1, gaussian_compat=3, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4)


@dataclass(frozen=True)
class LabelRefineConfig:
    """crf: none leaves the labels as the codes give them.
    side: short side in pixels of the photo at which the CRF works, at least 16; smaller photos are taken as they are.
        None: every photo as it is.
    """

    crf: CrfConfig | None = field(default_factory=published_crf)
    side: int | None = 320

    def __post_init__(self) -> None:
        if self.side is not None and self.side < 16:
            raise ValueError(f"refine.side must be at least 16 or none, got {self.side}")


@dataclass(frozen=True, eq=False)
class Seen:
    """Codes of windows that cover a photo. codes_VKhw: float32, of each of them. blended: see `log_shares`."""

    windows: Sequence[Window]
    codes_VKhw: torch.Tensor
    blended: bool = False

    def log_shares(self, probe: ClusterProbe, y_R: np.ndarray, x_T: np.ndarray) -> torch.Tensor:
        """(C, R, T) at points of the photo."""
        return log_shares(self.windows, self.codes_VKhw, probe, y_R, x_T, self.blended)


@dataclass(frozen=True, eq=False)
class Near:
    """What is seen from nearer, to be mixed with what is seen of the whole photo, as logarithms.

    whole_share: of the whole photo's, 0..1: a number, or float32 (h, w), a map of any size that covers the photo.
    """

    seen: Seen
    whole_share: float | np.ndarray


def label_photo(
    image_HW3: np.ndarray,
    whole: Seen,
    near: Near | None,
    probe: ClusterProbe,
    config: LabelRefineConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels uint8 (H, W), 0..C-1, and confidence float32 (H, W), 0..1: the share of the label at its pixel.

    image_HW3: uint8 RGB.
    probe: of 255 clusters at most, on the device of the codes, where the CRF runs, too.
    """
    size = image_HW3.shape[:2]
    labels_HW, confidence_HW = np.empty(size, np.uint8), np.empty(size, np.float32)
    for rows, shares_CRW in _bands_of_shares(image_HW3, whole, near, probe, config):
        best_RW, label_RW = shares_CRW.max(dim=0)
        labels_HW[rows] = label_RW.cpu().numpy()
        confidence_HW[rows] = best_RW.clamp_(0, 1).cpu().numpy()
    return labels_HW, confidence_HW


def _bands_of_shares(
    image_HW3: np.ndarray, whole: Seen, near: Near | None, probe: ClusterProbe, config: LabelRefineConfig
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Bands of rows of the photo, each with its shares (C, R, W)."""
    photo = image_HW3.shape[:2]
    clusters, channels = len(probe.centroids), max(probe.centroids.shape)
    if config.crf is None:
        for rows in _bands(photo, channels):
            yield rows, _shares(photo, photo, rows, whole, near, probe)
        return
    work = working_size(photo, config.side)
    before_CST = torch.empty((clusters, *work), device=probe.centroids.device)
    for rows in _bands(work, channels):
        before_CST[:, rows] = _shares(photo, work, rows, whole, near, probe)
    small = image_HW3
    if work != photo:
        small = np.asarray(Image.fromarray(image_HW3).resize(work[::-1], Image.Resampling.LANCZOS))
    image_1ST3 = torch.from_numpy(np.array(small)).to(probe.centroids.device)[None]
    (after_CST,) = label_crf(image_1ST3, [before_CST], config.crf)
    del before_CST
    after_CST = after_CST.contiguous()  # rows are taken from it
    y_H, x_W = (centres(1, side) for side in photo)
    for rows in _bands(photo, clusters):
        yield rows, after_CST[:, rows] if work == photo else resampled(after_CST, y_H[rows], x_W)


def working_size(photo: tuple[int, ...], short_side: int | None) -> tuple[int, int]:
    """Height and width of the photo, made smaller so that its short side is this, unless it is smaller, or None."""
    height, width = photo
    scale = 1.0 if short_side is None else min(1.0, short_side / min(photo))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _bands(size: tuple[int, int], channels: int) -> Iterator[slice]:
    height, width = size
    rows = max(1, _BAND // (channels * width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _shares(
    photo: tuple[int, ...],
    size: tuple[int, int],
    rows: slice,
    whole: Seen,
    near: Near | None,
    probe: ClusterProbe,
) -> torch.Tensor:
    """Shares (C, R, T) in rows of a map of the photo of this size, before the CRF."""
    y_R, x_T = centres(photo[0], size[0])[rows], centres(photo[1], size[1])
    logs_CRT = whole.log_shares(probe, y_R, x_T)
    if near is not None:
        near_CRT = near.seen.log_shares(probe, y_R, x_T)
        share = near.whole_share
        if isinstance(share, np.ndarray):
            share_RT = at_points(share, y_R / photo[0], x_T / photo[1])
            logs_CRT = near_CRT.lerp_(logs_CRT, torch.from_numpy(share_RT).to(near_CRT.device))
        else:
            logs_CRT = near_CRT.lerp_(logs_CRT, share)
    return logs_CRT.softmax(dim=0)
