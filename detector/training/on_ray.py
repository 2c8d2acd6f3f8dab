"""The same training in processes of a Ray cluster, by Ray Train's TorchTrainer: a GPU each, or some cores.

The work folder has to be one that all nodes see. When a process or its node dies, the training resumes from its last
checkpoint with as many others.
"""

import dataclasses
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from cluster.connection import connected
from detector.model.checkpoints import DETECTOR_FILE
from detector.training.folder import training_at
from detector.training.processes import PATIENCE
from detector.training.progress import followed
from detector.training.train import train
from detector.training.wanted import Training
from pipeline.errors import ClusterError, ConfigError, CutsError
from pipeline.wording import counted

logger = logging.getLogger(__name__)

_CORES, _CORES_WITH_GPU = 1, 8


@dataclass(frozen=True)
class RayTraining:
    """Where to train.

    address: of the cluster; None or "local" starts a Ray here.
    workers: processes, one for each GPU.
    cpus_per_worker: cores of each; default: 8 with a GPU, for what loads the photos, else 1.
    restarts: so often the training resumes after a process was lost.
    """

    address: str | None = None
    workers: int = 1
    cpus_per_worker: int | None = None
    restarts: int = 3


def train_on_ray(training: Training, where: RayTraining) -> Path:
    """`detector.training.train.train` over the cluster; the detector's path.

    Raises:
        ConfigError: no cluster there, or it has not the GPUs or cores.
        ClusterError: processes were lost more often than `restarts`.
        Whatever `train` raises.
    """
    training = training.anywhere()
    folder = Path(training.work_dir)
    training_at(folder).check_resume(training.resume)
    # What is there from now on is of this very training, which a process that starts again is to resume.
    training = dataclasses.replace(training, resume=None)
    with connected(where.address):
        scaling = _scaling(where, training.device)
        for restart in range(where.restarts + 1):
            if restart:
                logger.warning("the training lost a process: it resumes from its last checkpoint (%d)", restart)
            try:
                with followed(folder):
                    _fit(training, scaling, folder)
            except TrainingFailedError as error:
                ours = _ours(error)
                if ours is not None:
                    raise ours from error
                lost = error
                continue
            return folder / DETECTOR_FILE
    raise ClusterError(f"the training failed {where.restarts + 1} times on Ray: {lost}") from lost


def _fit(training: Training, scaling: ScalingConfig, folder: Path) -> None:
    TorchTrainer(
        _work,
        train_loop_config=dataclasses.asdict(training),
        scaling_config=scaling,
        torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
        # A name used before would be taken for a run of Ray Train to resume.
        run_config=RunConfig(name=f"training-{secrets.token_hex(4)}", storage_path=str(folder / "ray")),
    ).fit()


def _work(training: dict[str, Any]) -> None:
    """In each process, which Ray has put into a group already."""
    logging.getLogger("detector").setLevel(logging.INFO)
    train(Training(**training))


def _scaling(where: RayTraining, device: str) -> ScalingConfig:
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    use_gpu = device.startswith("cuda") or (device == "auto" and gpus > 0)
    cores = where.cpus_per_worker or (_CORES_WITH_GPU if use_gpu else _CORES)
    wanted = {"CPU": cores * where.workers, **({"GPU": where.workers} if use_gpu else {})}
    lacking = [
        f"{counted(count, name)} (the cluster has {int(there.get(name, 0))})"
        for name, count in wanted.items()
        if count > there.get(name, 0)
    ]
    if lacking:
        raise ConfigError(
            f"the training takes {counted(where.workers, 'process', 'es')}, and with that {' and '.join(lacking)}: "
            "take fewer processes, or fewer cores for each"
        )
    logger.info(
        "%s on Ray, %s%s each",
        *(counted(where.workers, "process", "es"), counted(cores, "core"), " and a GPU" if use_gpu else ""),
    )
    return ScalingConfig(num_workers=where.workers, use_gpu=use_gpu, resources_per_worker={"CPU": cores})


def _ours(error: TrainingFailedError) -> CutsError | None:
    """An error of cuts3d among those that the processes died of, if there is one: trying again would not help."""
    if not isinstance(error, WorkerGroupError):
        return None
    for failure in error.worker_failures.values():
        cause: BaseException | None = getattr(failure, "_base_exc", failure)
        while cause is not None:
            if isinstance(cause, CutsError):
                return cause
            cause = cause.__cause__
    return None
