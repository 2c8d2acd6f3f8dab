"""What a training in other processes reports in its folder, said in the log of this one."""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

REPORTS = "*/vis_data/scalars.json"  # of each launch, by MMEngine


@contextmanager
def followed(folder: Path, pause: float = 2.0) -> Iterator[None]:
    """Say what the training in this folder reports from now on. pause: seconds between looks."""
    said = {file: file.stat().st_size for file in folder.glob(REPORTS)}
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(pause):
            _say_news(folder, said)

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _say_news(folder, said)


def _say_news(folder: Path, said: dict[Path, int]) -> None:
    """said: bytes of each file that need not be said again."""
    for file in sorted(folder.glob(REPORTS)):
        try:
            with file.open("rb") as reports:
                reports.seek(said.get(file, 0))
                news = reports.read()
            whole = news[: news.rfind(b"\n") + 1]  # the last line may still be under way
            said[file] = said.get(file, 0) + len(whole)
            for line in whole.splitlines():
                logger.info("%s", _sentence(json.loads(line)))
        except (OSError, ValueError) as error:  # the training does not depend on it
            logger.warning("%s cannot be read: %s", file, error)


def _sentence(report: Mapping[str, Any]) -> str:
    values = {name.removeprefix("val/"): value for name, value in report.items() if name.startswith("val/")}
    if not values:
        values = {name: report[name] for name in ("loss", "lr", "time") if name in report}
    return f"iteration {report.get('step')}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
