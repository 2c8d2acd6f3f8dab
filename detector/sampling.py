"""The order in which training sees the images, and the randomness of each sample: functions of the seed alone.

N images of the data set · R ranks
"""

import random
from collections.abc import Iterator, Sized
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from pipeline.errors import ConfigError, StoreError


class Draw(NamedTuple):
    """One sample that is to be made. index: of the image in the data set; seed: of its augmentations, 0 .. 2³²-1."""

    index: int  # type: ignore[assignment] # hides tuple.index, which nobody needs of a Draw
    seed: int


def begin(item: int | Draw) -> int:
    """The index of what is to be made; a Draw first seeds `random`, `numpy.random` and torch's CPU generator with its
    seed, so that the sample is the same whichever worker, rank or restart makes it.
    """
    if not isinstance(item, Draw):
        return int(item)
    random.seed(item.seed)
    # The transforms of MMDetection draw from numpy's global generator, so it is that one which must be seeded.
    np.random.seed(item.seed)  # noqa: NPY002
    torch.default_generator.manual_seed(item.seed)
    return item.index


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler[Draw]):
    """An endless stream of Draws for training by iterations: epoch after epoch, each a permutation of the images.

    All ranks deal from one stream, in turn: draw p of rank r is draw p·R + r of the stream. So each epoch holds every
    image once over all ranks, and the stream is the same for any number of ranks. Epoch e is permuted by numpy's PCG64
    seeded with (seed, e), which also gives the seeds of its draws: any place is reached without the draws before it.

    dataset: only its length counts. shuffle: False takes the images in order. seed: None agrees on one among the ranks.

    Raises:
        ConfigError: the data set is empty, or the seed or a position is negative.
        StoreError: ranks have data sets of different lengths.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = int(sync_random_seed() if seed is None else seed)
        self.size = len(dataset)
        self._start = 0
        if self.size == 0:
            raise ConfigError("the data set has no images to draw from: look at the filters, and at the run")
        if self.seed < 0:
            raise ConfigError(f"the sampler's seed is {self.seed}: it must be at least 0")
        sizes = all_gather_object(self.size)
        if len(set(sizes)) > 1:
            raise StoreError(
                f"the ranks see data sets of {', '.join(map(str, sizes))} images: a run was going on while they opened "
                "it, or they have different files; wait for it to end and start the training again"
            )

    def start(self, position: int) -> None:
        """Let the next iteration begin after `position` draws of this rank; no data is read for that."""
        if position < 0:
            raise ConfigError(f"the sampler's position is {position}: it must be at least 0 draws")
        self._start = position

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the stream has no end. MMEngine calls it on every sampler."""

    def __len__(self) -> int:
        """Images of the data set, as of MMEngine's endless sampler."""
        return self.size

    def __iter__(self) -> Iterator[Draw]:
        place = self._start * self.world_size + self.rank
        while True:
            epoch, first = divmod(place, self.size)
            indices_N, seeds_N = self._epoch(epoch)
            mine = slice(first, None, self.world_size)
            # One list a thousand draws: plain ints, without an epoch of a million of them at once.
            for indices, seeds in _in_blocks(indices_N[mine], seeds_N[mine]):
                yield from map(Draw, indices, seeds)
            place += -(-(self.size - first) // self.world_size) * self.world_size

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and seeds of an epoch in the order of the stream, int64 (N,) and uint32 (N,)."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
        seeds_N = rng.integers(0, 1 << 32, self.size, dtype=np.uint32)
        return rng.permutation(self.size) if self.shuffle else np.arange(self.size), seeds_N


def _in_blocks(indices: np.ndarray, seeds: np.ndarray, length: int = 1024) -> Iterator[tuple[list[int], list[int]]]:
    for start in range(0, len(indices), length):
        yield indices[start : start + length].tolist(), seeds[start : start + length].tolist()
