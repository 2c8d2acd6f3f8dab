"""Fully connected CRF that snaps masks to the edges of the photo: each mask against its background, or many labels at
once.

B images in batch · H, W pixels · P = H·W pixels of an image · M masks of an image · K labels of it · d features

Source: Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011, as
pydensecrf implements it; the constants are MaskCut's (CutLER).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

from stages.late import torch
from stages.permutohedral import PermutohedralLattice

# Pixels filtered together: on CPU one 480² image stays in the caches; a GPU wants some 18 of them (about 2 GB).
_PIXELS_PER_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 22}
_LABELS_PER_CHUNK = 16  # filtered together: more take no less time for each, and more memory
_LEAST_SHARE = 1e-5  # of a label at a pixel: pydensecrf's `unary_from_softmax`


@dataclass(frozen=True)
class CrfConfig:
    """iterations: mean-field steps, 1..1000; ten are usual, and nothing moves after some dozens.
    gaussian_sxy: standard deviation of the smoothness kernel in pixels, > 0.
    gaussian_compat: Potts weight of the smoothness kernel, >= 0.
    bilateral_sxy: standard deviation of the appearance kernel in pixels, > 0.
    bilateral_srgb: standard deviation of the appearance kernel in grey levels of 0..255, > 0.
    bilateral_compat: Potts weight of the appearance kernel, >= 0.
    """

    iterations: int = 10
    gaussian_sxy: float = 3.0
    gaussian_compat: float = 7.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_compat: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.iterations <= 1000:
            raise ValueError(f"crf.iterations must be in 1..1000, got {self.iterations}")
        for field in fields(self):
            value = getattr(self, field.name)
            if "_s" in field.name and not 0 < value < math.inf:
                raise ValueError(f"crf.{field.name} must be finite and > 0, got {value}")
            if field.name.endswith("_compat") and not 0 <= value < math.inf:
                raise ValueError(f"crf.{field.name} must be finite and >= 0, got {value}")


def dense_crf(images_BHW3: torch.Tensor, masks: Sequence[torch.Tensor], config: CrfConfig) -> list[torch.Tensor]:
    """Refine the masks of each image; masks of one image do not influence one another.

    images_BHW3: uint8 RGB, 0..255.
    masks: for each image a bool tensor (M, H, W), M >= 0, on the images' device.

    Returns new masks of the same shapes, dtype and device. The result for an image does not depend on its batch. Raises
    ValueError for other shapes, dtypes or devices.
    """
    _check(images_BHW3, masks, torch.bool)
    refined = [torch.zeros_like(own) for own in masks]
    wanted = [b for b, own in enumerate(masks) if len(own)]
    if not wanted:
        return refined
    height, width = images_BHW3.shape[1:3]
    gaussian = _smoothness_kernel(height, width, config.gaussian_sxy, config.gaussian_compat, images_BHW3.device)
    step = max(1, _PIXELS_PER_CHUNK.get(images_BHW3.device.type, 1 << 18) // (height * width))
    for start in range(0, len(wanted), step):
        chunk = wanted[start : start + step]
        bilateral = _appearance_kernel(images_BHW3[chunk], config)
        foreground_BPM = _mean_field([masks[b] for b in chunk], gaussian, bilateral, config.iterations)
        for b, foreground_PM in zip(chunk, foreground_BPM, strict=True):
            refined[b] = foreground_PM[:, : len(masks[b])].T.reshape(masks[b].shape)
    return refined


def label_crf(images_BHW3: torch.Tensor, shares: Sequence[torch.Tensor], config: CrfConfig) -> Iterator[torch.Tensor]:
    """Refine the labels of each image, which compete for its pixels.

    images_BHW3: uint8 RGB, 0..255.
    shares: for each image a float32 tensor (K, H, W), K >= 1, on the images' device: how much of a pixel is of each
        label, 0..1, of sum 1 at each pixel. Their negative logarithms are the unary energies, as HASSOD has it.

    Yields new shares of the same shapes, which sum to 1, one image at a time; an image does not depend on the others.
    Raises ValueError for other shapes, dtypes or devices.
    """
    _check(images_BHW3, shares, torch.float32)
    height, width = images_BHW3.shape[1:3]
    gaussian = _smoothness_kernel(height, width, config.gaussian_sxy, config.gaussian_compat, images_BHW3.device)
    for image_HW3, own in zip(images_BHW3, shares, strict=True):
        if not len(own):
            raise ValueError("an image has at least one label")
        bilateral = _appearance_kernel(image_HW3[None], config)
        unary_PK = own.flatten(1).T.clone(memory_format=torch.contiguous_format).clamp_(_LEAST_SHARE, 1.0).log_()
        share_PK, logit_PK = unary_PK.softmax(dim=1), torch.empty_like(unary_PK)
        for _ in range(config.iterations):
            logit_PK.copy_(unary_PK)
            for start in range(0, len(own), _LABELS_PER_CHUNK):
                some = slice(start, start + _LABELS_PER_CHUNK)
                some_1PK = share_PK[None, :, some].contiguous()
                logit_PK[:, some] += gaussian.filter(some_1PK)[0]
                logit_PK[:, some] += bilateral.filter(some_1PK)[0]
            torch.softmax(logit_PK, dim=1, out=share_PK)
        yield share_PK.T.reshape(own.shape)


def _check(images_BHW3: torch.Tensor, masks: Sequence[torch.Tensor], dtype: torch.dtype) -> None:
    if images_BHW3.dtype != torch.uint8 or images_BHW3.dim() != 4 or images_BHW3.shape[3] != 3:
        raise ValueError(
            f"images_BHW3 must be a uint8 tensor (B, H, W, 3), got {images_BHW3.dtype} {tuple(images_BHW3.shape)}"
        )
    if len(masks) != len(images_BHW3):
        raise ValueError(f"masks must have one entry per image: {len(masks)} entries, {len(images_BHW3)} images")
    size = images_BHW3.shape[1:3]
    for b, own in enumerate(masks):
        if own.dtype != dtype or own.dim() != 3 or own.shape[1:] != size or own.device != images_BHW3.device:
            name = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"masks[{b}] must be a {name} tensor (M, {size[0]}, {size[1]}) on {images_BHW3.device}, "
                f"got {own.dtype} {tuple(own.shape)} on {own.device}"
            )


def _pixel_positions(height: int, width: int, device: torch.device) -> torch.Tensor:
    """(P, 2) float32: x and y of each pixel, row by row."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1).view(-1, 2)


@lru_cache(maxsize=2)  # the same for all images of a size
def _smoothness_kernel(
    height: int, width: int, sxy: float, compat: float, device: torch.device
) -> PermutohedralLattice:
    return _potts_kernel((_pixel_positions(height, width, device) / sxy)[None], compat)


def _appearance_kernel(images_BHW3: torch.Tensor, config: CrfConfig) -> PermutohedralLattice:
    colours_BP3 = images_BHW3.flatten(1, 2).float()
    height, width = images_BHW3.shape[1:3]
    xy_P2 = _pixel_positions(height, width, images_BHW3.device)
    positions_BP2 = (xy_P2 / config.bilateral_sxy).expand(len(images_BHW3), -1, -1)
    features_BP5 = torch.cat([positions_BP2, colours_BP3 / config.bilateral_srgb], dim=2)
    return _potts_kernel(features_BP5, config.bilateral_compat)


def _potts_kernel(features_BPd: torch.Tensor, compat: float) -> PermutohedralLattice:
    """compat · N^-½ K N^-½ with N = diag(K 1), pydensecrf's NORMALIZE_SYMMETRIC, as a scaled lattice."""
    lattice = PermutohedralLattice.build(features_BPd)
    norm_BP1 = lattice.filter(features_BPd.new_ones(*features_BPd.shape[:2], 1))
    return lattice.scaled((compat / norm_BP1).sqrt())


def _mean_field(
    masks: list[torch.Tensor], gaussian: PermutohedralLattice, bilateral: PermutohedralLattice, iterations: int
) -> torch.Tensor:
    """Foreground (B, P, M) bool of masks (M_b, H, W), with M = max M_b.

    Label l of a pixel has the logit -U_l + Σ K q_l. With two labels only the difference matters. U of the softmax of
    a one-hot mask is .31 or 1.31, so the difference of the unaries is u = ±1, and q_fg - q_bg = s = tanh(logit / 2):

        logit = u + K s        one channel per mask, and no K·1 term

    """
    n_images, n_masks = len(masks), max(len(own) for own in masks)
    n_pixels = masks[0][0].numel()
    unary_BPM = bilateral.splat.weights.new_full((n_images, n_pixels, n_masks), -1.0)
    for unary_PM, own in zip(unary_BPM, masks, strict=True):
        unary_PM[:, : len(own)] += 2.0 * own.flatten(1).T.contiguous()
    logit_BPM = unary_BPM
    for _ in range(iterations):
        spin_BPM = torch.sigmoid(logit_BPM).mul_(2.0).sub_(1.0)  # on a CPU several times faster than tanh
        # The smoothness kernel is the same for all images: they are channels of one filtering.
        smooth_1PX = gaussian.filter(spin_BPM.transpose(0, 1).reshape(1, n_pixels, -1))
        logit_BPM = smooth_1PX.view(n_pixels, n_images, n_masks).transpose(0, 1) + unary_BPM
        logit_BPM += bilateral.filter(spin_BPM)
    return logit_BPM > 0
