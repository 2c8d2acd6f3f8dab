"""Crash points: where a test or a soak run kills this very process, to prove that nothing is lost or done twice."""

import os
import signal

VARIABLE = "CUTS3D_CRASH_AT"


def crash_point(point: str, subject: str = "") -> None:
    """Kill this process with SIGKILL when CUTS3D_CRASH_AT says `point`, or `point:subject`.

    A signal that cannot be caught, so that no `finally`, no `atexit` and no buffer flush tidies up behind the crash.

    point: `before_write`, `mid_write` (half of the bytes of a file are written), `after_write` (all files of an attempt
        are in place, not yet committed), `after_commit`, `after_run_json`.
    subject: shard key or file name; the variable may name its beginning, e.g. `mid_write:00042`.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    wanted_point, _, wanted_subject = wanted.partition(":")
    if wanted_point == point and subject.startswith(wanted_subject):
        os.kill(os.getpid(), signal.SIGKILL)
