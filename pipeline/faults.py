"""Faults on demand: where a test or a soak run kills or spoils this very process, to prove that nothing is lost or done
twice. Without the variables in the environment nothing here does anything.
"""

import os
import signal
import time
from pathlib import Path

VARIABLE = "CUTS3D_CRASH_AT"
ONCE_VARIABLE = "CUTS3D_CRASH_ONCE"
IMAGE_VARIABLE = "CUTS3D_IMAGE_FAULT"
HOLD_VARIABLE = "CUTS3D_HOLD_UNTIL"

_CHUNK = 128 << 20  # bytes at a time that "eat" takes


def crash_point(point: str, subject: str = "") -> None:
    """Kill this process with SIGKILL when CUTS3D_CRASH_AT says `point`, or `point:subject`; commas between several.

    A signal that cannot be caught, so that no `finally`, no `atexit` and no buffer flush tidies up behind the crash.
    When CUTS3D_CRASH_ONCE names a folder, each of the points kills one process only, the first to come there.

    point: `before_write`, `mid_write` (half of the bytes of a file are written), `after_write` (all files of an attempt
        are in place, not yet committed), `after_commit`, `after_run_json`, `after_neighbours`.
    subject: shard key or file name; the variable may name its beginning, e.g. `mid_write:00042`.
    """
    for wanted in filter(None, os.environ.get(VARIABLE, "").split(",")):
        wanted_point, _, wanted_subject = wanted.partition(":")
        if wanted_point == point and subject.startswith(wanted_subject) and _is_first(wanted):
            os.kill(os.getpid(), signal.SIGKILL)


def image_fault(image_id: str) -> None:
    """Do to this process what CUTS3D_IMAGE_FAULT says of the image, as "KIND:ID" with commas between several.

    KIND: `exit` ends the process without a word; `hang` never returns; `eat` takes memory until something gives; `hold`
        waits until there is the file that CUTS3D_HOLD_UNTIL names.
    """
    for fault in filter(None, os.environ.get(IMAGE_VARIABLE, "").split(",")):
        kind, _, wanted = fault.partition(":")
        if wanted != image_id:
            continue
        if kind == "exit":
            os._exit(1)
        if kind not in ("hang", "eat", "hold"):
            raise ValueError(f"{IMAGE_VARIABLE} names the unknown fault {kind!r}: use exit, hang, eat or hold")
        eaten = []
        while kind != "hold" or not Path(os.environ[HOLD_VARIABLE]).exists():
            if kind == "eat":
                eaten.append(b"\1" * _CHUNK)
            time.sleep(0.02)


def _is_first(fault: str) -> bool:
    folder = os.environ.get(ONCE_VARIABLE)
    if not folder:
        return True
    try:
        os.close(os.open(Path(folder, fault.replace("/", "_")), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
