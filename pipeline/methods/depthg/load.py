"""The trained model and the features of a launch, loaded."""

from dataclasses import replace
from pathlib import Path

import torch

from pipeline.errors import WeightsError
from pipeline.methods.depthg.checkpoint import SemanticModel
from pipeline.methods.depthg.method import Labeller, LabelMethod
from pipeline.methods.depthg.settings import ModelSettings, label_settings, not_its_features
from pipeline.models.depth_maps import DepthMaps
from pipeline.models.device import pick_device
from pipeline.models.load import load_features
from pipeline.runs.launch import Launch
from pipeline.wording import brief
from stages.features import FeatureExtractor
from stages.semantics.clusters import ClusterProbe
from stages.semantics.head import IdentityHead, SemanticHead


def load_labels(launch: Launch, device: str) -> LabelMethod:
    """Recipe, model and features of a launch, on a device."""
    settings = label_settings(launch)
    depth = None if settings.depth is None else DepthMaps(Path(settings.depth), settings.depth_kind)
    return LabelMethod(load_labeller(settings, pick_device(device)), depth)


def load_labeller(settings: ModelSettings, device: torch.device) -> Labeller:
    """Recipe, model and features that were settled on this machine, on a device."""
    model, config, checkpoint = settings.model, settings.config, settings.recipe.checkpoint
    assert model is not None  # files are here
    assert config is not None
    head, probe = networks(model, checkpoint)
    options = {name: getattr(config, name) for name in ("kind", "centred", "size", "precision")}
    extractor = load_features(settings.features, device, options)
    need_trained_features(extractor, settings.features, model, checkpoint)
    return Labeller(settings.recipe, model, extractor, head.to(device), probe.to(device))


def networks(model: SemanticModel, checkpoint: str) -> tuple[SemanticHead | IdentityHead, ClusterProbe]:
    """Head and clusters of a model, in evaluation mode and without gradients; WeightsError where its tensors are those
    of another head.
    """
    clusters, codes = model.clusters.shape
    probe = ClusterProbe(codes, clusters)
    probe.load_state_dict({"centroids": torch.from_numpy(model.clusters.copy())})
    head = SemanticHead(model.info.width, codes) if model.head else IdentityHead(model.info.width)
    try:
        head.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in model.head.items()})
    except RuntimeError as error:
        raise WeightsError(
            f"{checkpoint} holds another head than this version has: train it again ({brief(error, 200)})"
        ) from error
    return head.eval().requires_grad_(False), probe.eval().requires_grad_(False)


def need_trained_features(extractor: FeatureExtractor, features: str, model: SemanticModel, checkpoint: str) -> None:
    """ConfigError for features that are not those of the model's training, but for size and precision."""
    trained = model.info.feature_config
    as_trained = replace(extractor.config, size=trained.size, precision=trained.precision)
    if as_trained != trained:
        names = [name for name in vars(trained) if getattr(as_trained, name) != getattr(trained, name)]
        raise not_its_features(features, checkpoint, f"another {', '.join(names)}")
    if extractor.fingerprint_with(trained) != model.info.feature_fingerprint:
        raise not_its_features(features, checkpoint, "other weights")
