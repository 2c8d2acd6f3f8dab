"""Models by name or path, as the command line gives them. What is looked for, in this order:

an explicit local path; the cache of `cuts3d weights`; the model hub, where it can be reached or has been; the published
package that an embedded default comes out of.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import ConfigError, WeightsError
from pipeline.models import hub, weights
from pipeline.models.broken_files import refuse_broken_in
from pipeline.models.depth_maps import DepthMaps
from pipeline.models.motion_maps import FOLDERS, MotionMaps
from pipeline.models.onnx_files import weights_beside
from pipeline.models.own_backbones import Backbone, own_backbone
from pipeline.models.raft_weights import RAFT_THINGS, load_raft
from pipeline.models.specs import (
    DEPTH_FOLDER,
    MOTION_FILE,
    FeatureSpec,
    depth_source,
    feature_spec,
    hub_file,
    motion_source,
    onnx_spec,
    preset_weights,
    unknown_features,
)
from pipeline.models.vit_checkpoints import build_vit, preset_name, read_checkpoint
from pipeline.wording import brief
from stages.depth import DepthKind, DepthModel
from stages.depth_onnx import OnnxDepth
from stages.feature_presets import PRESETS, FeaturePreset
from stages.features import FeatureConfig, FeatureExtractor, NetworkFeatures, patch_side
from stages.late import torch
from stages.motion.clip_motion import MotionModel
from stages.motion.opencv_motion import OpencvMotion
from stages.motion.raft import RaftMotion

if TYPE_CHECKING:
    from stages.depth_transformers import TransformersDepth

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What the log says of a depth model; a folder without config.json is taken for one of maps.
_SOURCES: dict[str, str] = {
    "embedded": "{}",
    "hub": "{} of the model hub",
    "onnx": "the ONNX model {}",
    "transformers": "the transformers model in {}",
    "maps": "the maps in {}",
}
# A file, line and function of its source, in the middle of onnxruntime's messages.
_PLACE_IN_ONNXRUNTIME = re.compile(r"/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z])")
_DIRECTIONS: dict[DepthKind, str] = {"depth": "larger = farther", "inverse_depth": "larger = nearer"}

# DPT never runs this unit of its first fusion layer, and checkpoints come without it.
_UNUSED_IN_DPT = "fusion_stage.layers.0.residual_layer1."


_LOADED: ContextVar[dict[Hashable, Any] | None] = ContextVar("loaded", default=None)


@contextmanager
def loaded_once() -> Iterator[None]:
    """For the time of a block, what is loaded twice with the same arguments is the same object: several recipes with
    one network then have it in memory once.
    """
    token = _LOADED.set({})
    try:
        yield
    finally:
        _LOADED.reset(token)


def _loaded(key: Hashable, load: Callable[[], T]) -> T:
    known = _LOADED.get()
    if known is None:
        return load()
    if key not in known:
        known[key] = load()
    found: T = known[key]
    return found


def load_depth(spec: str, device: torch.device | str = "cpu", kind: DepthKind | None = None) -> DepthModel:
    """The depth model that `spec` means.

    spec: "fastdepth"; a name of `specs.HUB_DEPTH`; the path of an .onnx file with its .json sidecar beside it; a folder
    with a transformers model (config.json); "maps:FOLDER", or a folder without config.json, with depth maps.
    kind: overrides what is known of the direction of the model's output.
    Raises ConfigError for a spec that means nothing or a sidecar that is wrong, WeightsError for weights that cannot be
    had or do not fit.
    """
    return _loaded(("depth", spec, str(device), kind), lambda: _depth(spec, device, kind))


def _depth(spec: str, device: torch.device | str, kind: DepthKind | None) -> DepthModel:
    how, where = depth_source(spec)
    model: DepthMaps | OnnxDepth | TransformersDepth
    if how == "maps":
        model = DepthMaps(Path(where), kind or "depth")
    elif how in ("hub", "transformers"):
        model = _transformers(spec, where, device, kind)
    else:
        model = _onnx(weights.fetch([spec])[0] if how == "embedded" else Path(where), device, kind)
    logger.info("depth from %s, read as %s", _SOURCES[how].format(where), _DIRECTIONS[model.kind])
    return model


def load_motion(spec: str, device: torch.device | str = "cpu") -> MotionModel:
    """The model of flow and disparity that `spec` means.

    spec: "opencv", which needs no weights; "raft-things", torchvision's RAFT-large; "raft=FILE" for other weights of
        it, SMURF's for instance, or "raft=hub:OWNER/NAME/FILE"; "maps:FOLDER" for maps on disk, see `MotionMaps`.
    device: of a network; the others compute on the CPU.
    Raises ConfigError for a spec that means nothing, WeightsError for weights that cannot be had or do not fit.
    """
    return _loaded(("motion", spec, str(device)), lambda: _motion(spec, device))


def _motion(spec: str, device: torch.device | str) -> MotionModel:
    how, where = motion_source(spec)
    on_cpu = OpencvMotion(threads=len(os.sched_getaffinity(0)))
    if how == "opencv":
        return on_cpu
    if how == "maps":
        maps = MotionMaps(Path(where), on_cpu)
        computed = [FOLDERS[name] for name in maps.missing]
        logger.info("motion from the maps in %s%s", where, f"; {', '.join(computed)} by opencv" if computed else "")
        return maps
    path = Path(where) if how == "file" else RAFT_THINGS.ready() if how == "published" else _from_hub(spec, where)
    return RaftMotion(load_raft(path), device, spec)


def _from_hub(spec: str, place: str) -> Path:
    repository, name = hub_file(place)
    found = hub.file(repository, name)
    if found is None:
        raise hub.out_of_reach(f"--motion {spec}", repository, MOTION_FILE)
    return found


def feature_preset(spec: str) -> tuple[FeaturePreset, Path | None]:
    """Preset and file of weights (None: wherever they are found) that `spec` means; see `load_features`."""
    found = feature_spec(spec)
    name, path = found.name, found.path
    if name is None:
        assert path is not None  # else there is a name
        name = preset_name(read_checkpoint(path)) or ""
        if name not in PRESETS:
            raise ConfigError(f"{path} is none of {', '.join(PRESETS)}: say what it is, as in NAME={path}")
    return FeatureSpec(name, path).preset or _timm_preset(name), path


def load_features(
    spec: str, device: torch.device | str = "cpu", overrides: Mapping[str, Any] | None = None
) -> FeatureExtractor:
    """The feature extractor that `spec` means.

    spec: a name of PRESETS, of another package's backbone or of any ViT of timm (mean-centred tokens then); "NAME=FILE"
        for weights of one's own; the path of a checkpoint of DINO, DINOv2 or DINOv3 alone.
    overrides: fields of FeatureConfig to change.

    The affinity threshold that goes with the features is `feature_preset(spec)[0].tau`. Raises ConfigError for an
    unknown name or an override out of range, WeightsError for weights that cannot be had or do not fit.
    """
    own = tuple(sorted((overrides or {}).items()))
    return _loaded(("features", spec, str(device), own), lambda: _features(spec, device, overrides))


def _features(spec: str, device: torch.device | str, overrides: Mapping[str, Any] | None) -> FeatureExtractor:
    preset, path = feature_preset(spec)
    try:
        config = replace(preset.config, **(overrides or {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"features {spec}: {error}") from error
    name = feature_spec(spec).name
    own = own_backbone(name) if name is not None and name not in PRESETS else None
    try:
        if own is not None:
            return NetworkFeatures(_own_network(spec, own, path), config, device)
        if path is None:
            path = preset_weights(spec, config.model)
        return FeatureExtractor(build_vit(config.model, read_checkpoint(path), str(path)), config, device)
    except ValueError as error:
        raise ConfigError(f"features {spec}: {error}") from error


def _own_network(spec: str, own: Backbone, path: Path | None) -> torch.nn.Module:
    try:
        return own.load(path)
    except (OSError, ValueError) as error:
        raise WeightsError(f"features {spec} cannot be loaded: {error}") from error


def _timm_preset(name: str) -> FeaturePreset:
    """Of any ViT of timm; ConfigError when it is none."""
    # Mean-centred tokens at 0.1 are the safe reading of a backbone that nobody has tuned: any ViT has them, and a bias
    # common to all patches, which would make every pair similar, is gone.
    import timm

    if not timm.is_model(name):
        raise unknown_features(name)
    with torch.device("meta"):
        model: Any = timm.create_model(name, num_classes=0)
    try:
        patch = patch_side(model)
    except ValueError as error:
        raise ConfigError(
            f"{name} is not a ViT of timm that features can be read from ({error}): use {', '.join(PRESETS)}, or one "
            "of timm.list_models('vit_*patch*')"
        ) from error
    side = 60 if patch < 16 else 480 // patch
    config = FeatureConfig(
        name,
        patch,
        kind="tokens",
        centred=True,
        size=side * patch,
        mean=tuple(model.pretrained_cfg["mean"]),
        std=tuple(model.pretrained_cfg["std"]),
    )
    return FeaturePreset(config, tau=0.1)


def _onnx(path: Path, device: torch.device | str, kind: DepthKind | None) -> OnnxDepth:
    spec = onnx_spec(path, kind)
    try:
        content = path.read_bytes()
        model = OnnxDepth(content, spec, device, str(path), weights_beside(path, content))
    except ValueError as error:
        raise ConfigError(f"{path.with_suffix('.json')}: {error}") from error
    except WeightsError:
        raise
    # onnxruntime's own exceptions have no common base
    except Exception as error:
        why = _PLACE_IN_ONNXRUNTIME.sub("", brief(error, 2000))[:400]
        raise WeightsError(f"{path} cannot be loaded as an ONNX model; fetch or export it again: {why}") from error
    if torch.device(device).type == "cuda" and model.provider != "CUDAExecutionProvider":
        logger.warning("%s runs on the CPU: install onnxruntime-gpu to run it on the GPU", path.name)
    return model


def _transformers(name: str, source: str, device: torch.device | str, kind: DepthKind | None) -> TransformersDepth:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation  # heavy (two seconds)

    from stages.depth_transformers import TransformersDepth

    in_folder = Path(source).is_dir()
    if in_folder:
        refuse_broken_in(Path(source))
    local_only = in_folder or not hub.reachable()
    try:
        processor = AutoImageProcessor.from_pretrained(source, local_files_only=local_only)
        # Weights that a checkpoint lacks are drawn at random: always the same ones, or the fingerprint would change.
        with torch.random.fork_rng(devices=[]), _without_report():
            torch.manual_seed(0)
            loaded: Any = AutoModelForDepthEstimation.from_pretrained(
                source, local_files_only=local_only, output_loading_info=True, ignore_mismatched_sizes=True
            )
    # the library raises whatever its readers of JSON and weights do
    except Exception as error:
        if in_folder:
            raise WeightsError(f"depth model in {source} cannot be loaded; fetch it again: {brief(error)}") from error
        if local_only:
            raise hub.out_of_reach(f"--depth {name}", source, DEPTH_FOLDER) from error
        raise WeightsError(
            f"--depth {name} ({source}) cannot be loaded: {brief(error)}. Download it elsewhere and give {DEPTH_FOLDER}"
        ) from error
    model, report = loaded
    missing = sorted(key for key in report["missing_keys"] if _UNUSED_IN_DPT not in key)
    if missing:
        raise WeightsError(f"depth model {name} lacks weights: {', '.join(missing[:5])} ({len(missing)} in all)")
    if mismatched := sorted(key for key, *_ in report["mismatched_keys"]):
        raise WeightsError(
            f"weights of depth model {name} have other shapes than its config.json says, {mismatched[0]} for one "
            f"({len(mismatched)} in all): take both from the same place"
        )
    try:
        return TransformersDepth(model.float(), processor, device, kind, name)
    except ValueError as error:
        raise ConfigError(f"depth model {name}: {error}") from error


@contextmanager
def _without_report() -> Iterator[None]:
    """Without the table that transformers logs of weights that do not fit: what counts of it becomes an error here."""
    from transformers.utils import logging as of_transformers

    before = of_transformers.get_verbosity()
    of_transformers.set_verbosity_error()
    try:
        yield
    finally:
        of_transformers.set_verbosity(before)
