"""Exact k-means of numbers: nothing is better, and scikit-learn's is never better either."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.kmeans_1d import kmeans_1d

sklearn_cluster = pytest.importorskip("sklearn.cluster")


def spread(values: np.ndarray, labels: np.ndarray) -> float:
    """Sum of squared distances to the means of the clusters."""
    return sum(
        float(((own := values[labels == label]) - own.mean()).__pow__(2).sum()) for label in set(labels.tolist())
    )


@given(st.lists(st.integers(-5, 5) | st.floats(-1e3, 1e3), min_size=1, max_size=7), st.integers(1, 4))
def test_no_other_labels_are_better(numbers: list[float], k: int) -> None:
    values = np.array(numbers, float)
    found = kmeans_1d(values, k)
    best = min(spread(values, np.array(other)) for other in itertools.product(range(k), repeat=len(values)))
    assert spread(values, found) <= best + 1e-9 * (1 + np.abs(values).max() ** 2)
    different = len(set(values.tolist()))
    assert set(found.tolist()) == set(range(min(k, different)))
    order = np.argsort(values, kind="stable")
    assert (np.diff(found[order]) >= 0).all()  # larger labels for larger numbers, the same for the same number
    assert len({(v, label) for v, label in zip(values.tolist(), found.tolist(), strict=True)}) == different


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [2, 3])
def test_scikit_learn_is_never_better(seed: int, k: int) -> None:
    """Its ten starts end in a local minimum now and then, and stop a little before it is reached."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(centre, 0.3, 60) for centre in rng.normal(size=4)])
    theirs = sklearn_cluster.KMeans(k, n_init=10, random_state=0).fit(values[:, None])
    ours = spread(values, kmeans_1d(values, k))
    assert ours <= theirs.inertia_ + 1e-9
    assert ours >= 0.98 * theirs.inertia_


def test_a_shift_changes_nothing() -> None:
    values = np.random.default_rng(0).normal(size=500)
    assert np.array_equal(kmeans_1d(values, 3), kmeans_1d(values + 1e6, 3))
    assert np.array_equal(kmeans_1d(values, 3), 2 - kmeans_1d(-values, 3))


@pytest.mark.parametrize(("values", "k"), [([], 2), ([1.0, np.nan], 2), ([1.0, np.inf], 2), ([1.0], 0)])
def test_what_cannot_be_clustered(values: list[float], k: int) -> None:
    with pytest.raises(ValueError, match="k-means"):
        kmeans_1d(np.array(values), k)
