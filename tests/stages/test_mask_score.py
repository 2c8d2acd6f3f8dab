"""Feature contrast against its definition, and on real photos."""

import numpy as np
import pytest
import torch

from stages.mask_score import feature_contrast


def test_equals_the_definition() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 8)).astype(np.float32) + 0.5
    masks = rng.random((4, 50)) < 0.4
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = []
    for mask in masks:
        a, b = unit[mask].mean(axis=0), unit[~mask].mean(axis=0)
        expected.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    got = feature_contrast(torch.from_numpy(features), torch.from_numpy(masks))
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)
    assert got.dtype == torch.float32


def test_the_planted_object_stands_out_most() -> None:
    features = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    features[:30, :8] += 4.0
    features[30:, 8:] += 4.0
    masks = torch.zeros(3, 100, dtype=torch.bool)
    masks[0, :30] = True
    masks[1, 15:45] = True
    masks[2, 50:80] = True
    contrast = feature_contrast(features, masks)
    assert contrast.argmax() == 0
    assert contrast[2] < contrast[0] / 2, contrast


def test_nothing_to_compare_is_zero() -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([torch.zeros(20, dtype=torch.bool), torch.ones(20, dtype=torch.bool)])
    assert feature_contrast(features, masks).tolist() == [0.0, 0.0]
    assert feature_contrast(features, masks[:0]).shape == (0,)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_does_not_depend_on_the_features_length(scale: float) -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    masks = torch.rand(2, 20, generator=torch.Generator().manual_seed(2)) < 0.5
    torch.testing.assert_close(feature_contrast(features * scale, masks), feature_contrast(features, masks))
