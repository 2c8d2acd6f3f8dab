"""The head on frozen features: its codes are alike where classes are.

B images · D feature width · K code width · h, w patch grid
"""

import torch
from torch import nn


class SemanticHead(nn.Module):
    """Codes = linear(features) + MLP(features), at each patch alone.

    width: D.
    codes: K.
    dropout: share of the channels that are set to 0 per image while training, in [0, 1): one draw for the linear part,
        one for the MLP, and one for the features that codes are compared with (`Objective`).

    Source: STEGO's released code.
    """

    def __init__(self, width: int, codes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.width, self.codes, self.dropout = width, codes, dropout
        self.linear = nn.Conv2d(width, codes, 1)
        self.mlp = Projection(width, codes)

    def forward(self, features_BDhw: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Codes (B, K, h, w) of features of any float dtype, of the dtype of the parameters or of autocast.

        generator: what dropout draws from while training, on the features' device; None takes torch's own.
        """
        features_BDhw = features_BDhw.to(self.linear.weight.dtype)
        share = self.dropout if self.training else 0.0
        codes: torch.Tensor = self.linear(drop_channels(features_BDhw, share, generator))
        return codes + self.mlp(drop_channels(features_BDhw, share, generator))


class IdentityHead(nn.Module):
    """Features themselves as codes, float32: for clusters of raw features. K = D."""

    dropout = 0.0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = self.codes = width

    def forward(self, features_BDhw: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return features_BDhw.float()


class Projection(nn.Sequential):
    """1×1 convolution, ReLU, 1×1 convolution: from `width` over `width` to `codes` channels."""

    def __init__(self, width: int, codes: int) -> None:
        super().__init__(nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, codes, 1))


def drop_channels(maps_BC: torch.Tensor, share: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Maps (B, C, …) with this share of the channels of each image set to 0, and the others scaled to make up."""
    if share == 0:
        return maps_BC
    kept_BC = torch.rand(maps_BC.shape[:2], device=maps_BC.device, generator=generator) >= share
    scale_BC = kept_BC.to(maps_BC.dtype) / (1 - share)
    return maps_BC * scale_BC.reshape(*scale_BC.shape, *[1] * (maps_BC.ndim - 2))
