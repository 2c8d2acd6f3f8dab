"""Self-enhanced copy-paste (CUPS, Hahn et al., CVPR 2025): what a detector finds and its labels miss is pasted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes, bbox_overlaps, get_box_tensor
from mmengine.dist import broadcast, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.data.confidence_masks import ConfidenceMasks
from detector.data.options import options_of
from detector.data.panoptic_paste import CutOut, PanopticSample, PasteOptions, cut_outs, paste_batch
from detector.training.hooks import bare
from pipeline.errors import ConfigError

_STREAM = 2  # tells this hook's numbers from those of `detector.training.loop.seed_step`


@HOOKS.register_module()
class SelfEnhancedCopyPaste(Hook):
    """Pastes instances among the images of a batch before each step: at first those of the labels, later those that the
    detector itself is sure of and no label overlaps.

    Predictions are of the batch itself before anything is pasted or recoloured, by the weights before the step, in
    evaluation mode, and by the first rank's statistics of batch norms: what is pasted depends on checkpoint, seed, step
    and rank alone, so nothing of it is kept in checkpoints.
    (The released code predicts a batch after its losses and pastes at the next step.) Where nothing is found, nothing
    is pasted. `pasted` in the log is the number of instances per image.

    start: iteration, counted from 0, of the first predictions; None: always the labels.
    min_score: predictions with a higher score are pasted, 0..1.
    max_iou: whose box has less than this IoU with every label of its image.
    options: of `detector.data.panoptic_paste.PasteOptions`.

    Raises ConfigError for values out of range.
    """

    def __init__(self, start: int | None = 500, min_score: float = 0.75, max_iou: float = 0.5, **options: Any) -> None:
        if not (start is None or (type(start) is int and start >= 0)):
            raise ConfigError(f"SelfEnhancedCopyPaste: start must be a number of iterations or None, not {start}")
        for name, value in (("min_score", min_score), ("max_iou", max_iou)):
            if not 0 <= value <= 1:
                raise ConfigError(f"SelfEnhancedCopyPaste: {name} must be in 0..1, not {value}")
        self.start, self.min_score, self.max_iou = start, min_score, max_iou
        self.options = options_of(PasteOptions, options, "SelfEnhancedCopyPaste")

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: dict[str, Any]) -> None:
        """Changes `inputs` and `data_samples` of the batch."""
        samples = samples_of(data_batch)
        if self.start is None or batch_idx < self.start:
            source = labelled(samples, self.options.min_side)
        else:
            model = bare(runner.model)
            share_statistics(model)
            with runner.optim_wrapper.optim_context(runner.model):
                found = predictions(model, data_batch)
            source = list(self._missed(samples, found))
        pasted = paste_batch(samples, source, self.options, pasting_rng(runner.seed, batch_idx, get_rank()))
        put_batch_back(pasted, data_batch)
        count = sum(sample.pasted for sample in pasted) / len(pasted)
        runner.message_hub.update_scalar("train/pasted", count)

    def _missed(self, samples: Iterable[PanopticSample], found: Iterable[InstanceData]) -> Iterator[CutOut]:
        for sample, instances in zip(samples, found, strict=True):
            missed = instances[missed_by(sample.boxes_M4, instances, self.min_score, self.max_iou)]
            values_KHW = missed.masks.cpu().numpy().astype(np.uint8)
            yield from cut_outs(sample.image_3HW, values_KHW, missed.labels.tolist(), self.options.min_side)


def pasting_rng(seed: int, step: int, rank: int) -> np.random.Generator:
    """What decides what is pasted, and where."""
    return np.random.default_rng([seed, step, rank, _STREAM])


def labelled(samples: Iterable[PanopticSample], min_side: float) -> list[CutOut]:
    """The instances of samples that are large enough, see `cut_outs`."""
    return [cut for one in samples for cut in cut_outs(one.image_3HW, one.values_MHW, one.labels_M, min_side)]


def missed_by(boxes_M4: np.ndarray, found: InstanceData, min_score: float, max_iou: float) -> Tensor:
    """Bool (K,): which predictions score higher than `min_score`, and whose boxes have less than `max_iou` with every
    label. boxes_M4: of the labels, x1, y1, x2, y2.
    """
    boxes_K4 = get_box_tensor(found.bboxes)
    apart_K: Tensor = torch.ones(len(boxes_K4), dtype=torch.bool, device=boxes_K4.device)
    if len(boxes_M4):
        ious_KM = bbox_overlaps(boxes_K4, torch.from_numpy(boxes_M4).to(boxes_K4))
        apart_K = ious_KM.amax(dim=1) < max_iou
    return apart_K & (found.scores > min_score)


def share_statistics(model: nn.Module) -> None:
    """Give all ranks the statistics of the first one's batch norms, which are those that checkpoints hold.

    In training mode a batch norm that is no SyncBN never reads them, and every rank has its own.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm) and module.training:
            for buffer in module.buffers(recurse=False):
                broadcast(buffer)


@torch.no_grad()
def predictions(model: nn.Module, data_batch: Mapping[str, Any]) -> list[InstanceData]:
    """What the model finds in a batch before augmentation, at its size: `pred_instances` of each image.

    Every part of the model is left in the mode that it was in.
    """
    modes = [(module, module.training) for module in model.modules()]
    samples = []
    for image_3HW, sample in zip(data_batch["inputs"], data_batch["data_samples"], strict=True):
        size = tuple(image_3HW.shape[-2:])
        as_it_is = {"ori_shape": size, "img_shape": size, "scale_factor": (1.0, 1.0)}
        samples.append(DetDataSample(metainfo={**sample.metainfo, **as_it_is}))
    model.eval()
    try:
        data: Any = model.data_preprocessor({"inputs": data_batch["inputs"], "data_samples": samples}, False)  # type: ignore[operator]
        return [sample.pred_instances for sample in model(**data, mode="predict")]
    finally:
        for module, training in modes:
            module.training = training


def samples_of(data_batch: Mapping[str, Any]) -> list[PanopticSample]:
    """The arrays of a batch that the loader gives; they are shared."""
    return [_sample_of(*pair) for pair in zip(data_batch["inputs"], data_batch["data_samples"], strict=True)]


def _sample_of(image_3HW: Tensor, data_sample: DetDataSample) -> PanopticSample:
    instances = data_sample.gt_instances
    masks = instances.masks
    return PanopticSample(
        image_3HW.numpy(),
        masks.values if isinstance(masks, ConfidenceMasks) else ConfidenceMasks.certain(masks).values,
        instances.labels.numpy(),
        get_box_tensor(instances.bboxes).numpy(),
        data_sample.gt_sem_seg.sem_seg[0].numpy(),
    )


def put_batch_back(samples: Sequence[PanopticSample], data_batch: dict[str, Any]) -> None:
    """Replace the images of a batch, and what is to be learnt of them."""
    for sample, data_sample in zip(samples, data_batch["data_samples"], strict=True):
        put_back(sample, data_sample)
    data_batch["inputs"] = [torch.from_numpy(sample.image_3HW) for sample in samples]


def put_back(sample: PanopticSample, data_sample: DetDataSample) -> None:
    """Replace what is to be learnt of an image."""
    data_sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.from_numpy(sample.boxes_M4)),
        labels=torch.from_numpy(sample.labels_M),
        masks=ConfidenceMasks.from_values(sample.values_MHW),
    )
    data_sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(sample.seg_HW[None]))
