"""What mmcv's operators are called with to be compared: by record_operators.py, where mmcv is compiled, and by
test_operators.py. All numbers come from numpy's generators, by seeds, so that both see the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmcv.ops import RoIAlign, batched_nms, nms, roi_align

from support import ROOT

RECORDED = ROOT / "tests" / "detector" / "operators" / "mmcv_operators.npz"

Outcome = Mapping[str, np.ndarray]
_REFUSALS = (TypeError, ValueError, AssertionError, RuntimeError, NameError)
FLOATS = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """A call. operator: makes the outcome out of the options."""

    name: str
    operator: Callable[..., Outcome]
    options: Mapping[str, Any] = field(default_factory=dict)

    def outcome(self) -> Outcome:
        """Arrays by name, floats in double precision; or "refused", the kind of error."""
        try:
            return self.operator(**self.options)
        except _REFUSALS as error:
            return {"refused": np.array(next(kind.__name__ for kind in _REFUSALS if isinstance(error, kind)))}


def boxes_and_scores(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 (N, 4) edges and (N,) scores."""
    rng = np.random.default_rng(7)
    corners, sizes = rng.uniform(0, 80, (150, 2)), rng.gamma(2, 12, (150, 2))
    boxes, scores = np.concatenate([corners, corners + sizes], 1), rng.uniform(0, 1, 150)
    if kind == "ties":  # five scores for all, and many equal boxes: the compiled order is that of the processor
        boxes, scores = np.round(boxes / 20) * 20, np.round(scores * 4) / 4
    elif kind == "all equal":
        boxes, scores = np.tile(boxes[:1], (9, 1)), np.full(9, 0.5)
    elif kind == "few ties":
        boxes, scores = np.round(boxes[:16] / 20) * 20, np.round(scores[:16] * 4) / 4
    elif kind == "flat":  # of no width, of no height, a point: alone and on each other
        boxes[:60, 2], boxes[40:100, 3] = boxes[:60, 0], boxes[40:100, 1]
        boxes[100:] = boxes[:50]
    elif kind == "inside out":
        boxes[::3] = boxes[::3][:, [2, 3, 0, 1]]
    elif kind == "at the threshold":  # IoU of 0.3, 0.5, 0.7 with the first, to the last bit
        boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 3], [0, 0, 10, 5], [0, 0, 10, 7], [0, 0, 7, 10]], np.float64)
        scores = np.linspace(0.9, 0.1, 5)
    elif kind == "far away":
        boxes, scores = boxes + 1e6, scores
    elif kind == "not finite":
        boxes[3, 2], boxes[5], scores[7] = np.inf, np.nan, np.inf
    elif kind in ("none", "one"):
        boxes, scores = boxes[: kind == "one"], scores[: kind == "one"]
    return boxes.astype(np.float32), scores.astype(np.float32)


def run_nms(kind: str = "random", dtype: str = "float32", as_numpy: bool = False, **options: Any) -> Outcome:
    boxes, scores = boxes_and_scores(kind)
    if as_numpy:
        kept, indices = nms(boxes, scores, **options)
        assert isinstance(kept, np.ndarray)
        return {"kept": kept, "indices": indices}
    kept, indices = nms(
        torch.from_numpy(boxes).to(FLOATS[dtype]), torch.from_numpy(scores).to(FLOATS[dtype]), **options
    )
    return {"kept": _array(kept), "indices": _array(indices)}


def run_batched_nms(
    kind: str = "random", dtype: str = "float32", nms_cfg: Any = None, classes: int = 3, **options: Any
) -> Outcome:
    boxes, scores = boxes_and_scores(kind)
    labels = np.random.default_rng(3).integers(0, classes, len(boxes))
    tensors = (torch.from_numpy(boxes).to(FLOATS[dtype]), torch.from_numpy(scores).to(FLOATS[dtype]))
    configured = None if nms_cfg is None else dict(nms_cfg)
    kept, indices = batched_nms(*tensors, torch.from_numpy(labels), configured, **options)
    assert configured == nms_cfg  # what it is given stays as it is
    return {"kept": _array(kept), "indices": _array(indices)}


def features_and_regions(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 (2, 3, 20, 24) features, (R, 5) regions: image, edges in pixels of a photo of 320 x 384."""
    rng = np.random.default_rng(11)
    features = rng.normal(size=(2, 3, 20, 24))
    corners, sizes = rng.uniform(-40, 340, (12, 2)), rng.gamma(2, 40, (12, 2))
    regions = np.concatenate([rng.integers(0, 2, (12, 1)), corners, corners + sizes], 1)
    if kind == "flat":
        regions[:6, 3], regions[4:10, 4], regions[10:, 3:] = regions[:6, 1], regions[4:10, 2], regions[10:, 1:3]
    elif kind == "inside out":
        regions[::2] = regions[::2][:, [0, 3, 4, 1, 2]]
    elif kind == "outside":
        regions[:, 1:] += 2000
    elif kind == "huge":
        regions[:, 1:3], regions[:, 3:] = -900, 1200
    elif kind == "whole pixels":
        regions = np.round(regions / 16) * 16
        regions[:, 0] = np.arange(12) % 2
    elif kind in ("none", "one"):
        regions = regions[: kind == "one"]
    elif kind == "no features":
        features, regions = features[:0], regions[:0]
    return features.astype(np.float32), regions.astype(np.float32)


def run_roi_align(
    kind: str = "random",
    dtype: str = "float32",
    rois_dtype: str | None = None,
    output_size: Any = 7,
    scale: float = 1 / 16,
    sampling_ratio: int = 0,
    pool_mode: str = "avg",
    aligned: bool = True,
    strided: bool = False,
    autocast: str | None = None,
) -> Outcome:
    """Forward and backward. strided: the gradient of the output comes in no plain order of memory."""
    features, regions = features_and_regions(kind)
    features_BCHW = torch.from_numpy(features).to(FLOATS[dtype])
    features_BCHW.requires_grad_()
    regions_R5 = torch.from_numpy(regions).to(FLOATS[rois_dtype or dtype])
    with torch.autocast("cpu", FLOATS[autocast or "bfloat16"], enabled=autocast is not None):
        pooled = roi_align(features_BCHW, regions_R5, output_size, scale, sampling_ratio, pool_mode, aligned)
        layer = RoIAlign(output_size, scale, sampling_ratio, pool_mode, aligned)
        assert torch.equal(layer(features_BCHW, regions_R5), pooled)
    weights = np.random.default_rng(5).normal(size=pooled.shape).astype(np.float32)
    weights_RChw = torch.from_numpy(weights).to(pooled.dtype)
    if strided:
        weights_RChw = weights_RChw.transpose(2, 3).contiguous().transpose(2, 3)
    pooled.backward(weights_RChw)
    return {"pooled": _array(pooled), "gradient": _array(features_BCHW.grad), "dtype": np.array(str(pooled.dtype))}


def _array(tensor: torch.Tensor | None) -> np.ndarray:
    assert tensor is not None
    tensor = tensor.detach()
    return tensor.float().numpy() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.numpy()


_KINDS_OF_BOXES = ("random", "none", "one", "flat", "few ties", "all equal", "inside out", "far away", "not finite")
_KINDS_OF_REGIONS = ("random", "none", "one", "flat", "outside", "huge", "whole pixels", "inside out", "no features")


def _all() -> list[Case]:
    cases = [Case(f"nms {kind}", run_nms, {"kind": kind, "iou_threshold": 0.5}) for kind in _KINDS_OF_BOXES]
    cases += [
        Case(f"nms {kind}, offset", run_nms, {"kind": kind, "iou_threshold": 0.5, "offset": 1})
        for kind in ("random", "none", "flat", "few ties", "inside out")
    ]
    cases += [
        Case(f"nms at the threshold {threshold}", run_nms, {"kind": "at the threshold", "iou_threshold": threshold})
        for threshold in (0.3, 0.5, 0.7)
    ]
    further_nms: dict[str, dict[str, Any]] = {
        "threshold 0": {"iou_threshold": 0.0},
        "threshold 1": {"iou_threshold": 1.0, "kind": "few ties"},
        "numpy": {"iou_threshold": 0.4, "as_numpy": True},
        "score_threshold": {"iou_threshold": 0.6, "score_threshold": 0.4},
        "score_threshold over all": {"iou_threshold": 0.6, "score_threshold": 2.0},
        "max_num": {"iou_threshold": 0.6, "max_num": 5},
        "all options": {"iou_threshold": 0.6, "score_threshold": 0.2, "max_num": 9, "offset": 1},
        "another offset": {"iou_threshold": 0.6, "offset": 2},
        "float64": {"iou_threshold": 0.5, "dtype": "float64"},
        "float16": {"iou_threshold": 0.5, "dtype": "float16"},
        "bfloat16": {"iou_threshold": 0.5, "dtype": "bfloat16"},
    }
    cases += [Case(f"nms {name}", run_nms, options) for name, options in further_nms.items()]

    plain = {"type": "nms", "iou_threshold": 0.5}
    cases += [
        Case(f"batched_nms {kind}", run_batched_nms, {"kind": kind, "nms_cfg": plain}) for kind in _KINDS_OF_BOXES
    ]
    further_batched: dict[str, dict[str, Any]] = {
        "one class": {"nms_cfg": plain, "classes": 1},
        "80 classes": {"nms_cfg": plain, "classes": 80},
        "class_agnostic": {"nms_cfg": plain, "class_agnostic": True},
        "class_agnostic in the configuration": {"nms_cfg": {**plain, "class_agnostic": True}},
        "split": {"nms_cfg": {**plain, "split_thr": 40}},
        "split, ties": {"nms_cfg": {**plain, "split_thr": 12}, "kind": "few ties"},
        "split, max_num": {"nms_cfg": {**plain, "split_thr": 40, "max_num": 6}},
        "max_num": {"nms_cfg": {**plain, "max_num": 6}},
        "score_threshold": {"nms_cfg": {**plain, "score_threshold": 0.4}},
        "offset": {"nms_cfg": {**plain, "offset": 1}},
        "iou_thr": {"nms_cfg": {"iou_thr": 0.5}},
        "no type": {"nms_cfg": {"iou_threshold": 0.5}},
        "no configuration": {"nms_cfg": None},
        "unknown type": {"nms_cfg": {"type": "no_such_nms"}},
        "float64": {"nms_cfg": plain, "dtype": "float64"},
        "float16": {"nms_cfg": plain, "dtype": "float16"},
    }
    cases += [Case(f"batched_nms {name}", run_batched_nms, options) for name, options in further_batched.items()]

    cases += [Case(f"roi_align {kind}", run_roi_align, {"kind": kind}) for kind in _KINDS_OF_REGIONS]
    cases += [
        Case(f"roi_align {kind}, not aligned", run_roi_align, {"kind": kind, "aligned": False})
        for kind in ("random", "flat", "outside", "inside out")
    ]
    further_align: dict[str, dict[str, Any]] = {
        "14": {"output_size": 14},
        "3 x 5": {"output_size": (3, 5), "scale": 0.07},
        "scale 1": {"scale": 1.0},
        "two samples": {"sampling_ratio": 2},
        "two samples, flat": {"sampling_ratio": 2, "kind": "flat"},
        "two samples, not aligned": {"sampling_ratio": 2, "aligned": False},
        "strided": {"strided": True},
        "float64": {"dtype": "float64", "scale": 0.07},
        "float16": {"dtype": "float16"},
        "float16, flat": {"dtype": "float16", "kind": "flat"},
        "float16, not aligned": {"dtype": "float16", "aligned": False, "sampling_ratio": 2},
        "bfloat16": {"dtype": "bfloat16"},
        "two types": {"dtype": "float16", "rois_dtype": "float32"},
        "autocast": {"autocast": "bfloat16"},
        "autocast, float16": {"autocast": "float16", "dtype": "float16"},
        "autocast, bfloat16": {"autocast": "bfloat16", "dtype": "bfloat16"},
        "unknown pool_mode": {"pool_mode": "median"},
    }
    cases += [Case(f"roi_align {name}", run_roi_align, options) for name, options in further_align.items()]
    return cases


CASES = {case.name: case for case in _all()}
