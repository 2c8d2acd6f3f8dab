"""A small run with made-up but well-formed records, the same on every call; as a script, a launch of that run.

python sample_run.py URL [KEY]    does what is missing of the run at URL, as a worker process would; from the shard with
                                  this key on it waits to be killed
"""

import signal
import sys
import zlib

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.images.manifest import ImageRef, Manifest, Shard
from pipeline.results.instance_file import write_shard
from pipeline.results.instances import ImageRecord, Instance, counts_of
from pipeline.results.kinds import Failed, quarantine_of
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder
from stages.score import PARTS, ScoreParts

GRID = (6, 8)
CONFIG = {"recipe": {"name": "sample", "ncut": {"tau": 0.15, "rounds": 3}}, "seed": 7}
UNREADABLE = ("000/4.jpg", "001/1.jpg")


def sample_instance(rng: np.random.Generator, size: tuple[int, int], round_: int = 0) -> Instance:
    height, width = size
    mask = np.zeros(size, np.uint8, order="F")
    top, left = int(rng.integers(0, height - 3)), int(rng.integers(0, width - 3))
    mask[top : top + int(rng.integers(2, height)), left : left + int(rng.integers(2, width))] = 1
    mask[top + 1, left + 1] = 0
    rle = coco_mask.encode(mask)
    x, y, w, h = map(float, coco_mask.toBbox(rle))
    confidence = rng.integers(0, 7, GRID).astype(np.uint8) * 42
    score, crf_iou, *parts = rng.random(2 + len(PARTS)).astype(np.float32).tolist()
    area, proposal = int(coco_mask.area(rle)), None if round_ == 2 else 2 * round_
    return Instance(rle["counts"], (x, y, w, h), area, score, confidence, round_, ScoreParts(*parts), crf_iou, proposal)


def sample_record(image_id: str, *, readable: bool = True) -> ImageRecord:
    """What a run found in the image: up to three masks, or quarantine."""
    rng = np.random.default_rng(zlib.crc32(image_id.encode()))
    if not readable:
        return Failed(image_id, "truncated", f"{image_id} ends too early")
    size = int(rng.integers(8, 30)), int(rng.integers(8, 30))
    depth = rng.random(GRID).astype(np.float16)
    drops = {"too_small": int(rng.integers(1, 4))}
    count = min(int(rng.integers(0, 6)), 3)
    instances = tuple(sample_instance(rng, size, i) for i in range(count))
    return ImageRecord(image_id, size, "ok" if instances else "no_masks", instances, drops, depth)


def masks_of(record: ImageRecord | Failed) -> tuple[Instance, ...]:
    """Its instances; none of an image that failed."""
    return () if isinstance(record, Failed) else record.instances


def drops_of(record: ImageRecord | Failed) -> dict[str, int]:
    """The same for what was dropped."""
    return {} if isinstance(record, Failed) else record.drops


def sample_manifest(images: int = 10, shard_size: int = 4) -> Manifest:
    return Manifest([ImageRef(f"{i // 7:03}/{i % 7}.jpg", f"/data/{i}.jpg") for i in range(images)], shard_size)


def shard_records(shard: Shard, *, mended: bool = False) -> list[ImageRecord]:
    return [sample_record(ref.id, readable=mended or ref.id not in UNREADABLE) for ref in shard.refs]


def do_shard(run: RunFolder, shard: Shard, *, mended: bool = False) -> bool:
    """Process one shard and commit it; mended: the unreadable images can be read now."""
    records = shard_records(shard, mended=mended)
    data = write_shard(records, GRID, {"recipe": "sample"})
    return run.ledger.commit(
        shard.key, new_attempt(), Outcome(data, counts_of(records), quarantine_of(records), {"ncut": 0.25})
    )


def launch(url: str, hold_at: str | None = None) -> RunFolder:
    """What `cuts3d run` does: make the run or resume it, and do what is missing."""
    run = RunFolder.create_or_open(url, CONFIG, sample_manifest())
    for shard in run.pending():
        while shard.key == hold_at:
            signal.pause()
        do_shard(run, shard)
    return run


if __name__ == "__main__":
    launch(*sys.argv[1:])
