"""Candidates and votes: known clusters, the rules one by one, and equality with a plain transcription."""

import numpy as np
import pytest
from support import reference_votecut as reference

from stages.mask_votes import CandidateConfig, VoteConfig, candidate_masks, mask_clusters, vote

GRID = 24


def scene(seed: int, noise: float = 0.05, grid: int = GRID) -> np.ndarray:
    """An eigenvector of two bright objects on a dark background, with noise."""
    rng = np.random.default_rng(seed)
    vector = rng.normal(0.0, noise, (grid, grid))
    scale = grid / GRID
    for top, left, value in ((4, 3, 1.0), (13, 14, 2.0)):
        vector[round(top * scale) : round((top + 7) * scale), round(left * scale) : round((left + 6) * scale)] += value
    return vector


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((60, 60), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_two_objects_that_all_voters_see() -> None:
    vectors = [scene(seed, grid=grid) for seed, grid in enumerate((24, 30, 60))]
    found = vote([candidate_masks(vector, CandidateConfig()) for vector in vectors], VoteConfig())
    # the brighter one is a cluster of its own for both k, the other for k = 3 alone, or together with it for none
    assert found[0].votes == 6
    expected = np.zeros((60, 60), bool)
    expected[32:50, 35:50] = True
    overlap = (found[0].mask & expected).sum() / (found[0].mask | expected).sum()
    assert overlap > 0.85
    assert [one.votes for one in found] == sorted((one.votes for one in found), reverse=True)


def test_the_sign_of_an_eigenvector_does_not_matter() -> None:
    for seed in range(5):
        vector = scene(seed, noise=0.4)
        masks, mirrored = (candidate_masks(v, CandidateConfig()) for v in (vector, -vector))
        assert {m.tobytes() for m in masks} == {m.tobytes() for m in mirrored}


def test_a_cluster_with_two_corners_is_background() -> None:
    vector = np.zeros((GRID, GRID))
    vector[:, :10] = 1.0
    assert len(candidate_masks(vector, CandidateConfig(clusters="2"))) == 0
    assert len(candidate_masks(vector, CandidateConfig(clusters="2", background_corners=3))) == 2
    vector[0, 0] = 0.0  # one corner of the object is left, three are the background's
    assert len(candidate_masks(vector, CandidateConfig(clusters="2"))) == 1


def test_components_of_four_neighbours() -> None:
    vector = np.zeros((GRID, GRID))
    vector[2:8, 2:8] = vector[8:14, 8:14] = 1.0  # they touch at a corner
    assert len(candidate_masks(vector, CandidateConfig(clusters="2"))) == 2


def test_small_components_go_unless_they_are_long() -> None:
    vector = np.zeros((GRID, GRID))
    vector[2:6, 2:6] = vector[10, 2:7] = 1.0
    (mask,) = candidate_masks(vector, CandidateConfig(clusters="2"))
    assert np.argwhere(mask).tolist() == [[10, x] for x in range(2, 7)]
    assert len(candidate_masks(vector, CandidateConfig(clusters="2", min_side=4))) == 2


def test_a_cluster_of_many_pieces_is_left_out() -> None:
    vector = np.zeros((GRID, GRID))
    vector[1:-1:2, 1:-1:2] = 1.0
    pieces = int(vector.sum())
    options = {"clusters": "2", "min_side": 0, "background_corners": 4}
    assert len(candidate_masks(vector, CandidateConfig(**options, max_components=pieces))) == pieces
    assert len(candidate_masks(vector, CandidateConfig(**options, max_components=pieces - 1))) == 0


def test_one_value_everywhere_proposes_nothing() -> None:
    assert candidate_masks(np.full((GRID, GRID), 0.3), CandidateConfig()).shape == (0, GRID, GRID)
    assert vote([], VoteConfig()) == []
    assert vote([np.zeros((0, 8, 8), bool)], VoteConfig()) == []


def test_patches_that_more_than_a_fifth_covers() -> None:
    masks = [rectangle(10, 10, 30, 30)] * 5 + [rectangle(10, 10, 30, 34)]
    (found,) = vote([np.array(masks)], VoteConfig())
    assert found.votes == 6
    assert np.array_equal(found.mask, rectangle(10, 10, 30, 30))  # a sixth is not enough
    (found,) = vote([np.array(masks[1:])], VoteConfig())
    assert np.array_equal(found.mask, rectangle(10, 10, 30, 30))  # a fifth is not, either
    (found,) = vote([np.array(masks[2:])], VoteConfig())
    assert np.array_equal(found.mask, rectangle(10, 10, 30, 34))


def test_a_cluster_grows_around_the_pivot_that_it_moves_to() -> None:
    """Of a chain of strips the middle ones are near to most; their ends join as the pivot moves."""
    chain = np.array([rectangle(0, left, 10, left + 20) for left in range(0, 16, 4)]).reshape(4, -1)
    # the last one's cluster moves to the third strip, which the first cluster has: a used pivot makes none
    assert [c.tolist() for c in mask_clusters(chain, VoteConfig())] == [[0, 1, 2]]
    heavy = np.concatenate([chain, chain[2:3], chain[2:3]])
    assert [c.tolist() for c in mask_clusters(heavy, VoteConfig())] == [[0, 1, 2, 3, 4, 5]]
    assert [c.tolist() for c in mask_clusters(heavy, VoteConfig(pivot_moves=1))] == [[0, 1, 2, 4, 5]]


def test_only_so_many_clusters_are_looked_at() -> None:
    apart = np.array([rectangle(5 * k, 0, 5 * k + 5, 10 + k) for k in range(12)])
    assert len(vote([apart], VoteConfig())) == 10
    assert len(vote([apart], VoteConfig(masks=3))) == 3


@pytest.mark.parametrize("seed", range(4))
def test_order_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    candidates = [candidate_masks(scene(s, noise=0.5), CandidateConfig(clusters="2,3,4")) for s in range(6)]
    expected = vote(candidates, VoteConfig())
    for _ in range(3):
        rng.shuffle(candidates)
        found = vote([own[rng.permutation(len(own))] for own in candidates], VoteConfig())
        assert [(one.votes, one.mask.tobytes()) for one in found] == [(o.votes, o.mask.tobytes()) for o in expected]


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_a_plain_transcription(seed: int) -> None:
    vectors = [scene(10 * seed + s, noise=0.2 * s, grid=grid) for s, grid in enumerate((20, 24, 30))]
    found = vote([candidate_masks(vector, CandidateConfig()) for vector in vectors], VoteConfig())
    labelled = [reference.best_labels(v.ravel(), k).reshape(v.shape) for v in vectors for k in (2, 3)]
    expected = reference.votes([mask for labels in labelled for mask in reference.components(labels)])
    assert [one.votes for one in found] == [members for _, members in expected]
    for one, (mask, _) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.mask, mask)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (CandidateConfig, {"clusters": "3,2"}, "rising numbers from 2"),
        (CandidateConfig, {"clusters": "1"}, "rising numbers from 2"),
        (CandidateConfig, {"clusters": ""}, "rising numbers from 2"),
        (CandidateConfig, {"clusters": "2,x"}, "rising numbers from 2"),
        (CandidateConfig, {"eigenvectors": 0}, "eigenvectors must be 1"),
        (CandidateConfig, {"background_corners": 5}, "background_corners must be 1..4"),
        (CandidateConfig, {"max_components": 0}, "max_components must be at least 1"),
        (CandidateConfig, {"min_side": -1}, "min_side must be at least 0"),
        (VoteConfig, {"grid": 1}, "grid must be 2"),
        (VoteConfig, {"same_iou": 1.0}, "same_iou must lie in"),
        (VoteConfig, {"pixel_share": -0.1}, "pixel_share must lie in"),
        (VoteConfig, {"pivot_moves": 0}, "pivot_moves must be at least 1"),
        (VoteConfig, {"masks": 0}, "masks must be 1"),
    ],
)
def test_what_is_out_of_range(config: type, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)
