"""Many processes import MMEngine at once, on a machine where nobody has before."""

import os
import subprocess
import sys
from pathlib import Path

TOLD = """
import sys
tell = lambda event, arguments: print(event, flush=True) if event in ("fcntl.flock", "os.rename") else None
import detector
sys.addaudithook(tell)
import mmengine
print(mmengine.__name__)
"""


def imported(cache: Path) -> list[str]:
    """What a process that imports MMEngine does, with this folder for caches: events and, in the end, its name."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("CUTS3D_CACHE", None)
    done = subprocess.run([sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_grammar_is_written_under_a_lock(tmp_path: Path) -> None:
    assert imported(tmp_path) == ["fcntl.flock", "os.rename", "os.rename", "mmengine"]
    kept = sorted((tmp_path / "YAPF").rglob("*.pickle"))
    assert [path.name.partition("-")[0] for path in kept] == ["Grammar", "PatternGrammar"]
    for path in kept:  # as a full disk leaves them, for good
        path.write_bytes(b"")
    assert imported(tmp_path) == ["fcntl.flock", "os.rename", "os.rename", "mmengine"]
    assert all(path.stat().st_size > 1000 for path in kept)
    assert imported(tmp_path) == ["fcntl.flock", "mmengine"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert imported(tmp_path / "file") == ["mmengine"]
