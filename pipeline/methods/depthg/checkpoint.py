"""The file of a trained semantic model: a head and centroids of clusters, with all it takes to run them again.

D feature width · K width of the codes · C clusters

A safetensors file: the tensors, and one JSON text that describes them. Nothing in it is run. The backbone is not in it:
it is frozen, and known by its fingerprint.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.errors import WeightsError
from pipeline.models.broken_files import refuse_broken
from pipeline.results.semantic import MOST_CLASSES
from pipeline.storage.atomic import written_whole
from pipeline.storage.locations import is_url
from pipeline.wording import brief, few_of
from stages.features import FeatureConfig

FILE = "model.safetensors"  # in the folder of `cuts3d train-semantic`
MOST_CLUSTERS = MOST_CLASSES
_KEY, _VERSION = "cuts3d_semantic_model", 1
_HEAD, _CLUSTERS = "head.", "clusters"
_AGAIN = "fetch it again, or train it again with `cuts3d train-semantic`"


@dataclass(frozen=True)
class ModelInfo:
    """What a trained model is, beside its tensors.

    recipe: that it was trained with: depthg, stego, kmeans, ...
    features: as `cuts3d train-semantic --features` named them.
    feature_config: of those features; its size is the resolution of the training's crops.
    feature_fingerprint: of the extractor, `FeatureExtractor.fingerprint`.
    width: D.
    objective: what was trained for, its options by name, JSON-able.
    iterations: batches that it was trained for; 0 for one without training.
    seed: of the training.
    inputs: digest of the crops, features, depth and neighbours that it was trained on.
    training: anything else worth keeping of the training, JSON-able.
    """

    recipe: str
    features: str
    feature_config: FeatureConfig
    feature_fingerprint: str
    width: int
    objective: Mapping[str, Any]
    iterations: int
    seed: int
    inputs: str
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("recipe", "features", "feature_fingerprint", "inputs"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a text")
        for name in ("width", "iterations", "seed"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"{name} must be a whole number >= 0")
        for name in ("objective", "training"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be options by name")
        if not isinstance(self.feature_config, FeatureConfig):
            raise ValueError("feature_config must be the configuration of features")


@dataclass(frozen=True, eq=False)
class SemanticModel:
    """A trained model.

    head: tensors of the head by name, `SemanticHead.state_dict()`, float32; {} where the features are the codes.
    clusters: (C, K) float32, centroids in the space of the codes, 2 <= C <= 255.

    Raises ValueError for centroids or tensors that cannot be.
    """

    info: ModelInfo
    head: Mapping[str, np.ndarray]
    clusters: np.ndarray

    def __post_init__(self) -> None:
        for name, tensor in self.tensors().items():
            if tensor.dtype != np.float32:
                raise ValueError(f"{name} is of {tensor.dtype}, not of float32")
            if not np.isfinite(tensor).all():
                raise ValueError(f"{name} has values that are NaN or infinite: the training has failed")
        if self.clusters.ndim != 2 or not 2 <= len(self.clusters) <= MOST_CLUSTERS or not self.clusters.shape[1]:
            raise ValueError(
                f"clusters must be 2..{MOST_CLUSTERS} centroids, one a row, not of shape {self.clusters.shape}"
            )
        if not self.head and self.clusters.shape[1] != self.info.width:
            raise ValueError(
                f"there is no head, so that centroids must be as wide as the features, {self.info.width}, not "
                f"{self.clusters.shape[1]}"
            )

    def tensors(self) -> dict[str, np.ndarray]:
        """All tensors, as the file names them."""
        return {**{_HEAD + name: tensor for name, tensor in self.head.items()}, _CLUSTERS: self.clusters}

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the labels: tensors and features. Where the file is does not count."""
        sha = hashlib.sha256(self.info.feature_fingerprint.encode())
        for name, tensor in sorted(self.tensors().items()):
            sha.update(f"{name}:{tensor.shape};".encode())
            sha.update(np.ascontiguousarray(tensor, "<f4").data)
        return sha.hexdigest()


def model_file(place: str | Path) -> Path:
    """The file that is meant by a model's folder, or by the file itself."""
    path = Path(place)
    return path / FILE if path.is_dir() else path


def write_model(place: str | Path, model: SemanticModel) -> Path:
    """Write a model to a folder, or to a file ending in .safetensors, whole or not at all; the file's path.

    The same model gives the same bytes. Raises OSError.
    """
    path = Path(place)
    path = path if path.suffix == ".safetensors" else path / FILE
    about = {"version": _VERSION, **asdict(model.info)}
    text = json.dumps(about, sort_keys=True, ensure_ascii=False, allow_nan=False)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in model.tensors().items()}
    with written_whole(path, "wb") as file:
        file.write(save(tensors, {_KEY: text}))
    return path


def read_model(place: str | Path) -> SemanticModel:
    """The model in a folder or file. Raises WeightsError, one line that names the file and the remedy, for a file that
    is not there, damaged, of another kind, or not consistent.
    """
    path = model_file(place)
    if is_url(str(place)):
        raise WeightsError(f"{place} is a URL, and models are read from this machine: copy it here")
    if not path.is_file():
        why = f"{path} does not exist: give the folder of `cuts3d train-semantic`, or the file {FILE} in it"
        if Path(place).is_dir():
            why = f"{place} holds no trained model, {FILE}: give the folder of a finished `cuts3d train-semantic`"
        raise WeightsError(why)
    refuse_broken(path)
    text, tensors = _read(path)
    try:
        info = _info(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path} describes its model in a way that cannot be read: {_AGAIN} ({_why(error)})"
        ) from error
    names = [name for name in tensors if name != _CLUSTERS and not name.startswith(_HEAD)]
    if names or _CLUSTERS not in tensors:
        why = f"it holds {few_of(names)}" if names else f"it lacks {_CLUSTERS}"
        raise WeightsError(f"{path} is not a semantic model as it says, {why}: {_AGAIN}")
    head = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}
    try:
        return SemanticModel(info, head, tensors[_CLUSTERS])
    except ValueError as error:
        raise WeightsError(f"{path} is no model that can be used: {error}; {_AGAIN}") from error


def _read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """What the file says of its model, and its tensors."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] != b"{":
        raise WeightsError(
            f"{path} is no safetensors file, and other checkpoints are not read, since they may run code: "
            "train a model with `cuts3d train-semantic`"
        )
    try:
        with safe_open(path, framework="numpy") as opened:
            text = (opened.metadata() or {}).get(_KEY)
            if text is None:
                raise WeightsError(
                    f"{path} holds weights, but no semantic model of cuts3d: give what `cuts3d train-semantic` has made"
                )
            return text, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no mapping
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} is cut short, damaged or foreign: {_AGAIN} ({brief(error, 200)})") from error


def _info(text: str) -> ModelInfo:
    about = json.loads(text)
    if not isinstance(about, dict):
        raise ValueError("no mapping")
    version = about.pop("version")
    if version != _VERSION:
        raise ValueError(f"it is of version {version}, this cuts3d reads {_VERSION}: use a newer one")
    config = about.pop("feature_config")
    tuples = {name: tuple(value) for name, value in config.items() if isinstance(value, list)}
    return ModelInfo(**about, feature_config=FeatureConfig(**{**config, **tuples}))


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else brief(error, 200)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
