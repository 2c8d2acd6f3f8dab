"""Motion and movers that are given, in place of those that are found in pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
from PIL import Image

from stages.motion.camera import Camera
from stages.motion.clip_motion import ClipMotion, ClipPictures
from stages.motion.movers import Movers
from stages.motion.movers_config import MoversConfig

CAMERA = Camera(100.0, 100.0, 40.0, 32.0, 0.5)
PICTURES = ("left", "right", "left_next", "right_next")


class GivenMotion:
    """A `MotionModel` that answers with the motion of each clip that it was made with.

    motion: by id; of an id that is not there it cannot be had. seen: sizes of the pictures that it was shown.
    """

    name, device, in_processes = "given", "cpu", True

    def __init__(self, motion: Mapping[str, ClipMotion], fingerprint: str = "given") -> None:
        self.motion, self.fingerprint = dict(motion), fingerprint
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, clips: Sequence[ClipPictures], ids: Sequence[str]) -> list[ClipMotion]:
        self.seen += [picture.shape[:2] for clip in clips for picture in clip]
        if unknown := [id_ for id_ in ids if id_ not in self.motion]:
            raise ValueError(f"nobody knows how {unknown[0]} moves")
        return [self.motion[id_] for id_ in ids]


def still_motion(disparity_HW: np.ndarray) -> ClipMotion:
    """Nothing moves."""
    still = np.zeros((*disparity_HW.shape, 2), np.float32)
    return ClipMotion(still, still, *[disparity_HW.astype(np.float32)] * 4)


def movers_of(*masks: np.ndarray, size: tuple[int, int] = (64, 80), reason: str = "") -> Movers:
    """Movers of these masks, bool (H, W), the later the less agreement; without any, for this reason."""
    masks_MHW = np.array(masks, bool).reshape(-1, *(masks[0].shape if masks else size))
    agreement_M = np.linspace(1, 0.8, len(masks_MHW), dtype=np.float32)
    return Movers(masks_MHW, agreement_M, reason or ("" if masks else "few_reliable"), 0.5)


def rectangle(top: int, bottom: int, left: int, right: int, size: tuple[int, int] = (64, 80)) -> np.ndarray:
    """A mask, bool, of rows top..bottom and columns left..right."""
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


class GivenMovers:
    """In the place of `find_movers`: answers in turn, and keeps what it was asked."""

    def __init__(self, *answers: Movers) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[ClipMotion, Camera, MoversConfig, int]] = []

    def __call__(self, motion: ClipMotion, camera: Camera, config: MoversConfig, seed: int) -> Movers:
        self.asked.append((motion, camera, config, seed))
        return self._answers[(len(self.asked) - 1) % len(self._answers)]


def write_clips(folder: Path, clips: Mapping[str, Sequence[np.ndarray]], camera: Camera = CAMERA) -> str:
    """Clips as files and a list of them, as `--images` takes it.

    clips: by name, left, right, left_next, right_next.
    camera: of all of them, but that it looks at the middle of each.
    """
    lines = [",".join([*PICTURES, "fx", "fy", "cx", "cy", "baseline"])]
    for name, pictures in clips.items():
        for side, pixels in zip(PICTURES, pictures, strict=True):
            (folder / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / side / name)
        height, width = pictures[0].shape[:2]
        own = replace(camera, cx=width / 2, cy=height / 2)
        lines.append(",".join([*(f"{side}/{name}" for side in PICTURES), *map(str, astuple(own))]))
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return f"clips:{folder / 'clips.csv'}"
