"""The head on frozen features: its codes are alike where classes are.

B images · D feature width · K code width · h, w patch grid
"""

import torch
from torch import nn

from stages.semantics.sampling import kept_channels


class PatchLinear(nn.Linear):
    """A linear map at each patch alone: (B, D, h, w) to (B, K, h, w). On a CPU it takes two thirds of the time of the
    1×1 convolution that it is.
    """

    def forward(self, maps_BDhw: torch.Tensor, kept_BD: torch.Tensor | None = None) -> torch.Tensor:
        """maps_BDhw: of the dtype of the parameters.

        kept_BD: what the channels of each image are multiplied with before, see `kept_channels`.
        """
        weight_BKD = self.weight.expand(len(maps_BDhw), *self.weight.shape)
        if kept_BD is not None:
            weight_BKD = weight_BKD * kept_BD[:, None, :]
        return torch.baddbmm(self.bias[None, :, None], weight_BKD, maps_BDhw.flatten(2)).unflatten(
            2, maps_BDhw.shape[2:]
        )


class Projection(nn.Module):
    """Linear, ReLU, linear at each patch alone: from `width` over `width` to `codes` channels."""

    def __init__(self, width: int, codes: int) -> None:
        super().__init__()
        self.inner, self.outer = PatchLinear(width, width), PatchLinear(width, codes)

    def forward(self, maps_BDhw: torch.Tensor, kept_BD: torch.Tensor | None = None) -> torch.Tensor:
        result: torch.Tensor = self.outer(self.inner(maps_BDhw, kept_BD).relu())
        return result


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
        self.linear = PatchLinear(width, codes)
        self.mlp = Projection(width, codes)

    def forward(self, features_BDhw: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Codes (B, K, h, w) of features of any float dtype, of the dtype of the parameters or of autocast.

        generator: what dropout draws from while training, on the features' device; None takes torch's own.
        """
        features_BDhw = features_BDhw.to(self.linear.weight.dtype)
        first = second = None
        if self.training and self.dropout > 0:
            images, device = len(features_BDhw), features_BDhw.device
            first, second = (kept_channels(images, self.width, self.dropout, device, generator) for _ in range(2))
        codes: torch.Tensor = self.linear(features_BDhw, first)
        return codes + self.mlp(features_BDhw, second)


class IdentityHead(nn.Module):
    """Features themselves as codes, float32: for clusters of raw features. K = D."""

    dropout = 0.0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = self.codes = width

    def forward(self, features_BDhw: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return features_BDhw.float()
