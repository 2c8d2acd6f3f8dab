"""The label-free criterion on features whose classes are known: what is good, and every way to be bad."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.methods.depthg.criterion import Judgement, judge
from stages.semantics.clusters import ClusterProbe
from stages.semantics.head import IdentityHead

CLASSES, CROPS, SIDE = 4, 12, 8
CPU = torch.device("cpu")


class Scenes:
    """Crops of 8x8 patches, two of four classes in each; features are the class's direction with some noise. Crops of
    the same two classes are neighbours.
    """

    def __init__(self, noise: float) -> None:
        rng = np.random.default_rng(0)
        pairs = [(i % CLASSES, (i + 1) % CLASSES) for i in range(CROPS)]
        labels = np.stack([rng.choice(pair, (SIDE, SIDE)) for pair in pairs])
        directions = np.eye(16)[labels] + noise * rng.standard_normal((*labels.shape, 16))
        self._features = directions.transpose(0, 3, 1, 2).astype(np.float16)
        same = [[j for j in range(CROPS) if j % CLASSES == i % CLASSES and j != i] for i in range(CROPS)]
        self.neighbours = np.array([[i, *own] for i, own in enumerate(same)], np.int32)

    def __len__(self) -> int:
        return CROPS

    def features(self, crops: Any) -> np.ndarray:
        return self._features[crops]


@dataclass
class Labeller:
    """centroids: (C, 16)."""

    centroids: torch.Tensor
    head: Any = IdentityHead(16)
    iterations: int = 0

    @property
    def clusters(self) -> ClusterProbe:
        probe = ClusterProbe(16, len(self.centroids))
        with torch.no_grad():
            probe.centroids.copy_(self.centroids)
        return probe


class OnePlace(IdentityHead):
    """One code for everything."""

    def forward(self, features_BDhw: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.ones_like(features_BDhw, dtype=torch.float32)


class ByPhoto(IdentityHead):
    """One code for each crop: which of its classes comes first."""

    def forward(self, features_BDhw: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        mean = super().forward(features_BDhw).mean(dim=(2, 3), keepdim=True)
        return (mean > 0.25).float().expand_as(features_BDhw)


def judged(scenes: Scenes, centroids: torch.Tensor, head: Any = None) -> Judgement:
    return judge(Labeller(centroids, head or IdentityHead(16)), scenes, CPU)  # type: ignore[arg-type]


TRUE = torch.eye(16)[:CLASSES]


def test_true_classes_on_clean_codes_are_perfect_in_likeness_and_in_order() -> None:
    found = judged(Scenes(0.0), TRUE)
    assert found.likeness == pytest.approx(1.0, abs=1e-3)
    assert found.similarities == pytest.approx(found.agreement, abs=1e-3)
    assert found.similarities["own"] > found.similarities["random"]
    assert found.consistency == pytest.approx(0.5, abs=0.05)  # one bit, of two classes in each crop, of the two of four
    assert found.shares == pytest.approx([0.25] * 4, abs=0.05)
    assert found.dead == ()
    assert found.crops == CROPS


def test_worse_codes_and_worse_clusters_score_less() -> None:
    clean = judged(Scenes(0.0), TRUE)
    noisy = judged(Scenes(0.3), TRUE)
    drawn = judged(Scenes(0.3), torch.randn((CLASSES, 16), generator=torch.Generator().manual_seed(1)))
    assert clean.value > noisy.value > drawn.value


def test_one_cluster_for_everything_is_worth_nothing() -> None:
    for found in (
        judged(Scenes(0.1), TRUE, OnePlace(16)),
        judged(Scenes(0.1), torch.eye(16)[[0, 8]].sum(1)[:, None].expand(2, 16)),
    ):
        assert found.value == 0.0


def test_a_cluster_for_each_photo_is_worth_nothing_though_it_is_alike() -> None:
    found = judged(Scenes(0.0), torch.tensor([[1.0] * 16, *np.eye(16)[:3].tolist()]), ByPhoto(16))
    assert found.agreement["own"] == 1.0
    assert found.consistency == pytest.approx(0.0, abs=1e-9)
    assert found.value == 0.0


def test_clusters_without_a_patch_are_dead() -> None:
    found = judged(Scenes(0.0), torch.cat([TRUE, -torch.eye(16)[:2]]))
    assert found.dead == (4, 5)


def test_equal_inputs_give_equal_judgements() -> None:
    assert judged(Scenes(0.2), TRUE) == judged(Scenes(0.2), TRUE)
