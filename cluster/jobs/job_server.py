"""The job server of a Ray cluster: Ray's client for it, with errors that say what to do."""

import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.tokens import token_error, use_token_that_is_there
from pipeline.errors import ClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

T = TypeVar("T")

REACH_SECONDS = 10.0


class LostConnectionError(ClusterError):
    """The job server does not answer; trying again may help."""


def need_ray() -> None:
    """ClusterError when Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ClusterError(
            f"Ray is not installed for {sys.executable}: pip install 'cuts3d[cluster]'. A job runs with the python "
            "that comes first in the PATH of the head's `ray start`"
        )


class JobServer:
    """Jobs of one cluster. All methods raise ClusterError, LostConnectionError where the connection is at fault.

    address: http://HEAD:8265, or https:// where a proxy ends TLS.
    A token is taken from RAY_AUTH_TOKEN, from the file RAY_AUTH_TOKEN_PATH, or from ~/.ray/auth_token.
    """

    def __init__(self, address: str | None) -> None:
        need_ray()
        full = _checked(address)
        self.address = _shown(full)
        self.client = self._ask(lambda: self._connect(full))

    def submit(self, **job: Any) -> str:
        """Start a job, see Ray's `JobSubmissionClient.submit_job`; gives its id."""
        return str(self._ask(lambda: self.client.submit_job(**job), job.get("submission_id") or ""))

    def jobs(self) -> "list[JobDetails]":
        """The jobs that were submitted to the cluster, latest first."""
        found: list[Any] = self._ask(self.client.list_jobs)
        submitted = [job for job in found if job.submission_id]
        return sorted(submitted, key=lambda job: job.start_time or 0, reverse=True)

    def info(self, job: str) -> "JobDetails":
        """Status and settings of a job."""
        return self._ask(lambda: self.client.get_job_info(job), job)

    def logs(self, job: str) -> str:
        """What the job has printed so far."""
        return str(self._ask(lambda: self.client.get_job_logs(job), job))

    def stop(self, job: str) -> bool:
        """Ask a job to end; whether it was still running."""
        return bool(self._ask(lambda: self.client.stop_job(job), job))

    def error(self, error: Exception, job: str = "") -> ClusterError:
        """The project's error for one of Ray's, of its HTTP or of its websocket client."""
        import aiohttp
        from ray.exceptions import RayError

        text = str(error).strip()
        status = error.status if isinstance(error, aiohttp.WSServerHandshakeError) else None
        if status in (401, 403) or isinstance(error, RayError):
            return token_error(self.address, refused=status == 403 or "Authentication failed" in text)
        if status == 404 or "status code 404: Job" in text:
            return ClusterError(
                f"{self.address} knows no job {job}: `cuts3d jobs` lists those it has; a cluster that was restarted "
                "has forgotten its jobs, not what they committed"
            )
        if "already exists" in text:
            return ClusterError(
                f"the job id {job} is taken at {self.address}: give another --job-id; that job resumes the run"
            )
        if "No available agent" in text:
            return ClusterError(
                f"the head node of {self.address} has no agent that starts jobs: try again when it is fully up; where "
                "several Rays share a machine, they need `ray start --dashboard-agent-listen-port` of their own"
            )
        if isinstance(error, OSError | TimeoutError | aiohttp.ClientError) or _passing(text):
            return LostConnectionError(
                f"no job server can be reached at {self.address} ({_reason(error)}): is the "
                "cluster up, is this its dashboard's port (8265), is a port forward needed?"
            )
        if isinstance(error, KeyError):
            return ClusterError(f"{self.address} is no job server of Ray: its answer lacks {text}")
        return ClusterError(f"{self.address} refuses: {_last_line(text)}")

    def _connect(self, address: str) -> Any:
        use_token_that_is_there()
        import requests
        from ray.job_submission import JobSubmissionClient

        for module in ("job.sdk", "dashboard_sdk"):  # which tell of every upload and websocket
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
        requests.get(f"{address}/api/version", timeout=REACH_SECONDS)  # Ray's own requests wait without limit
        with _environment("RAY_API_SERVER_ADDRESS", address):  # which Ray prefers to what it is told
            return JobSubmissionClient(address)

    def _ask(self, question: Callable[[], T], job: str = "") -> T:
        try:
            return question()
        except ClusterError:
            raise
        except (RuntimeError, OSError, ValueError, KeyError, _ray_error()) as error:
            raise self.error(error, job) from error


def _checked(address: str | None) -> str:
    if not address:
        raise ClusterError("say where the cluster is: --address http://HEAD:8265, or RAY_API_SERVER_ADDRESS")
    if not address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{address} is not the address of a job server: it is served beside Ray's dashboard, give "
            "--address http://HEAD:8265"
        )
    return address.rstrip("/")


def _shown(address: str) -> str:
    from pipeline.storage.locations import redacted

    return redacted(address)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip(" .")]
    return lines[-1] if lines else ""


def _passing(text: str) -> bool:
    """Whether a RuntimeError of Ray's client is about the connection, or a proxy that finds the server gone."""
    return "WebSocket" in text or re.search(r"status code 50[234]", text) is not None


def _reason(error: Exception) -> str:
    """Of the errors that HTTP libraries wrap into each other, what the system said."""
    text = str(error)
    said = re.search(r"\[Errno -?\d+\] ([^'\"()]+)", text)
    if said:
        return said[1].strip()
    if isinstance(error, TimeoutError) or "timed out" in text:
        return "no answer"
    if "BadStatusLine" in text:
        return "what listens there does not speak HTTP"
    return (re.search(r"\[SSL: \w+\] [\w ]+", text) or [_last_line(text) or type(error).__name__])[0]


def _ray_error() -> type[Exception]:
    from ray.exceptions import RayError

    return RayError


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
