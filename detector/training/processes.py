"""The processes of a training, and the device of each: one alone, or a group that torchrun or Ray started."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import mmengine.device.utils
import torch
from torch import distributed

from pipeline.models.device import pick_device

# Ranks wait for each other while one of them consolidates the runs, or scores a validation.
PATIENCE = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class Process:
    """This one among those of the training.

    rank: 0 for the one that writes.
    world_size: how many there are.
    here: how many of them are on this machine.
    grouped: whether torch.distributed connects them.
    """

    rank: int
    world_size: int
    here: int
    device: torch.device
    grouped: bool


@contextlib.contextmanager
def this_process(device: str) -> Iterator[Process]:
    """This process's place: in the group that Ray made, else in one made here if torchrun started it, else alone.

    device: as `cuts3d train --device` takes it. With a GPU, it is torch's current one from then on.

    Raises:
        ConfigError: there is no such device.
    """
    chosen = pick_device(device)
    if distributed.is_initialized():
        yield _placed(chosen)
    elif "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        if chosen.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")  # as MMEngine does, with a warning from each process
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
        try:
            yield _placed(chosen)
        finally:
            distributed.destroy_process_group()
    else:
        if chosen.index is not None:  # "cuda" alone is torch's current one already, and refused here
            torch.cuda.set_device(chosen)
        yield Process(0, 1, 1, chosen, grouped=False)


def _placed(device: torch.device) -> Process:
    world_size = distributed.get_world_size()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return Process(distributed.get_rank(), world_size, here, device, grouped=True)


@contextlib.contextmanager
def mmengine_on(device: torch.device) -> Iterator[None]:
    """MMEngine uses the kind of `device` meanwhile, even where there is a GPU.

    It takes a GPU whenever it finds one, and no option of it says otherwise: this variable, which it reads anew each
    time, is the only place where it can be told not to.
    """
    before, mmengine.device.utils.DEVICE = mmengine.device.utils.DEVICE, device.type
    try:
        yield
    finally:
        mmengine.device.utils.DEVICE = before


def wait_for_all(process: Process) -> None:
    """Go on when all processes are here."""
    if process.grouped:
        distributed.barrier()
