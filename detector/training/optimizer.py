"""Gradient clipping as in Detectron2, where a norm is clipped parameter by parameter.

MMEngine clips the norm over all parameters, which at the same bound is far stricter: CutLER's published bound of 1
holds for each parameter's gradient on its own.
"""

import math
from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from pipeline.errors import ConfigError


class _ClipsEach:
    """What the two wrappers below share. max_norm: Euclidean, of the gradient of one parameter."""

    max_norm: float
    optimizer: torch.optim.Optimizer
    message_hub: Any

    def _clip_grad(self) -> None:
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            largest = clip_each(gradients, self.max_norm)
            self.message_hub.update_scalar("train/grad_norm", float(largest))


@OPTIM_WRAPPERS.register_module()
class ClippingOptimWrapper(_ClipsEach, OptimWrapper):
    """OptimWrapper that clips each parameter's gradient to `max_norm`; train/grad_norm is the largest before that."""

    def __init__(self, max_norm: float = 1.0, **options: Any) -> None:
        self.max_norm = _checked(max_norm, options)
        super().__init__(**options, clip_grad={"max_norm": max_norm})


@OPTIM_WRAPPERS.register_module()
class ClippingAmpOptimWrapper(_ClipsEach, AmpOptimWrapper):
    """The same in mixed precision."""

    def __init__(self, max_norm: float = 1.0, **options: Any) -> None:
        self.max_norm = _checked(max_norm, options)
        super().__init__(**options, clip_grad={"max_norm": max_norm})


def clip_each(gradients: list[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scale down, in place, every gradient whose Euclidean norm exceeds max_norm; the largest norm before that."""
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)])
    factors = (max_norm / norms).clamp(max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))
    return norms.max()


def _checked(max_norm: float, options: dict[str, Any]) -> float:
    if not (math.isfinite(max_norm) and max_norm > 0):
        raise ConfigError(f"max_norm is {max_norm}: it must be above 0")
    if "clip_grad" in options:
        raise ConfigError("clip_grad does not go with max_norm: for MMEngine's own clipping take its OptimWrapper")
    return max_norm
