"""Weights of a ViT out of a file: official checkpoints of DINO and DINOv2, timm's, training checkpoints of either."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.errors import WeightsError
from pipeline.models.broken_files import refuse_broken
from pipeline.wording import brief
from stages.late import torch

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# A training checkpoint keeps the network under one of these, and its names under one of the prefixes.
_WRAPPERS = ("teacher", "model", "state_dict")
_PREFIXES = ("module.", "backbone.")


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
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # and torch with it

            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as weights; fetch it again: {error}") from error
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
    # Told of as many classes as the model has, none, timm takes a tensor too few or too many for the error that it is.
    overlay = {"state_dict": tensors, "num_classes": 0}
    try:
        built: Any = timm.create_model(model, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(f"{source} does not fit {model}: {brief(error, 600)}") from error
    built.pretrained_cfg.pop("state_dict", None)  # else every tensor is kept twice
    return built


def preset_name(state: Mapping[str, torch.Tensor]) -> str | None:
    """The preset that a DINO or DINOv2 checkpoint looks like by its shapes ("dinov2_vits14_reg"); None for no ViT.

    Only a guess at the name: no such preset need exist.
    """
    projection = state.get("patch_embed.proj.weight")
    if projection is None or projection.ndim != 4:
        return None
    width, patch = projection.shape[0], projection.shape[-1]
    letter = {384: "s", 768: "b", 1024: "l"}.get(width, "?")
    family = "dinov2" if "blocks.0.ls1.gamma" in state else "dino"
    registers = "_reg" if "register_tokens" in state or "reg_token" in state else ""
    return f"{family}_vit{letter}{patch}{registers}"
