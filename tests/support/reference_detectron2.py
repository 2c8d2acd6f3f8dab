"""Cascade Mask R-CNN as Detectron2 defines and names it, in plain torch, to hold imported detectors against.

Written from Detectron2's documentation of its layers, anchors, box coding and inference; nothing of MMDetection is in
it. `recorded_detectron2` holds it against what Detectron2 itself computed. Weights are random, by name and seed alone,
so that a file of them need not be kept.

A anchors of a cell · P proposals · M detections · H, W pixels of the photo · S stages of the cascade
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms, roi_align

RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MSRA_MEAN, MSRA_STD = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)
BOX_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
ANCHORS, EPS, LARGEST_SCALE = 3, 1e-5, math.log(1000 / 16)


@dataclass(frozen=True)
class Network:
    """What a file of Detectron2's does not say of its network, and how large it is here.

    mean, std: in the order of channels that the network takes.
    frozen: FrozenBatchNorm, which counts no batches.
    """

    rgb: bool = True
    mean: tuple[float, float, float] = RGB_MEAN
    std: tuple[float, float, float] = RGB_STD
    stride_in_1x1: bool = False
    frozen: bool = False
    fpn_norm: bool = True
    rpn_nms: float = 0.65
    short: int = 160
    long: int = 240
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    stem: int = 8
    bottleneck: int = 8
    fpn: int = 16
    fc: int = 32
    mask: int = 16


CUTLER = Network()
ZOO = Network(
    rgb=False, mean=MSRA_MEAN, std=MSRA_STD, stride_in_1x1=True, frozen=True, fpn_norm=False, rpn_nms=0.7
)  # Detectron2's own defaults


@dataclass(frozen=True, eq=False)
class Trace:
    """What the network computes of one photo, layer by layer. Boxes are x1, y1, x2, y2.

    features: of p2 to p6, (1, C, h, w). objectness: (1, A, h, w) logits of each. deltas: (1, 4A, h, w) of each.
    proposals: (P, 4) in the scaled image. stages: of each stage of the cascade its probabilities (P, 2) and boxes
    (P, 4). scaled_boxes: (M, 4). boxes: (M, 4) in the photo. scores: (M,). probabilities: (M, 28, 28). masks: bool
    (M, H, W).
    """

    features: list[Tensor]
    objectness: list[Tensor]
    deltas: list[Tensor]
    proposals: Tensor
    stages: list[tuple[Tensor, Tensor]]
    scaled_boxes: Tensor
    boxes: Tensor
    scores: Tensor
    probabilities: Tensor
    masks: Tensor


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by Detectron2's name."""
    return dict(_shapes(network))


def random_state(network: Network, seed: int = 0) -> dict[str, Tensor]:
    """Weights under which the network finds several objects, unlike the small ones that a training begins with."""
    state = {name: _random(name, shape, seed) for name, shape in _shapes(network)}
    state["backbone.bottom_up.stem.conv1.weight"] *= network.std[0] / RGB_STD[0]  # photos come in another range
    return state


def painted_photo(height: int, width: int, seed: int) -> np.ndarray:
    """uint8 RGB (H, W, 3): rectangles and noise."""
    random = np.random.RandomState(seed)
    tiles = random.randint(0, 256, (6, 8, 3))
    rows, columns = np.arange(height) * 6 // height, np.arange(width) * 8 // width
    return (tiles[rows][:, columns] + random.randint(-30, 31, (height, width, 3))).clip(0, 255).astype(np.uint8)


@torch.no_grad()
def detect(state: dict[str, Tensor], network: Network, photo: np.ndarray) -> Trace:
    """photo: uint8 RGB (H, W, 3)."""
    scaled = _resized(photo, network)
    size = scaled.shape[:2]
    features = _features(state, network, _normalised(scaled, network))
    heads = [_rpn(state, level) for level in features]
    proposals = _proposals([head[0] for head in heads], [head[1] for head in heads], size, network.rpn_nms)
    stages = []
    boxes = proposals
    for stage, weights in enumerate(BOX_WEIGHTS):
        scores, deltas = _box_head(state, stage, _pooled(features, boxes, 7))
        boxes = _clipped(_moved(boxes, deltas, weights), size)
        stages.append((scores, boxes))
    found = torch.stack([scores for scores, _ in stages]).mean(0)[:, 0]
    kept = nms(boxes, found, 0.5)
    kept = kept[found[kept] > 0][:100]
    kept_boxes = boxes[kept]
    logits = _mask_head(state, _pooled(features, kept_boxes, 14))
    probabilities = logits.sigmoid()[:, 0]
    height, width = photo.shape[:2]
    filled = (kept_boxes[:, 2] > kept_boxes[:, 0]) & (kept_boxes[:, 3] > kept_boxes[:, 1])
    kept, kept_boxes, probabilities = kept[filled], kept_boxes[filled], probabilities[filled]
    in_photo = _clipped(kept_boxes * kept_boxes.new_tensor([width / size[1], height / size[0]] * 2), (height, width))
    masks = torch.stack([_pasted(p, box, height, width) for p, box in zip(probabilities, in_photo, strict=True)])
    return Trace(
        features,
        [head[0] for head in heads],
        [head[1] for head in heads],
        proposals,
        stages,
        kept_boxes,
        in_photo,
        found[kept],
        probabilities,
        masks,
    )


def _shapes(network: Network) -> Iterator[tuple[str, tuple[int, ...]]]:
    def conv(name: str, out: int, into: int, side: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (out, into, side, side)
        if bias:
            yield f"{name}.bias", (out,)

    def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.norm.{part}", (channels,)
        if not network.frozen:
            yield f"{name}.norm.num_batches_tracked", ()

    def normed(name: str, out: int, into: int, side: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from conv(name, out, into, side, bias=False)
        yield from norm(name, out)

    yield from normed("backbone.bottom_up.stem.conv1", network.stem, 3, 7)
    into = network.stem
    for stage, blocks in enumerate(network.blocks):
        inner, out = network.bottleneck << stage, 4 * network.bottleneck << stage
        for block in range(blocks):
            name = f"backbone.bottom_up.res{stage + 2}.{block}"
            if block == 0:
                yield from normed(f"{name}.shortcut", out, into, 1)
            yield from normed(f"{name}.conv1", inner, into, 1)
            yield from normed(f"{name}.conv2", inner, inner, 3)
            yield from normed(f"{name}.conv3", out, inner, 1)
            into = out
        for kind, channels, side in (("lateral", out, 1), ("output", network.fpn, 3)):
            name = f"backbone.fpn_{kind}{stage + 2}"
            yield from conv(name, network.fpn, channels, side, bias=not network.fpn_norm)
            if network.fpn_norm:
                yield from norm(name, network.fpn)
    rpn = "proposal_generator.rpn_head"
    yield from conv(f"{rpn}.conv", network.fpn, network.fpn, 3)
    yield from conv(f"{rpn}.objectness_logits", ANCHORS, network.fpn, 1)
    yield from conv(f"{rpn}.anchor_deltas", 4 * ANCHORS, network.fpn, 1)
    for stage in range(len(BOX_WEIGHTS)):
        head, predictor = f"roi_heads.box_head.{stage}", f"roi_heads.box_predictor.{stage}"
        for name, out, into in (
            (f"{head}.fc1", network.fc, network.fpn * 49),
            (f"{head}.fc2", network.fc, network.fc),
            (f"{predictor}.cls_score", 2, network.fc),
            (f"{predictor}.bbox_pred", 4, network.fc),
        ):
            yield f"{name}.weight", (out, into)
            yield f"{name}.bias", (out,)
    mask = "roi_heads.mask_head"
    for number in range(4):
        yield from conv(f"{mask}.mask_fcn{number + 1}", network.mask, network.mask if number else network.fpn, 3)
    yield f"{mask}.deconv.weight", (network.mask, network.mask, 2, 2)
    yield f"{mask}.deconv.bias", (network.mask,)
    yield from conv(f"{mask}.predictor", 1, network.mask, 1)


def _random(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    random = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))  # whose numbers stay the same
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if ".norm." in name:
        low, high = {"weight": (0.3, 0.7), "running_var": (0.7, 1.5)}.get(name.rpartition(".")[2], (-0.2, 0.2))
        return torch.from_numpy(random.uniform(low, high, shape).astype(np.float32))
    if name.endswith("bias"):
        return torch.from_numpy(random.normal(0, 0.1, shape).astype(np.float32))
    gain = {"cls_score": 4.0, "bbox_pred": 0.5, "anchor_deltas": 0.2, "predictor": 4.0}.get(
        name.split(".")[-2], math.sqrt(2)
    )
    into = math.prod(shape[1:]) if "deconv" not in name else shape[0]
    return torch.from_numpy(random.normal(0, gain / math.sqrt(into), shape).astype(np.float32))


def _resized(photo: np.ndarray, network: Network) -> np.ndarray:
    """ResizeShortestEdge: the shorter side to `short`, unless the longer then has more than `long`; by Pillow."""
    height, width = photo.shape[:2]
    scale = min(network.short / min(height, width), network.long / max(height, width))
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))


def _normalised(scaled: np.ndarray, network: Network) -> Tensor:
    """(1, 3, h, w), in the network's order of channels, zeros below and on the right to a multiple of 32."""
    ordered = scaled if network.rgb else scaled[..., ::-1]
    values = torch.from_numpy(ordered.astype(np.float32).transpose(2, 0, 1).copy())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
    height, width = scaled.shape[:2]
    return F.pad((values - mean) / std, (0, -width % 32, 0, -height % 32))[None]


def _conv(state: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    x = F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)
    if f"{name}.norm.weight" not in state:
        return x
    parts = [
        state[f"{name}.norm.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    ]
    return (x - parts[0]) / (parts[1] + EPS).sqrt() * parts[2] + parts[3]


def _features(state: dict[str, Tensor], network: Network, x: Tensor) -> list[Tensor]:
    x = F.max_pool2d(_conv(state, "backbone.bottom_up.stem.conv1", x, 2).relu(), 3, 2, 1)
    outs = []
    for stage, blocks in enumerate(network.blocks):
        for block in range(blocks):
            name = f"backbone.bottom_up.res{stage + 2}.{block}"
            stride = 2 if block == 0 and stage > 0 else 1
            first, second = (stride, 1) if network.stride_in_1x1 else (1, stride)
            y = _conv(state, f"{name}.conv1", x, first).relu()
            y = _conv(state, f"{name}.conv2", y, second).relu()
            y = _conv(state, f"{name}.conv3", y)
            x = (y + (_conv(state, f"{name}.shortcut", x, stride) if block == 0 else x)).relu()
        outs.append(x)
    levels: list[Tensor] = []
    above = None
    for stage in reversed(range(4)):
        lateral = _conv(state, f"backbone.fpn_lateral{stage + 2}", outs[stage])
        above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2.0, mode="nearest")
        levels.insert(0, _conv(state, f"backbone.fpn_output{stage + 2}", above))
    return [*levels, levels[-1][:, :, ::2, ::2]]


def _rpn(state: dict[str, Tensor], level: Tensor) -> tuple[Tensor, Tensor]:
    name = "proposal_generator.rpn_head"
    hidden = _conv(state, f"{name}.conv", level).relu()
    return _conv(state, f"{name}.objectness_logits", hidden), _conv(state, f"{name}.anchor_deltas", hidden)


def _anchors(level: int, rows: int, columns: int) -> Tensor:
    """(rows · columns · A, 4): cell by cell, in each by rising height/width; around the cell's upper left corner."""
    side, stride = 32.0 * 2**level, 4.0 * 2**level
    cell = []
    for ratio in (0.5, 1.0, 2.0):
        width = math.sqrt(side * side / ratio)
        cell.append([-width / 2, -ratio * width / 2, width / 2, ratio * width / 2])
    y, x = torch.meshgrid(torch.arange(rows) * stride, torch.arange(columns) * stride, indexing="ij")
    places = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (places + torch.tensor(cell)).reshape(-1, 4)


def _proposals(objectness: list[Tensor], deltas: list[Tensor], size: tuple[int, ...], threshold: float) -> Tensor:
    boxes, scores, levels = [], [], []
    for level, (logits, moves) in enumerate(zip(objectness, deltas, strict=True)):
        rows, columns = logits.shape[2:]
        flat = logits[0].permute(1, 2, 0).reshape(-1)
        moves = moves[0].view(ANCHORS, 4, rows, columns).permute(2, 3, 0, 1).reshape(-1, 4)
        best = flat.sort(descending=True, stable=True).indices[:1000]
        boxes.append(_moved(_anchors(level, rows, columns)[best], moves[best], (1.0, 1.0, 1.0, 1.0)))
        scores.append(flat[best])
        levels.append(torch.full((len(best),), level))
    box, score, level_ = _clipped(torch.cat(boxes), size), torch.cat(scores), torch.cat(levels)
    filled = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    box, score, level_ = box[filled], score[filled], level_[filled]
    kept = []
    for level in range(len(objectness)):
        own = (level_ == level).nonzero()[:, 0]
        kept.append(own[nms(box[own], score[own], threshold)])
    best = torch.cat(kept)
    return box[best[score[best].sort(descending=True, stable=True).indices[:1000]]]


def _moved(boxes: Tensor, deltas: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, :2] + 0.5 * sides
    moves = deltas / deltas.new_tensor(weights)
    centres = centres + moves[:, :2] * sides
    sides = sides * moves[:, 2:].clamp(max=LARGEST_SCALE).exp()
    return torch.cat([centres - 0.5 * sides, centres + 0.5 * sides], dim=1)


def _clipped(boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    height, width = size
    return torch.stack([boxes[:, k].clamp(0, (width, height)[k % 2]) for k in range(4)], dim=1)


def _pooled(features: list[Tensor], boxes: Tensor, side: int) -> Tensor:
    """(P, C, side, side): each box from the level of its size, 224 pixels from p4."""
    sides = boxes[:, 2:] - boxes[:, :2]
    size = (sides[:, 0] * sides[:, 1]).sqrt()
    level_P = torch.floor(4 + torch.log2(size / 224 + 1e-8)).clamp(2, 5).long() - 2
    pooled = boxes.new_zeros(len(boxes), features[0].shape[1], side, side)
    for level in range(4):
        rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)[level_P == level]
        pooled[level_P == level] = roi_align(features[level], rois, side, 1 / (4 << level), 0, aligned=True)
    return pooled


def _box_head(state: dict[str, Tensor], stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"roi_heads.{name}.weight"], state[f"roi_heads.{name}.bias"])

    for layer in ("fc1", "fc2"):
        x = linear(f"box_head.{stage}.{layer}", x.flatten(1)).relu()
    scores = linear(f"box_predictor.{stage}.cls_score", x).softmax(-1)
    return scores, linear(f"box_predictor.{stage}.bbox_pred", x)


def _mask_head(state: dict[str, Tensor], x: Tensor) -> Tensor:
    name = "roi_heads.mask_head"
    for number in range(4):
        x = _conv(state, f"{name}.mask_fcn{number + 1}", x).relu()
    x = F.conv_transpose2d(x, state[f"{name}.deconv.weight"], state[f"{name}.deconv.bias"], stride=2).relu()
    return _conv(state, f"{name}.predictor", x)


def _pasted(probability: Tensor, box: Tensor, height: int, width: int) -> Tensor:
    """Bool (H, W): the box's mask sampled at the centres of the pixels, zeros around it, at least a half."""
    x = (torch.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    return F.grid_sample(probability[None, None], grid, align_corners=False)[0, 0] >= 0.5
