"""Small images with predicted and true segments, made at random.

Labels below `THINGS` are things, of clusters and of classes.
"""

import numpy as np

from pipeline.evaluation.panoptic_quality import Overlaps, PredictedSegments, TrueSegments

LABELS, THINGS = 6, 3

Scene = tuple[PredictedSegments, TrueSegments]


def segments(seed: int, size: tuple[int, int], boxes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rectangles over each other, on a ground that is partly void: ids, and a label of each segment."""
    rng = np.random.default_rng(seed)
    ids, labels = np.zeros(size, np.int32), []
    for number in range(1, boxes + 1):
        top, left = rng.integers(0, size[0] - 2), rng.integers(0, size[1] - 2)
        ids[top : top + rng.integers(2, size[0]), left : left + rng.integers(2, size[1])] = number
        labels.append(rng.integers(0, LABELS))
    used = np.unique(ids[ids > 0])
    table = np.zeros(boxes + 1, np.int32)
    table[used] = np.arange(1, len(used) + 1)
    return table[ids], np.array(labels, np.uint8)[used - 1]


def one_a_class(ids: np.ndarray, labels: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with one segment for all that have a label and are not apart."""
    keys = np.where(apart, 1000 + np.arange(len(labels)), labels.astype(int))
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    return np.append(0, place + 1)[ids], labels[first], apart[first]


def scene(seed: int) -> Scene:
    """One image; six predictions of ten follow the truth, a little off."""
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(8, 16)), int(rng.integers(8, 16)))
    ids, labels = segments(seed, size, 6)
    crowd = (labels < THINGS) & (rng.random(len(labels)) < 0.25)
    true_ids, true_labels, alone = one_a_class(ids, labels, (labels < THINGS) & ~crowd)
    true = TrueSegments(true_ids, true_labels, (true_labels < THINGS) & ~alone)
    if rng.random() < 0.6:  # follows the truth
        own_ids, own_labels = np.roll(ids, rng.integers(-2, 3), axis=1), labels
        own_ids = np.where(rng.random(size) < 0.1, 0, own_ids)
    else:
        own_ids, own_labels = segments(seed + 10_000, size, 5)
    own_ids, own_labels, own_alone = one_a_class(own_ids, own_labels, own_labels < THINGS)
    return PredictedSegments(own_ids, own_labels, own_alone), true


def overlaps(scenes: list[Scene]) -> Overlaps:
    """Of all of these images."""
    found = Overlaps(LABELS)
    for predicted, true in scenes:
        found.add(predicted, true)
    return found
