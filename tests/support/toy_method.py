"""A method of another package whose result is one integer a clip, and its kind: to see that nothing between a method
and a reader thinks that results are masks.

The integer: how many pixels of the left picture change until the next one. The stage that it can keep: how many
differ between left and right. No weights, milliseconds an image.

B images of a shard
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from pipeline.errors import StoreError
from pipeline.methods.protocol import Batch
from pipeline.results.kinds import Counts, Failed, basic_counts

NAME, KIND = "toy", "change"


@dataclass(frozen=True)
class Change:
    """How many pixels change. status: "still" where none does."""

    id: str
    pixels: int

    @property
    def status(self) -> str:
        return "moves" if self.pixels else "still"


class ChangeShard:
    """The file of a shard, read: JSON, a line an image."""

    def __init__(self, source: bytes | Path, name: str = "") -> None:
        text = source.decode() if isinstance(source, bytes) else source.read_text()
        try:
            self._lines = [json.loads(line) for line in text.splitlines()[1:]]
            self.done = np.array(["pixels" in line for line in self._lines])
            self.ids = tuple(line["id"] for line in self._lines)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{name} is no file of changes: {error}") from error

    def __len__(self) -> int:
        return len(self._lines)

    def result(self, image: int) -> Change | Failed:
        return (Change if self.done[image] else Failed)(**self._lines[image])

    def pixels(self, images: Sequence[int]) -> list[int]:
        return [self._lines[i]["pixels"] for i in images]


class ChangeKind:
    """Integers, as a kind of result."""

    name = KIND
    schema = "toy-change 1"

    def write(self, results: Sequence[Change | Failed], attributes: Mapping[str, Any]) -> bytes:
        lines = [dict(attributes), *map(vars, results)]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    def open(self, source: bytes | Path, name: str = "") -> ChangeShard:
        return ChangeShard(source, name)

    def counts(self, results: Iterable[Change | Failed]) -> Counts:
        results = list(results)
        found = [result for result in results if isinstance(result, Change)]
        return {
            **basic_counts(results),
            "pixels": sum(result.pixels for result in found),
            "by_status": {status: n for status in ("moves", "still") if (n := sum(r.status == status for r in found))},
        }

    def log(self, result: Change) -> dict[str, Any]:
        return {"status": result.status, "pixels": result.pixels}

    def check(self, shard: ChangeShard) -> Iterator[str]:
        for i in np.flatnonzero(shard.done):
            if shard.result(int(i)).pixels < 0:
                yield f"{shard.ids[i]} has fewer than no pixels"

    def summary(self, counts: Mapping[str, Any]) -> list[tuple[str, str]]:
        return [("changes", f"{counts.get('pixels', 0)} pixels")]

    def brief(self, counts: Mapping[str, Any]) -> str:
        return f"{counts.get('pixels', 0)} pixels"

    def survey(self, parts: Iterable[tuple[ChangeShard, np.ndarray]]) -> dict[str, Any]:
        counted = (shard.result(int(i)) for shard, counts_B in parts for i in np.flatnonzero(counts_B & shard.done))
        return {"pixels": sum(change.pixels for change in counted)}

    def survey_lines(self, survey: Mapping[str, Any]) -> list[str]:
        return [f"in all {survey['pixels']} pixels"]

    def draw(self, rgb_HW3: np.ndarray, result: Change) -> Image.Image:
        picture = Image.fromarray(rgb_HW3)
        ImageDraw.Draw(picture).text((1, 1), str(result.pixels), fill=(255, 0, 0))
        return picture

    def facts(self, result: Change) -> dict[str, int]:
        return {"pixels": result.pixels}


class ShiftStage:
    """What the method keeps of its stage."""

    name = "toy/shift"

    def write(self, results: Sequence[int | Failed], attributes: Mapping[str, Any]) -> bytes:
        lines = [dict(attributes)]
        lines += [{"id": ""} if isinstance(r, Failed) else {"id": "", "pixels": int(r)} for r in results]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    def counts(self, results: Iterable[int | Failed]) -> Counts:
        return basic_counts(results)

    def log(self, result: int) -> dict[str, Any]:
        return {"status": "ok"}

    def open(self, source: bytes | Path, name: str = "") -> ChangeShard:
        return ChangeShard(source, name)


class ToyMethod:
    """A `pipeline.methods.protocol.Method`."""

    name = NAME
    takes = "clips"
    stages = ("shift",)
    batch_size = 2

    def __init__(self, overrides: Sequence[str], device: torch.device) -> None:
        self.device = device
        self.threshold = int(dict(override.split("=") for override in overrides).get("toy.threshold", "0"))

    def kind(self, until: str | None) -> ChangeKind | ShiftStage:
        return ChangeKind() if until is None else ShiftStage()

    def config(self) -> dict[str, Any]:
        return {"recipe": {"name": NAME, "threshold": self.threshold}}

    def needs_inputs(self, until: str | None, kept: Mapping[str, Any]) -> bool:
        return True

    def outputs(self, batch: Batch) -> list[Any]:
        if batch.until == "shift":
            return [changed(clip.left.rgb, clip.right.rgb, self.threshold) for clip in batch.clips]
        if "shift" in batch.kept:
            assert all(pixels > 0 for pixels in batch.kept["shift"].pixels(batch.positions)), "what was kept is seen"
        return [Change(clip.id, changed(clip.left.rgb, clip.left_next.rgb, self.threshold)) for clip in batch.clips]


def changed(one: np.ndarray, other: np.ndarray, threshold: int = 0) -> int:
    """Pixels of two uint8 (H, W, 3) that differ by more than the threshold in any channel."""
    return int((np.abs(one.astype(int) - other.astype(int)).max(axis=2) > threshold).sum())


def draw_clips(folder: Path, count: int) -> Path:
    """Clips of a square that moves by as many pixels as the clip's number, and their list for `clips:`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["left,right,left_next,right_next,fx,fy,cx,cy,baseline"]
    for i in range(count):
        names = []
        for side, next_ in (("left", 0), ("right", 0), ("left", i), ("right", i)):
            pixels = np.full((24, 32, 3), 90 + i, np.uint8)
            start = 10 + next_ - 3 * (side == "right")
            pixels[8:14, start : start + 6] = (200, 30, 10)
            name = f"{i:03d}_{side}{'_next' if len(names) > 1 else ''}.png"
            Image.fromarray(pixels).save(folder / name)
            names.append(name)
        left, right, left_next, right_next = names
        lines.append(f"{left},{right},{left_next},{right_next},500,500,16,12,0.54")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def installed(folder: Path) -> dict[str, str]:
    """What a process needs in its environment to find this method as that of an installed package."""
    from support.installed import with_package

    groups = {
        "cuts3d.methods": {NAME: "support.toy_method:ToyMethod"},
        "cuts3d.results": {KIND: "support.toy_method:ChangeKind"},
    }
    return with_package(folder, "toy-clips", groups)
