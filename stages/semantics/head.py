"""The head on frozen features: its codes are alike where classes are.

B images · D feature width · K code width · h, w patch grid
"""

import torch
from torch import nn

from stages.semantics.sampling import kept_channels


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
        if not self.training or self.dropout == 0:
            first = second = features_BDhw
        else:
            first, second = (features_BDhw * kept_channels(features_BDhw, self.dropout, generator) for _ in range(2))
        codes: torch.Tensor = self.linear(first)
        return codes + self.mlp(second)


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
