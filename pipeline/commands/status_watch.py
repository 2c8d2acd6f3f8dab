"""`cuts3d status --watch`: the status, refreshed until the run is complete: redrawn on a terminal, else in lines."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.errors import StoreError
from pipeline.runs.status import RunStatus, StatusReader

EVERY = 5.0  # seconds


def watch(
    url: str | Path,
    *,
    as_json: bool = False,
    interactive: bool | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> RunStatus:
    """Show the status of a run on stdout, refreshed every few seconds; returns it when the run is complete.

    as_json: one line of JSON instead, whenever something has changed.
    interactive: redraw in place; None does so on a terminal.

    A store that cannot be read for a while is reported and waited for; StoreError when there is no run at first.
    """
    reader = StatusReader(url)
    redraw = (sys.stdout.isatty() if interactive is None else interactive) and not as_json
    return _redraw(reader, sleep) if redraw else _print_lines(reader, as_json, sleep)


def _redraw(reader: StatusReader, sleep: Callable[[float], None]) -> RunStatus:
    shown = Text("reading the commits ...")
    with Live(shown, console=Console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            status, problem = _read(reader)
            if status is not None:
                shown = Text("\n".join(status.lines()))
            live.update(shown if not problem else Text(f"{shown.plain}\n{problem}"), refresh=True)
            if status is not None and status.complete:
                return status
            sleep(EVERY)


def _print_lines(reader: StatusReader, as_json: bool, sleep: Callable[[float], None]) -> RunStatus:
    seen: object = None
    while True:
        status, problem = _read(reader)
        if status is None:
            print(problem, file=sys.stderr, flush=True)
        elif (now := (status.done_shards, status.quarantined, status.damaged, status.kept)) != seen:
            seen = now
            line = json.dumps(status.as_dict(), ensure_ascii=False) if as_json else f"{_clock()} {status.line()}"
            print(line, flush=True)
        if status is not None and status.complete:
            return status
        sleep(EVERY)


def _read(reader: StatusReader) -> tuple[RunStatus | None, str]:
    try:
        return reader.read(), ""
    except StoreError as error:
        return None, f"{_clock()} {error} Trying again."


def _clock() -> str:
    return time.strftime("%H:%M:%S")
