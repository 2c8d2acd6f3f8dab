"""Self-training of a panoptic detector: a slowly moving copy of it labels each batch that it is then trained on."""

import copy
import logging
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from detector.data.options import options_of
from detector.data.panoptic_loading import IGNORED
from detector.training.hooks import bare
from detector.training.pseudo_labels import Labeller, LabelRule
from detector.training.self_enhanced import put_back
from pipeline.errors import ConfigError, TrainingError

logger = logging.getLogger(__name__)

_KEY = "teacher"
_EMPTY = 10


@HOOKS.register_module()
class MomentumTeacher(Hook):
    """Replaces the labels of every batch by those of a teacher, which begins as the detector itself and after each step
    becomes momentum · teacher + (1 - momentum) · student (Tarvainen and Valpola 2017; CUPS).

    Of the student only what is trained moves the teacher; batch norms have to keep their statistics (`heads_only` of
    the model). Checkpoints hold the teacher under "teacher", so that a training resumes to the bit; the detector that
    is left at the end is the student. In the log: `labelled`, instances per image, and `ignored`, the share of pixels
    without a class.

    momentum: 0..1.
    rule: of `LabelRule`.

    Raises ConfigError for values out of range, TrainingError for a checkpoint without the teacher.
    """

    def __init__(self, momentum: float = 0.999, **rule: Any) -> None:
        if not 0 <= momentum <= 1:
            raise ConfigError(f"MomentumTeacher: momentum is {momentum}: it must lie in 0..1")
        self.momentum, self.rule = momentum, options_of(LabelRule, rule, "MomentumTeacher", beside=["momentum"])
        self._kept: dict[str, Tensor] | None = None
        self._empty: int | None = 0  # batches so far, none of which has an instance

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Note the teacher of a checkpoint that is resumed from."""
        self._kept = checkpoint.get(_KEY)

    def before_train(self, runner: Any) -> None:
        """Make the teacher of the student's weights, which are there by now."""
        student = bare(runner.model)
        self.teacher: nn.Module = copy.deepcopy(student).eval().requires_grad_(False)
        self._students = {name: p for name, p in student.named_parameters() if p.requires_grad}
        own = dict(self.teacher.named_parameters())
        self._teachers = {name: own[name] for name in self._students}
        if runner.iter > 0:
            if self._kept is None or self._kept.keys() != self._teachers.keys():
                raise TrainingError("the checkpoint that is to be resumed holds no teacher of this model: start afresh")
            for name, value in self._kept.items():
                self._teachers[name].copy_(value)
        self._labeller = Labeller(self.teacher, self.rule)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: dict[str, Any]) -> None:
        """Changes `data_samples` of the batch."""
        device = next(self.teacher.parameters()).device
        instances = ignored = 0.0
        with runner.optim_wrapper.optim_context(runner.model):
            for image_3HW, sample in zip(data_batch["inputs"], data_batch["data_samples"], strict=True):
                labelled = self._labeller(image_3HW.to(device))
                put_back(labelled, sample)
                sample.pop("ignored_instances", None)  # of a sample without labels they have no boxes
                instances += len(labelled.labels_M)
                ignored += float((labelled.seg_HW == IGNORED).mean())
        self._warn(instances)
        count = len(data_batch["inputs"])
        runner.message_hub.update_scalar("train/labelled", instances / count)
        runner.message_hub.update_scalar("train/ignored", ignored / count)

    def _warn(self, instances: float) -> None:
        """Once, where the first batches have no instance at all."""
        self._empty = self._empty + 1 if self._empty is not None and not instances else None
        if self._empty == _EMPTY:
            logger.warning(
                "in the first %d batches the teacher found no instance with a score of %g, so the detector learns that "
                "there is none: lower --thresholds, or train it longer before",
                *(_EMPTY, self.rule.min_score),
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Move the teacher."""
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self._teachers.values()), [p.detach() for p in self._students.values()], 1 - self.momentum
            )

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the teacher."""
        checkpoint[_KEY] = {name: value.detach().cpu() for name, value in self._teachers.items()}
