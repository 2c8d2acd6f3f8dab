"""Spatial Importance and sharpening against scipy and the printed equations, written out pair by pair."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from stages.affinity import BLOCK, AffinityConfig, affinity_edges, joined, similarities
from stages.spatial_importance import (
    SharpenConfig,
    SpatialImportanceConfig,
    gaussian_blur,
    sharpen,
    spatial_importance,
)


def depth_map(seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    depth = scipy.ndimage.gaussian_filter(rng.random((2, 24, 20)), (0, 2, 2))
    return torch.from_numpy((depth - depth.min()) / np.ptp(depth)).float()


@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_blur_equals_scipy(sigma: float) -> None:
    depth = depth_map()
    expected = scipy.ndimage.gaussian_filter(
        depth.numpy(), (0, sigma, sigma), mode="nearest", radius=(0, int(np.ceil(3 * sigma)), int(np.ceil(3 * sigma)))
    )
    np.testing.assert_allclose(gaussian_blur(depth, sigma).numpy(), expected, atol=1e-6)


def test_importance_is_equations_1_and_2() -> None:
    depth = depth_map()
    residual = np.abs(
        scipy.ndimage.gaussian_filter(depth.numpy(), (0, 3, 3), mode="nearest", radius=(0, 9, 9)) - depth.numpy()
    )
    for image in range(2):
        r = residual[image]
        expected = 0.55 * (r - r.min()) / (r.max() - r.min()) + 0.45
        np.testing.assert_allclose(
            spatial_importance(depth, SpatialImportanceConfig())[image].numpy(), expected, atol=1e-4
        )


def test_importance_is_highest_at_a_depth_edge_and_flat_on_a_plane() -> None:
    step = torch.zeros(1, 30, 30)
    step[:, :, 15:] = 1.0
    importance = spatial_importance(step, SpatialImportanceConfig(sigma=2.0))[0]
    assert importance[:, 14:16].min() == pytest.approx(1.0, abs=1e-5)
    assert importance[:, :5].max() == pytest.approx(0.45, abs=1e-3)
    flat = spatial_importance(torch.full((1, 30, 30), 0.3), SpatialImportanceConfig())
    torch.testing.assert_close(flat, torch.full((1, 30, 30), 0.45))


@pytest.mark.parametrize("exponent", ["product", "mean", "rows"])
@pytest.mark.parametrize("direction", ["as_printed", "suppressing"])
def test_sharpening_pair_by_pair(exponent: str, direction: str) -> None:
    rng = np.random.default_rng(1)
    cosines = rng.uniform(-0.5, 1, (6, 6))
    cosines = (cosines + cosines.T) / 2
    s = rng.uniform(0.45, 1, 6)
    sign = -1 if direction == "as_printed" else 1
    expected = np.empty((6, 6))
    for i in range(6):
        for j in range(6):
            w = max(cosines[i, j], 1e-6)
            if exponent == "product":
                expected[i, j] = w ** (1 + sign * s[i] * s[j])
            elif exponent == "mean":
                expected[i, j] = w ** (1 + sign * (s[i] + s[j]) / 2)
            else:
                expected[i, j] = (w ** (1 + sign * s[i]) + w ** (1 + sign * s[j])) / 2
    config = SharpenConfig(exponent=exponent, direction=direction)  # type: ignore[arg-type]
    result = sharpen(torch.from_numpy(cosines).float()[None], torch.from_numpy(s).float()[None], config)[0]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.numpy(), result.numpy().T, rtol=1e-6)
    raised = result.numpy() >= np.clip(cosines, 1e-6, 1) - 1e-6
    assert raised.all() if direction == "as_printed" else (result.numpy() <= np.clip(cosines, 1e-6, 1) + 1e-6).all()


def _cosines(features_BND: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(features_BND[:, :, None], features_BND[:, None], dim=-1)


def test_edges_are_the_thresholded_cosines() -> None:
    features = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0))
    features[0, 3] = 0.0  # a zero feature has cosine 0, with itself too
    unit = features.numpy() / np.maximum(np.linalg.norm(features.numpy(), axis=2, keepdims=True), 1e-12)
    cosines = np.einsum("bid,bjd->bij", unit, unit)
    np.testing.assert_allclose(similarities(features).numpy(), cosines, atol=1e-6)
    binary = affinity_edges(features, AffinityConfig(tau=0.2)).numpy()
    np.testing.assert_array_equal(binary, cosines > 0.2)
    assert binary[0, 3].sum() == 0
    soft = affinity_edges(features, AffinityConfig(tau=0.2, weights="soft")).numpy()
    np.testing.assert_allclose(soft, np.where(cosines > 0.2, cosines, 0).clip(0, 1), atol=1e-6)


def test_similarities_are_joined_at_any_threshold() -> None:
    """What a tree of cuts starts from: one matrix of similarities, thresholds of its own for every part."""
    features = torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(1))
    importance = torch.rand(2, 20, generator=torch.Generator().manual_seed(2)) * 0.5 + 0.45
    plain, sharpened = similarities(features), similarities(features, importance, SharpenConfig(exponent="mean"))
    torch.testing.assert_close(plain, _cosines(features))
    torch.testing.assert_close(sharpened, sharpen(plain.clone(), importance, SharpenConfig(exponent="mean")))
    torch.testing.assert_close(similarities(features, importance), sharpen(plain.clone(), importance, SharpenConfig()))
    before = plain.clone()
    for tau in (-0.5, 0.0, 0.4):
        np.testing.assert_array_equal(joined(plain, tau, "binary").numpy(), plain.numpy() > tau)
        soft = np.where(plain.numpy() > tau, plain.numpy().clip(0, 1), 0)
        np.testing.assert_array_equal(joined(plain, tau, "soft").numpy(), soft)
        for weights in ("binary", "soft"):
            config = AffinityConfig(tau=tau, weights=weights)  # type: ignore[arg-type]
            torch.testing.assert_close(affinity_edges(features, config), joined(plain, tau, weights))
    torch.testing.assert_close(plain, before, rtol=0, atol=0, msg="every part joins the same similarities")
    with pytest.raises(ValueError, match="NaN"):
        similarities(torch.full((1, 4, 2), float("nan")))


@pytest.mark.parametrize("n", [BLOCK, BLOCK + 1, 2 * BLOCK + 50])
@pytest.mark.parametrize("exponent", [None, "product", "mean", "rows"])
def test_pairs_are_computed_block_by_block(n: int, exponent: str | None) -> None:
    """The result is that of all pairs at once, and symmetric to the bit across blocks."""
    features = torch.randn(2, n, 6, generator=torch.Generator().manual_seed(3))
    importance = torch.rand(2, n, generator=torch.Generator().manual_seed(4)) * 0.5 + 0.45
    expected, arguments = _cosines(features), ()
    if exponent is not None:
        config = SharpenConfig(exponent=exponent)  # type: ignore[arg-type]
        expected, arguments = sharpen(expected, importance, config), (importance, config)  # type: ignore[assignment]
    got = similarities(features, *arguments)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(got[:, BLOCK:, :BLOCK], got[:, :BLOCK, BLOCK:].transpose(1, 2), rtol=0, atol=0)
    edges = affinity_edges(features, AffinityConfig(tau=0.1), *arguments)
    assert edges.dtype == torch.bool
    np.testing.assert_array_equal(edges.numpy(), got.numpy() > np.float32(0.1))


def test_bad_values_are_named() -> None:
    for config, field in [
        (lambda: SpatialImportanceConfig(sigma=0), "sigma"),
        (lambda: SpatialImportanceConfig(beta=1.0), "beta"),
        (lambda: SharpenConfig(exponent="both"), "exponent"),  # type: ignore[arg-type]
        (lambda: SharpenConfig(direction="up"), "direction"),  # type: ignore[arg-type]
        (lambda: AffinityConfig(tau=2.0), "tau"),
        (lambda: AffinityConfig(epsilon=0.0), "epsilon"),
        (lambda: AffinityConfig(weights="hard"), "weights"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(ValueError, match=field):
            config()
    with pytest.raises(ValueError, match=r"affinity\.tau is not set"):
        affinity_edges(torch.ones(1, 4, 2), AffinityConfig())
    with pytest.raises(ValueError, match="NaN"):
        affinity_edges(torch.full((1, 4, 2), float("nan")), AffinityConfig(tau=0.1))
