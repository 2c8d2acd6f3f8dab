"""What mmcv.ops calls in its compiled module, on torchvision's operators.

Names and arguments are those by which mmcv 2.1.0 calls the module, results go where it expects them. How far they equal
the compiled operators, tests/detector/operators/test_operators.py says. Any other name of the compiled module is here,
too, as a function that raises ConfigError when it is called: mmcv asks for all of them when it is imported.

Shape legend: N boxes, R regions of interest, B×C×H×W feature maps, h×w what becomes of a region.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torchvision
from torch import Tensor

from detector.operators import INSTALL_COMPILED
from pipeline.errors import ConfigError

_AVERAGE = 1  # of mmcv's numbers for pool_mode; 0 is the maximum


def nms(boxes_N4: Tensor, scores_N: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """int64 indices of the boxes that no better one overlaps by more than the threshold, best first.

    boxes_N4: edges x1, y1, x2, y2.
    offset: what is added to widths and heights, 1 where the edges are pixels' numbers.

    Of equal scores the earlier comes first; with the compiled operator that holds for a few boxes only, as it sorts by
    torch's unstable sort.
    """
    if offset:
        boxes_N4 = boxes_N4 + boxes_N4.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(boxes_N4, scores_N, _single(iou_threshold))


def roi_align_forward(
    input_BCHW: Tensor,
    rois_R5: Tensor,
    output_RChw: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill output_RChw with the means over the bins of each region.

    rois_R5: image, x1, y1, x2, y2, in pixels of the photo, which `spatial_scale` makes pixels of the map.

    Raises RuntimeError for regions of negative size or of none (NaN), if aligned and on the CPU: so does the compiled
    operator.
    """
    _average_only(pool_mode)
    if aligned and rois_R5.device.type == "cpu" and not (rois_R5[:, 3:] >= rois_R5[:, 1:3]).all():
        raise RuntimeError("roi_align got a region that ends before it begins, or whose edges are no numbers")
    # Half precision is meant where it comes in: under autocast torchvision would go by way of single.
    with torch.autocast(input_BCHW.device.type, enabled=False):
        pooled_RChw = torch.ops.torchvision.roi_align(
            input_BCHW, rois_R5, _single(spatial_scale), aligned_height, aligned_width, sampling_ratio, aligned
        )
    output_RChw.copy_(pooled_RChw)


def roi_align_backward(
    gradient_RChw: Tensor,
    rois_R5: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    gradient_BCHW: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill gradient_BCHW, of the input, from that of the output."""
    _average_only(pool_mode)
    gradient = torch.ops.torchvision._roi_align_backward(
        *(gradient_RChw, rois_R5, _single(spatial_scale), aligned_height, aligned_width),
        *(*gradient_BCHW.shape, sampling_ratio, aligned),
    )
    gradient_BCHW.copy_(gradient)


def get_compiler_version() -> str:
    """For reports on the environment."""
    return "none: mmcv-lite, with cuts3d's operators on torchvision's"


def get_compiling_cuda_version() -> str:
    """For reports on the environment."""
    return f"that of torchvision {torchvision.__version__}"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*arguments: Any, **options: Any) -> NoReturn:
        raise _needs_compiler(name)

    missing.__name__ = name
    return missing


def _average_only(pool_mode: int) -> None:
    if pool_mode != _AVERAGE:
        raise _needs_compiler("roi_align with pool_mode='max'")


def _needs_compiler(operator: str) -> ConfigError:
    return ConfigError(
        f"mmcv's operator {operator} needs the compiled mmcv, and mmcv-lite is installed, beside which cuts3d has no "
        f"more than its own detectors use. To compile it, once, for 5 to 10 minutes: {INSTALL_COMPILED}"
    )


def _single(value: float) -> float:
    """The nearest number of single precision, which is what mmcv takes: in double, an IoU of 0.3 is over 0.3."""
    return ctypes.c_float(value).value
