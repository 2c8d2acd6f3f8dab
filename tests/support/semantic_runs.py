"""Runs of semantic labels over photos that are there, made quickly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.images.manifest import ImageRef, Manifest
from pipeline.results.kinds import Failed, ResultKind, quarantine_of
from pipeline.results.semantic import NONE, Classes, SemanticRecord
from pipeline.results.semantic_kind import SemanticKind
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder

CLASSES = Classes.named(["sky", "road", "person", "Grün </script><b>"])


def random_record(id_: str, size: tuple[int, int], seed: int, classes: Classes = CLASSES) -> SemanticRecord:
    """Blobs of classes, some pixels without one, confidence at random."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, len(classes), (4, 5)).astype(np.uint8)
    labels = np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST))
    labels[: size[0] // 6, : size[1] // 3] = NONE
    return SemanticRecord.of(id_, labels, rng.random(size, np.float32), classes)


def write_run(
    folder: Path,
    results: Sequence[SemanticRecord | Failed],
    classes: Classes = CLASSES,
    shard_size: int = 3,
    leave_out: Sequence[str] = (),
) -> RunFolder:
    """A run with these results, ids ascending, and photos of their sizes beside it.

    leave_out: keys of shards that are not committed.
    """
    return write_run_of(SemanticKind(classes), folder, results, shard_size, leave_out)


def write_run_of(
    kind: ResultKind, folder: Path, results: Sequence[Any], shard_size: int = 3, leave_out: Sequence[str] = ()
) -> RunFolder:
    """The same with results of any kind."""
    refs = []
    for number, result in enumerate(results):
        path = folder / "photos" / result.id
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(result, Failed):
            coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(coarse).resize(result.size[::-1], Image.Resampling.BICUBIC).save(path, format="PNG")
        refs.append(ImageRef(result.id, str(path)))
    manifest = Manifest(refs, shard_size)
    config = {"recipe": {"name": "made up"}}
    run = RunFolder.create_or_open(str(folder / "run"), config, manifest, method="made up", result=kind.name)
    by_id = {result.id: result for result in results}
    for shard in manifest.shards():
        if shard.key not in leave_out:
            own = [by_id[ref.id] for ref in shard.refs]
            outcome = Outcome(kind.write(own, {}), kind.counts(own), quarantine_of(own))
            assert run.ledger.commit(shard.key, new_attempt(), outcome)
    return run
