"""How many images at a time fit a GPU, measured on it: nodes of one cluster differ."""

from __future__ import annotations

import logging

from pipeline.errors import ImageError
from pipeline.images.stereo_clips import noise_inputs
from pipeline.methods.protocol import Batch, Method
from pipeline.wording import counted
from stages.late import torch

log = logging.getLogger(__name__)

LARGEST = 64
LARGEST_OF_CLIPS = 16  # which are four pictures each, and maps of them, in the memory of the machine
UNMEASURED = 16
SHARE = 0.8  # of the free memory that batches may take; the rest is fragmentation, and what the sample did not need


def fitting_batch_size(method: Method, lanes: int = 1) -> int:
    """Images a batch so that `lanes` batches at once fit the memory that is free on the method's GPU, 1..64, or
    1..16 clips.

    Batches of one and of two images of noise say what a batch and what an image takes.
    """
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(method.device)
    try:
        one, two = _peak(method, 1), _peak(method, 2)
    except ImageError:  # depth maps of one's own are there for the images of the run only
        return UNMEASURED
    except torch.OutOfMemoryError:
        log.warning("%.1f GB free on the GPU do not hold two images: one at a time", free / 1e9)
        return 1
    largest = LARGEST_OF_CLIPS if method.takes == "clips" else LARGEST
    size = min(batch_size_for(free * SHARE / lanes, one, two), largest)
    log.info("%.1f GB free on the GPU: %s per batch", free / 1e9, counted(size, "image"))
    return size


def batch_size_for(memory: float, one: int, two: int) -> int:
    """Images that fit `memory` bytes, 1..64, when one takes `one` bytes and two take `two`."""
    each = max(two - one, 1)
    return int(min(max(1 + (memory - one) // each, 1), LARGEST))


def _peak(method: Method, images: int) -> int:
    """Bytes that a batch needs at its peak, beyond what is there before."""
    inputs = noise_inputs(images, method.takes)
    before = torch.cuda.memory_allocated(method.device)
    torch.cuda.reset_peak_memory_stats(method.device)
    with torch.inference_mode():
        method.outputs(Batch(None, range(images), inputs))
    peak = torch.cuda.max_memory_allocated(method.device) - before
    torch.cuda.empty_cache()
    return peak
