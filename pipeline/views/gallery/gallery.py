"""A run as one HTML page for people: photos, masks, and what the method saw on the way, to sort and filter.

The page is one file that asks nothing of the network. It holds, in this order: the index (what images are sorted and
filtered by), the program, and one block an image (see `pipeline.views.gallery.blocks`), which the program decodes when
the image comes into view.
"""

import hashlib
import html
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.errors import ConfigError, ImageError, StoreError
from pipeline.images.manifest import Shard
from pipeline.images.photos import Photo, load_photos
from pipeline.methods.cuts.recipes import unmeasured_parts
from pipeline.methods.cuts.stage_files import CutImage, KeptOutputs
from pipeline.results.instances import ImageRecord
from pipeline.runs.ledger import RETRY_PREFIX
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.atomic import written_whole
from pipeline.views.gallery.blocks import base64_text, image_block
from pipeline.views.overlays import instance_colours
from stages.score import PARTS

PROPOSAL_STAGES = ("confidence", "localcut")  # whose kept output holds the proposals, the fuller one first
PROGRAM = ("data.js", "drawing.js", "list.js", "detail.js", "start.js")  # one script


@dataclass(frozen=True)
class Gallery:
    """A page that was written: images on it, how many of them without a photo, and the file's size in bytes."""

    file: Path
    images: int
    without_photo: int
    bytes: int


def write_gallery(run: RunFolder, out: str | Path, limit: int | None = None, thumbnail: int = 320) -> Gallery:
    """Write the page of a run's finished images.

    out: the file, or a folder (existing, or without an ending of a file), which gets gallery.html.
    limit: at most this many images, evenly spread over the run. thumbnail: longest side of photos and masks, pixels.
    A photo that cannot be read, or is not the one of the run any more, leaves a placeholder that says why.
    Eigenvectors, groups and dropped proposals are shown where the run kept the output of a stage of PROPOSAL_STAGES.

    One shard is in memory at a time, and of all images their names, scores and drops. The file appears whole or not at
    all. Raises StoreError when nothing of the run is finished or something is damaged, ConfigError for a wrong size.
    """
    if not 32 <= thumbnail <= 4096:
        raise ConfigError(f"thumbnails must have 32 to 4096 pixels on their longest side, not {thumbnail}")
    if limit is not None and limit < 1:
        raise ConfigError(f"a gallery shows at least 1 image, not {limit}")
    path = Path(out)
    if path.is_dir() or not path.suffix:
        path = path / "gallery.html"
    reader = RunReader(run)
    lines: list[dict[str, Any]] = []
    without_photo = kept = 0
    with tempfile.TemporaryFile("w+", encoding="ascii") as blocks:
        for record, cut, photo in _images(run, reader, limit):
            block = image_block(record, cut, photo, thumbnail)
            without_photo += not block["photo"]
            kept += block["proposals"] is not None
            blocks.write(_script("application/json", f"image-{len(lines)}", _json(block)))
            lines.append(_index_line(record))
        if not lines:
            raise StoreError(f"no image of {run.url} is finished: `cuts3d run --out {run.url}` goes on with it")
        unmeasured = unmeasured_parts(run.config["recipe"])
        index = {
            "run": _facts(run, reader),
            "grid": _grid(run, reader),
            "kept": kept > 0,
            "parts": {part: part not in unmeasured for part in PARTS},
            "colours": instance_colours(max(len(line["scores"]) for line in lines) or 1).tolist(),
            "images": lines,
        }
        blocks.seek(0)
        _write_page(path, PurePosixPath(run.url).name, index, blocks)
    return Gallery(path, len(lines), without_photo, path.stat().st_size)


def _images(
    run: RunFolder, reader: RunReader, limit: int | None
) -> Iterator[tuple[ImageRecord, CutImage | None, Photo | ImageError]]:
    """The images to show with their proposals, where kept, and their photos, or why there is none."""
    shards = [shard for shard in run.manifest.shards() if shard.key in reader.commits]
    total = sum(len(shard.refs) for shard in shards)
    shown = None if limit is None or limit >= total else {i * total // limit for i in range(limit)}
    records = iter(reader)
    first = 0
    for shard in shards:
        of_shard = [next(records) for _ in shard.refs]
        positions = [i for i in range(len(shard.refs)) if shown is None or first + i in shown]
        first += len(shard.refs)
        proposals = _proposals(run, shard, positions) if positions else {}
        for position, loaded in zip(positions, load_photos([shard.refs[i] for i in positions]), strict=True):
            photo = loaded if isinstance(loaded, Photo) else loaded[1]
            yield of_shard[position], proposals.get(position), photo


def _proposals(run: RunFolder, shard: Shard, positions: list[int]) -> dict[int, CutImage]:
    """By place in the shard, the proposals of these images, where a stage target kept them."""
    for stage in PROPOSAL_STAGES:
        ledger = run.stage_ledger(stage)
        if ledger.is_committed(shard.key):
            file = ledger.read(shard.key).shard
            kept = KeptOutputs.open(stage, ledger.contents(file), file.name)
            usable = [position for position in positions if kept.done[position]]
            return dict(zip(usable, kept.cut_images(usable), strict=True))
    return {}


def _facts(run: RunFolder, reader: RunReader) -> dict[str, Any]:
    """What the head of the page says of the whole run. From the commits alone: the shards are read once."""
    counts = [commit.counts for commit in reader.commits.values()]
    first_tries = [commit.counts for key, commit in reader.commits.items() if not key.startswith(RETRY_PREFIX)]
    drops: Counter[str] = Counter()
    for count in counts:
        drops.update(count["drops"])
    return {
        "name": PurePosixPath(run.url).name,
        "created": run.created,
        "fingerprint": run.fingerprint[:12],
        "recipe": run.config["recipe"]["name"],
        **_cuts_facts(run.config),
        "images": run.n_images,
        "finished": sum(count["images"] for count in first_tries),
        "masks": sum(count["masks"] for count in counts),
        "drops": dict(sorted(drops.items())),
        "quarantined": len(reader.quarantined()),
    }


def _cuts_facts(config: Mapping[str, Any]) -> dict[str, str]:
    """How this package's cuts were made; empty for imports and for methods of other packages."""
    if "features" not in config or "depth" not in config:
        return dict.fromkeys(("searched", "score", "features", "depth"), "")
    recipe, features, depth = config["recipe"], config["features"], config["depth"]
    return {
        "searched": "tree" if recipe["tree"] else "rounds",
        "score": recipe["score"],
        "features": f"{features['model']} {features['kind']}, {features['size']} px, τ {recipe['affinity']['tau']}",
        "depth": depth["name"] if depth else "not used",
    }


def _grid(run: RunFolder, reader: RunReader) -> tuple[int, int]:
    return reader.open_shard(next(iter(reader.commits))).grid


def _index_line(record: ImageRecord) -> dict[str, Any]:
    """What images are sorted and filtered by; of the parts of the score their means over the image's masks."""
    n = max(len(record.instances), 1)
    return {
        "id": record.id,
        "status": record.status,
        "scores": [round(instance.score, 6) for instance in record.instances],
        "parts": [round(sum(getattr(one.parts, part) for one in record.instances) / n, 4) for part in PARTS],
        "drops": record.drops,
        "reason": record.reason,
    }


def _write_page(path: Path, name: str, index: dict[str, Any], blocks: IO[str]) -> None:
    """The template with everything put in its place, to a file beside `path` that takes its name when it is whole."""
    style, program = _part("gallery.css"), "\n".join(map(_part, PROGRAM))
    # Names of files are other people's text. They are only ever written as JSON below and set as text by the program;
    # should one get through nevertheless, this policy runs no script but ours and loads nothing from anywhere.
    policy = (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(program)}'"
    )
    head, foot = _part("page.html").split("{{DATA}}")
    texts = {"{{POLICY}}": policy, "{{NAME}}": html.escape(name), "{{STYLE}}": style}
    head = re.sub("|".join(texts), lambda mark: texts[mark[0]], head)
    with written_whole(path) as out:
        out.write(head)
        out.write(_script("application/json", "index", _json(index)))
        out.write(f"<script>{program}</script>\n")
        shutil.copyfileobj(blocks, out, 1 << 20)
        out.write(foot)


@cache
def _part(name: str) -> str:
    return Path(__file__).with_name("page_files").joinpath(name).read_text("utf-8")


def _json(value: object) -> str:
    """JSON in ASCII that may stand in a script element: without "<" nothing can end the element or open a comment."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _script(type_: str, id_: str, text: str) -> str:
    return f'<script type="{type_}" id="{id_}">{text}</script>\n'


def _digest(text: str) -> str:
    return base64_text(hashlib.sha256(text.encode()).digest())
