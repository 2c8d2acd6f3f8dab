"""Runs of panoptic labels over photos that are there, made quickly."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.results.kinds import Failed
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_kind import PanopticKind
from pipeline.results.semantic import NONE, Classes
from pipeline.runs.run_folder import RunFolder
from support.semantic_runs import CLASSES, random_record, write_run_of


def record_of(
    id_: str,
    labels: np.ndarray,
    ids: np.ndarray,
    classes: Classes = CLASSES,
    reason: str = "",
    reliable: float | None = None,
) -> PanopticRecord:
    """A record of these maps; confidences are made up, another for each pixel and instance."""
    rng = np.random.default_rng(len(id_))
    sure = np.linspace(0.4, 0.9, int(ids.max()))
    return PanopticRecord.of(id_, labels, rng.random(labels.shape, np.float32), ids, sure, classes, reason, reliable)


def random_panoptic(
    id_: str, size: tuple[int, int], seed: int, classes: Classes = CLASSES, things: Sequence[int] = (2, 3)
) -> PanopticRecord:
    """Blobs of classes, some pixels without one, and instances: patches of the thing classes that are parted by a
    grid, so that several touch; some of their pixels are of none.
    """
    labels = random_record(id_, size, seed, classes).labels
    rng = np.random.default_rng(seed + 1000)
    down, across = max(2, size[0] // 5), max(2, size[1] // 4)
    rows, columns = np.indices(size)
    cell = rows // down * 100 + columns // across
    ids = np.zeros(size, int)
    for number in np.unique(cell):
        for c in things:
            mask = (cell == number) & (labels == c) & (rows % down > 0)
            if mask.any() and rng.random() < 0.6:
                ids[mask] = ids.max() + 1
    return record_of(
        id_, labels, ids, classes, "" if ids.any() else "no_agreement", float(rng.random(dtype=np.float32))
    )


def empty(id_: str, size: tuple[int, int], reason: str, label: int = 0, classes: Classes = CLASSES) -> PanopticRecord:
    """All of one class, or of none, without an instance."""
    return record_of(id_, np.full(size, label, np.uint8), np.zeros(size, int), classes, reason)


def void(id_: str, size: tuple[int, int]) -> PanopticRecord:
    """Neither classes nor instances."""
    return empty(id_, size, "", NONE)


def write_run(
    folder: Path,
    results: Sequence[PanopticRecord | Failed],
    classes: Classes = CLASSES,
    things: tuple[bool, ...] | None = None,
    shard_size: int = 3,
    leave_out: Sequence[str] = (),
) -> RunFolder:
    """See `semantic_runs.write_run`. things: as the maker of the labels knows."""
    return write_run_of(PanopticKind(classes, things), folder, results, shard_size, leave_out)
