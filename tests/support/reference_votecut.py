"""VoteCut before its CRF, transcribed as plainly as can be from a description of it: lists, sets and loops.

Where the description leaves the order of equal masks open, larger ones come first, then those whose patches come first
in the photo.
"""

import numpy as np
import scipy


def eigenvectors(features_ND: np.ndarray, tau: float, count: int) -> list[np.ndarray]:
    """From the second smallest on, of the symmetric normalised Laplacian, dense, float64."""
    unit_ND = features_ND.astype(np.float64) / np.linalg.norm(features_ND.astype(np.float64), axis=1, keepdims=True)
    weights_NN = np.where(unit_ND @ unit_ND.T > tau, 1.0, 1e-5)
    root_N = np.sqrt(weights_NN.sum(axis=1))
    laplacian_NN = np.eye(len(root_N)) - weights_NN / root_N[:, None] / root_N
    _, vectors = scipy.linalg.eigh(laplacian_NN, subset_by_index=[1, count])
    return list(vectors.T)


def best_labels(values: np.ndarray, k: int) -> np.ndarray:
    """k-means of numbers: the best way to cut the sorted numbers into k intervals, one number after the other."""
    order = np.argsort(values, kind="stable")
    x = values[order].astype(np.float64)
    total, squares = np.concatenate([[0], np.cumsum(x)]), np.concatenate([[0], np.cumsum(x**2)])

    def cost(first: np.ndarray, end: int) -> np.ndarray:
        return squares[end] - squares[first] - (total[end] - total[first]) ** 2 / (end - first)

    best, cuts = [np.inf, *(float(cost(np.array(0), end)) for end in range(1, len(x) + 1))], []
    for _ in range(k - 1):
        longer, where = [np.inf] * len(best), [0] * len(best)
        for end in range(1, len(x) + 1):
            costs = np.array(best[:end]) + cost(np.arange(end), end)
            where[end] = int(costs.argmin())
            longer[end] = float(costs[where[end]])
        best = longer
        cuts.append(where)
    labels, end = np.zeros(len(x), int), len(x)
    for label, where in zip(range(k - 1, 0, -1), reversed(cuts), strict=True):
        labels[where[end] : end] = label
        end = where[end]
    found = np.empty_like(labels)
    found[order] = labels
    return found


def components(labels_GG: np.ndarray) -> list[np.ndarray]:
    height, width = labels_GG.shape
    corners = [(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1)]
    found = []
    for label in sorted(set(labels_GG.ravel().tolist())):
        if sum(labels_GG[corner] == label for corner in corners) >= 2:
            continue
        todo, pieces = {(int(y), int(x)) for y, x in np.argwhere(labels_GG == label)}, []
        while todo:
            piece, front = set(), [min(todo)]
            while front:
                y, x = front.pop()
                if (y, x) in todo:
                    todo.remove((y, x))
                    piece.add((y, x))
                    front += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            pieces.append(piece)
        if len(pieces) > 30:
            continue
        for piece in pieces:
            rows, columns = {y for y, _ in piece}, {x for _, x in piece}
            if max(columns) - min(columns) + 1 < 5 and max(rows) - min(rows) + 1 < 5:
                continue
            mask = np.zeros(labels_GG.shape, bool)
            mask[tuple(np.array(sorted(piece)).T)] = True
            found.append(mask)
    return found


def on_60(mask: np.ndarray) -> np.ndarray:
    return np.array([[mask[y * mask.shape[0] // 60, x * mask.shape[1] // 60] for x in range(60)] for y in range(60)])


def votes(masks: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
    """Masks at 60×60 with the number of members of their clusters, most first."""
    masks = [on_60(mask) for mask in masks]
    masks.sort(key=lambda m: (-int(m.sum()), np.packbits(m).tobytes()))
    sets = [{int(i) for i in np.flatnonzero(mask)} for mask in masks]
    iou = [[len(a & b) / len(a | b) for b in sets] for a in sets]
    near = [{j for j in range(len(sets)) if iou[i][j] > 0.6} for i in range(len(sets))]
    used: set[int] = set()
    found: list[tuple[np.ndarray, int]] = []
    for start in sorted(range(len(sets)), key=lambda i: -len(near[i])):
        if len(found) == 10:
            break
        if start in used:
            continue
        pivot, cluster = start, {start}
        for _ in range(5):
            if near[pivot] <= cluster:
                break
            cluster |= near[pivot]
            sums = {i: sum(iou[i][j] for j in sorted(cluster)) for i in sorted(cluster)}
            pivot = max(sorted(cluster), key=lambda i: sums[i])
        if pivot not in used:
            members = sorted(cluster - used)
            found.append((np.mean([masks[i] for i in members], axis=0) > 0.2, len(members)))
        used |= cluster
    return sorted(found, key=lambda one: -one[1])
