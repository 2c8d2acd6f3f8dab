"""A τ from unlabelled features: the quantile of all cosines, whatever the backbone's scale."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.tau import TauConfig, TauSearch

CONFIG = TauConfig(rounds=0.15, tree=0.4, resamples=200)


def photos(count: int, bias: float = 0.0, seed: int = 0) -> list[torch.Tensor]:
    """Features of 36 patches of three things each; a bias common to all patches brings their cosines together."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        things = torch.randn(3, 16, generator=generator)
        noise = torch.randn(36, 16, generator=generator)
        found.append(things[torch.randint(3, (36,), generator=generator)] + 0.7 * noise + bias)
    return found


def searched(features: list[torch.Tensor], config: TauConfig = CONFIG) -> TauSearch:
    search = TauSearch(config)
    for features_ND in features:
        search.add(features_ND)
    return search


def cosines(features: list[torch.Tensor]) -> np.ndarray:
    """Of all pairs of different patches of each photo, by brute force."""
    found = []
    for features_ND in features:
        unit = torch.nn.functional.normalize(features_ND.double(), dim=-1)
        found.append((unit @ unit.T).numpy()[np.triu_indices(len(unit), 1)])
    return np.concatenate(found)


@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_it_joins_the_share_of_pairs_that_is_asked_for(bias: float) -> None:
    features = photos(12, bias)
    proposal = searched(features).proposal()
    for found, share in ((proposal.rounds, 0.15), (proposal.tree, 0.4)):
        assert found.share == share
        assert found.tau == pytest.approx(np.quantile(cosines(features), 1 - share), abs=0.002)
        assert np.mean(cosines(features) > found.tau) == pytest.approx(share, abs=0.005)
        assert found.low <= found.tau <= found.high


def test_it_is_the_same_again_and_narrower_with_more_photos() -> None:
    few, many = searched(photos(4)).proposal(seed=3), searched(photos(64)).proposal(seed=3)
    assert searched(photos(4)).proposal(seed=3) == few
    assert many.tree.high - many.tree.low < few.tree.high - few.tree.low


def test_blank_photos_and_one_photo_propose_something() -> None:
    blank = searched([torch.ones(9, 4)]).proposal().tree
    assert 0.99 < blank.tau <= 1
    assert blank.low == blank.high == blank.tau


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="at least one photo"):
        TauSearch(CONFIG).proposal()
    with pytest.raises(ValueError, match="NaN or infinity"):
        searched([torch.full((9, 4), torch.nan)])
    with pytest.raises(ValueError, match="lie between 0 and 1"):
        replace(CONFIG, tree=1.0)
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        replace(CONFIG, resamples=0)
