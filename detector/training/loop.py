"""Training by iterations whose every step depends on the seed and its own number alone, so that a resumed training is
the training that was never interrupted.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader

from detector.data.sampling import SeededSampler
from pipeline.errors import ConfigError


@LOOPS.register_module()
class SeededTrainLoop(IterBasedTrainLoop):
    """MMEngine's loop by iterations, resumable to the bit.

    Before each step torch, numpy and random are seeded with (seed of the run, number of the step, rank): which boxes a
    head samples does not depend on how many were sampled before. A resumed training sets the sampler to its place;
    MMEngine's own loads and discards every batch that was trained on.

    Raises ConfigError when the data loader's sampler is no SeededSampler, which is the one that has places.
    """

    def __init__(self, runner: Any, dataloader: DataLoader | dict, **options: Any) -> None:
        super().__init__(runner, dataloader, **options)
        sampler = self.dataloader.sampler
        if not isinstance(sampler, SeededSampler):
            raise ConfigError(
                f"SeededTrainLoop draws from a SeededSampler, not from a {type(sampler).__name__}: set "
                'train_dataloader.sampler=dict(type="SeededSampler")'
            )
        self._sampler: SeededSampler = sampler

    def run(self) -> torch.nn.Module:
        """Train up to the last iteration; the model."""
        # Not by way of super(): its resumption, which is what is not wanted here, is in the middle of it.
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        if self._iter > 0:
            self._sampler.start(self._iter * self.dataloader.batch_size)
            # A new iterator: the present one has begun with the first batch.
            self.dataloader_iterator: Any = type(self.dataloader_iterator)(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self._is_time_to_validate():
                self.runner.val_loop.run()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        """One step, with randomness of its own."""
        seed_step(self.runner.seed, self._iter, get_rank())
        super().run_iter(data_batch)

    def _is_time_to_validate(self) -> bool:
        if self.runner.val_loop is None or self._iter < self.val_begin:
            return False
        return self._iter % self.val_interval == 0 or self._iter == self._max_iters


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch (all devices), numpy and random for one step of one rank."""
    word = int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
    random.seed(word)
    np.random.seed(word)  # noqa: NPY002  MMDetection's samplers draw from numpy's global generator
    torch.manual_seed(word)
