"""Weights of a ViT out of a file: official checkpoints of DINO, DINOv2 and DINOv3, timm's, training checkpoints of
either.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.errors import WeightsError
from pipeline.models.broken_files import refuse_broken
from pipeline.models.torch_files import need_weights, read_torch
from pipeline.wording import brief
from stages.late import torch

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
# A training checkpoint keeps the network under one of these, and its names under one of the prefixes.
_WRAPPERS = ("teacher", "model", "state_dict")
_PREFIXES = ("module.", "backbone.")
_WEIGHTS_ALONE = (
    'if you trust it, save the weights alone: torch.save(torch.load(FILE, weights_only=False)["teacher"], '
    '"weights.pth"), or "model" or "state_dict" for "teacher"'
)


def need_file(path: Path) -> Path:
    """The path, if there is a file; else WeightsError."""
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: give the path of a {', '.join(SUFFIXES)} file")
    return path


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors file or of a torch checkpoint (read without running code from it), by name.

    Raises WeightsError when there is no such file, or it holds anything but a network's tensors.
    """
    need_file(path)
    refuse_broken(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = read_torch(path, _WEIGHTS_ALONE)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no state dict: save the network's `state_dict()` and give that")
    state = dict(content)
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in state):
            # What does not carry the prefix is a projection head of the training, no part of the backbone.
            state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    need_weights(state, path)
    return state


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file  # and torch with it

    try:
        state: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        why = brief(error, 200)
        raise WeightsError(f"{path} cannot be read as weights, it is damaged: copy it again ({why})") from error
    need_weights(state, path)
    return state


def build_vit(model: str, state: Mapping[str, torch.Tensor], source: str) -> torch.nn.Module:
    """The ViT that timm calls `model`, with these weights, at the input size they were made for where timm's definition
    has the same. timm itself is imported where `stages.vit` does not have the model.

    Official names are translated and position embeddings of another grid resampled by timm; a classifier is left out.
    Raises WeightsError, naming `source` and the tensors, when anything is missing, left over or of another shape.
    """
    from stages.vit import plain_vit  # a subclass of torch's, so that torch is imported with it

    plain = plain_vit(model, state)
    if plain is not None:
        return plain
    import timm
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(model)
    classifier = known.classifier if known is not None and known.classifier else ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    tensors = {name: value for name, value in state.items() if name.rpartition(".")[0] not in heads}
    if "register_tokens" in tensors:
        # timm recognises an official DINOv2 checkpoint by its mask token, which inference has no use for.
        tensors.setdefault("mask_token", torch.zeros(1))
    if "storage_tokens" in tensors:
        tensors = _without_dead_bias(tensors, model, source)
    # Told of as many classes as the model has, none, timm takes a tensor too few or too many for the error that it is.
    overlay = {"state_dict": tensors, "num_classes": 0}
    try:
        built: Any = timm.create_model(model, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(f"{source} does not fit {model}: {brief(error, 600)}") from error
    built.pretrained_cfg.pop("state_dict", None)  # else every tensor is kept twice
    return built


def _without_dead_bias(state: Mapping[str, torch.Tensor], model: str, source: str) -> dict[str, torch.Tensor]:
    """An official DINOv3 checkpoint for a model without biases of queries, keys and values: its own are 0, and those of
    keys never count. timm would drop any.
    """
    biases = [name for name in state if name.endswith("attn.qkv.bias")]
    if "_qkvb" in model:
        return dict(state)
    for name in biases:
        queries, _, values = state[name].chunk(3)
        if queries.any() or values.any():
            with_bias = model.partition(".")[0].replace("_dinov3", "_dinov3_qkvb")
            raise WeightsError(f"{source} does not fit {model}: {name} is not 0; give it as {with_bias}={source}")
    return {name: value for name, value in state.items() if name not in biases}


def preset_name(state: Mapping[str, torch.Tensor]) -> str | None:
    """The preset that a checkpoint of DINO, DINOv2 or DINOv3 looks like by its shapes ("dinov2_vits14_reg"); None for
    no ViT.

    Only a guess at the name: no such preset need exist.
    """
    projection = state.get("patch_embed.proj.weight")
    if projection is None or projection.ndim != 4:
        return None
    width, patch = projection.shape[0], projection.shape[-1]
    letter = {384: "s", 768: "b", 1024: "l"}.get(width, "?")
    if "pos_embed" not in state and ("storage_tokens" in state or "reg_token" in state):  # rotary positions
        gated = "blocks.0.mlp.w1.weight" in state or "blocks.0.mlp.fc1_g.weight" in state
        return f"dinov3_vit{letter}{patch}{'plus' if gated else ''}"
    family = "dinov2" if "blocks.0.ls1.gamma" in state else "dino"
    registers = "_reg" if "register_tokens" in state or "reg_token" in state else ""
    return f"{family}_vit{letter}{patch}{registers}"
