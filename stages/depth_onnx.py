"""Depth by any ONNX monocular model, described by a JSON sidecar: what it takes and what its numbers mean.

Letters: B images, H, W pixels; h, w the size of the model's input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image

from stages.depth import DepthKind, check_kind, relative_depth
from stages.fingerprint import text_digest
from stages.late import torch

# What sidecars say in words about the direction of the numbers.
_KIND_OF_TEXT: dict[str, DepthKind] = {
    "depth": "depth",
    "depth, larger = farther": "depth",
    "inverse_depth": "inverse_depth",
    "relative inverse depth, larger = nearer": "inverse_depth",
}

_DTYPES: dict[str, type[np.floating]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class OnnxDepthSpec:
    """What an ONNX depth model takes (1 x 3 x h x w, planar) and gives (one map); the parsed JSON sidecar.

    size: (h, w) of the input; or its long side, the aspect kept and both sides rounded to a multiple of `multiple_of`.
    value_range: what pixels 0..255 are scaled to.
    mean, std: per channel, applied after the scaling.
    """

    model: str
    input: str
    output: str
    kind: DepthKind
    size: tuple[int, int] | int
    multiple_of: int = 1
    colour: str = "RGB"
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if self.multiple_of < 1:
            raise ValueError(f"multiple_of is {self.multiple_of}: use at least 1")
        if isinstance(self.size, int):
            if self.size < self.multiple_of:
                raise ValueError(f"long_side is {self.size}: use at least multiple_of ({self.multiple_of})")
        elif len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size is {self.size}: use [height, width], both at least 1")
        if self.colour not in ("RGB", "BGR"):
            raise ValueError(f"colour is {self.colour!r}: use RGB or BGR")
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"range is {self.value_range}: use [low, high] with low < high")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean, std are {self.mean}, {self.std}: use three numbers each, std above 0")

    @classmethod
    def parse(cls, sidecar: Mapping[str, Any]) -> OnnxDepthSpec:
        """The description out of a sidecar's JSON object; ValueError names a field that is missing, unknown or wrong.

        `output_kind` may be "depth" or "inverse_depth", or say it in words ("depth, larger = farther", "relative
        inverse depth, larger = nearer"). `licence` is for people and ignored here.
        """
        given: dict[str, Any] = dict(sidecar)
        missing = [key for key in ("model", "input", "output", "output_kind") if key not in given]
        if missing:
            raise ValueError(f"the sidecar lacks {', '.join(missing)}")
        text = given.pop("output_kind")
        if text not in _KIND_OF_TEXT:
            raise ValueError(f"output_kind is {text!r}: use one of {'; '.join(_KIND_OF_TEXT)}")
        if given.pop("layout", "NCHW") != "NCHW":
            raise ValueError(f"layout is {sidecar['layout']!r}: only NCHW models are supported")
        if ("size" in given) == ("long_side" in given):
            raise ValueError("size, long_side: the sidecar must give exactly one of the two")
        if given.pop("keep_aspect", "long_side" in given) != ("long_side" in given):
            raise ValueError("keep_aspect must be true with long_side and false with a fixed size")
        given.pop("licence", None)
        for key, field in (("long_side", "size"), ("range", "value_range")):
            if key in given:
                given[field] = given.pop(key)
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"the sidecar has unknown fields {', '.join(unknown)}")
        given["kind"] = _KIND_OF_TEXT[text]
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
        return cls(**values)

    def input_size(self, H: int, W: int) -> tuple[int, int]:
        """(h, w) that an image of H x W pixels is resized to."""
        if not isinstance(self.size, int):
            return self.size
        scale = self.size / max(H, W)
        h, w = (max(1, round(side * scale / self.multiple_of)) * self.multiple_of for side in (H, W))
        return h, w


class OnnxDepth:
    """A `DepthModel` on onnxruntime: CUDA where `device` is a GPU and the provider is installed, else CPU.

    model_bytes: the .onnx file. Images of one input size go through together where the model's batch axis is dynamic,
        one at a time where it is fixed.
    path: where the file is, when weights of it lie beside it.
    beside: names and digests of those weights.

    Raises ValueError when the model cannot be what the sidecar says, and whatever onnxruntime does for what it cannot
    load.
    """

    def __init__(
        self,
        model_bytes: bytes,
        spec: OnnxDepthSpec,
        device: torch.device | str = "cpu",
        path: str | None = None,
        beside: Sequence[tuple[str, str]] = (),
    ) -> None:
        import onnxruntime  # for this kind of model only

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        if torch.device(device).type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        # Given bytes, onnxruntime looks for the weights in the current folder.
        session = onnxruntime.InferenceSession(path or model_bytes, sess_options=options, providers=providers)
        self._dtype = _checked_input(session, spec)
        self.name = spec.model
        self.kind = spec.kind
        digests = [part for name_digest in beside for part in name_digest]
        self.fingerprint = text_digest(hashlib.sha256(model_bytes).hexdigest(), repr(asdict(spec)), *digests)
        self.provider: str = session.get_providers()[0]
        self._spec = spec
        self._session = session
        self._batches = not isinstance(_input_of(session, spec).shape[0], int)

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        """See `DepthModel.predict`; (h, w) is the model's output size."""
        sizes = [self._spec.input_size(*image.shape[:2]) for image in images]
        depths: dict[int, np.ndarray] = {}
        order = sorted(range(len(images)), key=lambda i: sizes[i])
        for size, group in groupby(order, key=lambda i: sizes[i]):
            members = list(group)
            step = len(members) if self._batches else 1
            for start in range(0, len(members), step):
                batch = members[start : start + step]
                pixels = np.stack([self._prepare(images[i], size) for i in batch])
                raw = self._session.run([self._spec.output], {self._spec.input: pixels})[0]
                # Models give (B, 1, h, w) or (B, h, w); a dimension of one channel carries nothing.
                raw = raw.reshape(len(batch), *raw.shape[-2:])
                for i, map_ in zip(batch, raw, strict=True):
                    depths[i] = relative_depth(map_, self._spec.kind, f"{ids[i]}: depth by {self.name}")
        return [depths[i] for i in range(len(images))]

    def _prepare(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        h, w = size
        resized = Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC)
        low, high = self._spec.value_range
        pixels = np.asarray(resized, np.float32) * ((high - low) / 255) + low
        if self._spec.colour == "BGR":
            pixels = pixels[..., ::-1]
        normalised = (pixels - np.array(self._spec.mean)) / np.array(self._spec.std)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1), self._dtype)


def _input_of(session: Any, spec: OnnxDepthSpec) -> Any:
    return next(node for node in session.get_inputs() if node.name == spec.input)


def _checked_input(session: Any, spec: OnnxDepthSpec) -> type[np.floating]:
    """The type of the model's input; ValueError when it cannot take what the sidecar says."""
    inputs = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]
    if spec.input not in inputs or spec.output not in outputs:
        raise ValueError(
            f"{spec.model}: the sidecar names input {spec.input!r} and output {spec.output!r}, "
            f"the model has inputs {', '.join(inputs)} and outputs {', '.join(outputs)}"
        )
    if others := [name for name in inputs if name != spec.input]:
        raise ValueError(f"{spec.model}: it takes {', '.join(others)} beside the picture: export it without")
    node = _input_of(session, spec)
    if node.type not in _DTYPES:
        raise ValueError(f"{spec.model}: its input is of {node.type}: export it for {' or '.join(_DTYPES)}")
    fixed = None if isinstance(spec.size, int) else spec.size
    wanted = (1 if isinstance(node.shape[0], int) else None, 3, *(fixed or (None, None))) if node.shape else ()
    fits = len(node.shape) == len(wanted) and all(
        not isinstance(own, int) or own == other for own, other in zip(node.shape, wanted, strict=True)
    )
    if not fits:
        said = f"{fixed[0]}x{fixed[1]}" if fixed else f"long_side {spec.size}"
        raise ValueError(
            f"{spec.model}: its input has shape {node.shape}, which does not fit 1 x 3 x height x width with the "
            f"sidecar's size, {said}"
        )
    return _DTYPES[node.type]
