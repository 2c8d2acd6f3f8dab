"""A training step's losses, put together: against a plain reference, schedules, gradients, and what is refused."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from support import reference_depthg as reference

from stages.semantics.head import IdentityHead, Projection, SemanticHead
from stages.semantics.objective import Crops, Objective, ObjectiveConfig, StepLosses, other_crops
from stages.semantics.sampling import uniform_points

SMALL: dict[str, Any] = {"samples": 3, "negatives": 2}


def batch(crops: int = 3, width: int = 6, grid: tuple[int, int] = (5, 6), seed: int = 0) -> Crops:
    rng = np.random.default_rng(seed)
    return Crops(
        torch.from_numpy(rng.standard_normal((crops, width, *grid))), torch.from_numpy(rng.random((crops, *grid)))
    )


def head_of(width: int = 6, codes: int = 4, dropout: float = 0.1) -> SemanticHead:
    torch.manual_seed(0)
    return SemanticHead(width, codes, dropout).double()


def step(config: ObjectiveConfig, head: Any, number: int = 0, seed: int = 0, **other: Any) -> StepLosses:
    generator = torch.Generator().manual_seed(seed)
    return Objective(config)(head, batch(seed=1), batch(seed=2), number, generator, **other)


# the whole against a plain reference


@pytest.mark.parametrize("sampling", ["random", "fps"])
def test_released_losses_equal_the_transcription(sampling: str) -> None:
    config = ObjectiveConfig(reading="released", sampling=sampling, **SMALL)  # type: ignore[arg-type]
    head, crops, near = head_of().eval(), batch(seed=1), batch(seed=2)
    losses = step(config, head)
    terms, total = expected_released(config, head, crops, near)
    assert {name: loss.item() for name, loss in losses.terms.items()} == pytest.approx(terms, abs=1e-6)
    assert losses.total.item() == pytest.approx(total, abs=1e-6)
    assert torch.equal(losses.codes, head(crops.features))


def expected_released(
    config: ObjectiveConfig, head: SemanticHead, crops: Crops, near: Crops
) -> tuple[dict[str, float], float]:
    """With the very draws of `step`, in their order."""
    assert crops.depth is not None
    assert near.depth is not None
    generator, count = torch.Generator().manual_seed(0), len(crops.features)
    if config.sampling == "random":
        points = uniform_points(2 * count, config.samples, "cpu", generator).double().numpy()
    else:
        depths = np.concatenate([crops.depth, near.depth])
        points = np.stack([reference.released_points(depth, config.samples) for depth in depths])
    others = [other_crops(count, "cpu", generator) for _ in range(config.negatives)]

    def pairs(first: torch.Tensor, second: torch.Tensor, second_points: np.ndarray) -> list[Any]:
        return [
            (reference.at_points(a, p), reference.at_points(b, q))
            for a, b, p, q in zip(
                first.detach().numpy(), second.detach().numpy(), points[:count], second_points, strict=True
            )
        ]

    def loss(second: torch.Tensor, second_codes: torch.Tensor, second_points: np.ndarray, shift: float) -> float:
        return reference.feature_loss(
            pairs(crops.features, second, second_points), pairs(codes, second_codes, second_points), shift
        )

    codes, near_codes = head(crops.features), head(near.features)
    terms = {
        "own": loss(crops.features, codes, points[:count], config.own_shift),
        "neighbour": loss(near.features, near_codes, points[count:], config.neighbour_shift),
        "random": float(
            np.mean([loss(crops.features[o], codes[o], points[count:], config.random_shift) for o in others])
        ),
        "depth": reference.released_depth_loss(
            crops.depth.numpy(), codes.detach().numpy(), points[:count], config.depth_shift
        ),
    }
    total = 0.58 * terms["own"] + 0.36 * terms["neighbour"] + 0.70 * terms["random"] + 0.19 * terms["depth"]
    return terms, total


def test_readings_differ_in_depth_alone_where_points_are_random() -> None:
    paper, released = (
        step(ObjectiveConfig(reading=reading, sampling="random", **SMALL), head_of().eval())  # type: ignore[arg-type]
        for reading in ("paper", "released")
    )
    same = {name for name in paper.terms if torch.equal(paper.terms[name], released.terms[name])}
    assert same == {"own", "neighbour", "random"}


# gradients


@pytest.mark.parametrize("reading", ["paper", "released"])
@pytest.mark.parametrize("sampling", ["random", "fps"])
def test_gradients_of_the_total_are_right(reading: str, sampling: str) -> None:
    """With dropout, hidden positives and all terms: to every parameter of head and projection."""
    config = ObjectiveConfig(
        reading=reading,
        sampling=sampling,
        samples=2,
        negatives=1,
        lhp_weight=0.2,  # type: ignore[arg-type]
    )
    head, projection = head_of(codes=2, dropout=0.3), Projection(2, 2).double()
    parameters = [*head.parameters(), *projection.parameters()]

    def total(*_: torch.Tensor) -> torch.Tensor:
        return step(config, head, projection=projection).total

    assert torch.autograd.gradcheck(total, parameters, fast_mode=True)


def test_nothing_but_the_total_carries_gradients() -> None:
    losses = step(ObjectiveConfig(lhp_weight=0.2, **SMALL), head_of(), projection=Projection(4, 4).double())
    assert losses.total.requires_grad
    assert not losses.codes.requires_grad
    assert not any(value.requires_grad for value in (losses.terms | losses.similarities).values())


# what it is made of


def test_the_total_is_the_weighted_sum_of_its_terms() -> None:
    config = ObjectiveConfig(
        own_weight=2, neighbour_weight=3, random_weight=5, depth_weight=7, lhp_weight=0.5, depth_decay=0.1,
        depth_decay_every=4, **SMALL,
    )  # fmt: skip
    losses = step(config, head_of(), 9, projection=Projection(4, 4).double())
    weights = {"own": 2, "neighbour": 3, "random": 5, "depth": 7 * 0.01}
    terms = losses.terms
    expected = sum(weight * (terms[name] + 0.5 * terms[f"lhp_{name}"]) for name, weight in weights.items())
    torch.testing.assert_close(losses.total.detach(), expected)
    assert set(terms) == {prefix + name for prefix in ("", "lhp_") for name in weights}


def test_similarities_are_mean_cosines_of_codes() -> None:
    """Own pairs of a map with one code are all alike, neighbours with the opposite code opposite, random ones alike."""
    same = torch.ones(3, 6, 5, 6)
    objective = Objective(ObjectiveConfig(sampling="random", depth_weight=0, **SMALL))
    found = objective(IdentityHead(6), Crops(same), Crops(-same), 0).similarities
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"own": 1, "neighbour": -1, "random": 1}
    )


def test_stego_reads_no_depth() -> None:
    config = ObjectiveConfig(depth_weight=0, sampling="random", **SMALL)
    assert not config.needs_depth
    losses = Objective(config)(head_of(), Crops(batch().features), Crops(batch(seed=3).features), 0)
    assert set(losses.terms) == {"own", "neighbour", "random"}


@pytest.mark.parametrize("options", [{"depth_weight": 0.1}, {"sampling": "fps"}, {"lhp_weight": 0.1}])
def test_what_needs_depth_says_so(options: dict[str, Any]) -> None:
    config = ObjectiveConfig(**{"depth_weight": 0, "sampling": "random", **SMALL, **options})
    assert config.needs_depth
    with pytest.raises(ValueError, match="needs the depth of crops and neighbours"):
        Objective(config)(
            head_of(), Crops(batch().features), Crops(batch(seed=3).features), 0, projection=Projection(4, 4)
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_depth_that_is_not_finite_is_refused(value: float) -> None:
    near = batch(seed=2)
    assert near.depth is not None
    near.depth[1, 2, 3] = value
    with pytest.raises(ValueError, match="depth of a crop holds NaN or infinity"):
        Objective(ObjectiveConfig(**SMALL))(head_of(), batch(seed=1), near, 0)


def test_all_chance_comes_from_the_generator() -> None:
    for sampling in ("random", "fps"):
        config, head = ObjectiveConfig(sampling=sampling, **SMALL), head_of()  # type: ignore[arg-type]
        torch.manual_seed(1)
        once = step(config, head).total
        torch.manual_seed(2)
        assert torch.equal(once, step(config, head).total)
        assert not torch.equal(once, step(config, head, seed=1).total)


def test_zero_depth_leaves_paper_with_the_losses_of_features() -> None:
    """Maps that were not to be had are zeros: the depth term is 0 and points are spread over the image."""
    none = Crops(batch(seed=1).features, torch.zeros(3, 5, 6, dtype=torch.float64))
    losses = Objective(ObjectiveConfig(lhp_weight=0.2, **SMALL))(
        head_of(), none, none, 0, projection=Projection(4, 4).double()
    )
    assert losses.terms["depth"].item() == 0
    assert torch.isfinite(losses.total)


# random pairs


@pytest.mark.parametrize("count", [2, 3, 32])
def test_no_crop_meets_itself(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([other_crops(count, "cpu", generator) for _ in range(300)])
    assert not (drawn == torch.arange(count)).any()
    assert ((drawn >= 0) & (drawn < count)).all()
    met = torch.stack([torch.bincount(column, minlength=count) for column in drawn.T]).float()
    met.fill_diagonal_(300 / max(count - 1, 1))
    assert (met > 0).all()


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 crops"):
        Objective(ObjectiveConfig())(head_of(), batch(1), batch(1), 0)


# schedules


def test_paper_decays_every_so_many_steps() -> None:
    config = ObjectiveConfig(depth_decay=0.6, depth_decay_every=250, samples_decay=0.9, samples_decay_every=1000)
    scales = [config.depth_scale_at(n) for n in (0, 249, 250, 499, 500, 2332)]
    assert scales == pytest.approx([1, 1, 0.6, 0.6, 0.36, 0.6**9])
    assert [config.samples_at(n) for n in (0, 999, 1000, 1999, 2000, 2332)] == [11, 11, 9, 9, 8, 8]


def test_released_decays_after_the_loss_and_samples_at_once() -> None:
    """COCO ViT-S as it ran, 2,333 batches: nine decays, and S is 11 in the first batch, then 9, 8 and 7."""
    config = ObjectiveConfig("released", depth_decay=0.6, samples_decay=0.9)
    scales = [config.depth_scale_at(n) for n in (0, 250, 251, 500, 501, 2332)]
    assert scales == pytest.approx([1, 1, 0.6, 0.6, 0.36, 0.6**9])
    assert [config.samples_at(n) for n in (0, 1, 1000, 1001, 2000, 2001, 2332)] == [11, 9, 9, 8, 8, 7, 7]


def test_the_decay_is_of_weight_and_shift() -> None:
    config = ObjectiveConfig(depth_decay=0.5, depth_decay_every=10, sampling="random", **SMALL)
    head = IdentityHead(6)
    for number, scale in ((0, 1.0), (10, 0.5), (25, 0.25)):
        losses = step(config, head, number)
        other = step(dataclasses.replace(config, depth_decay=1.0, depth_shift=0.03 * scale), head)
        torch.testing.assert_close(losses.terms["depth"], other.terms["depth"])
        rest = dataclasses.replace(config, depth_weight=0)
        torch.testing.assert_close(losses.total - step(rest, head, number).total, scale * 0.19 * other.terms["depth"])


def test_samples_never_vanish() -> None:
    assert ObjectiveConfig(samples=2, samples_decay=0.1, samples_decay_every=1).samples_at(5) == 1


# what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reading": "both"}, "objective.reading must be paper or released, got 'both'"),
        ({"sampling": "grid"}, "objective.sampling must be random or fps, got 'grid'"),
        ({"depth_similarity": "sign"}, "objective.depth_similarity must be centred or distance"),
        ({"own_weight": -0.1}, "objective.own_weight must be at least 0, got -0.1"),
        ({"lhp_weight": float("nan")}, "objective.lhp_weight must be at least 0, got nan"),
        ({"negatives": 0}, "objective.negatives must be in 1..256, got 0"),
        ({"samples": 0}, "objective.samples must be in 1..64, got 0"),
        ({"depth_decay_every": 0}, "objective.depth_decay_every must be at least 1"),
        ({"depth_decay": 0.0}, r"objective.depth_decay must lie in (0, 1], got 0.0"),
        ({"samples_decay": 1.1}, r"objective.samples_decay must lie in (0, 1], got 1.1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ObjectiveConfig(**options)


def test_hidden_positives_need_a_projection() -> None:
    with pytest.raises(ValueError, match="lhp_weight needs a projection"):
        step(ObjectiveConfig(lhp_weight=0.2, **SMALL), head_of())


def test_more_points_than_patches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"11·11 farthest points cannot be chosen from 5×6 patches"):
        step(ObjectiveConfig(), head_of())


# precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_and_autocast_change_little(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    crops, near = (
        Crops(*(torch.from_numpy(rng.random(shape)).float() for shape in ((4, 64, 8, 8), (4, 8, 8)))) for _ in range(2)
    )
    torch.manual_seed(0)
    head, projection = SemanticHead(64, 16), Projection(16, 16)
    objective = Objective(ObjectiveConfig(samples=5, lhp_weight=0.2))

    def losses(crops: Crops, near: Crops) -> StepLosses:
        return objective(head, crops, near, 0, torch.Generator().manual_seed(0), projection)

    exact = losses(crops, near)
    stored = losses(*(dataclasses.replace(each, features=each.features.to(dtype)) for each in (crops, near)))
    assert stored.total.item() == pytest.approx(exact.total.item(), abs=1e-3)
    with torch.autocast("cpu", dtype):
        mixed = losses(crops, near)
    assert mixed.total.dtype == torch.float32
    assert mixed.total.item() == pytest.approx(exact.total.item(), abs=5e-3)
    mixed.total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


def test_the_depth_term_follows_its_similarity() -> None:
    terms = [
        step(ObjectiveConfig(depth_similarity=similarity, **SMALL), head_of().eval()).terms["depth"]  # type: ignore[arg-type]
        for similarity in ("centred", "distance")
    ]
    assert not torch.equal(*terms)
