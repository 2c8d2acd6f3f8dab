"""What moves in the clips of one batch: their motion, by a model, and the movers in it.

H, W pixels of a picture · h, w the same at the size at which motion is looked at
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images.stereo_clips import Clip
from pipeline.methods.cups.fusing import at_size, within_borders
from pipeline.methods.cups.recipe import MotionRecipe
from pipeline.methods.protocol import Batch
from pipeline.methods.shared.batch_inputs import BatchInputs, once
from stages.late import torch
from stages.motion.camera import Camera
from stages.motion.clip_motion import ClipMotion, MotionModel
from stages.motion.movers import Movers, find_movers
from stages.motion.movers_config import MoversConfig
from stages.semantics.labelling import working_size

T = TypeVar("T")
Timed = tuple[T, float]
"""What came of something, and the seconds that it took, in whichever process."""


@dataclass(frozen=True, eq=False)
class MoverSearch:
    """How movers are found: the recipe, and the loaded model of motion."""

    recipe: MotionRecipe
    model: MotionModel

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device(self.model.device)

    def config(self) -> dict[str, Any]:
        """What decides its motion, for run.json. The recipe is the caller's."""
        return {"motion": {"name": self.model.name, "fingerprint": self.model.fingerprint}}

    def mended(self, config: Mapping[str, Any]) -> dict[str, str]:
        """See `pipeline.methods.protocol.mended_values`: a map that was missing is there now, a bad one is good."""
        if not self.model.name.startswith("maps:"):
            return {}
        return {"motion.fingerprint": config["motion"]["fingerprint"]}

    def camera_of(self, clip: Clip) -> Camera:
        """The clip's camera at the size at which motion is looked at."""
        size = clip.left.rgb.shape[:2]
        height, width = working_size(size, self.recipe.motion.side)
        return clip.camera.scaled(height / size[0], width / size[1])


class MotionWork(BatchInputs):
    """The steps of one batch of clips, each a lazily computed attribute."""

    def __init__(self, search: MoverSearch, device: torch.device, batch: Batch) -> None:
        super().__init__(device, [clip.left for clip in batch.clips], batch.seconds, batch.pool)
        self.search, self.clips = search, batch.clips
        self._positions, self._shared = batch.positions, batch.shared

    @once
    def motion(self) -> list[ClipMotion]:
        """Of each clip, at the size at which motion is looked at."""
        made_by = f"{self.search.model.fingerprint} at {self.search.recipe.motion.side}"
        return self._shared.once("motion", made_by, self._positions, self._seconds, self._computed_motion)

    def movers(self) -> Iterator[Movers]:
        """Of one clip after the other, in pixels of its pictures; processes, if there are any, begin with all now."""
        recipe, cameras = self.search.recipe, map(self.search.camera_of, self.clips)
        options = map(repeat, (recipe.movers, recipe.motion.seed, recipe.motion.border))
        begun = self._each(_timed_movers, self.motion, cameras, *options)
        return map(at_size, self._counted("movers", begun), [size for _, size in self.names])

    def _computed_motion(self) -> list[ClipMotion]:
        model, side = self.search.model, repeat(self.search.recipe.motion.side)
        clips = [(clip.left.rgb, clip.right.rgb, clip.left_next.rgb, clip.right_next.rgb) for clip in self.clips]
        if model.in_processes:
            ids = [clip.id for clip in self.clips]
            return list(self._counted("motion", self._each(_timed_motion, repeat(model), clips, ids, side)))
        with self._clock("motion"):
            return _motion(model, clips, [clip.id for clip in self.clips], next(side))

    def _counted(self, stage: str, found: Iterable[Timed[T]]) -> Iterator[T]:
        for value, seconds in found:
            self._seconds[stage] += seconds
            yield value


_Pictures = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _motion(model: MotionModel, clips: Sequence[_Pictures], ids: Sequence[str], side: int | None) -> list[ClipMotion]:
    small = [[_scaled(picture, side) for picture in pictures] for pictures in clips]
    try:
        return model(*zip(*small, strict=True), ids)
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError("no_motion", f"{', '.join(ids)}: {error}") from error


def _timed_motion(model: MotionModel, clip: _Pictures, id_: str, side: int | None) -> Timed[ClipMotion]:
    return _timed(lambda: _motion(model, [clip], [id_], side)[0])


def _timed_movers(motion: ClipMotion, camera: Camera, config: MoversConfig, seed: int, border: float) -> Timed[Movers]:
    return _timed(lambda: within_borders(find_movers(motion, camera, config, seed), border, config.area))


def _timed(work: Callable[[], T]) -> Timed[T]:
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def _scaled(picture_HW3: np.ndarray, side: int | None) -> np.ndarray:
    """The picture at the size at which motion is looked at; every pixel of it counts."""
    height, width = working_size(picture_HW3.shape[:2], side)
    if (height, width) == picture_HW3.shape[:2]:
        return picture_HW3
    return np.asarray(Image.fromarray(picture_HW3).resize((width, height), Image.Resampling.BILINEAR))
