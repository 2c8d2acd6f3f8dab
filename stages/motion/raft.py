"""Flow and disparity from one network: RAFT-large (Teed & Deng, ECCV 2020), as SMURF trains it without labels and CUPS
uses it.

B pairs, H, W pixels of the pictures
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.fingerprint import tensors_digest, text_digest
from stages.late import torch
from stages.motion.clip_motion import ClipMotion, ClipPictures

_STRIDE = 8  # sides that the network takes are multiples of it
_SHORTEST = 128  # sides below leave nothing at the top of its pyramid


@dataclass(frozen=True)
class RaftConfig:
    """updates: of the flow, above 0; CUPS makes 16."""

    updates: int = 16

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise ValueError(f"raft.updates must be above 0, got {self.updates}")


class RaftMotion:
    """A `MotionModel`: torchvision's RAFT for all six maps, the disparity of a left picture being minus the horizontal
    flow to its right one, at least 0.

    Pictures of any size are padded at their borders, by as much on either side as there is room for, and the maps cut
    back: nothing of them is left out.

    network: takes two batches of float32 (B, 3, H, W), -1..1, and a number of updates, and gives a list of flows, the
        last of them the best: `torchvision.models.optical_flow.RAFT`.
    """

    in_processes = False

    def __init__(
        self,
        network: torch.nn.Module,
        device: torch.device | str = "cpu",
        name: str = "raft",
        config: RaftConfig | None = None,
    ) -> None:
        self.name, self.device = name, str(device)
        self.config = config or RaftConfig()
        self._network = network.eval().requires_grad_(False).to(device)
        self._digest = text_digest("raft motion", repr(self.config), tensors_digest(network.state_dict()))

    @property
    def fingerprint(self) -> str:
        """See `MotionModel`."""
        return self._digest

    def __call__(self, clips: Sequence[ClipPictures], ids: Sequence[str]) -> list[ClipMotion]:
        """See `MotionModel`; a clip at a time, a pair at a time: the correlations of one pair of 640×1280 pixels take
        0.9 GB.
        """
        return [self._motion(*clip) for clip in clips]

    def _motion(self, left: np.ndarray, right: np.ndarray, left_next: np.ndarray, right_next: np.ndarray) -> ClipMotion:
        return ClipMotion(
            flow_HW2=self._flow(left, left_next),
            flow_back_HW2=self._flow(left_next, left),
            disparity_HW=_disparity(-self._flow(left, right)),
            disparity_right_HW=_disparity(self._flow(right, left)),
            disparity_next_HW=_disparity(-self._flow(left_next, right_next)),
            disparity_right_next_HW=_disparity(self._flow(right_next, left_next)),
        )

    def _flow(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Flow float32 (H, W, 2) from one uint8 (H, W, 3) to the other."""
        height, width = one.shape[:2]
        (top, bottom), (left, right) = _padding(height), _padding(width)
        with torch.inference_mode():
            first, second = (
                torch.nn.functional.pad(_scaled(rgb).to(self.device), (left, right, top, bottom), mode="replicate")
                for rgb in (one, other)
            )
            flow_2HW = self._network(first, second, num_flow_updates=self.config.updates)[-1][0]
            cut_2HW = flow_2HW[:, top : top + height, left : left + width]
            return np.ascontiguousarray(cut_2HW.permute(1, 2, 0).float().cpu().numpy())


def _scaled(rgb_HW3: np.ndarray) -> torch.Tensor:
    """float32 (1, 3, H, W), -1..1."""
    return torch.from_numpy(np.ascontiguousarray(rgb_HW3)).permute(2, 0, 1)[None].float() / 127.5 - 1


def _padding(side: int) -> tuple[int, int]:
    """Pixels before and after a side that make it one that the network takes."""
    more = max(-(-side // _STRIDE) * _STRIDE, _SHORTEST) - side
    return more // 2, more - more // 2


def _disparity(flow_HW2: np.ndarray) -> np.ndarray:
    return np.maximum(flow_HW2[..., 0], 0)
