"""Instance masks with scores and confidences, as a kind of result.

M masks · B images · Gh, Gw patch grid
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.errors import StoreError
from pipeline.results.empty_reasons import likely_cause
from pipeline.results.histograms import bar, histogram, histogram_lines, number_lines, titled
from pipeline.results.instance_file import SCHEMA, STATUSES, VERSION, ShardFile, write_shard
from pipeline.results.instances import LEVELS, ImageRecord, counts_of, mean_confidence
from pipeline.results.kinds import Counts, Failed
from pipeline.wording import by_reason, counted, few_of, part_of

NAME = "instances"

# Boxes are kept in float32; half a pixel off is another box.
BOX_TOLERANCE = 0.5
_DEPTH_FAULTS = {
    "depth_filled": "with holes in their depth, which were filled",
    "depth_flat": "with the same depth everywhere, which separates nothing",
}


@dataclass(frozen=True)
class InstanceKind:
    """A `pipeline.results.kinds.ResultKind`. grid: (Gh, Gw) of confidences and depth, None for one that only reads."""

    grid: tuple[int, int] | None = None

    name = NAME
    schema = f"{SCHEMA} {VERSION}"
    words = "instance masks"
    commands = "`cuts3d train`, `cuts3d evaluate`, `cuts3d export --coco` and `cuts3d gallery`"

    def write(self, results: Sequence[ImageRecord | Failed], attributes: Mapping[str, Any]) -> bytes:
        """See `instance_file.write_shard`."""
        if self.grid is None:
            raise ValueError("a kind that writes instances has to know the patch grid")
        return write_shard(results, self.grid, attributes)

    def open(self, source: bytes | Path, name: str = "") -> ShardFile:
        """See `instance_file.ShardFile.open`."""
        return ShardFile.open(source, name)

    def counts(self, results: Iterable[ImageRecord | Failed]) -> Counts:
        """See `instances.counts_of`."""
        return counts_of(results)

    def log(self, result: ImageRecord) -> dict[str, Any]:
        """Status, masks with their scores, drops; what is wrong with the depth, if anything."""
        scores = [round(instance.score, 4) for instance in result.instances]
        filled = {"depth_filled": round(result.depth_filled, 4)} if result.depth_filled else {}
        flat = {"depth_flat": True} if result.has_flat_depth else {}
        return {
            "status": result.status,
            "masks": len(scores),
            "scores": scores,
            "drops": result.drops,
            **filled,
            **flat,
        }

    def check(self, shard: ShardFile) -> Iterator[str]:
        """Codes, areas and boxes of all masks."""
        faults = [fault for mask in range(shard.n_masks) if (fault := _mask_fault(shard, mask))]
        if faults:
            yield f"{part_of(len(faults), shard.n_masks, 'mask')} wrong: {few_of(faults)}"

    def summary(self, counts: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Masks and drops; why there is likely no mask at all; images whose depth was filled in places, or is the same
        everywhere.
        """
        masks, images = counts.get("masks", 0), max(counts["images"] - counts.get("quarantined", 0), 1)
        drops = counts.get("drops", {})
        about_depth = ", ".join(
            f"{counted(count, 'image')} {said}" for name, said in _DEPTH_FAULTS.items() if (count := counts.get(name))
        )
        return [
            ("masks", f"{masks} ({masks / images:.2f} per image)"),
            ("dropped", by_reason(drops) or "none"),
            *(likely_cause(drops, images) if not masks else []),
            *([("depth", about_depth)] if about_depth else []),
        ]

    def brief(self, counts: Mapping[str, Any]) -> str:
        """Masks per image, and drops."""
        facts = [f"{counts['masks'] / counts['images']:.1f} masks/image"] if counts.get("masks") else []
        return ", ".join([*facts, *([drops] if (drops := by_reason(counts.get("drops", {}))) else [])])

    def survey(self, parts: Iterable[tuple[ShardFile, np.ndarray]]) -> dict[str, Any]:
        """masks, statuses, masks_per_image, drops; score, mean_confidence and log10_area_share as histograms; levels,
        where masks have any; of depth what `instances.counts_of` counts.
        """
        statuses, drops, masks_per_image = Counter[str](), Counter[str](), Counter[int]()
        levels = Counter[int]()
        about_depth = Counter[str]()
        scores, confidences, shares = [np.empty(0)], [np.empty(0)], [np.empty(0)]
        for shard, counts_B in parts:
            masks_B = np.diff(shard.image_offsets)
            counts_M = np.repeat(counts_B, masks_B)
            pixels_M = np.repeat(shard.size.astype(np.int64).prod(axis=1), masks_B)
            scores.append(shard.score[counts_M])
            confidences.append(mean_confidence(shard.confidence[counts_M]))
            shares.append(np.log10(shard.area[counts_M] / pixels_M[counts_M]))
            flat_B = (shard.depth == shard.depth[:, :1, :1]).all(axis=(1, 2))
            about_depth["depth_filled"] += int((shard.depth_filled[counts_B] > 0).sum())
            about_depth["depth_flat"] += int(flat_B[counts_B].sum())
            levels.update(shard.level[counts_M & (shard.level >= 0)].tolist())
            statuses.update(STATUSES[status] for status in shard.status[counts_B])
            masks_per_image.update(masks_B[counts_B & shard.done].tolist())
            drops.update(dict(zip(shard.drop_reasons, shard.drops[counts_B].sum(axis=0).tolist(), strict=True)))
        return {
            "masks": sum(map(len, scores)),
            "statuses": {status: statuses[status] for status in STATUSES},
            "masks_per_image": dict(sorted(masks_per_image.items())),
            "score": histogram(np.concatenate(scores)),
            "mean_confidence": histogram(np.concatenate(confidences), (0.0, 1.0)),
            "log10_area_share": histogram(np.concatenate(shares), (-4.0, 0.0)),
            "drops": {reason: count for reason, count in sorted(drops.items()) if count},
            **({"levels": {word: levels[level] for level, word in enumerate(LEVELS)}} if levels else {}),
            **{name: count for name, count in about_depth.items() if count},
        }

    def survey_lines(self, survey: Mapping[str, Any]) -> list[str]:
        """Bars of text."""
        lines = titled("masks per image", number_lines(survey["masks_per_image"]))
        if "levels" in survey:
            largest = max(survey["levels"].values())
            lines += ["level", *(f"  {word:>7} {bar(n, largest)} {n}" for word, n in survey["levels"].items())]
        for name, title in (
            ("score", "score"),
            ("mean_confidence", "mean confidence"),
            ("log10_area_share", "area, log10 of its share of the image"),
        ):
            lines += titled(title, histogram_lines(survey[name]))
        return lines

    def draw(self, rgb_HW3: np.ndarray, result: ImageRecord) -> Any:
        """See `instance_overlay.draw_overlay`."""
        from pipeline.results.instance_overlay import draw_overlay  # scipy, for drawing alone

        return draw_overlay(rgb_HW3, result)

    def facts(self, result: ImageRecord) -> dict[str, float | int | str]:
        """Number of masks and best score."""
        scores = [instance.score for instance in result.instances]
        return {"masks": len(scores), "best score": round(max(scores, default=0.0), 4)}


def _mask_fault(shard: ShardFile, mask: int) -> str:
    rle = shard.coco_rle(mask)
    try:
        pixels = shard.mask(mask)
    except StoreError as error:
        return error.what
    # Encoding it again finds what decoding lets pass: codes that are short of the image, or not in canonical form.
    if coco_mask.encode(np.asfortranarray(pixels))["counts"] != rle["counts"]:
        return f"mask {mask}: its code does not cover the {rle['size'][0]} x {rle['size'][1]} pixels of the image"
    area = int(np.count_nonzero(pixels))
    if area != shard.area[mask]:
        return f"mask {mask}: area is {area}, recorded {shard.area[mask]}"
    box, recorded = coco_mask.toBbox(rle), shard.box[mask]
    if _has_detectors_boxes(shard):
        if _overhang(box, recorded) > 1:  # a pixel, of which the box cuts off a part
            return f"mask {mask}: box is {box.tolist()}, that of its detection {recorded.tolist()} does not hold it"
    elif np.abs(box - recorded).max() > BOX_TOLERANCE:
        return f"mask {mask}: box is {box.tolist()}, recorded {recorded.tolist()}"
    return ""


def _has_detectors_boxes(shard: ShardFile) -> bool:
    """Whether boxes are those that a detector gave, not those of the masks: see `instance_file`."""
    recipe = shard.attributes.get("recipe")
    return isinstance(recipe, dict) and recipe.get("boxes") == "detector"


def _overhang(inner: np.ndarray, outer: np.ndarray) -> float:
    """Pixels by which a box x, y, width, height stands out of another, at the side where it does so most."""
    before, after = outer[:2] - inner[:2], (inner[:2] + inner[2:]) - (outer[:2] + outer[2:])
    return float(max(before.max(), after.max()))
