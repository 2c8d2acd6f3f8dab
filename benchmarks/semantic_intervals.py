"""Whether the assignment of clusters to classes is to be found once, or again for each resample of the images.

    python benchmarks/semantic_intervals.py --out benchmarks/results/semantic_intervals.csv

Simulated images of 27 classes, the frequent ones a hundred times as frequent as the rare ones, six in an image; 27
clusters that follow them in part, some of them torn between two classes. What is to be covered is what the run would
reach on 20,000 such images with the assignment of these. In samples of several sizes: the share of 95 % intervals that
hold it, how wide they are, and how far the estimate is above it.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from pipeline.evaluation.bootstrap import interval, resamples
from pipeline.evaluation.semantic_scores import find_assignment

CLASSES, PIXELS, POPULATION = 27, 10_000, 20_000


def images(count: int, rng: np.random.Generator, towards_CK: np.ndarray) -> np.ndarray:
    """Pixels by image, cluster and class, (I, K, C)."""
    shares = 1 / np.arange(1, CLASSES + 1) ** 1.4
    counts = np.zeros((count, CLASSES, CLASSES), np.float32)
    for image in counts:
        present = rng.choice(CLASSES, 6, replace=False, p=shares / shares.sum())
        areas = rng.dirichlet(np.ones(6)) * PIXELS
        for true, area in zip(present, areas, strict=True):
            image[:, true] = area * rng.dirichlet(towards_CK[true] * 3 + 1e-3)
    return counts


def miou(total_KC: np.ndarray, class_of: tuple[int | None, ...]) -> float:
    """Of pixels by cluster and class."""
    table = np.zeros((CLASSES, CLASSES))
    for cluster, index in enumerate(class_of):
        if index is not None:
            table[index] += total_KC[cluster]
    either = table.sum(axis=0) + table.sum(axis=1) - table.diagonal()
    return float((table.diagonal()[either > 0] / either[either > 0]).mean())


def assigned(total_KC: np.ndarray) -> tuple[int | None, ...]:
    return find_assignment(np.vstack([total_KC, np.zeros(CLASSES)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    towards_CK = np.eye(CLASSES) * 0.6 + rng.dirichlet(np.full(CLASSES, 0.1), CLASSES) * 0.4
    towards_CK[5], towards_CK[6] = (towards_CK[5] + towards_CK[6]) / 2, towards_CK[6]  # torn between two
    population = images(POPULATION, rng, towards_CK)
    total = population.sum(axis=0)
    reached = miou(total, assigned(total))
    rows = []
    for size in (30, 100, 500):
        found: dict[str, list[tuple[bool, float]]] = {"once": [], "each resample": []}
        above = []
        for trial in range(options.trials):
            sample = population[rng.choice(POPULATION, size, replace=False)].reshape(size, -1)
            whole = sample.sum(axis=0).reshape(CLASSES, CLASSES)
            own = assigned(whole)
            above.append(miou(whole, own) - reached)
            values: dict[str, list[float]] = {"once": [], "each resample": []}
            for weights in resamples(size, options.resamples, trial):
                for again in (sample.T @ weights.astype(np.float32)).T:
                    resample = again.reshape(CLASSES, CLASSES)
                    values["once"].append(miou(resample, own))
                    values["each resample"].append(miou(resample, assigned(resample)))
            for how, samples in values.items():
                low, high = interval(np.array(samples))
                found[how].append((low <= reached <= high, high - low))
        for how, pairs in found.items():
            covered, width = np.mean([p[0] for p in pairs]), np.mean([p[1] for p in pairs])
            rows.append([size, how, round(float(covered), 3), round(float(width), 4), round(float(np.mean(above)), 4)])
            print(*rows[-1], flush=True)
    if options.out:
        with options.out.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["images", "assignment", "covered", "width", "estimate_above"])
            writer.writerows(rows)


if __name__ == "__main__":
    main()
