"""Several runs of the same images compared: against true objects with paired intervals where there are any, and in any
case by how far their masks agree.

I images · K runs · B resamples · D masks of an image
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import scipy
from pycocotools import mask as coco_mask

from pipeline.errors import RunMismatchError, SourceError
from pipeline.evaluation.average_precision import MAX_DETECTIONS
from pipeline.evaluation.bootstrap import interval, resamples
from pipeline.evaluation.run_detections import run_detections
from pipeline.evaluation.scores import IOU_TYPES, Estimate, Metric, evaluate_paired, metrics_at
from pipeline.evaluation.truth.coco import Truth
from pipeline.results.instances import ImageRecord
from pipeline.results.kinds import Failed
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.run_folder import RunFolder

MASKS = "masks_per_image"


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs.

    name: in tables.
    metrics, difference: estimates by metric, and this run minus the first one, resample by resample.
    agreement: with each run.
    seconds: per image by stage, as if the recipe had been run alone; without reading photos and writing results.
    set_aside: images that this run could not use.
    """

    name: str
    url: str
    metrics: dict[str, Estimate]
    difference: dict[str, Estimate]
    agreement: tuple[Estimate, ...]
    seconds: dict[str, float]
    set_aside: tuple[str, ...]

    @property
    def total_seconds(self) -> float:
        """Per image, of all stages."""
        return round(sum(self.seconds.values()), 4)


@dataclass(frozen=True)
class RunComparison:
    """truth: its name, "" where there is none.

    runs: in the order given; the first is what the others are compared with.
    images: that every run has a result for.
    scored: of these, that the truth has; 0 without one.
    missing: images of the truth that were not scored.
    left_out: images that a run could not use; they count for none.
    other_size, unlabelled: images that have another size in the truth, or are not in it.
    differing: of each of `images` 1 minus the mean agreement of all pairs of runs, by id.
    """

    truth: str
    runs: tuple[ComparedRun, ...]
    images: int
    scored: int
    missing: int
    left_out: tuple[str, ...]
    other_size: int
    unlabelled: int
    differing: dict[str, float]
    scores: str
    max_detections: int
    bootstrap: int
    seed: int

    @property
    def metrics(self) -> list[Metric]:
        """Those that were measured, in the order in which they are shown."""
        known = self.runs[0].metrics
        return [metric for metric in metrics_at(self.max_detections) if metric.name in known]


def compare_runs(
    runs: Mapping[str, RunFolder],
    truth: Truth | None = None,
    *,
    scores: str = "own",
    max_detections: int = MAX_DETECTIONS,
    bootstrap: int = 1000,
    seed: int = 0,
) -> RunComparison:
    """Compare finished runs of the same images; by name, the first is the one that the others are held against.

    An image that one of them set aside is left out for all. scores, max_detections, bootstrap and seed: as for
    `scores.evaluate`.

    Raises SourceError when no image is left or the truth does not fit, RunMismatchError for runs of other images,
    ConfigError for runs that hold no masks or a setting out of range, StoreError for a damaged run.
    """
    folders = list(runs.values())
    if other := next((folder for folder in folders if folder.digest != folders[0].digest), None):
        raise RunMismatchError(f"{other.url} is a run of other images or shards than {folders[0].url}")
    together = _Together.of(folders)
    agreements = together.agreements(bootstrap, seed)
    measured = together.numbers(bootstrap, seed)
    scored, other_size, unlabelled = 0, set[str](), set[str]()
    if truth is not None:
        found = [run_detections(folder, truth) for folder in folders]
        common = sorted(set.intersection(*(set(own.by_image) for own in found)))
        if not common:
            raise SourceError(f"no image of {truth.name} has a result of every recipe")
        scored = len(common)
        other_size.update(*(own.other_size for own in found))
        unlabelled.update(*(own.unlabelled for own in found))
        paired = evaluate_paired(
            truth,
            [[d for image_id in common for d in own.by_image[image_id]] for own in found],
            common,
            scores=scores,
            iou_types=IOU_TYPES if truth.has_masks else ("bbox",),
            max_detections=max_detections,
            bootstrap=bootstrap,
            seed=seed,
        )
        measured = [
            (values | one.evaluation.metrics, differences | one.difference)
            for (values, differences), one in zip(measured, paired, strict=True)
        ]
    compared = tuple(
        ComparedRun(name, folder.url, *measured[k], agreements[k], _seconds(folder), tuple(together.set_aside[k]))
        for k, (name, folder) in enumerate(runs.items())
    )
    return RunComparison(
        truth.name if truth else "",
        compared,
        len(together.ids),
        scored,
        len(truth.images) - scored if truth else 0,
        tuple(together.left_out),
        len(other_size),
        len(unlabelled),
        dict(zip(together.ids, together.differing(), strict=True)),
        scores,
        max_detections,
        bootstrap,
        seed,
    )


def matched_iou(masks: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """How far two sets of run-length coded masks of an image agree, 0..1: the IoU of masks matched one to one, as well
    as they can be, over the mean number of masks; 1 when neither has any.
    """
    if not masks or not others:
        return float(len(masks) == len(others))
    iou_DD = np.asarray(coco_mask.iou(masks, others, [0] * len(others)))
    best = scipy.optimize.linear_sum_assignment(iou_DD, maximize=True)
    return float(2 * iou_DD[best].sum() / (len(masks) + len(others)))


@dataclass(frozen=True)
class _Together:
    """What is read of all runs, image by image. ids, masks_IK, agreement_IKK: of images that every run has."""

    ids: list[str]
    masks_IK: np.ndarray
    agreement_IKK: np.ndarray
    left_out: list[str]
    set_aside: list[list[str]]

    @classmethod
    def of(cls, folders: Sequence[RunFolder]) -> "_Together":
        ids, masks, agreements, left_out = [], [], [], []
        set_aside: list[list[str]] = [[] for _ in folders]
        for results in _side_by_side(folders):
            for failed, result in zip(set_aside, results, strict=True):
                if isinstance(result, Failed):
                    failed.append(result.id)
            found = [result for result in results if isinstance(result, ImageRecord)]
            if len(found) < len(results):
                left_out.append(results[0].id)
                continue
            codes = [
                [{"size": list(record.size), "counts": instance.rle} for instance in record.instances]
                for record in found
            ]
            ids.append(results[0].id)
            masks.append([len(own) for own in codes])
            own = np.eye(len(codes))
            for a, b in combinations(range(len(codes)), 2):
                own[a, b] = own[b, a] = matched_iou(codes[a], codes[b])
            agreements.append(own)
        if not ids:
            raise SourceError(
                f"every image was set aside by one of {', '.join(folder.url for folder in folders)}: `cuts3d info RUN` "
                "says why"
            )
        return cls(ids, np.array(masks, float), np.array(agreements, np.float32), left_out, set_aside)

    def differing(self) -> list[float]:
        pairs = np.triu_indices(self.agreement_IKK.shape[1], 1)
        return [round(1 - float(own[pairs].mean()), 4) for own in self.agreement_IKK]

    def numbers(self, bootstrap: int, seed: int) -> list[tuple[dict[str, Estimate], dict[str, Estimate]]]:
        """Of each run the masks per image, and their difference from the first run's."""
        values, samples_BK = _means(self.masks_IK, bootstrap, seed)
        pairs = [(values, samples_BK), (values - values[0], samples_BK - samples_BK[:, :1])]
        own, difference = (
            [Estimate(float(v), *interval(s)) for v, s in zip(*pair, strict=True)]
            for pair in ((v, s.T) for v, s in pairs)
        )
        return [({MASKS: one}, {MASKS: other}) for one, other in zip(own, difference, strict=True)]

    def agreements(self, bootstrap: int, seed: int) -> tuple[tuple[Estimate, ...], ...]:
        K = self.agreement_IKK.shape[1]
        flat = self.agreement_IKK.reshape(len(self.ids), -1).astype(float)
        values, samples_B = _means(flat, bootstrap, seed)
        estimates = [Estimate(float(v), *interval(s)) for v, s in zip(values, samples_B.T, strict=True)]
        return tuple(tuple(estimates[k * K : (k + 1) * K]) for k in range(K))


def _side_by_side(folders: Sequence[RunFolder]) -> Iterator[tuple[ImageRecord | Failed, ...]]:
    """The result of each run for image after image; of an image that a run has not done, nothing."""
    readers = [InstanceReader(folder) for folder in folders]
    keys = [key for key in readers[0].commits if all(folders[0].is_planned(key) and key in r.commits for r in readers)]
    for key in keys:
        yield from zip(*(reader.results(key) for reader in readers), strict=True)


def _means(values_IM: np.ndarray, bootstrap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over the images, (M,), and of resamples, (B, M)."""
    n = len(values_IM)
    drawn = [weights_IB.T @ values_IM / n for weights_IB in resamples(n, bootstrap, seed)]
    return values_IM.mean(axis=0), np.concatenate([np.empty((0, values_IM.shape[1])), *drawn])


def _seconds(folder: RunFolder) -> dict[str, float]:
    total: dict[str, float] = {}
    images = 0
    for commit in folder.ledger.committed().values():
        images += int(commit.counts["images"])
        for stage, seconds in commit.seconds.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return {stage: round(seconds / max(images, 1), 4) for stage, seconds in total.items()}
