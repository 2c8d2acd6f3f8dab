"""Runs of the command line that are killed at each point of the commit protocol, and a shard that was altered."""

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.faults import VARIABLE
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run
from support import warm

POINTS = ("after_run_json", "before_write:00001", "mid_write:00001", "after_write:00001", "after_commit:00001")


def check_killed(
    folder: Path,
    words: Callable[[Path], Sequence[str]],
    command: Callable[..., object],
    environment: Mapping[str, str],
    points: Sequence[str] = POINTS,
) -> None:
    """By SIGKILL, a run a point, each resumed: to the same bytes as one that nobody disturbed.

    words: of the command that makes a run in a folder.
    command: does them in this process; it has the method's package installed, as `environment` has.
    """

    def shards(run: RunFolder) -> dict[str, str]:
        return {key: commit.shard.sha256 for key, commit in run.ledger.committed().items()}

    command(*words(folder / "undisturbed"))
    expected = shards(RunFolder.open(folder / "undisturbed"))
    assert expected
    for point in points:
        out = folder / point.replace(":", "-")
        killed = warm.run(["-m", "pipeline.cli", *words(out)], dict(environment) | {VARIABLE: point})
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        command(*words(out))
        run = RunFolder.open(out)
        run.gc(min_age_s=0)
        assert verify_run(run) == []
        assert shards(run) == expected, point


def check_damage_is_found(out: Path) -> None:
    """Of a finished run: a bit of a shard changes."""
    name = RunFolder.open(out).ledger.read("00001").shard.name
    data = bytearray((out / name).read_bytes())
    data[len(data) // 2] ^= 1
    (out / name).write_bytes(data)
    (problem,) = verify_run(RunFolder.open(out))
    assert "altered" in problem.message
