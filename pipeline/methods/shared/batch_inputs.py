"""What a method needs to go through one batch: its photos, a place for the CPU's work, a clock, and lazy steps."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from pipeline.images.photos import Photo
from stages.late import torch

T = TypeVar("T")

# Applies a function to each image's own arguments: the builtin map, or that of a pool of processes.
Each = Callable[..., Iterable[Any]]


class once(Generic[T]):  # noqa: N801  like the builtin property
    """`functools.cached_property` without the lock that it has up to Python 3.11: one for all instances, so that all
    batches of the process would take turns.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> T:
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


class BatchInputs:
    """The batch of one method; its steps are `once` attributes of a subclass, and asking for one runs what it needs.

    photos: of the images; empty when nothing that is asked for looks at them.
    seconds: gathers the time of each stage, without that of others.
    pool: processes for the work on single images that is the CPU's alone.
    """

    def __init__(
        self,
        device: torch.device,
        photos: Sequence[Photo],
        seconds: defaultdict[str, float],
        pool: Executor | None = None,
    ) -> None:
        self.photos = photos
        self._device = device
        self._seconds = seconds
        self._each: Each = map if pool is None else pool.map

    @property
    def names(self) -> list[tuple[str, tuple[int, int]]]:
        """Of each photo its id, and its height and width in pixels."""
        return [(photo.id, (photo.rgb.shape[0], photo.rgb.shape[1])) for photo in self.photos]

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds[stage] += time.perf_counter() - start
