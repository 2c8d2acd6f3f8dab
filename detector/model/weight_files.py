"""Files of weights that are asked for by name: whether they are there at all."""

from pathlib import Path

from pipeline.errors import WeightsError
from pipeline.models.vit_checkpoints import SUFFIXES

BACKBONE = "dino_resnet50_pretrain.pth"  # as DINO publishes its ResNet-50


def need_backbone(path: Path) -> Path:
    """The file of a backbone's weights; WeightsError when it is not there, or of a kind that is not read."""
    path = path.expanduser()
    if path.suffix == ".pkl":
        raise WeightsError(
            f"{path} is a pickle as Detectron2 uses them, which runs code when it is read: give the file it was "
            f"converted from, {BACKBONE}, with the names of torchvision"
        )
    if not path.is_file():
        raise WeightsError(f"there are no backbone weights {path}: give a {', '.join(SUFFIXES)} file")
    return path


def need_checkpoint(path: Path) -> Path:
    """The file of a detector's checkpoint; WeightsError, with what is there instead, when it is not there."""
    if not path.is_file():
        found = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pth")) if path.is_dir() else []
        inside = f"it is a folder, give a file in it ({', '.join(found)})"
        hint = inside if found else "`cuts3d train` ends by writing one"
        raise WeightsError(f"there is no checkpoint {path}: {hint}")
    return path
