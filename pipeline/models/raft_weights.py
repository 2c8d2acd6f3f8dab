"""Weights of RAFT-large out of a file: torchvision's, and SMURF's under torchvision's names.

SMURF's network differs in two points, and its files are told by the first: its context encoder normalises by instance,
so that the file has no batch norms there; and it looks the correlations around a pixel up row by row, torchvision's
column by column, as RAFT's own. To the layer that reads them this is an order of its inputs, in which its weights are
put here, so that torchvision's network computes the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import WeightsError
from pipeline.models.published_file import PublishedFile
from pipeline.models.torch_files import misfits
from pipeline.models.vit_checkpoints import read_checkpoint
from stages.late import torch

_READS_CORRELATIONS = "update_block.motion_encoder.convcorr1.0.weight"
_LEVELS, _AROUND = 4, 9  # of the pyramid of correlations, and pixels along each side of what is looked up in one
_PREFIX = "raft."  # of the names in CUPS's file, and in those that are converted from SMURF's


def load_raft(path: Path) -> torch.nn.Module:
    """torchvision's RAFT-large with the weights of a file.

    Raises WeightsError, naming tensors, when anything is missing, left over or of another shape.
    """
    from torchvision.models.optical_flow import raft_large
    from torchvision.models.optical_flow.raft import FeatureEncoder, ResidualBlock

    state = {name.removeprefix(_PREFIX): value for name, value in read_checkpoint(path).items()}
    is_smurf = _is_smurf(state)
    if is_smurf:
        norm = torch.nn.InstanceNorm2d
        context = FeatureEncoder(block=ResidualBlock, layers=(64, 64, 96, 128, 256), norm_layer=norm)
        network: torch.nn.Module = raft_large(weights=None, context_encoder=context)
    else:
        network = raft_large(weights=None)
    wanted = network.state_dict()
    if problems := misfits(state, wanted):
        raise WeightsError(
            f"{path} does not fit RAFT-large: {problems}. It takes weights under torchvision's names, its own or those "
            "of SMURF"
        )
    if is_smurf:
        state[_READS_CORRELATIONS] = _column_by_column(state[_READS_CORRELATIONS])
    network.load_state_dict({**wanted, **state})
    return network


def _is_smurf(state: Mapping[str, torch.Tensor]) -> bool:
    return "context_encoder.conv.weight" in state and not any(
        name.startswith("context_encoder.") and name.endswith("running_mean") for name in state
    )


def _column_by_column(weight: torch.Tensor) -> torch.Tensor:
    """(out, levels · rows · columns, 1, 1) as (out, levels · columns · rows, 1, 1)."""
    return weight.unflatten(1, (_LEVELS, _AROUND, _AROUND)).transpose(2, 3).flatten(1, 3).contiguous()


# Trained with the flow of rendered scenes as labels (FlyingChairs, FlyingThings3D), so not without supervision as
# SMURF; of torchvision's weights those that have seen no KITTI.
RAFT_THINGS = PublishedFile(
    about="torchvision's RAFT-large",
    url="https://download.pytorch.org/models/raft_large_C_T_V2-1bb1363a.pth",
    folder="raft_things",
    megabytes=20,
    check=read_checkpoint,  # an error page is no checkpoint
    instead="or give weights of your own as --motion raft=FILE, or none, --motion opencv",
    sha256="1bb1363a",  # which torchvision publishes as a part of the name
)
