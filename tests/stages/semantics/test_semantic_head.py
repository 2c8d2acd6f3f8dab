"""The head: against convolutions written out, with and without dropout."""

import pytest
import torch
from torch.nn import functional

from stages.semantics.head import IdentityHead, PatchLinear, Projection, SemanticHead
from stages.semantics.sampling import kept_channels


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolved(layer: PatchLinear, maps: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(maps, layer.weight[:, :, None, None], layer.bias)


def by_convolutions(head: SemanticHead, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    hidden = functional.relu(convolved(head.mlp.inner, second))
    return convolved(head.linear, first) + convolved(head.mlp.outer, hidden)


def test_without_dropout_it_is_a_linear_map_and_a_small_network_at_each_patch() -> None:
    head, maps = SemanticHead(6, 4).double().eval(), features(2, 6, 5, 3)
    codes = head(maps)
    assert codes.shape == (2, 4, 5, 3)
    torch.testing.assert_close(codes, by_convolutions(head, maps, maps))


def test_both_parts_drop_channels_of_their_own() -> None:
    head, maps = SemanticHead(20, 4, dropout=0.5).double(), features(3, 20, 2, 2)
    codes = head(maps, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    first, second = (kept_channels(3, 20, 0.5, "cpu", generator)[:, :, None, None] for _ in range(2))
    assert not torch.equal(first, second)
    torch.testing.assert_close(codes, by_convolutions(head, maps * first, maps * second))


def test_equal_generators_give_equal_codes_while_training_and_none_matters_afterwards() -> None:
    head, maps = SemanticHead(20, 4), features(2, 20, 3, 3).float()
    once, again = (head(maps, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, head(maps, torch.Generator().manual_seed(2)))
    head.eval()
    assert torch.equal(head(maps, torch.Generator().manual_seed(1)), head(maps))


def test_gradients_are_right() -> None:
    head, maps = SemanticHead(5, 3, dropout=0.3).double(), features(2, 5, 2, 2)
    parameters = tuple(head.parameters())

    def codes(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip((name for name, _ in head.named_parameters()), values, strict=True))
        return torch.func.functional_call(head, named, (maps, torch.Generator().manual_seed(0)))

    assert torch.autograd.gradcheck(codes, parameters)


def test_it_begins_as_a_convolution_would() -> None:
    """Weights and biases drawn alike, so that published learning rates fit."""
    torch.manual_seed(0)
    layer = PatchLinear(7, 5)
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(7, 5, 1)
    assert torch.equal(layer.weight, convolution.weight[:, :, 0, 0])
    assert torch.equal(layer.bias, convolution.bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_half_precision_are_welcome(dtype: torch.dtype) -> None:
    head, maps = SemanticHead(6, 4).eval(), features(1, 6, 3, 3).to(dtype)
    codes = head(maps)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, head(maps.float()))


def test_autocast_computes_in_its_own_precision() -> None:
    head, maps = SemanticHead(64, 8).eval(), features(1, 64, 3, 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        codes = head(maps)
    assert codes.dtype == torch.bfloat16
    torch.testing.assert_close(codes.float(), head(maps), atol=0.05, rtol=0.05)


def test_a_projection_is_two_layers() -> None:
    projection, maps = Projection(6, 4).double(), features(2, 6, 3, 3)
    expected = convolved(projection.outer, functional.relu(convolved(projection.inner, maps)))
    torch.testing.assert_close(projection(maps), expected)


def test_raw_features_are_codes_of_their_own() -> None:
    head, maps = IdentityHead(6), features(1, 6, 3, 3).half()
    assert (head.width, head.codes) == (6, 6)
    assert torch.equal(head(maps), maps.float())
    assert list(head.parameters()) == []
