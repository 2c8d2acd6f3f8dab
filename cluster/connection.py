"""To a Ray cluster, or to a Ray that is started here, for this machine alone, and ends again."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray
from ray.job_config import JobConfig

from cluster.jobs.submit import own_checkout
from cluster.tokens import check_token, use_token_that_is_there
from pipeline.errors import ClusterError, ConfigError
from pipeline.wording import brief

log = logging.getLogger(__name__)

T = TypeVar("T")

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of a job's driver
STARTS = 4  # of a Ray here: it gives up after half a minute, which a busy machine may need for its processes alone
OBJECT_STORE = 256 << 20  # bytes of a Ray started here: no tensor ever goes through it


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connected to Ray; a Ray that was started here, for None or "local", ends with this."""
    if address == "local":
        address = None
    if ray.is_initialized():
        yield  # by a caller from Python
        return
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address is None:
        arguments |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        arguments |= {"_node_ip_address": "127.0.0.1"}
    else:
        use_token_that_is_there()
        _knock(address)
        arguments["address"] = address
    if (job := _installed_alone(address)) is not None:
        arguments["job_config"] = job
    try:
        terminated = signal.getsignal(signal.SIGTERM)
        if address is None:
            with _on_loopback():
                started(lambda: ray.init(**arguments))
        else:
            ray.init(**arguments)
        if terminated is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)  # Ray's own handler ends the process without a word
    except getattr(ray.exceptions, "AuthenticationError", ()) as error:  # no Ray before tokens has it
        raise ClusterError(f"Ray's token is missing or cannot be read: {brief(error)}") from error
    except Exception as error:  # Ray's own kinds, and a bare one when a node does not start in time
        where = "Ray cannot be started here" if address is None else f"there is no Ray cluster at {address}"
        if "ersion mismatch" in str(error):
            where = f"the Ray cluster at {address} is of another version than this Ray or Python"
        raise ConfigError(f"{where}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def started(start: Callable[[], T], more: int = STARTS - 1) -> T:
    """What `start`, which starts a node of Ray, gives. more: tries, where the node is not there in time."""
    try:
        return start()
    except Exception as error:  # a bare one
        if "timed out during startup" not in str(error) or more == 0:
            raise
        log.warning("Ray did not start within half a minute, as on a busy machine: trying again")
        ray.shutdown()
    return started(start, more - 1)


def _knock(address: str) -> None:
    """ConfigError when nothing answers at HOST:PORT, ClusterError when it is the token.

    Ray itself takes minutes to find out the one, and takes the other for the first.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # "auto", and whatever else Ray understands
    try:
        socket.create_connection((host.strip("[]"), int(port)), 10).close()
    except OSError as error:
        raise ConfigError(
            f"there is no Ray cluster at {address} ({error.strerror or error}): give HOST:6379 of its head, or auto on "
            "a machine that belongs to it"
        ) from error
    check_token(address)


def _installed_alone(address: str | None) -> JobConfig | None:
    """How workers find cuts3d: as it is installed, or in the checkout that this process runs from. Ray would let them
    look into the driver's present folder first, where any file may have the name of a module.

    None for the driver of a job, whose path Ray has from the job; and for ray://, where Ray sees to it by itself.
    """
    if JOB_CONFIG in os.environ or (address or "").startswith("ray://"):
        return None
    checkout = own_checkout()
    return JobConfig(_client_job=True, _py_driver_sys_path=[str(checkout)] if checkout else [])


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray started here is for this machine only: nothing of it is to listen where others can reach it.

    On Linux Ray replaces 127.0.0.1 by an outward address, unless it takes the platform for one without clusters.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
