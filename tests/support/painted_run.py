"""Photos with ellipses painted on a noisy ground, and a run that knows exactly where they are: what can be learnt."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.images.manifest import ImageRef
from support.stored_run import GRID, StoredRun, make_run, photo, random_record

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


def write_truth(run: StoredRun, path: Path) -> None:
    """The ellipses as COCO JSON."""
    names = [Path(ref.uri).name for ref in run.refs]
    images = [
        {"id": i, "file_name": name, "height": record.size[0], "width": record.size[1]}
        for i, (name, record) in enumerate(zip(names, run.records, strict=True), start=1)
    ]
    annotations = [
        {
            "image_id": i,
            "category_id": 1,
            "iscrowd": 0,
            "area": instance.area,
            "bbox": list(instance.box),
            "segmentation": {"size": list(record.size), "counts": instance.rle.decode()},
        }
        for i, record in enumerate(run.records, start=1)
        for instance in record.instances
    ]
    numbered = [{"id": n, **annotation} for n, annotation in enumerate(annotations, start=1)]
    content = {"images": images, "annotations": numbered, "categories": [{"id": 1, "name": "ellipse"}]}
    path.write_text(json.dumps(content))
