"""The model of a trained detector, built."""

import copy
from collections.abc import Mapping
from typing import Any

import mmdet.models  # noqa: F401 - registers
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

# the components that a model is made of, registered: nothing of training
import detector.data.panoptic_batch
import detector.model.backbone_weights
import detector.model.cascade
import detector.model.drop_loss
import detector.model.mask_head
import detector.model.panoptic_head
import detector.model.roi_features  # noqa: F401
from detector.model.checkpoints import DetectorCheckpoint
from pipeline.errors import WeightsError
from pipeline.wording import brief

_REMEDY = "it was trained by another version of cuts3d or MMDetection, or with components of its own"


def build_model(checkpoint: DetectorCheckpoint) -> nn.Module:
    """The model with the checkpoint's weights, on the CPU, in evaluation mode.

    Raises WeightsError when this version of the code cannot build it, or the tensors do not fit it.
    """
    model = _built(checkpoint.config["model"], f"the model of {checkpoint.path}")
    try:
        model.load_state_dict(dict(checkpoint.state_dict))
    except RuntimeError as error:
        raise WeightsError(
            f"the tensors of {checkpoint.path} do not fit its model ({brief(error)}): {_REMEDY}"
        ) from error
    model.eval()
    return model


def model_tensors(config: Mapping[str, Any], what: str) -> Mapping[str, torch.Tensor]:
    """The tensors of a model, by name, without memory: their shapes and types.

    config: of MMDetection's registry. what: it is the model of, for the message of the WeightsError that it cannot be
    built.
    """
    with torch.device("meta"):
        tensors: Mapping[str, torch.Tensor] = _built(config, what).state_dict()
    return tensors


def _built(config: Mapping[str, Any], what: str) -> nn.Module:
    try:
        with DefaultScope.overwrite_default_scope("mmdet"):
            model: nn.Module = MODELS.build(ConfigDict(copy.deepcopy(config)))
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, ImportError) as error:
        raise WeightsError(f"{what} cannot be built ({brief(error)}): {_REMEDY}") from error
    return model
