"""Runs of the same images side by side as one HTML page: a row for each photo, a column for each run, to sort by where
they differ most and to filter. It is put together as the gallery is, of its parts.

What a block holds of an image: `photo`, `problem`, `size`, `small` as in the gallery; `runs`, of each run its status,
why the image was set aside, and scores and areas of its masks; `maps`, deflated, the masks as bits, run by run.
"""

import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, ImageError, StoreError
from pipeline.images.photos import Photo, load_photos
from pipeline.results.instance_overlay import instance_colours
from pipeline.results.instances import ImageRecord
from pipeline.results.kinds import Failed
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.outputs import need_file, writing
from pipeline.views.gallery.blocks import mask_bits, picture_fields
from pipeline.views.gallery.pages import Gallery, Page, base64_text, data_block, write_page

PAGE = Page(
    "compare.html", ("gallery.css", "compare.css"), ("common.js", "viewer.js", "drawing.js", "compare.js"), "compare"
)

Results = Sequence[ImageRecord | Failed]


def write_comparison_page(
    runs: Mapping[str, RunFolder],
    out: str | Path,
    differing: Mapping[str, float],
    limit: int | None = None,
    thumbnail: int = 320,
) -> Gallery:
    """Write the page of what these runs, by name, have all finished.

    out: the file.
    differing: how much the runs differ in an image, 0..1, by id; images that are not there were set aside by a run.
    limit: at most this many images, evenly spread.
    thumbnail: longest side of photos and masks, pixels.

    A photo that cannot be read leaves a placeholder that says why. One shard of each run is in memory at a time. The
    file appears whole or not at all. Raises StoreError when nothing is finished, ConfigError for a wrong size.
    """
    if not 32 <= thumbnail <= 4096:
        raise ConfigError(f"thumbnails must have 32 to 4096 pixels on their longest side, not {thumbnail}")
    path = Path(out)
    need_file(path)
    lines: list[dict[str, Any]] = []
    without_photo, most = 0, 1
    with writing(path), tempfile.TemporaryFile("w+", encoding="ascii") as blocks:
        for results, photo in _images(list(runs.values()), limit):
            block = _block(results, photo, thumbnail)
            blocks.write(data_block(f"image-{len(lines)}", block))
            lines.append(_index_line(results, differing, block["size"]))
            without_photo += not block["photo"]
            most = max(most, *lines[-1]["masks"])
        if not lines:
            raise StoreError(f"no image is finished in all of {', '.join(run.url for run in runs.values())}")
        index = {
            "runs": [{"name": name, "recipe": run.recipe} for name, run in runs.items()],
            "total": next(iter(runs.values())).n_images,
            "grid": [1, 1],  # masks are drawn without their confidence
            "colours": instance_colours(most).tolist(),
            "images": lines,
        }
        blocks.seek(0)
        write_page(path, " · ".join(runs), PAGE, index, blocks)
    return Gallery(path, len(lines), without_photo, path.stat().st_size)


def _images(runs: Sequence[RunFolder], limit: int | None) -> Iterator[tuple[Results, Photo | ImageError]]:
    """Of each image that is shown the results of all runs, and its photo or why there is none."""
    readers = [InstanceReader(run) for run in runs]
    shards = [shard for shard in runs[0].manifest.shards() if all(shard.key in reader.commits for reader in readers)]
    total = sum(len(shard.refs) for shard in shards)
    shown = None if limit is None or limit >= total else {i * total // limit for i in range(limit)}
    first = 0
    for shard in shards:
        results = list(zip(*(reader.results(shard.key) for reader in readers), strict=True))
        places = [i for i in range(len(results)) if shown is None or first + i in shown]
        first += len(results)
        photos = load_photos([shard.refs[i] for i in places])
        for place, loaded in zip(places, photos, strict=True):
            yield results[place], loaded if isinstance(loaded, Photo) else loaded[1]


def _block(results: Results, photo: Photo | ImageError, thumbnail: int) -> dict[str, Any]:
    found = [result if isinstance(result, ImageRecord) else None for result in results]
    size = next((record.size for record in found if record), results[0].size)
    picture = picture_fields(size, photo, thumbnail)
    bits = [b for record in found if record for b in mask_bits(record, picture["small"])]
    return {
        **picture,
        "runs": [_of_run(result) for result in results],
        "maps": base64_text(zlib.compress(b"".join(bits), 9)),
    }


def _of_run(result: ImageRecord | Failed) -> dict[str, Any]:
    if isinstance(result, Failed):
        return {"status": result.status, "reason": result.reason, "detail": result.detail, "instances": []}
    instances = [{"score": round(one.score, 4), "area": one.area} for one in result.instances]
    return {"status": result.status, "reason": "", "detail": "", "instances": instances}


def _index_line(results: Results, differing: Mapping[str, float], size: Sequence[int]) -> dict[str, Any]:
    """What images are sorted and filtered by."""
    failed = [isinstance(result, Failed) for result in results]
    masks = [0 if isinstance(result, Failed) else len(result.instances) for result in results]
    return {
        "id": results[0].id,
        "differ": differing.get(results[0].id),
        "masks": masks,
        "failed": failed,
        "shape": round(size[1] / size[0], 4) if size[0] else 1.3333,
    }
