"""The correlation losses: analytic cases, a plain reference, gradients."""

import numpy as np
import pytest
import torch
from support import reference_depthg as reference

from stages.semantics.correlation import centred_by_point, correlation_loss, depth_pull, feature_pull, pair_cosines
from stages.semantics.sampling import MapRows, uniform_points


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points_at(*places: tuple[float, float]) -> torch.Tensor:
    """(1, S, S, 2) points at (x, y) of a map."""
    side = round(len(places) ** 0.5)
    return torch.tensor(places, dtype=torch.float64).reshape(1, side, side, 2)


# cosines


def test_cosines_equal_brute_force_and_zero_vectors_are_like_nothing() -> None:
    first, second = drawn(2, 9, 5), drawn(2, 9, 5, seed=1)
    first[0, 3] = 0
    expected = np.stack([reference.cosines(a, b) for a, b in zip(first.numpy(), second.numpy(), strict=True)])
    np.testing.assert_allclose(pair_cosines(first, second).numpy(), expected, atol=1e-12)


def test_length_does_not_matter() -> None:
    first, second = drawn(1, 4, 3), drawn(1, 4, 3, seed=1)
    torch.testing.assert_close(pair_cosines(first, second), pair_cosines(1e-3 * first, 1e4 * second))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_vectors_keep_float32_cosines(dtype: torch.dtype) -> None:
    vectors = (300 * drawn(1, 9, 384)).to(dtype)  # squares overflow float16
    torch.testing.assert_close(pair_cosines(vectors, vectors), pair_cosines(vectors.float(), vectors.float()))


def test_centring_equals_the_published_steps() -> None:
    cosines = drawn(3, 6, 6)
    np.testing.assert_allclose(centred_by_point(cosines).numpy(), reference.pointwise(cosines.numpy()), atol=1e-12)


def test_centring_gives_every_point_the_mean_of_the_batch() -> None:
    cosines = drawn(3, 6, 6)
    torch.testing.assert_close(centred_by_point(cosines).mean(dim=2), cosines.mean().expand(3, 6))


# the loss


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_two_classes_in_closed_form(shift: float) -> None:
    """Half the points of each of two orthogonal classes, codes as the features: half the pairs have cosine 1."""
    features = torch.eye(2).repeat_interleave(4, dim=0)[None]
    loss = correlation_loss(
        feature_pull(pair_cosines(features, features), shift, pointwise=False), pair_cosines(features, features)
    )
    assert loss.item() == pytest.approx(-0.5 * (1 - shift))


def test_opposite_codes_are_pushed_no_further() -> None:
    codes = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], requires_grad=True)
    push = torch.tensor([[[0.0, -1.0], [-1.0, 0.0]]])
    assert correlation_loss(push, pair_cosines(codes, codes)).item() == 0
    assert correlation_loss(push, pair_cosines(codes, codes), zero_clamp=False).item() == pytest.approx(-0.5)


def test_feature_loss_equals_the_reference() -> None:
    features, other = drawn(3, 9, 6), drawn(3, 9, 6, seed=1)
    codes, other_codes = drawn(3, 9, 4, seed=2), drawn(3, 9, 4, seed=3)
    loss = correlation_loss(feature_pull(pair_cosines(features, other), 0.3), pair_cosines(codes, other_codes))
    expected = reference.feature_loss(
        list(zip(features.numpy(), other.numpy(), strict=True)),
        list(zip(codes.numpy(), other_codes.numpy(), strict=True)),
        0.3,
    )
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("zero_clamp", [True, False])
@pytest.mark.parametrize("pointwise", [True, False])
def test_gradients_are_right(pointwise: bool, zero_clamp: bool) -> None:
    features, other = drawn(2, 4, 3), drawn(2, 4, 3, seed=1)
    codes, other_codes = drawn(2, 4, 3, seed=2).requires_grad_(), drawn(2, 4, 3, seed=3).requires_grad_()

    def loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return correlation_loss(
            feature_pull(pair_cosines(features, other), 0.2, pointwise), pair_cosines(first, second), zero_clamp
        )

    assert torch.autograd.gradcheck(loss, (codes, other_codes))
    assert torch.autograd.gradcheck(lambda both: loss(both, both), codes)


def test_a_pull_moves_a_pair_together_and_a_push_apart() -> None:
    """One step down the gradient changes the cosine of a pair in the direction of its pull, and of no other pair."""
    codes = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]], requires_grad=True)
    for pull in (1.0, -1.0):
        pulls = torch.zeros(1, 3, 3)
        pulls[0, 0, 1] = pull
        (gradient,) = torch.autograd.grad(correlation_loss(pulls, pair_cosines(codes, codes)), codes)
        assert (gradient[0, 2] == 0).all()
        after = pair_cosines(codes - 0.1 * gradient, codes - 0.1 * gradient)
        assert (after - pair_cosines(codes, codes))[0, 0, 1].item() * pull > 0


# depth, paper


def test_centred_depth_in_closed_form() -> None:
    """Depths 0, 0, 0.5, 0.3 at the points: less their mean -0.2, -0.2, 0.3, 0.1; products over 0.09."""
    depth = torch.tensor([[[0.0, 0.0], [0.5, 0.3]]], dtype=torch.float64)
    points = points_at((-1, -1), (1, -1), (-1, 1), (1, 1))
    z = torch.tensor([-0.2, -0.2, 0.3, 0.1], dtype=torch.float64)
    torch.testing.assert_close(depth_pull(depth, points, 0.05), z.outer(z)[None] / 0.09 - 0.05)


def test_distance_in_closed_form() -> None:
    """A plane that faces the camera: distances in space are those in the image. Of 2×2 patches, neighbours are 1/√2 of
    the diagonal apart.
    """
    depth = torch.full((1, 2, 2), 0.4, dtype=torch.float64)
    points = points_at((-1, -1), (1, -1), (-1, 1), (1, 1))
    beside = 1 - 2 / 2**0.5
    expected = torch.tensor(
        [[1, beside, beside, -1], [beside, 1, -1, beside], [beside, -1, 1, beside], [-1, beside, beside, 1]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(depth_pull(depth, points, 0.0, similarity="distance")[0], expected)


@pytest.mark.parametrize("similarity", ["centred", "distance"])
def test_likeness_in_depth_lies_between_minus_one_and_one_at_any_scale(similarity: str) -> None:
    depth, points = drawn(3, 6, 6).abs(), uniform_points(3, 4).double()
    pull = depth_pull(depth, points, 0.0, similarity=similarity)
    assert pull.abs().amax().item() == pytest.approx(1)
    torch.testing.assert_close(pull, depth_pull(255 * depth, points, 0.0, similarity=similarity))
    torch.testing.assert_close(pull, pull.mT)


@pytest.mark.parametrize("similarity", ["centred", "distance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_and_flat_depth_pull_nowhere(similarity: str, dtype: torch.dtype) -> None:
    """By centred depth any flat map, by distance none but a map of zeros, which is the camera itself, has nothing to
    say; the latter is read as a plane.
    """
    depth = torch.stack([torch.zeros(5, 5), torch.full((5, 5), 0.3), torch.full((5, 5), 0.7)]).to(dtype)
    pull = depth_pull(depth, uniform_points(3, 4), 0.1, similarity=similarity)
    assert torch.isfinite(pull).all()
    if similarity == "centred":
        assert (pull == 0).all()
    else:
        assert (pull.amax(dim=(1, 2)) > 0.8).all()
    one_place = depth_pull(depth, torch.zeros(3, 4, 4, 2), 0.1, similarity=similarity)
    assert (one_place == 0).all()


# depth, released


def released_loss(depth: torch.Tensor, codes: torch.Tensor, points: torch.Tensor, shift: float) -> torch.Tensor:
    sampled = MapRows.of(codes).at(points)
    return correlation_loss(depth_pull(depth, points, shift, "released"), pair_cosines(sampled, sampled))


@pytest.mark.parametrize("size", [(4, 4), (9, 7)])
def test_released_depth_loss_equals_the_transcription(size: tuple[int, int]) -> None:
    """Also where depth is 0, and next to it: which points it meets depends on the exchanged axes."""
    depth, codes = drawn(2, *size).abs(), drawn(2, 5, 6, 6, seed=1)
    depth[:, 0, :3] = 0
    depth[:, 1, 0] = 0
    points = uniform_points(2, 4, generator=torch.Generator().manual_seed(2)).double()
    expected = reference.released_depth_loss(depth.numpy(), codes.numpy(), points.numpy(), 0.03)
    assert released_loss(depth, codes, points, 0.03).item() == pytest.approx(expected, abs=1e-12)


def test_released_depth_says_nothing_but_where_it_is_zero() -> None:
    """What it amounts to: a uniform attraction -(1 - b)·mean max(cos, 0), whatever the depth is, and with a map of
    zeros (Potsdam's, cast to integers) a uniform repulsion b·mean max(cos, 0).
    """
    codes, points = drawn(2, 5, 6, 6), uniform_points(2, 4).double()
    sampled = MapRows.of(codes).at(points)
    mean = pair_cosines(sampled, sampled).clamp(min=0).mean().item()
    for depth in (drawn(2, 8, 8).abs() + 0.01, torch.full((2, 8, 8), 255.0, dtype=torch.float64)):
        assert released_loss(depth, codes, points, 0.03).item() == pytest.approx(-0.97 * mean)
    assert released_loss(torch.zeros(2, 8, 8), codes, points, 0.14).item() == pytest.approx(0.14 * mean)


@pytest.mark.parametrize(
    ("reading", "similarity"), [("paper", "centred"), ("paper", "distance"), ("released", "centred")]
)
def test_gradients_of_the_depth_term_are_right(reading: str, similarity: str) -> None:
    depth, points = drawn(2, 5, 5).abs(), uniform_points(2, 2, generator=torch.Generator().manual_seed(3)).double()

    def loss(codes: torch.Tensor) -> torch.Tensor:
        sampled = MapRows.of(codes).at(points)
        return correlation_loss(depth_pull(depth, points, 0.03, reading, similarity), pair_cosines(sampled, sampled))

    assert torch.autograd.gradcheck(loss, drawn(2, 3, 5, 5, seed=4).requires_grad_())
