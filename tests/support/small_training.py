"""A training of a second or two: the tiny configuration, tinier."""

from pathlib import Path
from typing import Any

from detector.training.train import Training

CHANNELS = 16
# As `--set`, on top of the configuration `tiny`.
SMALL = (
    "model.backbone.base_channels=8",
    "model.backbone.stem_channels=8",
    f"model.neck.in_channels={[8, 16, 32, 64]}",
    f"model.neck.out_channels={CHANNELS}",
    f"model.rpn_head.in_channels={CHANNELS}",
    f"model.rpn_head.feat_channels={CHANNELS}",
    f"model.roi_head.bbox_roi_extractor.out_channels={CHANNELS}",
    f"model.roi_head.mask_roi_extractor.out_channels={CHANNELS}",
    *(f"model.roi_head.bbox_head.{i}.in_channels={CHANNELS}" for i in range(3)),
    *(f"model.roi_head.bbox_head.{i}.fc_out_channels=16" for i in range(3)),
    f"model.roi_head.mask_head.in_channels={CHANNELS}",
    f"model.roi_head.mask_head.conv_out_channels={CHANNELS}",
    "model.roi_head.mask_head.num_convs=1",
    "model.train_cfg.rpn_proposal.max_per_img=60",
    *(f"model.train_cfg.rcnn.{i}.sampler.num=16" for i in range(3)),
    "train_dataloader.dataset.pipeline.3.scales=[(96,64),(80,56)]",
    "train_dataloader.num_workers=0",
    "test_pipeline.1.scale=(96,64)",
    "custom_hooks.2.batches=2",
    "default_hooks.logger.interval=1",
)


def small_training(run: str, work_dir: Path, *settings: str, **options: Any) -> Training:
    """Six steps of two images, unless options say otherwise; a checkpoint every third."""
    options = {"iterations": 6, "batch_size": 2, **options}
    every_third = "default_hooks.checkpoint.interval=3"
    return Training((run,), "tiny", str(work_dir), settings=(*SMALL, every_third, *settings), **options)
