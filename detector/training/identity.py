"""What makes a training this one and no other: the content of training.json; and, for people, what it was trained on.

`pipeline.runs.training_folder` compares the first with what a folder holds, before a training goes on there.
"""

import hashlib
from importlib import metadata
from typing import Any

import mmcv
from mmengine.config import Config

from detector import operators
from detector.data.flat_images import FlatImages
from detector.training import config as train_config
from pipeline.runs.provenance import library_versions
from pipeline.runs.run_folder import RunFolder

# Of what belongs to no part of the model, and decides what it is trained on.
_DECIDING_HOOKS = ("SelfEnhancedCopyPaste", "MomentumTeacher")
_LIBRARIES = ("mmdet", "mmengine", "torchvision")


def identity(config: Config, world_size: int) -> dict[str, Any]:
    """What decides the result of the training, as plain JSON; where things are, and how fast they go, is left out.

    world_size: processes of the training. How an equal batch is shared out over them is no other training.

    Raises:
        StoreError: a run is not there, or damaged.
    """
    dataset = train_config.plain(config.train_dataloader.dataset)
    for part in train_config.run_datasets(dataset):
        for name in ("runs", "cache", "pipeline"):
            part.pop(name, None)
    model = train_config.plain(config.model)
    model["backbone"].pop("init_cfg", None)
    hooks = [train_config.plain(hook) for hook in train_config.custom_hooks(config, *_DECIDING_HOOKS)]
    return {
        "model": model,
        "pipeline": train_config.plain(train_config.run_dataset(config).pipeline),
        "dataset": dataset,
        **({"hooks": hooks} if hooks else {}),
        **({"panoptic": config.panoptic} if "panoptic" in config else {}),
        "masks": _masks_digest(config),
        "batch": config.train_dataloader.batch_size * world_size,
        "optim_wrapper": train_config.plain(config.optim_wrapper),
        "param_scheduler": train_config.plain(config.get("param_scheduler")),
        "iterations": config.train_cfg.max_iters,
        "seed": config.randomness.seed,
    }


def _masks_digest(config: Config) -> str:
    """Of all committed shards of the runs, wherever they are mounted now."""
    digest = hashlib.sha256()
    for url in train_config.run_dataset(config).runs:
        run = RunFolder.open(url)
        digest.update(f"{run.fingerprint} {run.digest}\n".encode())
        for key, commit in sorted(run.ledger.committed().items()):
            digest.update(f"{key} {commit.shard.sha256}\n".encode())
    return digest.hexdigest()


def trained_on(config: Config, store: FlatImages, world_size: int) -> dict[str, Any]:
    """Where the detector comes from, for people; plain JSON in detector.json and detector.safetensors.

    store: what the training's data set draws from. world_size: processes of the training.
    """
    runs = [RunFolder.open(url) for url in train_config.run_dataset(config).runs]
    start = config.model.backbone.get("init_cfg")
    return {
        "runs": [{"url": run.url, "recipe": run.config.get("recipe"), "fingerprint": run.fingerprint} for run in runs],
        **store.facts(),
        "iterations": config.train_cfg.max_iters,
        "batch": config.train_dataloader.batch_size * world_size,
        "seed": config.randomness.seed,
        "backbone": train_config.plain(start),
        "versions": {**library_versions(), **_versions()},
    }


def _versions() -> dict[str, str]:
    """By distribution: mmcv and mmcv-lite have different operators."""
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    return {**versions, "mmcv" if operators.compiled() else "mmcv-lite": mmcv.__version__}
