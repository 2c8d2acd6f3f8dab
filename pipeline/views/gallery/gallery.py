"""A run as one HTML page for people: photos, masks, and what the method saw on the way, to sort and filter.

The page is one file that asks nothing of the network. It holds, in this order: the index (what images are sorted and
filtered by), the program, and one block an image (see `pipeline.views.gallery.blocks`), which the program decodes when
the image comes into view.
"""

from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import ConfigError
from pipeline.images.manifest import Shard
from pipeline.methods.cuts.recipes import unmeasured_parts
from pipeline.methods.cuts.stage_files import CutImage, KeptOutputs
from pipeline.methods.cuts.stage_graph import NAME as CUTS
from pipeline.methods.registry import describe
from pipeline.results.instance_kind import NAME as INSTANCES
from pipeline.results.instance_overlay import instance_colours
from pipeline.results.instances import ImageRecord
from pipeline.results.kinds import Failed, added
from pipeline.results.panoptic_kind import NAME as PANOPTIC
from pipeline.results.semantic_assignment import Assignment
from pipeline.results.semantic_kind import NAME as SEMANTIC
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.ledger import by_try
from pipeline.runs.needed_kind import need_kind
from pipeline.runs.run_folder import RunFolder
from pipeline.views.gallery.blocks import image_block
from pipeline.views.gallery.pages import Gallery, Page, begun_page, shown_images
from pipeline.views.gallery.panoptic import write_panoptic_gallery
from pipeline.views.gallery.plain import write_plain_gallery
from pipeline.views.gallery.semantic import write_semantic_gallery
from stages.score import PARTS

PROPOSAL_STAGES = ("confidence", "localcut")  # whose kept output holds the proposals, the fuller one first
PAGE = Page(
    "page.html",
    ("gallery.css",),
    (
        *("common.js", "viewer.js", "facets.js", "cards.js", "panels.js"),
        *("data.js", "drawing.js", "list.js", "detail.js", "start.js"),
    ),
)


def write_gallery(
    run: RunFolder,
    out: str | Path,
    limit: int | None = None,
    thumbnail: int = 320,
    assignment: Assignment | None = None,
    threshold: float | None = None,
) -> Gallery:
    """Write the page of a run's finished images.

    out: the file, or a folder (existing, or without an ending of a file), which gets gallery.html.
    limit: at most this many images, evenly spread over the run.
    thumbnail: longest side of photos and masks, pixels.
    assignment: of a run of labels, whose classes are shown in place of clusters.
    threshold: of a run of panoptic labels, which classes are things, see `ThingSplit`; None for the published one.

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
    if assignment is not None:
        need_kind(run, SEMANTIC, also=(PANOPTIC,))
    if threshold is not None:
        need_kind(run, PANOPTIC)
    if run.result == PANOPTIC:
        return write_panoptic_gallery(run, path, limit, thumbnail, threshold, assignment)
    if run.result == SEMANTIC:
        return write_semantic_gallery(run, path, limit, thumbnail, assignment)
    if run.result != INSTANCES:
        return write_plain_gallery(run, path, limit, thumbnail)
    reader = InstanceReader(run)
    kept = False
    with begun_page(run, path, PAGE) as page:
        for shard, places, images in shown_images(run, reader, limit):
            proposals = _proposals(run, shard, places)
            for place, (record, photo) in zip(places, images, strict=True):
                block = image_block(record, proposals.get(place), photo, thumbnail)
                kept = kept or block["proposals"] is not None
                page.add(_index_line(record), block, has_photo=bool(block["photo"]))
        return page.write(lambda: _index(run, reader, page.lines, kept))


def _index(run: RunFolder, reader: InstanceReader, lines: list[dict[str, Any]], kept: bool) -> dict[str, Any]:
    unmeasured = unmeasured_parts(run.config["recipe"]) if run.method == CUTS else frozenset(PARTS)
    return {
        "run": _facts(run, reader),
        "grid": _grid(run, reader),
        "kept": kept,
        "parts": {part: part not in unmeasured for part in PARTS},
        "colours": instance_colours(max(len(line["scores"]) for line in lines) or 1).tolist(),
        "images": lines,
    }


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


def _facts(run: RunFolder, reader: InstanceReader) -> dict[str, Any]:
    """What the head of the page says of the whole run. From the commits alone: the shards are read once."""
    counts = [commit.counts for commit in reader.commits.values()]
    first_tries = [reader.commits[key].counts for key in by_try(reader.commits)[0]]
    total = reduce(added, counts)
    return {
        "name": PurePosixPath(run.url).name,
        "created": run.created,
        "fingerprint": run.fingerprint[:12],
        "recipe": run.recipe,
        **_method_facts(run),
        "images": run.n_images,
        "finished": sum(count["images"] for count in first_tries),
        "masks": total["masks"],
        "drops": total["drops"],
        "quarantined": len(reader.quarantined()),
    }


def _method_facts(run: RunFolder) -> dict[str, str]:
    """How cuts were made; empty for other methods."""
    facts = dict.fromkeys(("searched", "score", "features", "depth"), "")
    return {**facts, **{name: value for name, value in describe(run.method, run.config) if name in facts}}


def _grid(run: RunFolder, reader: InstanceReader) -> tuple[int, int]:
    return reader.open_shard(next(iter(reader.commits))).grid


def _index_line(record: ImageRecord | Failed) -> dict[str, Any]:
    """What images are sorted and filtered by; of the parts of the score their means over the image's masks."""
    line = {"id": record.id, "status": record.status, "scores": [], "parts": [0] * len(PARTS), "drops": {}}
    if isinstance(record, Failed):
        return line | {"reason": record.reason}
    n = max(len(record.instances), 1)
    return line | {
        "scores": [round(instance.score, 6) for instance in record.instances],
        "parts": [round(sum(getattr(one.parts, part) for one in record.instances) / n, 4) for part in PARTS],
        "drops": record.drops,
        "reason": "",
    }
