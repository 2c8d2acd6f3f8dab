"""The plain ViT is timm's, bit by bit: weights, their names, and what comes out of every block that is ever asked."""

from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch

from stages.feature_presets import PRESETS
from stages.fingerprint import tensors_digest
from stages.vit import PlainViT, plain_vit

SMALL = ["vit_small_patch16_224.dino", "vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_reg4_dinov2.lvd142m"]
State = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module", params=SMALL)
def model(request: pytest.FixtureRequest) -> tuple[str, State]:
    """A name of timm's, and weights for it, drawn at random."""
    torch.manual_seed(1)
    drawn = timm.create_model(request.param, num_classes=0).state_dict()
    return request.param, {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in drawn.items()}


def ours_of(model: tuple[str, State]) -> PlainViT:
    found = plain_vit(*model)
    assert found is not None
    return found.eval()


def theirs_of(model: tuple[str, State]) -> Any:
    with torch.device("meta"):
        vit: Any = timm.create_model(model[0], num_classes=0)
    vit.load_state_dict(model[1], assign=True)
    return vit.eval()


def tokens(vit: Any, photos: torch.Tensor, block: int, norm: bool) -> torch.Tensor:
    with torch.inference_mode():
        (found,) = vit.forward_intermediates(
            photos, indices=[block], norm=norm, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
    return found


def test_weights_and_their_names_are_the_same(model: tuple[str, State]) -> None:
    ours = ours_of(model).state_dict()
    assert set(ours) == set(model[1])
    assert tensors_digest(ours) == tensors_digest(model[1])


def test_tokens_are_the_same_at_any_size(model: tuple[str, State]) -> None:
    ours, theirs = ours_of(model), theirs_of(model)
    patch = ours.patch_embed.patch_size[0]
    for side in (6 * patch, 8 * patch):
        photos = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
        for vit in (ours, theirs):
            vit.set_input_size(img_size=(side, side))
        assert torch.equal(ours.pos_embed, theirs.pos_embed)
        for block, norm in ((11, True), (10, False)):
            assert torch.equal(tokens(ours, photos, block, norm), tokens(theirs, photos, block, norm))


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("dinov3")])
def test_presets_before_rotary_positions_are_plain_vits(name: str) -> None:
    architecture = PRESETS[name].config.model
    with torch.device("meta"):
        wanted = timm.create_model(architecture, num_classes=0).state_dict()
    vit = ours_of((architecture, {key: torch.zeros(1).expand(tensor.shape) for key, tensor in wanted.items()}))
    assert {k: t.shape for k, t in vit.state_dict().items()} == {k: t.shape for k, t in wanted.items()}


def test_weights_become_float32_and_are_a_copy(model: tuple[str, State]) -> None:
    name, state = model
    half = {key: tensor.half() for key, tensor in state.items()}
    assert all(torch.equal(t, half[key].float()) for key, t in ours_of((name, half)).state_dict().items())
    whole = ours_of(model).state_dict()
    assert all(tensor.data_ptr() != state[key].data_ptr() for key, tensor in whole.items())


def test_what_is_not_exactly_its_own_is_left_to_timm(model: tuple[str, State]) -> None:
    name, state = model
    assert plain_vit("vit_small_patch16_224.augreg_in21k", state) is None
    assert plain_vit(name, {**state, "extra": torch.zeros(1)}) is None
    assert plain_vit(name, {key: tensor for key, tensor in state.items() if key != "norm.bias"}) is None
    assert plain_vit(name, {**state, "pos_embed": state["pos_embed"][:, :-1]}) is None
