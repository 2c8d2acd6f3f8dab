"""Labels without weights: a random head and clusters on the features of a tiny random ViT."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.methods.depthg.checkpoint import ModelInfo, SemanticModel, write_model
from pipeline.methods.depthg.load import networks
from pipeline.methods.depthg.method import Labeller, LabelMethod
from pipeline.methods.depthg.recipe import read_recipe
from pipeline.models.depth_maps import DepthMaps
from pipeline.models.load import load_features
from stages.features import FeatureConfig, FeatureExtractor
from stages.semantics.head import SemanticHead
from support.tiny_method import tiny_vit

WIDTH, CODES, CLUSTERS = 32, 6, 5
CONFIG = FeatureConfig(model="tiny", patch_size=8, kind="tokens", centred=False, size=64)


def tiny_extractor(size: int = CONFIG.size) -> FeatureExtractor:
    return FeatureExtractor(tiny_vit(), FeatureConfig("tiny", 8, kind="tokens", centred=False, size=size))


def tiny_model(head: bool = True, seed: int = 0, clusters: int = CLUSTERS) -> SemanticModel:
    """The same for the same seed. head: False for clusters of the features themselves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = SemanticHead(WIDTH, CODES).state_dict() if head else {}
        centroids = torch.randn(clusters, CODES if head else WIDTH)
    tensors: dict[str, np.ndarray] = {name: tensor.numpy() for name, tensor in made.items()}
    info = ModelInfo(
        "depthg" if head else "kmeans", "tiny", CONFIG, tiny_extractor().fingerprint, WIDTH, {}, 7, seed, ""
    )
    return SemanticModel(info, tensors, centroids.numpy())


def tiny_labels(
    overrides: Sequence[str] = (), model: SemanticModel | None = None, depth: DepthMaps | None = None, size: int = 64
) -> LabelMethod:
    """The recipe with a tiny model, at 8×8 patches a window."""
    recipe = read_recipe(["depthg.checkpoint=tiny", *overrides])
    model = tiny_model() if model is None else model
    return LabelMethod(Labeller(recipe, model, tiny_extractor(size), *networks(model, "tiny")), depth)


def write_tiny(folder: Path) -> str:
    """A tiny model in a folder; the override that names it."""
    return f"depthg.checkpoint={write_model(folder, tiny_model())}"


def write_random(folder: Path, features: str, size: int) -> None:
    """A model without a head, with random clusters of features as `--features` names them, at this size."""
    extractor = load_features(features, "cpu", {"size": size})
    width = extractor([np.zeros((16, 16, 3), np.uint8)]).shape[2]
    centroids = np.random.default_rng(0).standard_normal((CLUSTERS, width), np.float32)
    info = ModelInfo("kmeans", features, extractor.config, extractor.fingerprint, width, {}, 0, 0, "")
    write_model(folder, SemanticModel(info, {}, centroids))
