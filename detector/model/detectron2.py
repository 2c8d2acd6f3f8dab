"""What is known of Detectron2's detectors: how they name their tensors, and what their files do not say.

No torch here: commands ask for the names of layouts when they start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pipeline.errors import ConfigError

_IMAGENET_RGB = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
LEVEL_PREDICTOR = "level_predictor"  # HASSOD's: whole, part or part of a part


@dataclass(frozen=True)
class Layout:
    """How a method's detectors were trained, as far as their files do not tell.

    pixel_order: of the channels that the network takes, "rgb" or "bgr".
    mean, std: of the channels, in that order, of values 0..255.
    stride_in: the convolution of a bottleneck that scales down, "3x3" or "1x1".
    rpn_nms: IoU above which the worse of two proposals goes.
    fpn_norm: whether the feature pyramid has to have norms; None where it may or may not.
    level_predictor: whether each box head tells HASSOD's levels, too.
    """

    pixel_order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride_in: str
    rpn_nms: float
    fpn_norm: bool | None
    level_predictor: bool = False


_CUTLER = Layout("rgb", *_IMAGENET_RGB, stride_in="3x3", rpn_nms=0.65, fpn_norm=True)
# CuVLER, HASSOD and CutS3D train with CutLER's configuration: their published YAMLs agree in all of this.
LAYOUTS: Mapping[str, Layout] = {
    "cutler": _CUTLER,
    "cuvler": _CUTLER,
    "cuts3d": _CUTLER,
    "hassod": replace(_CUTLER, level_predictor=True),
    # Detectron2's defaults, which start from Caffe's ResNet-50.
    "detectron2": Layout("bgr", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "1x1", rpn_nms=0.7, fpn_norm=None),
}

# Of our tensors' names, all but the last part: Detectron2's, and what is added to each of the numbers.
_NAMES: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("backbone.conv1", "backbone.bottom_up.stem.conv1", ()),
    ("backbone.bn1", "backbone.bottom_up.stem.conv1.norm", ()),
    ("backbone.layer#.#.conv#", "backbone.bottom_up.res{0}.{1}.conv{2}", (1, 0, 0)),
    ("backbone.layer#.#.bn#", "backbone.bottom_up.res{0}.{1}.conv{2}.norm", (1, 0, 0)),
    ("backbone.layer#.#.downsample.0", "backbone.bottom_up.res{0}.{1}.shortcut", (1, 0)),
    ("backbone.layer#.#.downsample.1", "backbone.bottom_up.res{0}.{1}.shortcut.norm", (1, 0)),
    ("neck.lateral_convs.#.conv", "backbone.fpn_lateral{0}", (2,)),
    ("neck.lateral_convs.#.bn", "backbone.fpn_lateral{0}.norm", (2,)),
    ("neck.fpn_convs.#.conv", "backbone.fpn_output{0}", (2,)),
    ("neck.fpn_convs.#.bn", "backbone.fpn_output{0}.norm", (2,)),
    ("rpn_head.rpn_conv", "proposal_generator.rpn_head.conv", ()),
    ("rpn_head.rpn_cls", "proposal_generator.rpn_head.objectness_logits", ()),
    ("rpn_head.rpn_reg", "proposal_generator.rpn_head.anchor_deltas", ()),
    ("roi_head.bbox_head.#.shared_fcs.#", "roi_heads.box_head.{0}.fc{1}", (0, 1)),
    ("roi_head.bbox_head.#.fc_cls", "roi_heads.box_predictor.{0}.cls_score", (0,)),
    ("roi_head.bbox_head.#.fc_reg", "roi_heads.box_predictor.{0}.bbox_pred", (0,)),
    # One mask head there, which the stages share here, under a name of each.
    ("roi_head.mask_head.#.convs.#.conv", "roi_heads.mask_head.mask_fcn{1}", (0, 1)),
    ("roi_head.mask_head.#.upsample", "roi_heads.mask_head.deconv", (0,)),
    ("roi_head.mask_head.#.conv_logits", "roi_heads.mask_head.predictor", (0,)),
)
_RULES = tuple((re.compile(re.escape(ours).replace(r"\#", r"(\d+)")), theirs, added) for ours, theirs, added in _NAMES)

# Tensors that only networks of another kind have, and what those are.
_OTHER_KINDS = (
    (r"roi_head\.|rpn_head\.rpn_|bbox_head\.", "a detector with the names of MMDetection: give --config FILE alone"),
    (r"backbone\.(net|simfp_\d)\.", "a ViTDet, whose backbone is a transformer"),
    (r"sem_seg_head\.(predictor|pixel_decoder)\.", "a Mask2Former, which has no boxes"),
    (r"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.", "a Mask R-CNN without a cascade"),
    (r"roi_heads\.res5\.", "a detector without a feature pyramid (C4)"),
    (r"(stem|res\d\.\d)\.|(conv1|res_conv1|layer1\.0)[._]", "a backbone alone, of which no detector can be made"),
)
_IN_USE = re.compile(
    r"(backbone|proposal_generator|roi_heads\.(box_head|mask_head|box_predictor\.\d+\.(cls_score|bbox_pred)))\."
)
_BESIDE = re.compile(r"pixel_(mean|std)|proposal_generator\.anchor_generator\.")


def detectron_name(ours: str) -> str:
    """Detectron2's name of a tensor of our cascade; ConfigError for one that has no counterpart there."""
    start, _, last = ours.rpartition(".")
    for rule, theirs, added in _RULES:
        if match := rule.fullmatch(start):
            return f"{theirs.format(*map(sum, zip(map(int, match.groups()), added, strict=True)))}.{last}"
    raise ConfigError(
        f"the configuration's model has {ours}, which has no counterpart in Detectron2's cascade: give --config FILE "
        "with a plain ResNet and FPN"
    )


def other_kind(names: Iterable[str]) -> str | None:
    """What it is that has these tensors, where it is no cascade of Detectron2's; None where it may be one."""
    names = list(names)
    if any(name.startswith("roi_heads.box_predictor.0.") for name in names):
        return None
    return next((kind for pattern, kind in _OTHER_KINDS if any(re.match(pattern, name) for name in names)), None)


def of_detectron2(names: Iterable[str]) -> bool:
    """Whether tensors have names that a detector of Detectron2's has, and none of MMDetection's."""
    return any("proposal_generator.rpn_head." in name or "roi_heads.box_predictor." in name for name in names)


def is_beside(name: str) -> bool:
    """Whether a tensor is no weight, but says of pixels or anchors what its configuration says as well."""
    return _BESIDE.match(name) is not None


def is_extra_head(name: str) -> bool:
    """Whether boxes, scores and masks come about without this tensor, of those that our cascade has no place for."""
    return _IN_USE.match(name) is None
