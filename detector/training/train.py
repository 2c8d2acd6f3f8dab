"""Training of the detector on the masks of runs: in this process, or as one of those that torchrun or Ray started.

    torchrun --nproc-per-node 8 -m detector.training -- --run RUN --config cuts3d_r50_fpn --work-dir WORK

takes what `cuts3d train` takes. (Without the lone -- torchrun takes --run for an abbreviated option of its own.)
"""

import contextlib
import logging
import secrets
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from detector.model.checkpoints import DETECTOR_FILE, write_detector
from detector.training import config as train_config
from detector.training.folder import record, training_at
from detector.training.hooks import bare
from detector.training.identity import identity, trained_on
from detector.training.panoptic_config import set_classes, set_teacher
from detector.training.processes import Process, mmengine_on, this_process, wait_for_all
from detector.training.trial import NOT_BUILT, cannot_be_built, try_parts
from detector.training.validation import set_validation
from detector.training.validation_truth import read_validation
from detector.training.wanted import Training
from pipeline.errors import ConfigError, CutsError
from pipeline.runs.lease import Lease
from pipeline.runs.training_folder import iterations
from pipeline.storage.files_at import files_at
from pipeline.storage.outputs import writing
from pipeline.wording import counted

logger = logging.getLogger(__name__)

# Beside long reports (environment, configuration): a line for each parameter, and what MMEngine tells its developers.
_OF_NO_USE = ("paramwise_options", "Exp name", '"FileClient"', '"HardDiskBackend"', "Distributed training is not used")
_FROZEN = "is skipped since its requires_grad=False"  # a line for each parameter that is not trained


def train(wanted: Training) -> Path:
    """Train to the end, and leave detector.safetensors in the work folder; its path.

    Raises:
        ConfigError: the configuration, an option or a setting is wrong, or the GPU asked for is not there.
        RunMismatchError: the folder holds another training, or this one and `resume` is not set.
        LeaseError: another process trains in this folder.
        TrainingError: there is nothing to resume, or the loss is no number any more.
        StoreError, WeightsError: runs, photos or weights are missing or damaged.
    """
    folder = Path(wanted.work_dir)
    with (
        this_process(wanted.device) as process,
        mmengine_on(process.device),
        _without_old_warnings(),
        _in_own_words(),
        _forgetting_validation(),
    ):
        config = _prepared(wanted, process)
        try_parts(config, resumes=training_at(folder).has_checkpoints())
        store = train_config.open_store(config)
        frozen = identity(config, process.world_size)
        with Lease(files_at(folder)) if process.rank == 0 else contextlib.nullcontext() as lease:
            checkpoint = training_at(folder).claim(frozen, wanted.resume)
            if checkpoint is None and wanted.continues is not None:
                checkpoint = Path(wanted.continues)
            name = Path(config.filename).stem
            description = train_config.describe(config, name)
            origin = trained_on(config, store, process.world_size)
            wait_for_all(process)  # nobody writes before all have looked
            if process.rank == 0:
                record(folder, frozen, description, origin)
            state = _trained(config, checkpoint, lease)
            detector = folder / DETECTOR_FILE
            if process.rank == 0:
                write_detector(detector, state, description, origin)
                logger.info("the detector is in %s", detector)
            wait_for_all(process)
    return detector


def try_out(wanted: Training) -> None:
    """Raises what `train` does before it looks at a mask: for what is to be trained only after something long."""
    with this_process(wanted.device) as process, mmengine_on(process.device), _without_old_warnings():
        try_parts(_prepared(wanted, process), resumes=False)


class _Holding(Hook):
    """LeaseError before anything is written into a folder that another process has taken over."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self._lease.check()


class _Runner(Runner):
    """MMEngine's runner, whose log on the terminal is for those who train; the log file has all of it."""

    def build_logger(self, *arguments: Any, **options: Any) -> MMLogger:
        log = super().build_logger(*arguments, **options)
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler):
                log_to_raise(handler)
            else:
                handler.addFilter(_is_of_use)
        return log


def log_to_raise(handler: logging.Handler) -> None:
    """Let a log file that cannot be written, as on a full disk, end the training with one error, as a checkpoint would;
    logging itself prints a traceback for each line.
    """

    def raised(record: logging.LogRecord) -> None:
        raise  # logging calls it where the error is handled

    handler.handleError = raised  # type: ignore[method-assign]


def _is_of_use(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "\n" not in message and not message.startswith(_OF_NO_USE) and not message.endswith(_FROZEN)


def _prepared(wanted: Training, process: Process) -> Config:
    """The configuration of this training, complete."""
    config = train_config.read_config(wanted.config)
    train_config.set_runs(config, wanted.runs)
    train_config.set_batch(config, wanted.batch_size, process.world_size)
    if wanted.iterations is not None:
        train_config.set_iterations(config, wanted.iterations)
    train_config.set_backbone(config, wanted.backbone)
    train_config.set_start(config, wanted.init_from)
    config.randomness = {"seed": config.get("randomness", {}).get("seed") or 0 if wanted.seed is None else wanted.seed}
    train_config.set_options(config, wanted.settings)
    train_config.check_numbers(config)
    set_classes(config, wanted.init_from)
    set_teacher(config, wanted.teacher or {})
    config.train_cfg.max_iters *= wanted.rounds
    train_config.set_workers(config, process.here)
    if wanted.amp:
        if process.device.type != "cuda":
            raise ConfigError("mixed precision is for GPUs, and this is a CPU: train without it")
        train_config.set_mixed_precision(config)
    if process.device.type != "cuda":
        train_config.without_sync_bn(config)
    wanted.check_validation()
    if wanted.val_truth is not None and wanted.val_images is not None:
        set_validation(config, wanted.val_truth, wanted.val_images)
    return _launchable(config, wanted, process)


def _launchable(config: Config, wanted: Training, process: Process) -> Config:
    config.work_dir = str(Path(wanted.work_dir).absolute())
    # Loggers and visualisers of MMEngine are found by name, process-wide: those of an earlier training are not meant.
    config.experiment_name = f"{Path(config.filename).stem}_{secrets.token_hex(4)}"
    if "visualizer" in config:
        config.visualizer.name = config.experiment_name
    config.launcher = "pytorch" if process.grouped else "none"
    if process.grouped:
        # MMEngine's default is the GPU numbered LOCAL_RANK, which a CPU has not, and a worker of Ray may not see.
        devices = [torch.cuda.current_device()] if process.device.type == "cuda" else None
        config.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": devices}
        config.model_wrapper_cfg.broadcast_buffers = False
    return config


def _trained(config: Config, checkpoint: Path | None, lease: Lease | None) -> Mapping[str, torch.Tensor]:
    """The weights after the last iteration. lease: of the folder, where this process is to write into it."""
    done = iterations(checkpoint) if checkpoint is not None else 0
    if checkpoint is not None and done >= config.train_cfg.max_iters:
        logger.info("all of %s done", counted(done, "iteration"))
        state: Mapping[str, torch.Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        return state
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint)
        config.load_from, config.resume = str(checkpoint), True
        config.model.backbone.init_cfg = None  # all weights come from the checkpoint
    with writing(config.work_dir):  # the log file
        runner = _built(config)
    if lease is not None:
        runner.register_hook(_Holding(lease))
    begun = runner.iter
    try:
        with writing(config.work_dir):
            trained: Mapping[str, torch.Tensor] = bare(runner.train()).state_dict()
    except CutsError:
        raise
    except NOT_BUILT as error:
        if runner.iter > begun:
            raise
        # Before the first step: a value that a component takes when it is built, and cannot use.
        logger.debug("before the first iteration", exc_info=True)
        raise cannot_be_built(config, error) from error
    return trained


def _built(config: Config) -> Runner:
    try:
        runner = _Runner.from_cfg(config)
        assert runner.train_loop is not None  # which builds the data set, too
    except CutsError:
        raise
    except NOT_BUILT as error:
        raise cannot_be_built(config, error) from error
    return runner


@contextlib.contextmanager
def _without_old_warnings() -> Iterator[None]:
    """Of what torch tells developers, no more than this version of MMDetection and MMEngine could mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)
        yield


@contextlib.contextmanager
def _forgetting_validation() -> Iterator[None]:
    """The next training of this process finds the photos as they are then."""
    try:
        yield
    finally:
        read_validation.cache_clear()


@contextlib.contextmanager
def _in_own_words() -> Iterator[None]:
    """An error of ours from a loading process says what it said there.

    torch sends nothing of it but its class and its traceback as text, and makes a new one of the class with that text
    as its message: what was said can be had from there alone, after the last line that names the class.
    """
    try:
        yield
    except CutsError as error:
        kind = type(error)
        _, known, words = str(error).rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")
        if not known:
            raise
        raise kind(words.strip()) from error
