"""RAFT behind the protocol: six passes of one network, on pictures of any size."""

from typing import Any

import numpy as np
import pytest
import torch

from stages.motion.clip_motion import MAPS, ClipPictures
from stages.motion.raft import RaftConfig, RaftMotion


class Shifts(torch.nn.Module):
    """Stands for the network: the flow is the difference of the pictures' grey values, per axis of another channel. It
    keeps what it was given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.updates: list[int] = []

    def forward(self, one: torch.Tensor, other: torch.Tensor, num_flow_updates: int) -> list[torch.Tensor]:
        self.seen.append((one, other))
        self.updates.append(num_flow_updates)
        return [one[:, :2] * 0, self.weight * (other - one)[:, :2] * 127.5]


def pictures(height: int, width: int) -> list[np.ndarray]:
    """Left, right, left next and right next, of one grey each in red, and of another in green, and a corner."""
    found = []
    for red, green in ((100, 50), (90, 50), (103, 57), (80, 57)):
        rgb = np.full((height, width, 3), (red, green, 0), np.uint8)
        rgb[0, 0] = 0
        found.append(rgb)
    return found


def motion_of(network: torch.nn.Module, clip: list[np.ndarray], **options: Any) -> Any:
    (motion,) = RaftMotion(network, **options)([ClipPictures(*clip)], ["a"])
    return motion


@pytest.mark.parametrize("size", [(128, 136), (130, 141), (40, 300), (375, 1242), (16, 17)])
def test_maps_have_the_size_of_pictures_and_the_signs_of_disparities(size: tuple[int, int]) -> None:
    network = Shifts()
    motion = motion_of(network, pictures(*size))
    expected = {
        "flow_HW2": (3, 7),
        "flow_back_HW2": (-3, -7),
        "disparity_HW": 10,  # left to right the red falls by 10
        "disparity_right_HW": 10,
        "disparity_next_HW": 23,
        "disparity_right_next_HW": 23,
    }
    for name in MAPS:
        map_ = getattr(motion, name)
        assert map_.shape[:2] == size
        assert map_.dtype == np.float32
        np.testing.assert_allclose(map_[1:, 1:], np.broadcast_to(expected[name], map_[1:, 1:].shape), atol=1e-3)
        np.testing.assert_allclose(map_[0, 0], 0, atol=1e-3)  # the pixel of the corner is that of the corner
    for one, other in network.seen:
        for padded in (one, other):
            height, width = padded.shape[2:]
            assert height % 8 == width % 8 == 0
            assert min(height, width) >= 128
            assert height - size[0] < 8 or height == 128
            assert -1 <= padded.min() <= padded.max() <= 1
    assert network.updates == [16] * 6


def test_a_disparity_that_would_be_negative_is_0() -> None:
    left, right, left_next, right_next = pictures(128, 128)
    motion = motion_of(Shifts(), [right, left, right_next, left_next])
    for name in MAPS[2:]:
        assert (getattr(motion, name) == 0).all()


def test_the_border_is_continued() -> None:
    network = Shifts()
    ramp = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 200, 3), np.uint8)
    motion_of(network, [ramp] * 4)
    padded = (network.seen[0][0][0, 0] + 1) * 127.5
    column = padded[:, 0].round().int().tolist()
    assert column == [0] * 54 + list(range(20)) + [19] * 54


def test_the_fingerprint_is_of_weights_and_updates() -> None:
    one, other = Shifts(), Shifts()
    other.weight.data *= 2
    known = RaftMotion(one).fingerprint
    assert RaftMotion(Shifts(), name="another").fingerprint == known
    assert RaftMotion(other).fingerprint != known
    assert RaftMotion(one, config=RaftConfig(updates=4)).fingerprint != known
    with pytest.raises(ValueError, match=r"raft\.updates must be above 0"):
        RaftConfig(updates=0)
