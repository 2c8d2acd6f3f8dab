"""The unit of work: one shard of images through the stages. A bad image is a record, not an exception."""

import logging
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.batch_work import BatchWork, Method
from pipeline.errors import CutsError, ImageError
from pipeline.images import Photo, load_photos
from pipeline.manifest import ImageRef, Shard
from pipeline.records import ImageRecord, counts_of, quarantine_of
from pipeline.shard_file import write_shard
from pipeline.stage_graph import INPUTS
from pipeline.stage_outputs import KeptOutputs, Output, write_outputs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardResult:
    """A processed shard, ready to be committed.

    data: bytes of its file. quarantine: id, reason and detail of the images set aside. counts: images, masks, drops by
    reason, quarantined. seconds: by stage. log: one dict an image, for the shard's structured log.
    """

    data: bytes
    quarantine: list[dict[str, str]]
    counts: dict[str, Any]
    seconds: dict[str, float]
    log: list[dict[str, Any]]


class ShardWorker:
    """Takes shards through a method, `batch_size` images at a time.

    A batch that fails is halved and tried again, down to the single image that is at fault, which is set aside with the
    reason; so is a batch that does not fit the GPU's memory, and later batches are smaller then.
    """

    def __init__(self, method: Method, batch_size: int, decode_threads: int = 2) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.method = method
        self.batch_size = batch_size
        self._decode_threads = decode_threads

    def process(
        self,
        shard: Shard,
        until: str,
        kept: Mapping[str, KeptOutputs],
        attributes: Mapping[str, Any],
        on_image: Callable[[ImageRecord | None], None] = lambda record: None,
    ) -> ShardResult:
        """Run the stages up to `until` on one shard.

        kept: outputs of earlier launches for this very shard, by stage. attributes: written into the shard's file.
        on_image: called for each image done, with its record when `until` is "refine" or the image was set aside.
        Raises CutsError when every image fails in the stages: then something else than an image is wrong.
        """
        n = len(shard.refs)
        outputs: list[Output | ImageRecord | None] = [None] * n
        failed: dict[int, ImageRecord] = {}
        seconds: defaultdict[str, float] = defaultdict(float)
        faults: list[Exception] = []

        def set_aside(position: int, error: Exception) -> None:
            record = _quarantined(shard.refs[position], error)
            failed[position] = record
            if not isinstance(error, ImageError):
                faults.append(error)
                log.warning("image %s set aside: %s", record.id, record.detail, exc_info=error)
            on_image(record)

        def work(positions: Sequence[int], photos: Sequence[Photo]) -> None:
            try:
                with torch.inference_mode():
                    batch = BatchWork(self.method, photos, positions, kept, seconds)
                    done = batch.outputs(until)
            # Whatever one image provokes must not cost the shard its other images; signals pass.
            except Exception as error:  # noqa: BLE001
                if len(positions) == 1:
                    set_aside(positions[0], error)
                    return
                if isinstance(error, torch.OutOfMemoryError):
                    self.batch_size = max(1, min(self.batch_size, len(positions)) // 2)
                    torch.cuda.empty_cache()
                    log.warning("GPU memory is full: going on with %d images a batch", self.batch_size)
            else:
                for position, output in zip(positions, done, strict=True):
                    outputs[position] = output
                    on_image(output if isinstance(output, ImageRecord) else None)
                return
            half = len(positions) // 2
            work(positions[:half], photos[:half])
            work(positions[half:], photos[half:])

        for positions, photos in self._batches(shard, until, kept, set_aside):
            work(positions, photos)
        if faults and len(faults) == n and n > 1:
            first = faults[0]
            raise CutsError(
                f"every image of shard {shard.key} failed, the first with {type(first).__name__}: {first}. "
                "Nothing was committed; this is not the images' fault"
            ) from first
        return self._result(shard, until, outputs, failed, seconds, attributes)

    def _batches(
        self,
        shard: Shard,
        until: str,
        kept: Mapping[str, KeptOutputs],
        set_aside: Callable[[int, Exception], None],
    ) -> Iterator[tuple[list[int], list[Photo]]]:
        """Positions and photos of batch after batch, decoded ahead; unreadable images are set aside on the way."""
        if not self._needs_photos(until, kept):
            everything = list(range(len(shard.refs)))
            while everything:
                yield everything[: self.batch_size], []
                everything = everything[self.batch_size :]
            return
        positions: list[int] = []
        photos: list[Photo] = []
        for position, loaded in enumerate(load_photos(shard.refs, self._decode_threads)):
            if isinstance(loaded, Photo):
                positions.append(position)
                photos.append(loaded)
            else:
                set_aside(position, loaded[1])
            if len(positions) >= self.batch_size:
                yield positions, photos
                positions, photos = [], []
        if positions:
            yield positions, photos

    def _needs_photos(self, stage: str, kept: Mapping[str, KeptOutputs]) -> bool:
        """Whether the stage, or anything it takes in that is not kept, looks at the decoded images."""
        for needed in INPUTS[stage]:
            if needed == "photos":
                return True
            if needed == "depth" and not self.method.recipe.needs_depth:
                continue
            is_kept = needed in kept and bool(kept[needed].done.all())
            if not is_kept and self._needs_photos(needed, kept):
                return True
        return False

    def _result(
        self,
        shard: Shard,
        until: str,
        outputs: Sequence[Output | ImageRecord | None],
        failed: Mapping[int, ImageRecord],
        seconds: Mapping[str, float],
        attributes: Mapping[str, Any],
    ) -> ShardResult:
        records = [
            output if isinstance(output, ImageRecord) else failed.get(position)
            for position, output in enumerate(outputs)
        ]
        set_aside = [record for record in records if record is not None and record.status == "quarantined"]
        if until == "refine":
            finished = [record for record in records if record is not None]
            data = write_shard(finished, self.method.grid, attributes)
            counts: dict[str, Any] = dict(counts_of(finished))
        else:
            stage_outputs = [None if isinstance(output, ImageRecord) else output for output in outputs]
            data = write_outputs(until, stage_outputs, self.method.grid, attributes)
            counts = {"images": len(outputs), "quarantined": len(set_aside)}
        lines = [_log_line(ref, record) for ref, record in zip(shard.refs, records, strict=True)]
        return ShardResult(data, quarantine_of(set_aside), counts, dict(seconds), lines)


def _quarantined(ref: ImageRef, error: Exception) -> ImageRecord:
    if isinstance(error, ImageError):
        reason, detail = error.reason, error.detail
    else:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason, detail = "failed", f"{type(error).__name__}: {error} (in {where.name}, line {where.lineno})"
    return ImageRecord(
        id=ref.id,
        size=(ref.height or 0, ref.width or 0),
        status="quarantined",
        instances=(),
        drops={},
        depth=None,
        reason=reason,
        detail=detail,
    )


def _log_line(ref: ImageRef, record: ImageRecord | None) -> dict[str, Any]:
    if record is None:
        return {"image": ref.id, "status": "ok"}
    line: dict[str, Any] = {"image": ref.id, "status": record.status}
    if record.status == "quarantined":
        return line | {"reason": record.reason, "detail": record.detail}
    scores = [round(instance.score, 4) for instance in record.instances]
    return line | {"masks": len(scores), "scores": scores, "drops": record.drops}
