"""Runs of semantic labels that are given, made quickly; and label maps as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.images.manifest import ImageRef, Manifest, Shard
from pipeline.results.kinds import Failed, quarantine_of
from pipeline.results.semantic import Classes, SemanticRecord, counts_of
from pipeline.results.semantic_file import write_shard
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder


def labelled_run(
    folder: Path,
    labels: Mapping[str, np.ndarray | None],
    clusters: int,
    *,
    recipe: str = "labelled",
    coco_ids: Mapping[str, int] | None = None,
    leave_out: Sequence[str] = (),
) -> RunFolder:
    """labels: uint8 (H, W) by id of the image, None for one that is set aside.

    leave_out: keys of shards, of two images each, that are not committed.
    """
    ids = coco_ids or {}
    manifest = Manifest([ImageRef(id_, f"/photos/{id_}", coco_id=ids.get(id_)) for id_ in labels], 2)
    run = RunFolder.create_or_open(folder, {"recipe": {"name": recipe}}, manifest, result="semantic")
    for shard in manifest.shards():
        if shard.key in leave_out:
            continue
        commit_labels(run, shard, [labels[ref.id] for ref in shard.refs], clusters)
    return run


def commit_labels(run: RunFolder, shard: Shard, labels: Sequence[np.ndarray | None], clusters: int) -> None:
    """The shard of a run, with these labels of its images."""
    classes = Classes.clusters(clusters)
    records = [_record(ref.id, own, classes) for ref, own in zip(shard.refs, labels, strict=True)]
    outcome = Outcome(write_shard(records, classes, {}), counts_of(records), quarantine_of(records))
    run.ledger.commit(shard.key, new_attempt(), outcome)


def write_map(path: Path, values_HW: np.ndarray) -> Path:
    """A map as a PNG, of 8 or 16 bits as its type is; uint8 (H, W, 3) with colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values_HW).save(path)
    return path


def _record(id_: str, labels: np.ndarray | None, classes: Classes) -> SemanticRecord | Failed:
    if labels is None:
        return Failed(id_, "truncated", f"{id_} ends too early")
    return SemanticRecord.of(id_, labels, np.ones((1, 1), np.float32), classes)
