"""A job's log as it grows, until the job ends; lost connections are taken up where they broke off."""

import asyncio
from collections.abc import Callable
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from cluster.jobs.job_server import JobServer, LostConnectionError
from pipeline.exit_status import ALL_THERE, INCOMPLETE, INTERRUPTED

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

SILENCE_SECONDS = 20.0
"""After so long without a line the job is asked for, so that a dead connection does not pass for a silent job."""

WAITING_SECONDS = 40.0
"""After so long a job that has not started is remarked on."""


class Follower:
    """Follows one job.

    write: takes the log's text.
    say: takes remarks on connection and resources, a line each.
    patience: seconds without a connection after which LostConnectionError is raised; the job does not mind.
    """

    def __init__(
        self,
        server: JobServer,
        job: str,
        write: Callable[[str], object],
        say: Callable[[str], object],
        patience: float = 300.0,
    ) -> None:
        self.server, self.job, self.write, self.say, self.patience = server, job, write, say, patience
        self._shown = 0  # characters of the log; every connection gets it from its beginning
        self._said_waiting = False

    def follow(self) -> "JobDetails":
        """Write the log until the job ends, and give what became of it.

        Raises LostConnectionError when the server cannot be reached for `patience` seconds, ClusterError when it does
        not know the job.
        """
        heard, wait = monotonic(), 1.0
        while True:
            shown = self._shown
            try:
                asyncio.run(self._follow_one_connection())
                info = self.server.info(self.job)
                if info.status.is_terminal():
                    self._write(self.server.logs(self.job), 0)
                    return info
                heard, wait = monotonic(), 1.0  # it ended the stream and still answers: take the stream up again
            except LostConnectionError as error:
                if self._shown > shown:
                    heard, wait = monotonic(), 1.0
                if monotonic() - heard > self.patience:
                    raise
                self.say(f"{error}; trying again in {wait:.0f} s")
            sleep(wait)
            wait = min(2 * wait, 15.0)

    async def _follow_one_connection(self) -> None:
        stream = aiter(self.server.client.tail_job_logs(self.job))
        started, got = monotonic(), 0
        chunk: asyncio.Future[str] = asyncio.ensure_future(_next(stream))
        try:
            while True:
                if not (await asyncio.wait({chunk}, timeout=SILENCE_SECONDS))[0]:
                    info = await asyncio.to_thread(self.server.info, self.job)
                    if info.status.is_terminal():
                        return
                    self._say_if_waiting(info, monotonic() - started)
                    continue
                text = chunk.result()
                self._write(text, got)
                got += len(text)
                chunk = asyncio.ensure_future(_next(stream))
        except StopAsyncIteration:
            return
        except Exception as error:
            raise self.server.error(error, self.job) from error
        finally:
            chunk.cancel()
            await asyncio.gather(chunk, return_exceptions=True)

    def _write(self, text: str, at: int) -> None:
        """Write what is new of a text that begins at a place of the log."""
        new = text[max(0, self._shown - at) :]
        if new:
            self.write(new)
            self._shown += len(new)

    def _say_if_waiting(self, info: "JobDetails", seconds: float) -> None:
        if str(info.status) == "PENDING" and seconds >= WAITING_SECONDS and not self._said_waiting:
            self._said_waiting = True
            self.say(
                f"the job has not started after {seconds:.0f} s: {info.message} Compare what it asks for "
                "(`cuts3d submit --num-cpus --num-gpus --memory --resource`) with what `ray status` shows on the "
                "cluster; `cuts3d stop` ends it"
            )


async def _next(stream: Any) -> str:
    chunk: str = await anext(stream)
    return chunk


def exit_status(info: "JobDetails") -> int:
    """The exit status for an ended job: its own, as a shell gives it; 1 for one that never ran, 130 when stopped."""
    if str(info.status) == "SUCCEEDED":
        return ALL_THERE
    if str(info.status) == "STOPPED":
        return INTERRUPTED
    code = info.driver_exit_code or INCOMPLETE
    return 128 - code if code < 0 else code
