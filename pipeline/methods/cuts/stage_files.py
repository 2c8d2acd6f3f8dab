"""What each stage keeps of a shard, as flat arrays, and how later stages get it back.

n images of the shard · P proposals of the shard · N = Gh·Gw patches · D feature width · Gh, Gw patch grid

A stage target (`cuts3d run --until STAGE`) writes one file of these arrays a shard. Rows of images that failed are
zeros with `images/done` false; a later stage tries those images again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.methods.cuts.proposals import Eigenvectors, ImageProposals, Proposal, StopReason
from pipeline.methods.cuts.stage_graph import NAME
from pipeline.results.kinds import Counts, Failed, basic_counts
from pipeline.storage.array_file import ArrayFile, write_arrays
from stages.filters import DropReason
from stages.score import PARTS, ScoreParts

_DROPS = tuple(DropReason)
_STOPS = tuple(StopReason)
_PER_PROPOSAL = {
    "round": np.uint8,
    "level": np.uint8,
    "tau": np.float64,
    "eigenvalue": np.float32,
    "gap": np.float32,
    **dict.fromkeys(PARTS, np.float64),  # as they are: a rounded one would give another score
    "source": np.int32,
    "sink": np.int32,
    "dropped": np.uint8,
    "eigenvector": np.float32,
    "group": np.bool_,
    "mask": np.bool_,
    "settled": np.bool_,
}


@dataclass(frozen=True)
class CutImage:
    """Proposals of an image and, for those kept, their confidence: (Gh, Gw) uint8, 255 = 1; None before."""

    found: ImageProposals
    confidences: tuple[np.ndarray | None, ...]


# What the stage gives for one image: depth float32 (Gh, Gw), with the share of it that was filled if any was; features
# float16 (N, D); (eigenvector float32 (N,), λ₂, gap); or a CutImage.
Output = np.ndarray | tuple[np.ndarray, float] | tuple[np.ndarray, float, float] | CutImage


@dataclass(frozen=True)
class StageFile:
    """A `pipeline.results.kinds.ResultFile`: how a stage's outputs are kept. grid: (Gh, Gw), None for reading alone."""

    stage: str
    grid: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return f"{NAME}/{self.stage}"

    def write(self, results: Sequence[Output | Failed], attributes: Mapping[str, Any]) -> bytes:
        """See `write_outputs`."""
        if self.grid is None:
            raise ValueError("a stage's outputs are written with the patch grid known")
        outputs = [None if isinstance(result, Failed) else result for result in results]
        return write_outputs(self.stage, outputs, self.grid, attributes)

    def counts(self, results: Iterable[Output | Failed]) -> Counts:
        """images, quarantined; depth_filled where depth was filled in any."""
        counted = list(results)
        filled = sum(_filled(result) > 0 for result in counted) if self.stage == "depth" else 0
        return basic_counts(counted) | ({"depth_filled": filled} if filled else {})

    def log(self, result: Output) -> dict[str, Any]:
        """That it is there; how much of the depth was filled, if any was."""
        filled = _filled(result) if self.stage == "depth" else 0
        return {"status": "ok", **({"depth_filled": round(filled, 4)} if filled else {})}

    def open(self, source: bytes | Path, name: str = "") -> "KeptOutputs":
        """See `KeptOutputs.open`."""
        return KeptOutputs.open(self.stage, source, name)


def write_outputs(
    stage: str, outputs: Sequence[Output | None], grid: tuple[int, int], attributes: Mapping[str, Any]
) -> bytes:
    """The file of a stage's outputs for a shard, one entry an image in manifest order, None where the image failed."""
    done = np.array([output is not None for output in outputs])
    arrays: dict[str, np.ndarray] = {"images/done": done}
    dims: dict[str, tuple[str, ...]] = {"images/done": ("image",)}
    if stage in ("depth", "features"):
        axes = {"depth": ("image", "grid_row", "grid_column"), "features": ("image", "patch", "feature")}[stage]
        arrays[f"images/{stage}"] = _stack(outputs, grid if stage == "depth" else (0, 0))
        dims[f"images/{stage}"] = axes
        filled = np.array([_filled(output) for output in outputs], np.float32)
        if filled.any():
            arrays["images/depth_filled"], dims["images/depth_filled"] = filled, ("image",)
    elif stage == "ncut":
        solved = [output if isinstance(output, tuple) and len(output) == 3 else None for output in outputs]
        blank = np.zeros(grid[0] * grid[1], np.float32)
        arrays["images/eigenvector"] = np.stack([s[0] if s else blank for s in solved])
        arrays["images/eigenvalue"] = np.array([s[1] if s else 0.0 for s in solved], np.float32)
        arrays["images/gap"] = np.array([s[2] if s else 0.0 for s in solved], np.float32)
        dims |= {"images/eigenvector": ("image", "patch"), "images/eigenvalue": ("image",), "images/gap": ("image",)}
    else:
        cut = [output if isinstance(output, CutImage) else None for output in outputs]
        _add_proposals(arrays, dims, cut, grid, with_confidence=stage == "confidence")
    return write_arrays(arrays, dims, {"schema": f"cuts3d-{stage}/1", **attributes})


def _filled(output: Output | Failed | None) -> float:
    """The share of a depth map that was filled."""
    return output[1] if isinstance(output, tuple) else 0.0


def _stack(outputs: Sequence[Output | None], empty: tuple[int, ...]) -> np.ndarray:
    maps = [output[0] if isinstance(output, tuple) else output for output in outputs]
    arrays = [map_ if isinstance(map_, np.ndarray) else None for map_ in maps]
    blank = next((np.zeros_like(array) for array in arrays if array is not None), np.zeros(empty, np.float32))
    return np.stack([blank if array is None else array for array in arrays])


def _add_proposals(
    arrays: dict[str, np.ndarray],
    dims: dict[str, tuple[str, ...]],
    cut: Sequence[CutImage | None],
    grid: tuple[int, int],
    with_confidence: bool,
) -> None:
    images = [image.found.proposals if image else () for image in cut]
    proposals = [proposal for image in images for proposal in image]
    arrays["images/stop"] = np.array([_STOPS.index(image.found.stop) if image else 0 for image in cut], np.uint8)
    arrays["images/offsets"] = np.cumsum([0, *map(len, images)]).astype(np.int64)
    dims |= {"images/stop": ("image",), "images/offsets": ("image_offset",)}
    for name, dtype in _PER_PROPOSAL.items():
        values = [
            (0 if proposal.dropped is None else 1 + _DROPS.index(proposal.dropped))
            if name == "dropped"
            else getattr(proposal.parts if name in PARTS else proposal, name)
            for proposal in proposals
        ]
        is_map = name in ("eigenvector", "group", "mask", "settled")
        arrays[f"proposals/{name}"] = np.array(values, dtype).reshape((-1, *grid) if is_map else (-1,))
        dims[f"proposals/{name}"] = ("proposal", "grid_row", "grid_column") if is_map else ("proposal",)
    if with_confidence:
        maps = [c for image in cut if image for c in image.confidences]
        blank = np.zeros(grid, np.uint8)
        arrays["proposals/confidence"] = np.array([blank if c is None else c for c in maps], np.uint8).reshape(
            -1, *grid
        )
        dims["proposals/confidence"] = ("proposal", "grid_row", "grid_column")


class KeptOutputs:
    """Kept outputs of one stage for one shard, read a few images at a time."""

    def __init__(self, stage: str, file: ArrayFile) -> None:
        self.stage = stage
        self._file = file
        self.done = file.read("images/done")

    @classmethod
    def open(cls, stage: str, source: bytes | Path, name: str = "") -> Self:
        """Open a stage's file; StoreError when it is damaged."""
        return cls(stage, ArrayFile.open(source, name))

    def covers(self, positions: Sequence[int]) -> bool:
        """Whether all these images of the shard succeeded."""
        return bool(self.done[list(positions)].all())

    def maps(self, positions: Sequence[int]) -> np.ndarray:
        """Depth, (B, Gh, Gw) float32, or features, (B, N, D) float16, of these images."""
        return self._rows(f"images/{self.stage}", positions)

    def depth_filled(self, positions: Sequence[int]) -> list[float]:
        """Of the depth of these images, the shares that were filled."""
        if "images/depth_filled" not in self._file:
            return [0.0] * len(positions)
        return [float(share) for share in self._rows("images/depth_filled", positions)]

    def eigenvectors(self, positions: Sequence[int]) -> Eigenvectors:
        """First-round NCut of these images."""
        names = ("eigenvector", "eigenvalue", "gap")
        return Eigenvectors(*(self._rows(f"images/{name}", positions) for name in names))

    def cut_images(self, positions: Sequence[int]) -> list[CutImage]:
        """Proposals, and with stage "confidence" their confidences, of these images."""
        stops, offsets = self._file.read("images/stop"), self._file.read("images/offsets")
        names = [*_PER_PROPOSAL, "confidence"] if self.stage == "confidence" else [*_PER_PROPOSAL]
        arrays = {name: self._file[f"proposals/{name}"] for name in names}
        images = []
        for together in _consecutive(positions):  # images that lie side by side are read at once
            start = int(offsets[together[0]])
            rows = {name: np.asarray(array[start : offsets[together[-1] + 1]]) for name, array in arrays.items()}
            for position in together:
                own = range(int(offsets[position]) - start, int(offsets[position + 1]) - start)
                proposals = tuple(_proposal({name: rows[name][i] for name in _PER_PROPOSAL}) for i in own)
                confidences: tuple[np.ndarray | None, ...] = (None,) * len(proposals)
                if self.stage == "confidence":
                    maps = rows["confidence"][own.start : own.stop]
                    confidences = tuple(None if p.dropped else c for p, c in zip(proposals, maps, strict=True))
                images.append(CutImage(ImageProposals(proposals, _STOPS[int(stops[position])]), confidences))
        return images

    def _rows(self, name: str, positions: Sequence[int]) -> np.ndarray:
        first = min(positions)
        return np.asarray(self._file[name][first : max(positions) + 1])[[p - first for p in positions]]


def _consecutive(positions: Sequence[int]) -> list[list[int]]:
    """Cut into runs of numbers that follow each other."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def _proposal(row: Mapping[str, Any]) -> Proposal:
    dropped = int(row["dropped"])
    return Proposal(
        round=int(row["round"]),
        level=int(row["level"]),
        eigenvector=row["eigenvector"],
        eigenvalue=float(row["eigenvalue"]),
        gap=float(row["gap"]),
        parts=ScoreParts(**{part: float(row[part]) for part in PARTS}),
        group=row["group"],
        mask=row["mask"],
        settled=row["settled"],
        tau=float(row["tau"]),
        source=int(row["source"]),
        sink=int(row["sink"]),
        dropped=_DROPS[dropped - 1] if dropped else None,
    )
