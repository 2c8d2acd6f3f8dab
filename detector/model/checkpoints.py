"""A trained detector in one file, that loads without running anything of what is in it.

detector.safetensors, as `cuts3d train` writes it at the end, holds the tensors of the model by their names, and as
metadata

    schema       "cuts3d-detector/1"
    config       JSON text, what it takes to build the model and to prepare a photo for it, see `DetectorCheckpoint`
    trained_on   JSON text, for people and logs: runs, iterations, seed, versions

Earlier versions wrote detector.pth, torch's own kind of file, a dictionary of these three and the `state_dict`, which
is read as well. Neither needs our classes or MMEngine's to be read. A checkpoint that MMEngine writes while training
(iter_N.pth) holds the same tensors; its config and origin are those of detector.json beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detector.model.checkpoint_files import STATE_DICT, read_content, write_tensors
from detector.model.panoptic_classes import PanopticClasses
from pipeline.errors import WeightsError
from pipeline.models.torch_files import need_weights
from pipeline.storage.files_at import files_at
from stages.late import torch

SCHEMA = "cuts3d-detector/1"
BACKENDS = ("cv2", "pillow")  # libraries that resize photos
DETECTOR_FILE, DESCRIPTION_FILE = "detector.safetensors", "detector.json"
_EARLIER_FILE = "detector.pth"

_CONFIG_KEYS = {"name": str, "classes": list, "model": dict, "resize": dict, "mean": list, "std": list}
# MMEngine takes a dotted name as something to import, whatever it is; a file must not have that said to it.
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, eq=False)
class DetectorCheckpoint:
    """A trained detector, read and checked.

    config: plain JSON:
        name: of the configuration it was trained with.
        classes: names of what its boxes are; of a class-agnostic detector one.
        panoptic: of a panoptic detector alone, `PanopticClasses.to_json`.
        model: of MMDetection's registry, without initial weights.
        resize: {"short": pixels, "long": pixels}: photos are scaled, their aspect kept, until the shorter side has
        `short` pixels or the longer `long`, whichever comes first. "backend", by which library: "cv2", the default, or
        "pillow", which smooths what it makes smaller.
        mean, std: of three channels in RGB order, 0..255; the model's own preprocessor applies them, to BGR input.
    trained_on: see the module.
    state_dict: by name, on the CPU.
    path: of the file.
    """

    path: Path
    config: dict[str, Any]
    trained_on: dict[str, Any]
    state_dict: Mapping[str, torch.Tensor]

    @property
    def panoptic(self) -> PanopticClasses | None:
        """Things and stuff of a panoptic detector, None of another."""
        return PanopticClasses.from_json(self.config["panoptic"]) if "panoptic" in self.config else None

    @cached_property
    def sha256(self) -> str:
        """Of the file, in hexadecimal: what names these weights in a run's configuration."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def write_detector(
    path: Path, state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any], trained_on: Mapping[str, Any]
) -> None:
    """Write a detector.safetensors: whole, or not at all; the same detector is the same to the byte.

    config, trained_on: JSON-able, see `DetectorCheckpoint`.
    """
    texts = {
        "schema": SCHEMA,
        "config": json.dumps(config, sort_keys=True),
        "trained_on": json.dumps(trained_on, sort_keys=True),
    }
    write_tensors(path, state_dict, texts)


def detector_in(folder: Path) -> Path:
    """What a training leaves in its folder when it is done, there or not yet; where an earlier version of cuts3d has
    done it, that version's file.
    """
    earlier = folder / _EARLIER_FILE
    return earlier if earlier.is_file() and not (folder / DETECTOR_FILE).is_file() else folder / DETECTOR_FILE


def read_detector(path: str | Path) -> DetectorCheckpoint:
    """A detector.safetensors, a detector.pth, or a checkpoint of a training beside its detector.json.

    Nothing in the file is run: .pth files are read under torch's `weights_only`, the configuration is JSON.

    Raises:
        WeightsError: there is no such file, it is damaged, or it is no detector's; the message says what to do.
    """
    path = Path(path)
    content = read_content(path)
    if content.get("schema") == SCHEMA:
        config, trained_on = _parsed(content.get("config"), path), _parsed(content.get("trained_on"), path)
    elif "schema" in content:
        raise WeightsError(f"{path} is of schema {content['schema']!r}, this version reads {SCHEMA!r}")
    else:
        config, trained_on = _description_beside(path)
    _check_config(config, path)
    return DetectorCheckpoint(path, config, trained_on, _tensors(content, path))


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of any checkpoint, by name, on the CPU, read as by `read_detector`; WeightsError as there."""
    return _tensors(read_content(Path(path)), Path(path))


def write_description(folder: Path, config: Mapping[str, Any], trained_on: Mapping[str, Any]) -> None:
    """Write detector.json, which makes the checkpoints in this folder readable by `read_detector`."""
    text = json.dumps({"schema": SCHEMA, "config": config, "trained_on": trained_on}, indent=1, sort_keys=True)
    files_at(folder).write_atomic(DESCRIPTION_FILE, f"{text}\n".encode())


def _description_beside(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    beside = path.with_name(DESCRIPTION_FILE)
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} is no detector of cuts3d: give a {DETECTOR_FILE}, or a checkpoint of `cuts3d train` that lies "
            f"beside its {DESCRIPTION_FILE}; `cuts3d import-detector` makes one of a checkpoint of plain MMDetection "
            "or Detectron2"
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{beside} cannot be read, `cuts3d train --resume` writes it again: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise WeightsError(f"{beside} is not of schema {SCHEMA!r}: `cuts3d train --resume` writes it again")
    return _object(content.get("config"), beside), _object(content.get("trained_on"), beside)


def _parsed(text: Any, path: Path) -> dict[str, Any]:
    try:
        return _object(json.loads(text), path)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path} has a damaged description, copy the file again: {error}") from error


def _object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WeightsError(f"{path} has a damaged description: an object was expected, not {type(value).__name__}")
    return value


def _check_config(config: Mapping[str, Any], path: Path) -> None:
    wrong = [key for key, kind in _CONFIG_KEYS.items() if not isinstance(config.get(key), kind)]
    if wrong:
        raise WeightsError(f"{path} does not say how to use it: {', '.join(wrong)} missing or damaged")
    short, long = config["resize"].get("short"), config["resize"].get("long")
    if not (isinstance(short, int) and isinstance(long, int) and 0 < short <= long):
        raise WeightsError(f"{path} names no size for photos: {config['resize']}")
    if config["resize"].get("backend", "cv2") not in BACKENDS:
        raise WeightsError(f"{path} has photos resized by none of {', '.join(BACKENDS)}: {config['resize']}")
    try:
        if "panoptic" in config:
            PanopticClasses.from_json(config["panoptic"])
    except ValueError as error:
        raise WeightsError(f"{path} does not say which classes it finds: {error}") from error
    _refuse_odd_types(config["model"], path)


def _refuse_odd_types(value: Any, path: Path) -> None:
    """WeightsError where building the model would import something by its name."""
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str) or key.startswith("_")]
        kind = value.get("type", "plain")
        if odd or not (isinstance(kind, str) and _PLAIN_NAME.fullmatch(kind)):
            raise WeightsError(f"{path} asks for {odd or kind!r}: only components of MMDetection and cuts3d are built")
        for part in value.values():
            _refuse_odd_types(part, path)
    elif isinstance(value, list):
        for part in value:
            _refuse_odd_types(part, path)


def _tensors(content: Mapping[str, Any], path: Path) -> dict[str, torch.Tensor]:
    state = content.get(STATE_DICT)
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(
            f"{path} holds no state_dict of tensors: give a checkpoint of `cuts3d train`; one of Detectron2's becomes "
            "a detector by `cuts3d import-detector --layout`"
        )
    need_weights(state, path)
    return dict(state)
