"""A detector that Detectron2 trained, of the kind that CutLER and its successors publish, as a detector.safetensors."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detector.model.checkpoint_files import STATE_DICT, read_content
from detector.model.checkpoints import SCHEMA, write_detector
from detector.model.detectron2 import (
    LAYOUTS,
    LEVEL_PREDICTOR,
    detectron_name,
    is_beside,
    is_extra_head,
    other_kind,
)
from detector.training import config as train_config
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.torch_files import need_weights
from pipeline.wording import brief, few_of
from stages.late import torch

if TYPE_CHECKING:
    from mmengine.config import Config

CONFIG = "detectron2_cascade_r50_fpn"
STUDENT, TEACHER = COPIES = ("student", "teacher")

# Where the copies of a network are: under names of their own in the file, or in one state, by the start of their names.
_SECTIONS = {STUDENT: ("model", STATE_DICT), TEACHER: ("model_ema", "ema_state", "ema", "teacher")}
_PREFIXES = {STUDENT: ("modelStudent.", "student."), TEACHER: ("modelTeacher.", "teacher.", "model_ema.")}
_WRAPPERS = ("module.", "model.")  # of DistributedDataParallel, and of training loops
_COUNTER = "num_batches_tracked"  # of batches; FrozenBatchNorm has none
_SCORES = "roi_heads.box_predictor.0.cls_score.weight"
_ANCHORS = "proposal_generator.anchor_generator.cell_anchors"

State = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Told:
    """What the user says of a checkpoint; None for what the layout, or the file, says.

    layout: a name in LAYOUTS.
    pixel_order: "rgb" or "bgr", of the channels that the network takes.
    pixel_mean, pixel_std: of the channels in that order, as MODEL.PIXEL_MEAN and PIXEL_STD.
    stride_in: "3x3" or "1x1", the convolution of a bottleneck that scales down, as MODEL.RESNETS.STRIDE_IN_1X1.
    copy: which of two copies of the network, STUDENT or TEACHER.
    """

    layout: str
    pixel_order: str | None = None
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None
    stride_in: str | None = None
    copy: str | None = None


@dataclass(frozen=True)
class Imported:
    """path: of the detector. left_out: what of the checkpoint is not in it, a line each."""

    path: Path
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Pixels:
    """How the network takes photos: order of its channels, and their mean and std in that order."""

    order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def rgb(self, values: Sequence[float]) -> list[float]:
        return list(values if self.order == "rgb" else values[::-1])


def import_detectron2(checkpoint: str | Path, out: str | Path, told: Told, config: str = CONFIG) -> Imported:
    """Write a detector.safetensors out of a checkpoint of Detectron2 (.pth, .pkl or .safetensors).

    config: of the same network in MMDetection, as `train_config.read_config` takes it. Its pixels, norms and strides
    are set to what the checkpoint and `told` say.

    Raises:
        ConfigError: `told` contradicts the file, or the configuration does not load; `out` is not named as a
        safetensors file.
        WeightsError: the checkpoint cannot be read, or is of another network; the message names tensors.
    """
    from detector.model.build import model_tensors

    path, out = Path(checkpoint), Path(out)
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out} would be a safetensors file: give it a name that ends in .safetensors")
    state, left_out, copy = _network(_content(path), told, path)
    _check_kind(state, told, path)
    pixels = _pixels(state, told, path)
    stride_in = told.stride_in or LAYOUTS[told.layout].stride_in
    settings = train_config.read_config(config)
    try:
        _adapt(settings.model, state, told, pixels, stride_in)
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{config} is no Cascade Mask R-CNN: it has no {brief(error)}") from error
    _check_anchors(state, settings, config, path)
    description = train_config.describe(settings, Path(config).stem)
    tensors = _renamed(model_tensors(description["model"], f"the model of {config}"), state, config, path)
    if pixels.order == "bgr":
        tensors["backbone.conv1.weight"] = tensors["backbone.conv1.weight"].flip(1)
    left_out += _extra_heads(state, tensors)
    trained_on = {
        "imported": str(path.absolute()),
        "sha256": _sha256(path),
        "layout": told.layout,
        "copy": copy,
        "left_out": left_out,
        "pixel_order": pixels.order,
        "stride_in": stride_in,
    }
    write_detector(out, tensors, description, trained_on)
    return Imported(out, tuple(left_out))


def _content(path: Path) -> Mapping[str, Any]:
    content = read_content(path)
    if content.get("schema") == SCHEMA:
        raise WeightsError(f"{path} is a detector of cuts3d already: use it as it is")
    return content


def _network(content: Mapping[str, Any], told: Told, path: Path) -> tuple[State, list[str], str]:
    """The tensors of the copy that is asked for, by Detectron2's names; what is left out; which copy it is."""
    copies = _copies(content)
    if not copies:
        raise WeightsError(f"{path} holds no tensors by name under `model`: give a checkpoint of Detectron2")
    copy = told.copy or (STUDENT if STUDENT in copies else TEACHER)
    if copy not in copies:
        raise ConfigError(f"{path} has no {copy}, only one network: leave --copy out")
    others = [f"{other} ({len(copies[other])} tensors): --copy {other} takes it" for other in copies if other != copy]
    need_weights(copies[copy], path)
    return copies[copy], others, copy


def _copies(content: Mapping[str, Any]) -> dict[str, State]:
    found = {
        copy: _unwrapped(content[section])
        for copy, sections in _SECTIONS.items()
        for section in sections
        if _is_state(content.get(section))
    }
    plain = {name: part for name, part in content.items() if isinstance(name, str) and torch.is_tensor(part)}
    if STUDENT not in found and plain:
        found[STUDENT] = _unwrapped(plain)
    together = found.get(STUDENT, {})
    for copy, prefixes in _PREFIXES.items():
        for prefix in prefixes:
            if own := {name.removeprefix(prefix): part for name, part in together.items() if name.startswith(prefix)}:
                found[copy] = own
    if found.get(STUDENT) is together and any(name.startswith(_PREFIXES[TEACHER]) for name in together):
        del found[STUDENT]  # the teacher alone
    return found


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and torch.is_tensor(part) for name, part in value.items())
    )


def _unwrapped(state: State) -> State:
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): part for name, part in state.items()}
    return state


def _check_kind(state: State, told: Told, path: Path) -> None:
    """WeightsError for another kind of network, ConfigError where the file is not of the layout."""
    if kind := other_kind(state):
        raise WeightsError(f"{path} is {kind}: --layout takes Cascade Mask R-CNN with a ResNet and FPN")
    for name in (_SCORES, "roi_heads.mask_head.predictor.weight"):
        if name not in state:
            raise WeightsError(f"{path} has no {name}: a Cascade Mask R-CNN of Detectron2 is needed")
    if state[_SCORES].ndim == 2 and len(state[_SCORES]) != 2:  # of another shape, it is told with all others
        raise WeightsError(
            f"{path} tells {len(state[_SCORES]) - 1} classes apart ({_SCORES}): detectors of cuts3d are "
            "class-agnostic, give one that was trained with NUM_CLASSES 1"
        )
    layout = LAYOUTS[told.layout]
    has_levels = any(f".{LEVEL_PREDICTOR}." in name for name in state)
    if has_levels and not layout.level_predictor:
        raise ConfigError(f"{path} has a {LEVEL_PREDICTOR} as HASSOD's detectors have: give --layout hassod")
    if layout.level_predictor and not has_levels:
        raise ConfigError(f"{path} has no {LEVEL_PREDICTOR}, which HASSOD's detectors have: give another --layout")
    if layout.fpn_norm and not _fpn_norm(state):
        raise ConfigError(
            f"{path} has no backbone.fpn_lateral2.norm.weight, which the detectors of {told.layout} have: give "
            "--layout detectron2"
        )


def _fpn_norm(state: State) -> bool:
    return "backbone.fpn_lateral2.norm.weight" in state


def _pixels(state: State, told: Told, path: Path) -> _Pixels:
    """What is said of the photos' values, where the file does not say otherwise."""
    layout = LAYOUTS[told.layout]
    order = told.pixel_order or layout.pixel_order
    step = 1 if order == layout.pixel_order else -1
    given = {
        "pixel_mean": told.pixel_mean or layout.mean[::step],
        "pixel_std": told.pixel_std or layout.std[::step],
    }
    for name, values in given.items():
        if name not in state:
            continue
        in_file = tuple(round(value, 4) for value in state[name].flatten().tolist())
        if len(in_file) != 3 or not np.isfinite(in_file).all():
            raise WeightsError(
                f"{path} has {name} {_listed(in_file)}, where one number for each of three channels is needed: it is "
                "damaged, or no detector of colour photos"
            )
        if not np.allclose(in_file, values, atol=0.01):
            turned = np.allclose(in_file, values[::-1], atol=0.01)
            option = f"--{name.replace('_', '-')} {_listed(in_file)}"
            other = "bgr" if order == "rgb" else "rgb"
            raise ConfigError(
                f"{path} has {name} {_listed(in_file)}, but {_listed(values)} in {order} is what the options say: give "
                + (f"--pixel-order {other}" if turned else f"{option}, or another --layout")
            )
    return _Pixels(order, given["pixel_mean"], given["pixel_std"])


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _adapt(model: Any, state: State, told: Told, pixels: _Pixels, stride_in: str) -> None:
    """Set what a configuration says of pixels, norms, strides and proposals to what is known of the checkpoint."""
    model.data_preprocessor.mean = pixels.rgb(pixels.mean)
    model.data_preprocessor.std = pixels.rgb(pixels.std)
    model.backbone.style = "caffe" if stride_in == "1x1" else "pytorch"
    trained = any(name.endswith(_COUNTER) for name in state)
    model.backbone.norm_cfg = {"type": "BN", "requires_grad": trained}
    model.neck.norm_cfg = {"type": "BN", "requires_grad": True} if _fpn_norm(state) else None
    model.test_cfg.rpn.nms.iou_threshold = LAYOUTS[told.layout].rpn_nms


def _check_anchors(state: State, settings: Config, config: str, path: Path) -> None:
    """WeightsError where the file has anchors, as earlier versions of Detectron2 kept them, and they are others."""
    from mmdet.registry import TASK_UTILS
    from mmengine.registry import DefaultScope

    names = sorted(name for name in state if name.startswith(_ANCHORS))
    if not names:
        return
    with DefaultScope.overwrite_default_scope("mmdet"):
        ours = TASK_UTILS.build(settings.model.rpn_head.anchor_generator).base_anchors
    same = len(names) == len(ours) and all(
        state[name].shape == own.shape and torch.allclose(state[name].float(), own, atol=0.01)
        for name, own in zip(names, ours, strict=True)
    )
    if not same:
        raise WeightsError(
            f"{path} has other anchors than {config} ({names[0]} is {state[names[0]].flatten().tolist()[:4]}…): give "
            "--config FILE with its sizes and ratios"
        )


def _renamed(wanted: State, state: State, config: str, path: Path) -> dict[str, torch.Tensor]:
    """The file's tensors by our names; WeightsError, which names tensors by Detectron2's, where they are others."""
    names = {ours: detectron_name(ours) for ours in wanted}
    missing = [name for ours, name in names.items() if name not in state and not ours.endswith(_COUNTER)]
    used = set(names.values())
    unknown = [name for name in state if name not in used and not is_beside(name) and not is_extra_head(name)]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(wanted[ours].shape)}"
        for ours, name in names.items()
        if name in state and state[name].shape != wanted[ours].shape
    ]
    broken = [name for name in used & state.keys() if not torch.isfinite(state[name]).all()]
    problems = [
        f"{len(unique)} {what} ({few_of(unique)})"
        for what, found in (
            ("missing", missing),
            ("of another shape", shapes),
            ("that it has no place for", unknown),
            ("with infinite values or NaN", broken),
        )
        if (unique := sorted(set(found)))
    ]
    if problems:
        raise WeightsError(
            f"{path} is of another network than {config}, tensors: {'; '.join(problems)}. Give --config FILE with the "
            "same network in MMDetection"
        )
    counters = {ours: torch.zeros((), dtype=torch.long) for ours in wanted if ours.endswith(_COUNTER)}
    return counters | {ours: state[name].to(wanted[ours].dtype) for ours, name in names.items() if name in state}


def _extra_heads(state: State, tensors: State) -> list[str]:
    """Of heads that boxes, scores and masks do not need, a line each."""
    used = {detectron_name(ours) for ours in tensors}
    extra = [name for name in state if name not in used and not is_beside(name)]
    heads = Counter(re.sub(r"\.\d+\.", ".*.", name).rpartition(".")[0] for name in extra)
    return [f"{head} ({count} tensors): boxes and masks do not need it" for head, count in sorted(heads.items())]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
