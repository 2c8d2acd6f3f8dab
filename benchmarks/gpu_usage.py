"""How busy a GPU and the cores are while something runs, and what memory it takes."""

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


@dataclass(frozen=True)
class Sample:
    """One look. time: by `time.perf_counter`. gpu, cpu: shares, 0..1, of the time since the look before; gpu_bytes: of
    the whole card in use. None without a GPU."""

    time: float
    cpu: float
    gpu: float | None
    gpu_bytes: int | None


class Usage:
    """Looks every `pause` seconds, in a thread, as long as the block runs."""

    def __init__(self, pause: float = 0.25) -> None:
        self._pause = pause
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="usage", daemon=True)
        self._gpu = gpu_reader()
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        psutil.cpu_percent()  # which is since the call before
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, start: float, end: float) -> "Busy":
        """Means over the looks between two times."""
        chosen = [sample for sample in self.samples if start <= sample.time <= end]
        shares = [sample.gpu for sample in chosen if sample.gpu is not None]
        taken = [sample.gpu_bytes for sample in chosen if sample.gpu_bytes is not None]
        return Busy(
            statistics.fmean(sample.cpu for sample in chosen) if chosen else None,
            statistics.fmean(shares) if shares else None,
            max(taken, default=None),
        )

    def _look(self) -> None:
        while not self._ended.wait(self._pause):
            gpu, taken = self._gpu() if self._gpu else (None, None)
            self.samples.append(Sample(time.perf_counter(), psutil.cpu_percent() / 100, gpu, taken))


@dataclass(frozen=True)
class Busy:
    """Mean shares, 0..1, of all cores of the machine and of the GPU; the most bytes of the card that were in use."""

    cpu: float | None
    gpu: float | None
    gpu_bytes: int | None


def gpu_reader() -> Callable[[], tuple[float, int]] | None:
    """What tells share (0..1) and bytes of the first GPU that are in use; None where nobody can."""
    try:
        import pynvml

        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByIndex(0)
    except ImportError:
        return _by_command if shutil.which("nvidia-smi") else None
    except pynvml.NVMLError:
        return None
    return lambda: (pynvml.nvmlDeviceGetUtilizationRates(card).gpu / 100, pynvml.nvmlDeviceGetMemoryInfo(card).used)


def _by_command() -> tuple[float, int]:
    command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    share, megabytes = first.split(",")
    return int(share) / 100, int(megabytes) << 20


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started; none when it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident(pid: int) -> int:
    """Bytes of memory of a process and all that it started; pages that they share count for each."""
    total = 0
    for process in family(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it has just ended
    return total


def own_memory(what: str) -> int:
    """Bytes that this process holds ("VmRSS") or has held at most ("VmHWM"). The kernel's ru_maxrss would be that of
    its parent, if that was more.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def peak_memory() -> int:
    """Most bytes that this process has held."""
    return own_memory("VmHWM")
