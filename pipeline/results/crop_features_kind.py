"""Features and depth of the crops of photos, which a semantic head is trained on, as a kind of result.

B photos of a shard
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.results.crop_features import CropFeatures, counts_of
from pipeline.results.crop_features_file import SCHEMA, VERSION, CropFeaturesFile, means_of, write_shard
from pipeline.results.kinds import Counts, Failed
from pipeline.wording import counted

NAME = "crop_features"
DEPTH_FAULTS = {
    "depth_filled": "with holes in their depth, which were filled",
    "depth_flat": "with the same depth everywhere, which tells nothing apart",
}


@dataclass(frozen=True)
class CropFeaturesKind:
    """A `pipeline.results.kinds.ResultKind`. per_photo: crops of each photo, None for one that only reads."""

    per_photo: int | None = None

    name = NAME
    schema = f"{SCHEMA} {VERSION}"
    words = "features of crops"
    commands = "`cuts3d train-semantic --inputs` and `cuts3d gallery`"

    def write(self, results: Sequence[CropFeatures | Failed], attributes: Mapping[str, Any]) -> bytes:
        """See `crop_features_file.write_shard`."""
        if self.per_photo is None:
            raise ValueError("a kind that writes crops has to know how many a photo has")
        return write_shard(results, self.per_photo, attributes)

    def open(self, source: bytes | Path, name: str = "") -> CropFeaturesFile:
        """See `crop_features_file.CropFeaturesFile.open`."""
        return CropFeaturesFile.open(source, name)

    def counts(self, results: Iterable[CropFeatures | Failed]) -> Counts:
        """See `crop_features.counts_of`."""
        return counts_of(results)

    def log(self, result: CropFeatures) -> dict[str, Any]:
        """Status, crops; what is wrong with the depth, if anything."""
        filled = {"depth_filled": round(result.depth_filled, 4)} if result.depth_filled else {}
        flat = {"depth_flat": True} if result.has_flat_depth else {}
        return {"status": result.status, "crops": len(result.features), **filled, **flat}

    def check(self, shard: CropFeaturesFile) -> Iterator[str]:
        """That the means are those of the features, which are finite if a result can be built of them."""
        if not np.allclose(shard.means, means_of(shard.features), rtol=1e-3, atol=1e-4):  # another machine may round
            yield "crops/mean is not the mean of crops/features"

    def summary(self, counts: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Crops; photos whose depth was filled in places, or is the same everywhere."""
        return [("crops", str(counts.get("crops", 0))), *((("depth", said),) if (said := depth_faults(counts)) else ())]

    def brief(self, counts: Mapping[str, Any]) -> str:
        """Crops."""
        return counted(counts["crops"], "crop") if counts.get("crops") else ""

    def survey(self, parts: Iterable[tuple[CropFeaturesFile, np.ndarray]]) -> dict[str, Any]:
        """crops; feature_width; grid, its rows and columns; depth: whether there is any; bytes_per_crop of features and
        depth.
        """
        crops, shape, has_depth = 0, (0, 0, 0), False
        for shard, counts_B in parts:
            own = int((counts_B & shard.done).sum()) * shard.per_photo
            if own:
                crops, shape, has_depth = crops + own, shard.features.shape[1:], shard.has_depth
        values = int(np.prod(shape))
        return {
            "crops": crops,
            "feature_width": shape[0],
            "grid": list(shape[1:]),
            "depth": has_depth,
            "bytes_per_crop": 2 * values + 4 * shape[0] + 4 * has_depth * shape[1] * shape[2],
        }

    def survey_lines(self, survey: Mapping[str, Any]) -> list[str]:
        """Size of features, and bytes."""
        rows, columns = survey["grid"]
        beside = "with depth" if survey["depth"] else "without depth"
        return [
            f"features of {survey['feature_width']} numbers on {rows} x {columns} patches, {beside}: "
            f"{survey['bytes_per_crop']} bytes per crop"
        ]

    def draw(self, rgb_HW3: np.ndarray, result: CropFeatures) -> Any:
        """See `crop_features_picture.draw_crops`."""
        from pipeline.results.crop_features_picture import draw_crops  # for drawing alone

        return draw_crops(rgb_HW3, result)

    def facts(self, result: CropFeatures) -> dict[str, float | int | str]:
        """How much the depth tells apart."""
        spread = 0.0 if result.depth is None else float(np.ptp(result.depth))
        return {"crops": len(result.features), "depth range": round(spread, 3)}


def depth_faults(counts: Mapping[str, Any]) -> str:
    """What counts say of depth that is of little use; "" where there is nothing to say."""
    return ", ".join(
        f"{counted(count, 'photo')} {said}" for name, said in DEPTH_FAULTS.items() if (count := counts.get(name))
    )
