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

_BLOCK = 1024


class Draw(NamedTuple):
    """One sample that is to be made.

    index: of the image in the data set.
    seed: of its augmentations, 0 .. 2³²-1.
    partner: of another image, for augmentations that need one; None: they draw it by the seed.
    """

    index: int  # type: ignore[assignment] # hides tuple.index, which nobody needs of a Draw
    seed: int
    partner: int | None = None


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

    Ranks deal from one stream in turn, two draws at a time: pair p of rank r is pair p·R + r of the stream. So each
    epoch holds every image once over all ranks, and the stream is the same for any number of ranks. Epoch e is permuted
    by numpy's PCG64 seeded with (seed, e), which also gives the seeds of its draws: any place is reached without the
    draws before it.

    The two of a pair are each other's partners, and with an even batch size one worker makes both: it reads each photo
    once. Where a pair would be of two epochs there is no partner.

    dataset: only its length counts.
    shuffle: False takes the images in order.
    seed: None agrees on one among the ranks.

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
                f"the ranks see data sets of {', '.join(map(str, sizes))} images: a run was at work while they opened "
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
        pair, half = divmod(self._start, 2)
        place = 2 * (pair * self.world_size + self.rank) + half
        while True:
            epoch = place // self.size
            indices_N, seeds_N = self._epoch(epoch)
            end = (epoch + 1) * self.size
            # A thousand places at a time: plain ints, without an epoch of a million of them at once.
            for start in range(place, end, _BLOCK):
                places = np.arange(start, min(start + _BLOCK, end))
                mine = places[places // 2 % self.world_size == self.rank]
                partners = self._images(indices_N, (mine ^ 1) - epoch * self.size)
                mine -= epoch * self.size
                yield from map(Draw, indices_N[mine].tolist(), seeds_N[mine].tolist(), partners)
            place = end

    def _images(self, indices_N: np.ndarray, places: np.ndarray) -> list[int | None]:
        """Images at places of an epoch; None beyond its ends."""
        known = (places >= 0) & (places < self.size)
        images = indices_N[np.where(known, places, 0)].tolist()
        return [image if there else None for image, there in zip(images, known.tolist(), strict=True)]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and seeds of an epoch in the order of the stream, int64 (N,) and uint32 (N,)."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
        seeds_N = rng.integers(0, 1 << 32, self.size, dtype=np.uint32)
        return rng.permutation(self.size) if self.shuffle else np.arange(self.size), seeds_N
