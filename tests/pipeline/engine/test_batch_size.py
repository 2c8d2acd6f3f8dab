"""How many images fit a GPU: the arithmetic for any figures, the measurement on a GPU that is made up."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_method import BrightnessDepth, tiny_method

from pipeline.engine.batch_size import LARGEST, LARGEST_OF_CLIPS, SHARE, UNMEASURED, batch_size_for, fitting_batch_size
from pipeline.errors import ImageError
from pipeline.methods.cuts.method import CutsMethod

MB = 1 << 20
Bytes = st.integers(0, 200 << 30)


@given(memory=st.floats(0, 300e9), one=Bytes, more=st.integers(1, 20 << 30))
def test_as_many_as_fit_and_not_one_more(memory: float, one: int, more: int) -> None:
    size = batch_size_for(memory, one, one + more)
    assert isinstance(size, int)
    assert 1 <= size <= LARGEST
    if size > 1:
        assert one + (size - 1) * more <= memory
    if size < LARGEST:
        assert one + size * more > memory


@given(memory=st.floats(0, 300e9), one=Bytes, two=Bytes)
def test_any_measurement_gives_a_size(memory: float, one: int, two: int) -> None:
    """Two images may seem to take no more than one, where buffers of the first serve the second."""
    size = batch_size_for(memory, one, two)
    assert 1 <= size <= LARGEST
    if two <= one and memory >= one + LARGEST:
        assert size == LARGEST


@given(st.lists(st.floats(0, 300e9), min_size=2), Bytes, Bytes)
def test_more_memory_never_means_fewer_images(memories: list[float], one: int, two: int) -> None:
    sizes = [batch_size_for(memory, one, two) for memory in sorted(memories)]
    assert sizes == sorted(sizes)


@dataclass
class FakeGpu(BrightnessDepth):
    """A depth model, and the GPU that it keeps books on: what a batch of it takes at its peak, beside the weights.

    free, fixed, each: bytes, free of the GPU, of any batch and of each image. most: images that fit at all.
    """

    free: int
    fixed: int = 100 * MB
    each: int = 50 * MB
    weights: int = 700 * MB
    most: int = 1000
    peak: int = 0
    tried: tuple[int, ...] = ()

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        assert torch.is_inference_mode_enabled()
        self.tried += (len(ids),)
        if len(ids) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.peak = self.weights + self.fixed + len(ids) * self.each
        return super().predict(images, ids)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> CutsMethod:
        def forget(device: Any) -> None:
            self.peak = self.weights

        for name, function in {
            "empty_cache": lambda: None,
            "mem_get_info": lambda device: (self.free, 80 << 30),
            "memory_allocated": lambda device: self.weights,
            "reset_peak_memory_stats": forget,
            "max_memory_allocated": lambda device: self.peak,
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)
        return dataclasses.replace(tiny_method(), depth=self)


@pytest.mark.parametrize(("free", "lanes"), [(2 << 30, 1), (2 << 30, 3), (6 << 30, 3), (100 * MB, 1), (0, 3)])
def test_lanes_share_what_is_free(monkeypatch: pytest.MonkeyPatch, free: int, lanes: int) -> None:
    gpu = FakeGpu(free)
    size = fitting_batch_size(gpu.install(monkeypatch), lanes)
    share = free * SHARE / lanes
    assert size == max(1, min(int((share - gpu.fixed) // gpu.each), LARGEST))
    assert gpu.tried == (1, 2)


def test_a_large_gpu_gets_the_largest_batch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert fitting_batch_size(FakeGpu(80 << 30).install(monkeypatch)) == LARGEST
    assert "85.9 GB free on the GPU: 64 images per batch" in caplog.text


def test_clips_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(80 << 30)
    method = gpu.install(monkeypatch)
    monkeypatch.setattr(type(method), "takes", "clips", raising=False)
    monkeypatch.setattr(
        type(method),
        "outputs",
        lambda self, batch: gpu.predict([clip.left.rgb for clip in batch.clips], [clip.id for clip in batch.clips]),
    )
    assert fitting_batch_size(method) == LARGEST_OF_CLIPS


@pytest.mark.parametrize("most", [0, 1])
def test_a_gpu_that_does_not_hold_two_images(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, most: int
) -> None:
    assert fitting_batch_size(FakeGpu(500 * MB, most=most).install(monkeypatch)) == 1
    assert "do not hold two images" in caplog.text


def test_depth_maps_of_ones_own_are_not_there_for_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    class Maps(FakeGpu):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            raise ImageError("no_depth_map", f"no map for {ids[0]}")

    assert fitting_batch_size(Maps(80 << 30).install(monkeypatch)) == UNMEASURED


def test_a_broken_model_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakeGpu):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            raise RuntimeError("no kernel image is available")

    with pytest.raises(RuntimeError, match="no kernel image"):
        fitting_batch_size(Broken(80 << 30).install(monkeypatch))
