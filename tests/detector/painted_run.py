"""Photos with ellipses painted on a noisy ground, and a run that knows exactly where they are: what can be learnt."""

from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from stored_run import GRID, StoredRun, make_run, photo, random_record

from pipeline.manifest import ImageRef

SIZE = (72, 96)


def painted_run(folder: Path, count: int = 12, seed: int = 0, size: tuple[int, int] = SIZE) -> StoredRun:
    """`count` images of one to three ellipses."""
    records = [random_record(f"{i:03}.png", size, seed + i, masks=1 + i % 3) for i in range(count)]
    refs = []
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for i, record in enumerate(records):
        picture = photo(size, seed + i) // 3
        for j, instance in enumerate(record.instances):
            inside = coco_mask.decode({"size": list(size), "counts": instance.rle}).astype(bool)
            picture = np.where(inside[..., None], np.uint8([250, 120 + 60 * (j % 2), 90]), picture)
        path = folder / "photos" / record.id
        Image.fromarray(picture.astype(np.uint8)).save(path)
        refs.append(ImageRef(record.id, str(path)))
    return make_run(folder, records, refs, grid=GRID)
