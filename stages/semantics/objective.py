"""What a training step minimises: pairs of points of one image, of neighbours and of random images, and of depth.

B crops · D feature width · K code width · h, w patch grid · H, W depth map · S·S points per crop, P of them
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stages.late import torch
from stages.semantics import Reading
from stages.semantics.correlation import DepthSimilarity, correlation_loss, depth_pull, feature_pull, pair_cosines
from stages.semantics.farthest_points import farthest_coordinates
from stages.semantics.hidden_positives import mixed_by_depth
from stages.semantics.sampling import MapRows, kept_channels, uniform_points

if TYPE_CHECKING:
    from stages.semantics.head import IdentityHead, Projection, SemanticHead


@dataclass(frozen=True)
class ObjectiveConfig:
    """The options of training's loss. Defaults are those published for COCO-Stuff with a ViT-S, but that S stays.

    reading: "paper" or "released"; what they change is said in `depth_pull`, `farthest_coordinates`, `mixed_by_depth`,
        and here where steps are counted.
    own_weight: of pairs within a crop, at least 0, as all weights.
    own_shift: what is taken off the cosine of features of such a pair.
    neighbour_weight: of pairs of a crop and one of its nearest neighbours.
    neighbour_shift: of pairs of a crop and a neighbour, as own_shift.
    random_weight: of pairs of a crop and another one of the batch.
    random_shift: of pairs of a crop and another one of the batch, as own_shift.
    negatives: other crops per crop, 1..256.
    depth_weight: of pairs within a crop, by their depth; 0 is STEGO.
    depth_shift: what is taken off the likeness of such a pair's depth.
    depth_similarity: of "paper": "centred" or "distance", see `depth_pull`.
    depth_decay: weight and shift of depth are multiplied by this, in (0, 1], every depth_decay_every steps.
    depth_decay_every: steps after which weight and shift of depth become smaller, at least 1.
    sampling: "random" points, or "fps", farthest points of the unprojected depth.
    samples: S, 1..64; S·S points per crop.
    samples_decay: S becomes the whole part of S times this, in (0, 1], every samples_decay_every steps.
    samples_decay_every: steps after which S becomes smaller, at least 1.
    pointwise: features' cosines are centred by point.
    zero_clamp: codes that are unlike already are pushed no further.
    lhp_weight: of the same losses on the codes that local hidden positives mix and a projection turns, at least 0;
        0 is without.

    A step is a batch. "released" applies a decay after the loss of every `…_every`-th step, and that of S after the
    first, too.
    """

    reading: Reading = "paper"
    own_weight: float = 0.58
    own_shift: float = 0.07
    neighbour_weight: float = 0.36
    neighbour_shift: float = 0.025
    random_weight: float = 0.70
    random_shift: float = 0.761
    negatives: int = 5
    depth_weight: float = 0.19
    depth_shift: float = 0.03
    depth_similarity: DepthSimilarity = "centred"
    depth_decay: float = 0.6
    depth_decay_every: int = 250
    sampling: Literal["random", "fps"] = "fps"
    samples: int = 11
    samples_decay: float = 1.0
    samples_decay_every: int = 1000
    pointwise: bool = True
    zero_clamp: bool = True
    lhp_weight: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("reading", ("paper", "released")),
            ("depth_similarity", ("centred", "distance")),
            ("sampling", ("random", "fps")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"objective.{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("own_weight", "neighbour_weight", "random_weight", "depth_weight", "lhp_weight"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"objective.{name} must be at least 0, got {getattr(self, name)}")
        # The loss holds the cosines of all pairs of points, 64 MiB per crop and term at S = 64.
        for name, most in (("negatives", 256), ("samples", 64)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"objective.{name} must be in 1..{most}, got {getattr(self, name)}")
        for name in ("depth_decay_every", "samples_decay_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"objective.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("depth_decay", "samples_decay"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"objective.{name} must lie in (0, 1], got {getattr(self, name)}")

    @property
    def needs_depth(self) -> bool:
        """Whether training reads depth at all."""
        return self.depth_weight > 0 or self.sampling == "fps" or self.lhp_weight > 0

    def depth_scale_at(self, step: int) -> float:
        """What weight and shift of depth are multiplied with in this step, the first being 0."""
        return self.depth_decay ** self._decays(step, self.depth_decay_every)

    def samples_at(self, step: int) -> int:
        """S in this step, at least 1."""
        samples = self.samples
        first = 1 if self.reading == "released" and step > 0 else 0
        for _ in range(first + self._decays(step, self.samples_decay_every)):
            samples = max(int(samples * self.samples_decay), 1)
        return samples

    def _decays(self, step: int, every: int) -> int:
        return max(step - 1, 0) // every if self.reading == "released" else step // every


@dataclass(frozen=True)
class Crops:
    """A batch of crops, or of their neighbours.

    features: (B, D, h, w), any float dtype, of the frozen backbone.
    depth: (B, H, W) float32 relative depth, larger = farther, finite, at the patch grid or finer; None where the
        objective needs none (`ObjectiveConfig.needs_depth`).
    """

    features: torch.Tensor
    depth: torch.Tensor | None = None


@dataclass(frozen=True)
class StepLosses:
    """Of one step.

    total: scalar, to be minimised.
    terms: the unweighted scalars that it is made of, detached: own, neighbour, random; depth; and each with `lhp_`.
    similarities: mean cosine of codes over the pairs: own, neighbour, random; detached scalars. Their levels tell
        whether weights and shifts are good: each should look like the share of pairs of one class.
    codes: (B, K, h, w) of the crops, detached, for the probes.
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor]
    similarities: dict[str, torch.Tensor]
    codes: torch.Tensor


class Objective:
    """The loss of a training step, from features and depth of crops and those of one neighbour of each."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config

    def __call__(
        self,
        head: SemanticHead | IdentityHead,
        crops: Crops,
        neighbours: Crops,
        step: int,
        generator: torch.Generator | None = None,
        projection: Projection | None = None,
    ) -> StepLosses:
        """Losses of a step, differentiable in head and projection.

        step: batches before this one.
        generator: all chance of the step, on the features' device; None takes torch's own.
        projection: from K to K channels; needed with `lhp_weight`, and no part of the model afterwards.

        Raises ValueError for a batch of one, which has no random pairs, depth that is missing or not finite, a missing
        projection, and more points than patches.
        """
        self._check(crops, neighbours, projection)
        pairs = self._draw_pairs(crops, neighbours, self.config.samples_at(step), generator)
        pulls = self._pulls(head, crops, neighbours, pairs, step, generator)
        codes, near_codes = head(crops.features, generator), head(neighbours.features, generator)
        losses, similarities = self._losses(codes, near_codes, pairs, pulls)
        total = self._weighted(losses, step)
        if projection is not None and self.config.lhp_weight > 0:
            assert crops.depth is not None  # checked
            mixed = mixed_by_depth(codes, crops.depth, self.config.reading)
            hidden, _ = self._losses(projection(mixed), projection(near_codes), pairs, pulls)
            total = total + self.config.lhp_weight * self._weighted(hidden, step)
            losses |= {f"lhp_{name}": loss for name, loss in hidden.items()}
        terms = {name: loss.detach() for name, loss in losses.items()}
        return StepLosses(total, terms, similarities, codes.detach())

    def _check(self, crops: Crops, neighbours: Crops, projection: Projection | None) -> None:
        if len(crops.features) < 2:
            raise ValueError("the objective compares crops with others of their batch: give at least 2 crops")
        for depth in (crops.depth, neighbours.depth) if self.config.needs_depth else ():
            if depth is None:
                raise ValueError(
                    "the objective needs the depth of crops and neighbours, or no depth_weight, lhp_weight and fps"
                )
            if not torch.isfinite(depth).all():
                raise ValueError("the depth of a crop holds NaN or infinity: fill it before training")
        if self.config.lhp_weight > 0 and projection is None:
            raise ValueError("objective.lhp_weight needs a projection of codes")

    def _draw_pairs(self, crops: Crops, neighbours: Crops, side: int, generator: torch.Generator | None) -> _Pairs:
        count, _, height, width = crops.features.shape
        device = crops.features.device
        if self.config.sampling == "random":
            points = uniform_points(2 * count, side, device, generator)
        else:
            assert crops.depth is not None  # checked
            assert neighbours.depth is not None
            depth = torch.cat([crops.depth, neighbours.depth])
            points = farthest_coordinates(depth, side, (height, width), self.config.reading)
        others = [other_crops(count, device, generator) for _ in range(self.config.negatives)]
        return _Pairs(points[:count], points[count:], torch.stack(others))

    def _pulls(
        self,
        head: SemanticHead | IdentityHead,
        crops: Crops,
        neighbours: Crops,
        pairs: _Pairs,
        step: int,
        generator: torch.Generator | None,
    ) -> dict[str, torch.Tensor]:
        config = self.config
        count, width = crops.features.shape[:2]
        share = head.dropout if head.training else 0.0
        kept = kept_channels(2 * count, width, share, crops.features.device, generator)[:, None]
        cosines = pairs.cosines(crops.features, neighbours.features, (kept[:count], kept[count:]))
        shifts = {"own": config.own_shift, "neighbour": config.neighbour_shift, "random": config.random_shift}
        pulls = {name: feature_pull(each, shifts[name], config.pointwise) for name, each in cosines.items()}
        if config.depth_weight > 0:
            assert crops.depth is not None  # checked
            shift = config.depth_shift * config.depth_scale_at(step)
            pulls["depth"] = depth_pull(crops.depth, pairs.points, shift, config.reading, config.depth_similarity)
        return pulls

    def _losses(
        self, codes: torch.Tensor, near_codes: torch.Tensor, pairs: _Pairs, pulls: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Unweighted losses, and mean cosines of codes, by name."""
        cosines = pairs.cosines(codes, near_codes)
        similarities = {name: each.detach().mean() for name, each in cosines.items()}
        losses = {
            name: correlation_loss(pull, cosines["own" if name == "depth" else name], self.config.zero_clamp)
            for name, pull in pulls.items()
        }
        return losses, similarities

    def _weighted(self, losses: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        weights = {
            "own": self.config.own_weight,
            "neighbour": self.config.neighbour_weight,
            "random": self.config.random_weight,
            "depth": self.config.depth_weight * self.config.depth_scale_at(step),
        }
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


@dataclass(frozen=True)
class _Pairs:
    """What is compared. points, near_points: of crops and neighbours, (B, S, S, 2). others: (M, B) int64, the M other
    crops that each crop meets, at the points of its neighbour.
    """

    points: torch.Tensor
    near_points: torch.Tensor
    others: torch.Tensor

    def cosines(
        self,
        maps_BChw: torch.Tensor,
        near_maps_BChw: torch.Tensor,
        kept: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Of all pairs: own and neighbour (B, P, P), random (M, B, P, P).

        kept: what the channels of crops and of neighbours are multiplied with before, (B, 1, C) each.
        """
        rows = MapRows.of(maps_BChw)
        others_N = self.others.T.flatten()  # of crop after crop, so that one product compares each with all of its own
        own, near = rows.at(self.points), MapRows.of(near_maps_BChw).at(self.near_points)
        random = rows.at(self.near_points.repeat_interleave(len(self.others), dim=0), others_N)
        if kept is not None:
            own, near, random = own * kept[0], near * kept[1], random * kept[0][others_N]
        of_others = pair_cosines(own, random.reshape(len(own), -1, own.shape[2]))
        return {
            "own": pair_cosines(own, own),
            "neighbour": pair_cosines(own, near),
            "random": of_others.unflatten(2, (len(self.others), -1)).permute(2, 0, 1, 3),
        }


def other_crops(
    count: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
) -> torch.Tensor:
    """For each crop of a batch another one, never itself where there are two: (count,) int64.

    A random permutation in which crops that meet themselves take the next one, so some may be taken twice.
    Source: STEGO's released code.
    """
    others = torch.randperm(count, device=device, generator=generator)
    return (others + (others == torch.arange(count, device=device)).long()) % count
