"""STEGO's and DepthG's losses, transcribed as plainly as can be from a description of their released code: NumPy,
float64, one image, one point, one pair after the other.
"""

import math

import numpy as np


def bilinear(map_CHW: np.ndarray, x: float, y: float) -> np.ndarray:
    """The map's value at (x, y): -1 is the centre of the first cell, 1 that of the last; clamped to the border."""
    height, width = map_CHW.shape[1:]
    column = min(max((x + 1) / 2 * (width - 1), 0.0), width - 1.0)
    row = min(max((y + 1) / 2 * (height - 1), 0.0), height - 1.0)
    left, top = int(column), int(row)
    value = np.zeros(len(map_CHW))
    for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        share = (1 - abs(row - r)) * (1 - abs(column - c))
        if share > 0:
            value += share * map_CHW[:, r, c]
    return value


def at_points(map_CHW: np.ndarray, points_SS2: np.ndarray) -> np.ndarray:
    """(P, C), points in row-major order."""
    return np.stack([bilinear(map_CHW, x, y) for x, y in points_SS2.reshape(-1, 2)])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths > 0 else 0.0


def cosines(first_PC: np.ndarray, second_PC: np.ndarray) -> np.ndarray:
    return np.array([[cosine(a, b) for b in second_PC] for a in first_PC])


def pointwise(cosines_BPP: np.ndarray) -> np.ndarray:
    """Each row less its mean; then all less what is left of the mean, plus the mean there was."""
    old_mean = cosines_BPP.mean()
    centred = np.stack([np.stack([row - row.mean() for row in image]) for image in cosines_BPP])
    return centred - centred.mean() + old_mean


def loss(signal_BPP: np.ndarray, codes_BPP: np.ndarray, shift: float) -> float:
    terms = [-max(cd, 0.0) * (fd - shift) for fd, cd in zip(signal_BPP.reshape(-1), codes_BPP.reshape(-1), strict=True)]
    return float(np.mean(terms))


def feature_loss(
    features: list[tuple[np.ndarray, np.ndarray]], codes: list[tuple[np.ndarray, np.ndarray]], shift: float
) -> float:
    """Of pairs of images, each (P, C) and (P, C)."""
    fd = pointwise(np.stack([cosines(a, b) for a, b in features]))
    return loss(fd, np.stack([cosines(a, b) for a, b in codes]), shift)


# --- farthest points ---


def released_cloud(depth_hw: np.ndarray) -> np.ndarray:
    """(N, 3), a view of 90 "degrees" whose tangent is taken of radians, through upper left corners."""
    height, width = depth_hw.shape
    factor = 2 * math.tan(90 / 2)
    points = []
    for row in range(height):
        for column in range(width):
            d = depth_hw[row, column]
            x, y = factor * d * (column - width / 2) / width, factor * d * (row - height / 2) / height
            points.append((x, y, -d * 5.0))
    return np.array(points)


def farthest(cloud_N3: np.ndarray, count: int) -> list[int]:
    """The first point, then again and again the one of those left that is farthest from all chosen."""
    chosen, left = [0], list(range(1, len(cloud_N3)))
    while len(chosen) < count:
        nearest = [min(((cloud_N3[i] - cloud_N3[j]) ** 2).sum() for j in chosen) for i in left]
        chosen.append(left.pop(int(np.argmax(nearest))))
    return chosen


def released_points(depth_hw: np.ndarray, side: int) -> np.ndarray:
    """(S, S, 2): rows and columns of the patches chosen, in raster order, taken for x and y."""
    height, width = depth_hw.shape
    is_chosen = np.zeros(depth_hw.size, bool)
    is_chosen[farthest(released_cloud(depth_hw), side * side)] = True
    places = [(row / height, column / width) for row, column in np.argwhere(is_chosen.reshape(depth_hw.shape))]
    return np.array(places).reshape(side, side, 2) * 2 - 1


# --- depth ---


def released_depth_loss(depth_BHW: np.ndarray, codes_BKhw: np.ndarray, points_BSS2: np.ndarray, shift: float) -> float:
    """Codes sampled on a grid of points with its first two axes exchanged; depth shrunk to S×S, and each value divided
    by its own size.
    """
    side = points_BSS2.shape[1]
    ends = np.linspace(-1, 1, side)
    signals, codes = [], []
    for depth_HW, codes_Khw, points_SS2 in zip(depth_BHW, codes_BKhw, points_BSS2, strict=True):
        depth_P = np.array([bilinear(depth_HW[None], x, y)[0] for y in ends for x in ends])
        unit_P = depth_P / np.maximum(np.abs(depth_P), 1e-10)
        code_PK = at_points(codes_Khw, points_SS2.transpose(1, 0, 2))
        signals.append(np.outer(unit_P, unit_P))
        codes.append(cosines(code_PK, code_PK))
    return loss(np.stack(signals), np.stack(codes), shift)


# --- local hidden positives ---


def distances(cloud_N3: np.ndarray) -> np.ndarray:
    return np.array([[math.dist(a, b) for b in cloud_N3] for a in cloud_N3])


def released_mix(codes_Khw: np.ndarray, depth_hw: np.ndarray) -> np.ndarray:
    """What training builds by default: weights of all patches within the 1 % quantile of a row, a mean over all N."""
    distance = distances(released_cloud(depth_hw))
    codes_NK = codes_Khw.reshape(len(codes_Khw), -1).T
    mixed = []
    for row in distance:
        scaled = (row - row.min()) / (row.max() - row.min())
        weights = np.where(scaled > np.quantile(scaled, 0.01), 0.0, 1 - scaled)
        mixed.append((weights[:, None] * codes_NK).mean(axis=0))
    return np.array(mixed).T.reshape(codes_Khw.shape)


def paper_mix(codes_Khw: np.ndarray, depth_hw: np.ndarray) -> np.ndarray:
    """Weights of the 3×3 neighbours that are no farther than the mean of the row, divided by how many there are."""
    height, width = depth_hw.shape
    cloud = []
    for row in range(height):
        for column in range(width):
            d = depth_hw[row, column]
            cloud.append((2 * d * ((column + 0.5) / width - 0.5), 2 * d * ((row + 0.5) / height - 0.5), 5 * d))
    distance = distances(np.array(cloud))
    mixed = np.zeros_like(codes_Khw)
    for row in range(height):
        for column in range(width):
            own = distance[row * width + column]
            near = [
                (r, c)
                for r in range(max(row - 1, 0), min(row + 2, height))
                for c in range(max(column - 1, 0), min(column + 2, width))
            ]
            for r, c in near:
                d = own[r * width + c]
                if d <= own.mean():
                    mixed[:, row, column] += (1 - d / own.max()) * codes_Khw[:, r, c] / len(near)
    return mixed
