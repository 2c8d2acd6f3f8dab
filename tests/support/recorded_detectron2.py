"""What Detectron2 itself finds with the random weights of `reference_detectron2`: recorded_detectron2.npz.

It is recorded once, because Detectron2 is no dependency and has to be built. Where version 0.6 of it is, this records
again; the part of it that is compiled is not used, and an empty module will do in its place:

    PYTHONPATH=tests python -m support.recorded_detectron2
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.reference_detectron2 import CUTLER, ZOO, Network, painted_photo, random_state

RECORDING = Path(__file__).with_suffix(".npz")
NETWORKS = {"cutler": CUTLER, "detectron2": ZOO}
# Two of three photos are made larger, as most are, one smaller, which Pillow does by averaging.
SIZES = ((150, 203), (203, 140), (420, 300))
CASES = {f"{name} {height}x{width}": (name, (height, width)) for name in NETWORKS for height, width in SIZES}
BEST = 8  # detections whose masks are kept


def photo(size: tuple[int, int]) -> np.ndarray:
    """The photo of this height and width."""
    return painted_photo(*size, seed=size[0])


def recorded(case: str) -> dict[str, np.ndarray]:
    """boxes (M, 4) in the photo, scores (M,), areas (M,) of the masks in pixels, probabilities (BEST, 28, 28) float16,
    features (5,): mean size of the values of p2 to p6.
    """
    with np.load(RECORDING) as arrays:
        return {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{case}/")}


def _config(network: Network) -> Any:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.MASK_ON", True, "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
            *("MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.RESNETS.NORM", "FrozenBN" if network.frozen else "BN"),
            *("MODEL.RESNETS.STRIDE_IN_1X1", network.stride_in_1x1, "MODEL.RESNETS.STEM_OUT_CHANNELS", network.stem),
            *("MODEL.RESNETS.WIDTH_PER_GROUP", network.bottleneck),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 4 * network.bottleneck),
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", network.fpn),
            *("MODEL.FPN.NORM", "BN" if network.fpn_norm else ""),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]),
            *("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"], "MODEL.RPN.NMS_THRESH", network.rpn_nms),
            *("MODEL.RPN.PRE_NMS_TOPK_TEST", 1000, "MODEL.RPN.POST_NMS_TOPK_TEST", 1000),
            *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
            *("MODEL.ROI_HEADS.NUM_CLASSES", 1, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 2),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", network.fc, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
            *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
            *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead", "MODEL.ROI_MASK_HEAD.NUM_CONV", 4),
            *("MODEL.ROI_MASK_HEAD.CONV_DIM", network.mask, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14),
            *("MODEL.PIXEL_MEAN", list(network.mean), "MODEL.PIXEL_STD", list(network.std)),
        ]
    )
    return cfg


def _run(network: Network, rgb: np.ndarray) -> dict[str, np.ndarray]:
    from detectron2.data.transforms import ResizeShortestEdge
    from detectron2.modeling import build_model

    model = build_model(_config(network)).eval()
    model.load_state_dict(random_state(network))
    image = rgb if network.rgb else rgb[:, :, ::-1]
    scaled = ResizeShortestEdge([network.short] * 2, network.long).get_transform(image).apply_image(image)
    one = {"image": torch.from_numpy(scaled.astype(np.float32).transpose(2, 0, 1).copy())}
    with torch.no_grad():
        images = model.preprocess_image([one])
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
        unscaled = model.roi_heads(images, features, proposals, None)[0][0]
        found = model([{**one, "height": rgb.shape[0], "width": rgb.shape[1]}])[0]["instances"]
    return {
        "boxes": found.pred_boxes.tensor.numpy(),
        "scores": found.scores.numpy(),
        "areas": found.pred_masks.sum(dim=(1, 2)).numpy().astype(np.int32),
        "probabilities": unscaled.pred_masks[:BEST, 0].numpy().astype(np.float16),
        "features": np.array([features[f"p{level}"].abs().mean().item() for level in range(2, 7)]),
    }


def main() -> None:
    torch.set_num_threads(1)
    arrays = {}
    for case, (name, size) in CASES.items():
        found = _run(NETWORKS[name], photo(size))
        arrays |= {f"{case}/{part}": array for part, array in found.items()}
        print(f"{case}: {len(found['boxes'])} boxes, {found['areas'].sum()} pixels of masks")
    np.savez_compressed(RECORDING, **arrays)
    print(f"{RECORDING.stat().st_size / 1e3:.0f} kB in {RECORDING}")


if __name__ == "__main__":
    main()
