"""The parts of a training, built once before it begins: gathering the masks may take an hour, and what cannot be built
or loaded is known without them.
"""

import contextlib
import logging
from collections.abc import Iterator

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS, DefaultScope

from detector.model.backbone_weights import find_backbone, load_backbone
from detector.training import config as train_config
from detector.training.hooks import start_from
from pipeline.errors import ConfigError, CutsError
from pipeline.wording import brief

# What components raise for arguments that they do not take, or cannot work with.
NOT_BUILT = (KeyError, TypeError, ValueError, AttributeError, IndexError, AssertionError)


def try_parts(config: Config, *, resumes: bool) -> None:
    """Build model, optimiser, schedules, hooks and pipelines, and load the weights that the model starts from; nothing
    of it is kept.

    resumes: whether all weights come from a checkpoint of this training.

    Raises ConfigError for what cannot be built, WeightsError for weights that are not there or do not fit.
    """
    try:
        with DefaultScope.overwrite_default_scope("mmdet"), _quietly():
            _try(config, resumes)
    except CutsError:
        raise
    except NOT_BUILT as error:
        raise cannot_be_built(config, error) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without MMEngine's line for each parameter and part: the training itself says them again, in its log file."""
    log = MMLogger.get_current_instance()
    before = log.level
    log.setLevel(logging.ERROR)  # a parameter that is not trained is a warning
    try:
        yield
    finally:
        log.setLevel(before)


def cannot_be_built(config: Config, error: Exception) -> ConfigError:
    """In a sentence."""
    return ConfigError(f"the configuration {config.filename} cannot be built: {brief(error, 300)}")


def _try(config: Config, resumes: bool) -> None:
    model = MODELS.build(config.model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    for scheduler in config.get("param_scheduler") or []:
        PARAM_SCHEDULERS.build(dict(scheduler), default_args={"optimizer": optimizer})
    for hook in [*config.get("default_hooks", {}).values(), *(config.get("custom_hooks") or [])]:
        if hook is not None:  # one of MMEngine's that is switched off
            HOOKS.build(dict(hook))
    for dataset in train_config.run_datasets(config.train_dataloader.dataset):
        DATASETS.build({**dataset, "runs": [], "lazy_init": True})  # and its pipeline; the runs are opened later
    Compose(config.test_pipeline)
    if resumes:
        return
    for backbone in train_config.components(config.model.backbone.get("init_cfg"), "DinoResNet"):
        load_backbone(model.backbone, find_backbone(backbone.get("checkpoint")))
    for start in train_config.custom_hooks(config, "StartFrom"):
        start_from(model, start["checkpoint"])
