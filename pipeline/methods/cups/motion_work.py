"""What moves in the clips of one batch: their motion, by a model, and the movers in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeVar

from pipeline.errors import ImageError
from pipeline.images.stereo_clips import Clip, scaled_to_fit
from pipeline.methods.cups.fusing import at_size, within_borders
from pipeline.methods.cups.recipe import MotionRecipe
from pipeline.methods.protocol import Batch
from pipeline.methods.shared.batch_inputs import BatchInputs, once
from stages.late import torch
from stages.motion.camera import Camera
from stages.motion.clip_motion import ClipMotion, ClipPictures, MotionModel
from stages.motion.movers import Movers, find_movers
from stages.motion.movers_config import MoversConfig

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

    def at_working_size(self, clip: Clip) -> Clip:
        """The clip as motion is looked at."""
        side = self.recipe.motion.side
        return clip if side is None else scaled_to_fit(clip, side, 2 * side)


class MotionWork(BatchInputs):
    """The steps of one batch of clips, each a lazily computed attribute."""

    def __init__(self, search: MoverSearch, device: torch.device, batch: Batch) -> None:
        super().__init__(device, [clip.left for clip in batch.clips], batch.seconds, batch.pool)
        self.search, self.clips = search, batch.clips
        self._positions, self._shared = batch.positions, batch.shared

    @once
    def small(self) -> list[Clip]:
        """The clips as motion is looked at."""
        with self._clock("motion"):
            return list(map(self.search.at_working_size, self.clips))

    @once
    def motion(self) -> list[ClipMotion]:
        """Of each clip, at the size at which it is looked at."""
        made_by = f"{self.search.model.fingerprint} at {self.search.recipe.motion.side}"
        return self._shared.once("motion", made_by, self._positions, self._seconds, self._computed_motion)

    def movers(self) -> Iterator[Movers]:
        """Of one clip after the other, in pixels of its pictures; processes, if there are any, begin with all now."""
        recipe, cameras = self.search.recipe, [clip.camera for clip in self.small]
        options = map(repeat, (recipe.movers, recipe.motion.seed, recipe.motion.border))
        begun = self._each(_timed_movers, self.motion, cameras, *options)
        return map(at_size, self._counted("movers", begun), [size for _, size in self.names])

    def _computed_motion(self) -> list[ClipMotion]:
        model = self.search.model
        if model.in_processes:
            return list(self._counted("motion", self._each(_timed_motion, repeat(model), self.small)))
        with self._clock("motion"):
            return [_motion(model, clip) for clip in self.small]

    def _counted(self, stage: str, found: Iterable[Timed[T]]) -> Iterator[T]:
        for value, seconds in found:
            self._seconds[stage] += seconds
            yield value


def _motion(model: MotionModel, clip: Clip) -> ClipMotion:
    pictures = ClipPictures(*(photo.rgb for photo in clip.photos))
    try:
        (motion,) = model([pictures], [clip.id])
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError("no_motion", str(error)) from error
    return motion


def _timed_motion(model: MotionModel, clip: Clip) -> Timed[ClipMotion]:
    return _timed(lambda: _motion(model, clip))


def _timed_movers(motion: ClipMotion, camera: Camera, config: MoversConfig, seed: int, border: float) -> Timed[Movers]:
    return _timed(lambda: within_borders(find_movers(motion, camera, config, seed), border, config.area))


def _timed(work: Callable[[], T]) -> Timed[T]:
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start
