"""DINO's ResNet-50 as the start of the backbone: from a file, from the cache, or from where DINO publishes it.

Registered with MMDetection as the initialiser `DinoResNet`, so that a configuration of one's own can say

    backbone=dict(type="ResNet", depth=50, init_cfg=dict(type="DinoResNet", checkpoint=None))
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from detector.model.weight_files import BACKBONE, need_backbone
from pipeline.errors import WeightsError
from pipeline.models.published_file import PublishedFile
from pipeline.models.torch_files import misfits
from pipeline.models.vit_checkpoints import read_checkpoint

logger = logging.getLogger(__name__)

URL = "https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"
# DINO publishes no digest of it that we know of; `load_backbone` checks what is in it.
DINO_R50 = PublishedFile(
    about="DINO's ResNet-50",
    url=URL,
    folder="dino_resnet50",
    megabytes=94,
    check=read_checkpoint,  # an error page is no checkpoint
    instead="or give its path (--backbone FILE, or init_cfg.checkpoint in a configuration); --backbone random trains "
    "from scratch",
)
# A classifier is no part of the backbone; official self-supervised weights have none.
_CLASSIFIER = ("fc.weight", "fc.bias")


@WEIGHT_INITIALIZERS.register_module()
class DinoResNet:
    """Initialiser of a ResNet backbone with self-supervised weights, each tensor accounted for.

    checkpoint: a file of the weights under torchvision's names, as DINO publishes them; None: that of the cache, or
    fetched into it. MMEngine's own "Pretrained" leaves out what does not fit with no more than a line in the log.

    Raises (when the weights are asked for):
        WeightsError: there are none, or they do not fit.
    """

    def __init__(self, checkpoint: str | None = None) -> None:
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        path = find_backbone(self.checkpoint)
        load_backbone(module, path)
        if hasattr(module, "_params_init_info"):  # MMEngine's report on where each tensor comes from
            update_init_info(module, init_info=f"DinoResNet: {path}")


def find_backbone(checkpoint: str | Path | None = None, url: str = URL) -> Path:
    """The file with the weights: `checkpoint` if given, else out of the cache, else downloaded into it.

    Raises WeightsError, which says what to do, where there is none, or the cached file is not what it was.
    """
    if checkpoint is not None:
        return need_backbone(Path(checkpoint))
    return replace(DINO_R50, url=url).ready()


def cached_backbone() -> Path:
    """Where the weights are looked for, and kept once they were downloaded. Need not exist."""
    return DINO_R50.path


def load_backbone(module: nn.Module, path: Path) -> None:
    """Put the weights of a file into a ResNet, whose every tensor must be there, in its shape.

    Raises WeightsError, naming tensors, when anything is missing, left over or of another shape.
    """
    state = _without_classifier(read_checkpoint(path))
    wanted = module.state_dict()
    if problems := misfits(state, wanted):
        raise WeightsError(
            f"{path} does not fit the backbone: {problems}. It takes a ResNet's weights of the same depth "
            f"under torchvision's names, such as {BACKBONE}"
        )
    module.load_state_dict({**wanted, **state})
    logger.info("the backbone starts from %s", path)


def _without_classifier(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name not in _CLASSIFIER}
