"""What a semantic training reports: a line of JSON each time in log.jsonl, TensorBoard's events, and a sentence."""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.storage.atomic import written_whole
from pipeline.wording import duration

logger = logging.getLogger(__name__)

LOG_FILE, EVENTS = "log.jsonl", "events"


class TrainingLog(AbstractContextManager["TrainingLog"]):
    """The log of a training in a folder, continued from where it resumes: what was reported after that is dropped,
    since it comes again.

    folder: of the training.
    done: iterations done when it resumes, 0 at the beginning.
    total: iterations in all, for the sentence.
    """

    def __init__(self, folder: Path, done: int, total: int) -> None:
        self._first, self._total, self._begun = done, total, time.monotonic()
        kept = [line for line in read_log(folder) if line["iteration"] <= done]
        with written_whole(folder / LOG_FILE) as file:
            file.writelines(_line(report) for report in kept)
        self._file = (folder / LOG_FILE).open("a", encoding="utf-8")
        self._events = _events(folder / EVENTS, done)

    def add(self, iteration: int, values: Mapping[str, float]) -> None:
        """Report the means since the last report: losses as "loss/NAME", similarities as "similarity/NAME"."""
        self._file.write(_line({"iteration": iteration, **values}))
        self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, iteration)
            self._events.flush()
        logger.info("iteration %d/%d%s: %s", iteration, self._total, self._left(iteration), sentence(values))

    def _left(self, iteration: int) -> str:
        if iteration == self._total:
            return ""
        seconds = (time.monotonic() - self._begun) / (iteration - self._first) * (self._total - iteration)
        return f", {duration(seconds)} left"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All reports of a training, one a line; a line that a crash has torn is left out."""
    try:
        lines = (folder / LOG_FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    reports = []
    for line in lines:
        try:
            report = json.loads(line)
            reports.append({**report, "iteration": int(report["iteration"])})
        except (ValueError, TypeError, KeyError):
            logger.warning("a line of %s cannot be read and is dropped", folder / LOG_FILE)
    return reports


def sentence(values: Mapping[str, float]) -> str:
    """A report for people: "loss 0.1234 (own -0.2, …); similarity own 0.41, neighbour 0.33, random 0.05"."""
    losses = {name.removeprefix("loss/"): value for name, value in values.items() if name.startswith("loss/")}
    alike = {name.removeprefix("similarity/"): v for name, v in values.items() if name.startswith("similarity/")}
    parts = [f"loss {values['loss']:.4g} ({_listed(losses)})"]
    return "; ".join([*parts, f"similarity {_listed(alike)}"] if alike else parts)


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def _line(report: Mapping[str, Any]) -> str:
    return f"{json.dumps(report)}\n"


def _events(folder: Path, done: int) -> Any:
    """TensorBoard's writer; None where it is not installed, which is said."""
    if find_spec("tensorboard") is None:
        logger.info(
            "TensorBoard is not installed (pip install 'cuts3d[semantics]'): the curves are in %s alone", LOG_FILE
        )
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=done + 1 if done else None)
