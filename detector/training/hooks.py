"""Hooks of the training: checkpoints that load anywhere, a stop when the loss is lost, exact batch statistics."""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.model.checkpoints import DetectorCheckpoint, read_detector
from pipeline.errors import TrainingError, WeightsError
from pipeline.wording import brief, counted

logger = logging.getLogger(__name__)

# Of each logged value; what smooths the log needs some tens. MMEngine's own checkpoints keep a million.
_KEPT_VALUES = 1000


@HOOKS.register_module()
class PlainCheckpoints(Hook):
    """Checkpoints of tensors and plain values only, which torch.load reads under its default, `weights_only`.

    What MMEngine writes into them of its own classes, the history of the logged values, is put down as tensors, and
    made again when a training resumes.
    """

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        hub = checkpoint.get("message_hub")
        if hub is not None:
            scalars = {name: _history(buffer) for name, buffer in hub["log_scalars"].items()}
            checkpoint["message_hub"] = _plain({**hub, "log_scalars": scalars})
        checkpoint["meta"] = _plain(checkpoint["meta"])

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        # Under this name older versions of MMEngine kept a configuration, which this one would run as Python.
        checkpoint.get("meta", {}).pop("config", None)
        hub = checkpoint.get("message_hub")
        if hub is not None:
            scalars = hub["log_scalars"].items()
            checkpoint["message_hub"] = {**hub, "log_scalars": {name: _buffer(kept) for name, kept in scalars}}


@HOOKS.register_module()
class StartFrom(Hook):
    """Weights of a trained detector to begin with, such as that of the round before in self-training.

    checkpoint: as `detector.model.checkpoints.read_detector` takes it. Every tensor must fit: MMEngine's `load_from`
    leaves out what does not, with no more than a line in the log. A training that resumes has weights of its own.

    Raises WeightsError (when the training starts) when there is none, or it is of another model.
    """

    def __init__(self, checkpoint: str | None) -> None:
        self.checkpoint = checkpoint

    def before_train(self, runner: Any) -> None:
        if runner.iter > 0:
            return
        if self.checkpoint is None:
            raise WeightsError("the hook StartFrom needs a checkpoint of a detector to start from")
        start_from(bare(runner.model), self.checkpoint)
        logger.info("starting from %s", self.checkpoint)


def start_from(model: nn.Module, checkpoint: str) -> None:
    """Put all weights of a trained detector into a model; WeightsError when there is none, or it is of another, or one
    that the same weights would make something else: other pixel values, or strides elsewhere.
    """
    detector = read_detector(checkpoint)
    for name, own, theirs in _unsaid_by_tensors(model, detector):
        if own != theirs:
            raise WeightsError(
                f"{checkpoint} is of another model than is to be trained, its {name} is {theirs}, not {own}: "
                f"--set {name}={str(theirs).replace(' ', '')}"
            )
    try:
        model.load_state_dict(dict(detector.state_dict))
    except RuntimeError as error:
        raise WeightsError(f"{checkpoint} is of another model than is to be trained: {brief(error)}") from error


def _unsaid_by_tensors(model: Any, detector: DetectorCheckpoint) -> Iterator[tuple[str, Any, Any]]:
    """What decides what weights mean, and no shape tells: its name in a configuration, the model's, the detector's."""
    for part in ("mean", "std"):
        own = [round(value, 3) for value in getattr(model.data_preprocessor, part).flatten().tolist()]
        yield f"model.data_preprocessor.{part}", own, [round(float(value), 3) for value in detector.config[part]]
    style = "style"  # which convolution of a bottleneck scales down
    if hasattr(model.backbone, style):
        yield "model.backbone.style", model.backbone.style, detector.config["model"]["backbone"].get(style, "pytorch")


@HOOKS.register_module()
class CheckLoss(Hook):
    """TrainingError as soon as a loss is infinite or not a number: what is trained from there on is lost."""

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        losses = {name: torch.as_tensor(value) for name, value in (outputs or {}).items()}
        wrong = [f"{name} {value.item()}" for name, value in losses.items() if not torch.isfinite(value).all()]
        if wrong:
            raise TrainingError(
                f"the loss of iteration {batch_idx + 1} is not finite ({', '.join(wrong)}): the checkpoints before it "
                "are good. Train with a lower learning rate, a longer warm-up, or without mixed precision"
            )


@HOOKS.register_module()
class PreciseBN(Hook):
    """At the end of the training, statistics of batch norms over many batches of the finished network.

    During training they are moving averages, over networks that were still changing. As in Detectron2, where CutLER's
    published configuration asks for 200 batches: they are drawn from where training ended, weights stay.

    batches: how many, of every rank; of a training of fewer iterations, as many as that; 0: none.
    """

    priority = "LOW"  # before the checkpoint hook, which is VERY_LOW

    def __init__(self, batches: int = 200) -> None:
        self.batches = batches

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.is_last_train_iter(runner):
            count = min(self.batches, runner.max_iters)
            if count == 0:
                return
            estimate_batch_norms(runner.model, itertools.islice(runner.train_loop.dataloader_iterator, count), count)


def bare(model: Any) -> Any:
    """The detector itself, out of what shares it among ranks."""
    return model.module if is_model_wrapper(model) else model


def estimate_batch_norms(model: nn.Module, batches: Iterator[Mapping[str, Any]], count: int) -> None:
    """Set the running statistics of all batch norms that are being trained to their mean over these batches.

    model: an MMDetection detector in training mode, bare or wrapped for several ranks. count: of the batches.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    if not norms:
        return
    logger.info("%s more, for the statistics of the batch norms", counted(count, "batch", "es"))
    network = bare(model)
    with _plain_means(norms), torch.no_grad():
        for batch in batches:
            data = network.data_preprocessor(batch, training=True)
            network(**data, mode="loss")  # heads may have norms, too


@contextmanager
def _plain_means(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Batch norms that start afresh and average over all batches alike."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _history(buffer: HistoryBuffer) -> dict[str, torch.Tensor]:
    values, counts = (np.asarray(part[-_KEPT_VALUES:], np.float64) for part in buffer.data)
    return {"values": torch.from_numpy(values.copy()), "counts": torch.from_numpy(counts.copy())}


def _buffer(kept: Any) -> Any:
    if not isinstance(kept, Mapping):
        return kept  # of a checkpoint that was not written through this hook
    return HistoryBuffer(kept["values"].tolist(), kept["counts"].tolist())


def _plain(value: Any) -> Any:
    """The value without numpy's types, which torch does not read by default."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value
