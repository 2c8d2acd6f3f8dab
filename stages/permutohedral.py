"""Gaussian filtering of a few million points with d features in linear time, on the permutohedral lattice.

B images in batch · P points of an image · d features · C channels (masks) · L lattice vertices

The feature space is tiled with simplices of d + 1 vertices. Values are splat on the vertices around each point with
barycentric weights, blurred along the d + 1 lattice directions and sliced back. The lattice depends on the features
alone, so that one serves all masks and all iterations; the image index is part of a vertex's key, so that one also
serves a batch.

Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from stages.late import torch

# Up to there float32 places a point within 1/32 of a lattice step.
_MAX_FEATURE = 1 << 16
_LARGEST_KEY = 1 << 62
_PAGE_BITS, _MOST_PAGES = 6, 1 << 23
_ON_PAGE = (1 << _PAGE_BITS) - 1


@dataclass(frozen=True)
class _SparseRows:
    """A sparse matrix by rows: row i holds the entries offsets[i] .. offsets[i + 1]. All index tensors are int32.

    `embedding_bag` is the product with a dense matrix: on CPU as fast as MKL's CSR product or faster for 2-8 channels
    (and free of its beta warning), deterministic on CPU and CUDA, unlike `index_add`.
    """

    columns: torch.Tensor
    weights: torch.Tensor
    offsets: torch.Tensor

    def __matmul__(self, values_XC: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding_bag(
            self.columns,
            values_XC,
            self.offsets,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )


@dataclass(frozen=True)
class PermutohedralLattice:
    """The Gaussian kernel matrix exp(-|f_i - f_j|² / 2) of a batch, as slice · blur · splat. Made by `build`.

    An approximation: the variance along every axis is right to 3 %, the peak is flatter, and the sum is too small
    by a constant (8 % at d = 1, 12 % at 2, 30 % at 5), so divide by the filtered ones. Vertices, weights and the
    order of the blurs are pydensecrf's.
    """

    splat: _SparseRows
    blurs: tuple[_SparseRows, ...]
    slice: _SparseRows
    shape: tuple[int, int]

    @classmethod
    def build(cls, features_BPd: torch.Tensor) -> Self:
        """Lay the lattice of features (B, P, d), float32, in units of the kernel's standard deviations.

        Raises ValueError for another shape or dtype, no points, and features that are not finite or too far apart.
        """
        if features_BPd.dim() != 3 or 0 in features_BPd.shape or features_BPd.dtype != torch.float32:
            raise ValueError(
                "features_BPd must be a float32 tensor (images, points, features) without an empty axis, "
                f"got {features_BPd.dtype} {tuple(features_BPd.shape)}"
            )
        n_images, n_points, d = features_BPd.shape
        if n_images * n_points * (d + 1) >= 1 << 31:
            raise ValueError(
                f"{n_images} × {n_points} points are too many for 32-bit indices; filter fewer images at once"
            )
        # A comparison with NaN is false.
        if not features_BPd.abs().amax() < _MAX_FEATURE:
            raise ValueError(
                f"features_BPd must be finite and within ±{_MAX_FEATURE} kernel standard deviations; look for NaN, "
                "or divide them by a larger standard deviation"
            )
        blocks = features_BPd.reshape(-1, d).split(_points_at_once(features_BPd))
        corners_DP, ranks_DP, weights_DP = (
            torch.cat(parts, dim=1) for parts in zip(*map(_enclosing_simplices, blocks), strict=True)
        )
        keys_P, strides_D, n_keys = _pack_keys(corners_DP, n_images)
        return cls(*_connect(keys_P, strides_D, n_keys, ranks_DP, weights_DP), shape=(n_images, n_points))

    @property
    def n_vertices(self) -> int:
        """L, the vertices that hold a point, over all images of the batch."""
        return len(self.splat.offsets) - 2

    def filter(self, values_BPC: torch.Tensor) -> torch.Tensor:
        """Sum over the image's points of kernel × value: (B, P, C) float32 to the same shape.

        Raises ValueError if the batch or the points are not those of the features.
        """
        if values_BPC.dim() != 3 or tuple(values_BPC.shape[:2]) != self.shape:
            raise ValueError(
                f"values_BPC must be (images, points, channels) with {self.shape} images and points as the features "
                f"have, got {tuple(values_BPC.shape)}"
            )
        vertices_LC = self.splat @ values_BPC.reshape(-1, values_BPC.shape[2])
        for blur in self.blurs:
            vertices_LC = blur @ vertices_LC
        return (self.slice @ vertices_LC).view(values_BPC.shape)

    def scaled(self, scale_BP: torch.Tensor) -> PermutohedralLattice:
        """The lattice of diag(s) · kernel · diag(s), at no cost per filtering."""
        scale_P = scale_BP.reshape(-1)
        splat_weights = self.splat.weights * scale_P.index_select(0, self.splat.columns)
        slice_weights = self.slice.weights.view(len(scale_P), -1) * scale_P[:, None]
        return replace(
            self,
            splat=replace(self.splat, weights=splat_weights),
            slice=replace(self.slice, weights=slice_weights.view(-1)),
        )


def _points_at_once(tensor: torch.Tensor) -> int:
    """How many points a device steps through together: a CPU so many as its caches hold."""
    return _LARGEST_KEY if tensor.is_cuda else 1 << 14


def _enclosing_simplices(features_Pd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The simplex around each point; D = d + 1.

    Returns the coordinates of its remainder-0 vertex (D, P) divided by D, float32; the rank (D, P) int8 of each
    coordinate of the point's offset from it, 0 = largest; the barycentric weight (D, P) of each vertex, by remainder.
    Kept as D long rows, not P short ones: every step is then one vectorised pass.
    """
    n_points, d = features_Pd.shape
    n_vertices = d + 1
    # With this spacing splat, blur and slice together have unit variance (section 3 of the paper).
    spacing = math.sqrt(2 / 3) * n_vertices
    elevated_DP = features_Pd.new_empty(n_vertices, n_points)
    total_P = features_Pd.new_zeros(n_points)
    for j in range(d, 0, -1):
        scaled_P = features_Pd[:, j - 1] * (spacing / math.sqrt(j * (j + 1)))
        torch.sub(total_P, scaled_P, alpha=j, out=elevated_DP[j])
        total_P = total_P + scaled_P
    elevated_DP[0] = total_P

    # The nearest point whose coordinates are all multiples of D; it may lie off the plane of sum 0 by some steps.
    corners_DP = (elevated_DP * (1 / n_vertices)).round_()
    offsets_DP = torch.sub(elevated_DP, corners_DP, alpha=n_vertices)
    # How many coordinates are larger, those before it included that are as large.
    ranks_DP = corners_DP.sum(0) + torch.arange(n_vertices, device=features_Pd.device)[:, None]
    for i in range(d):
        # a CPU subtracts several times faster than it compares
        less_XP = (offsets_DP[i + 1 :] - offsets_DP[i]).sign_().clamp_(min=0.0)
        ranks_DP[i] += less_XP.sum(0)
        ranks_DP[i + 1 :] -= less_XP
    wrap_DP = ((ranks_DP + 0.5) * (1 / n_vertices)).floor_()
    corners_DP -= wrap_DP
    ranks_DP.sub_(wrap_DP, alpha=n_vertices)

    torch.sub(elevated_DP, corners_DP, alpha=n_vertices, out=offsets_DP).mul_(1 / n_vertices)
    descending_DP = torch.empty_like(offsets_DP).scatter_(0, ranks_DP.long(), offsets_DP)
    weights_DP = descending_DP.flip(0)
    weights_DP[1:] -= descending_DP.flip(0)[:-1]
    weights_DP[0] += 1 - descending_DP[0]
    return corners_DP, ranks_DP.to(torch.int8), weights_DP


def _pack_keys(corners_DP: torch.Tensor, n_images: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """One int64 for each remainder-0 vertex and image, linear in the vertex's coordinates.

    Returns keys (P,); the stride of each coordinate (D,), of which the last one is implied by the others and has stride
    0; and a bound that the keys of all vertices and of their blur neighbours are below.
    """
    d = len(corners_DP) - 1
    n_points = corners_DP.shape[1]
    low, high = torch.stack([corners_DP[:d].amin(1), corners_DP[:d].amax(1)]).long().cpu()
    # A vertex is at most one step below its simplex's corner and its blur neighbours at most one step from it.
    low, sizes = (low - 2).tolist(), (high - low + 4).tolist()
    strides = [1]
    for size in reversed(sizes):
        strides.append(strides[-1] * size)
    if n_images * strides[d] >= _LARGEST_KEY:
        raise ValueError(
            f"the features span {sizes} lattice cells in {n_images} images of {n_points // n_images} points, "
            "too many for 64-bit keys; filter fewer images at once or use larger standard deviations"
        )
    device = corners_DP.device
    keys_P = torch.arange(n_images, device=device).repeat_interleave(n_points // n_images) * strides[d]
    for i in range(d):
        keys_P += (corners_DP[i].long() - low[i]) * strides[d - 1 - i]
    return keys_P, torch.tensor([*reversed(strides[:d]), 0], device=device), n_images * strides[d]


def _connect(
    keys_P: torch.Tensor, strides_D: torch.Tensor, n_keys: int, ranks_DP: torch.Tensor, weights_DP: torch.Tensor
) -> tuple[_SparseRows, tuple[_SparseRows, ...], _SparseRows]:
    """Number the distinct vertices and write splat, blurs and slice as sparse matrices.

    A vertex of remainder r has coordinates that are all r modulo D, so that each remainder is sorted for itself, on
    the quotients. Row L of the vertices stays zero and stands for all neighbours that are not there.
    """
    n_corners, n_points = ranks_DP.shape
    device = keys_P.device
    keys_DP = _vertex_keys(keys_P, strides_D, ranks_DP)
    vertices_DP = torch.empty(n_corners, n_points, dtype=torch.int32, device=device)
    splat_columns, splat_weights = torch.empty_like(vertices_DP), torch.empty_like(weights_DP)
    distinct, splat_offsets, first = [], [], [0]
    for remainder, keys_P in enumerate(keys_DP):
        sorted_P, order_P = _stable_sort(keys_P, n_keys)
        is_new_P = torch.ones(n_points, dtype=torch.bool, device=device)
        is_new_P[1:] = sorted_P[1:] != sorted_P[:-1]
        starts = is_new_P.nonzero().squeeze(1)
        vertices_DP[remainder].scatter_(0, order_P, is_new_P.cumsum(0, dtype=torch.int32) + (first[-1] - 1))
        distinct.append(sorted_P[starts])
        splat_columns[remainder] = order_P
        torch.index_select(weights_DP[remainder], 0, order_P, out=splat_weights[remainder])
        splat_offsets.append(starts.int() + remainder * n_points)
        first.append(first[-1] + len(starts))

    n_entries = n_corners * n_points
    end = torch.full((2,), n_entries, dtype=torch.int32, device=device)
    splat = _SparseRows(splat_columns.view(-1), splat_weights.view(-1), torch.cat([*splat_offsets, end]))
    # Makes up for most of what the blurs, whose weights sum to 2, amplify.
    gain = 1 / (1 + 2.0 ** (1 - n_corners))
    slice_offsets = torch.arange(0, n_entries + 1, n_corners, dtype=torch.int32, device=device)
    slice_ = _SparseRows(vertices_DP.T.reshape(-1), weights_DP.T.reshape(-1).mul_(gain), slice_offsets)
    return splat, _blurs(distinct, first, strides_D, n_keys), slice_


def _vertex_keys(keys_P: torch.Tensor, strides_D: torch.Tensor, ranks_DP: torch.Tensor) -> torch.Tensor:
    """(D, P) int64: keys of all vertices around each point, by remainder. Each has one quotient less by one than the
    vertex before it: that of the coordinate next in rank, the smallest offset first.
    """
    keys_DP = torch.empty_like(ranks_DP, dtype=torch.int64)
    step = _points_at_once(keys_P)
    for keys_Dp, own_p, ranks_Dp in zip(
        keys_DP.split(step, dim=1), keys_P.split(step), ranks_DP.split(step, dim=1), strict=True
    ):
        by_rank_Dp = torch.empty_like(keys_Dp, memory_format=torch.contiguous_format)
        by_rank_Dp.scatter_(0, ranks_Dp.long(), strides_D[:, None].expand_as(ranks_Dp))
        keys_Dp[0] = own_p
        for remainder in range(1, len(keys_Dp)):
            torch.sub(keys_Dp[remainder - 1], by_rank_Dp[-remainder], out=keys_Dp[remainder])
    return keys_DP


def _stable_sort(keys_P: torch.Tensor, n_keys: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys, all below `n_keys`, in ascending order, and their places; stable, so that the result cannot depend on
    how a sort orders equal keys. numpy sorts numbers far faster than it, or torch, sorts places: two become one.
    """
    bits = (len(keys_P) - 1).bit_length()
    if keys_P.is_cuda or n_keys > _LARGEST_KEY >> bits:
        return keys_P.sort(stable=True)
    both_P = keys_P.numpy() << bits
    both_P |= np.arange(len(keys_P))
    both_P.sort()
    return torch.from_numpy(both_P >> bits), torch.from_numpy(both_P & ((1 << bits) - 1))


def _blurs(
    distinct: list[torch.Tensor], first: list[int], strides_D: torch.Tensor, n_keys: int
) -> tuple[_SparseRows, ...]:
    """The d + 1 blurs [½ 1 ½]: one each along (1, …, 1, -d, 1, …, 1) and its permutations.

    distinct: sorted keys by remainder.
    first: where the vertices of each remainder begin, and L.
    """
    n_axes, n_vertices, device = len(distinct), first[-1], strides_D.device
    index = _Index(n_keys, device)
    # Against axis j all coordinates fall by one but j, which rises by d: one remainder less, and the quotients stay
    # but for j. From remainder 0 the remainder wraps to d, and all quotients but j fall by one.
    before_DL = torch.full((n_axes, n_vertices + 1), n_vertices, dtype=torch.int32, device=device)
    for remainder, keys in enumerate(distinct):
        wanted = keys + (strides_D if remainder else strides_D - strides_D.sum())[:, None]
        found = index.places(distinct[remainder - 1], wanted)
        before_DL[:, first[remainder] : first[remainder + 1]] = torch.where(
            found < 0, n_vertices, found + first[(remainder - 1) % n_axes]
        )

    own = torch.arange(n_vertices + 1, dtype=torch.int32, device=device)
    weights = torch.tensor([1.0, 0.5, 0.5], device=device).repeat(n_vertices + 1)
    offsets = torch.arange(0, 3 * n_vertices + 4, 3, dtype=torch.int32, device=device)
    blurs = []
    for before in before_DL:
        after = torch.full_like(before, n_vertices).scatter_(0, before.long(), own)
        # The line above also wrote there for every vertex that has no neighbour.
        after[n_vertices] = n_vertices
        blurs.append(_SparseRows(torch.stack([own, before, after], dim=1).view(-1), weights, offsets))
    return tuple(blurs)


class _Index:
    """Looks keys up. All are below `n_keys`, whose size decides how."""

    def __init__(self, n_keys: int, device: torch.device) -> None:
        n_pages = (n_keys >> _PAGE_BITS) + 1
        # Of a book with a line for every key the pages that hold one: two looks where a search takes fifteen.
        paged = device.type == "cpu" and n_pages <= _MOST_PAGES
        self._page_of = np.zeros(n_pages, np.int32) if paged else None

    def places(self, keys: torch.Tensor, wanted_DL: torch.Tensor) -> torch.Tensor:
        """Places of the wanted keys among sorted ones, int32, and -1 for those that are not there."""
        if self._page_of is None:
            found = torch.searchsorted(keys, wanted_DL, out_int32=True).clamp_(max=len(keys) - 1)
            return found.where(keys.index_select(0, found.flatten()).view_as(wanted_DL) == wanted_DL, -1)
        sorted_keys, wanted = keys.numpy(), wanted_DL.numpy()
        pages = sorted_keys >> _PAGE_BITS
        numbers = np.concatenate([[1], 1 + np.cumsum(pages[1:] != pages[:-1])])
        lines = np.full((numbers[-1] + 1) << _PAGE_BITS, -1, np.int32)
        lines[(numbers << _PAGE_BITS) | (sorted_keys & _ON_PAGE)] = np.arange(len(sorted_keys), dtype=np.int32)
        self._page_of[pages] = numbers
        places = self._page_of.take(wanted >> _PAGE_BITS).astype(np.int64)
        self._page_of[pages] = 0
        places <<= _PAGE_BITS
        places |= wanted & _ON_PAGE
        return torch.from_numpy(lines.take(places))
