"""Validation while training: detections on photos with known objects, scored by `pipeline.evaluation.scores`."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS, METRICS
from mmdet.structures.mask import encode_mask_results
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from pycocotools import mask as coco_mask

from detector.training.validation_truth import read_validation
from pipeline.evaluation.scores import score_detections

_REPORTED = ("mask_AP", "mask_AP50", "mask_AR100", "box_AP", "box_AP50", "box_AR100")


@DATASETS.register_module()
class TruthPhotos(BaseDetDataset):
    """The photos of a COCO file, without its objects: those are the metric's.

    truth: COCO JSON, path or URL.
    images: the folder that its file names are relative to.

    Raises SourceError as `read_validation` does.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"classes": ("object",), "palette": [(220, 20, 60)]}

    def __init__(self, truth: str, images: str, pipeline: Sequence[Any]) -> None:
        self.truth, self.images = truth, images
        super().__init__(pipeline=list(pipeline), test_mode=True, serialize_data=False)

    def load_data_list(self) -> list[dict[str, Any]]:
        """A photo each: img_id of the COCO file, and `ref`, which LoadPhoto reads."""
        photos = read_validation(self.truth, self.images).photos
        return [{"img_id": id_, "img_path": ref.uri, "ref": ref} for id_, ref in photos.items()]


@METRICS.register_module()
class ClassAgnosticAP(BaseMetric):
    """AP and AR of boxes and masks against a COCO file, all of its classes as one, as `cuts3d evaluate` has them.

    truth, images: see `TruthPhotos`.
    """

    default_prefix = "val"

    def __init__(self, truth: str, images: str, **options: Any) -> None:
        super().__init__(**options)
        self.truth = read_validation(truth, images).truth

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the detections of a batch, in COCO's form."""
        for sample in data_samples:
            self.results.append((sample["img_id"], _detections(sample)))

    def compute_metrics(self, results: list[tuple[int, list[dict[str, Any]]]]) -> dict[str, float]:
        """The metrics by name, as shares of 1."""
        found = dict(results)
        every = [detection for detections in found.values() for detection in detections]
        scores = score_detections(self.truth, every, list(found), iou_types=("segm", "bbox"))
        return {name: scores[name] for name in _REPORTED}


def set_validation(config: Config, truth: str, images: str) -> None:
    """Let the training validate, as often as train_cfg.val_interval says, and at its end."""
    workers = config.train_dataloader.num_workers
    config.val_dataloader = {
        "batch_size": 1,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": {"type": "TruthPhotos", "truth": truth, "images": images, "pipeline": config.test_pipeline},
    }
    config.val_cfg = {"type": "ValLoop"}
    config.val_evaluator = {"type": "ClassAgnosticAP", "truth": truth, "images": images}


def _detections(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = sample["pred_instances"]
    boxes_M4 = np.asarray(found["bboxes"].cpu(), np.float64)
    boxes_M4[:, 2:] -= boxes_M4[:, :2]  # x, y, width, height
    rles = encode_mask_results(found["masks"].cpu().numpy())
    return [
        {"image_id": sample["img_id"], "score": score, "bbox": box, "segmentation": rle}
        for score, box, rle in zip(found["scores"].tolist(), boxes_M4.tolist(), rles, strict=True)
        if coco_mask.area(rle)  # nothing was found in the box after all
    ]
