"""A restart reads what says what is done, and no image, no shard and no log of what was done before."""

import json
import os
from pathlib import Path

import pytest
from support import warm
from support.tiny_method import draw_photos

# Launches a run and prints which files below its folder and the photos' were opened to be read, in which order.
LAUNCH = """
import json, os, sys
from pathlib import Path
import pytest
from support.tiny_method import in_place_of_models, tiny_method
from pipeline.engine import run as runner
from pipeline.runs.launch import Launch
run, photos = map(os.path.abspath, sys.argv[1:3])
images = photos if len(sys.argv) > 3 else None
in_place_of_models(pytest.MonkeyPatch(), lambda launch: tiny_method())
read = []

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path, mode, flags = arguments
        is_read = (mode or "r").startswith("r") and not (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        if is_read and path.startswith((run + "/", photos + "/")) and not os.path.isdir(path):
            read.append(path)

launch = Launch(images=images, shard_size=8) if images else None
sys.addaudithook(hook)
summary = runner.run(run, launch)
print(json.dumps({"read": read, "images": summary.images, "missing": summary.missing}))
"""


def launch(run: Path, photos: Path, *more: str) -> tuple[set[str], dict]:
    result = warm.run(["-c", LAUNCH, run, photos, *more])
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    return {os.path.relpath(path, run.parent) for path in found.pop("read")}, found


@pytest.mark.slow(10)
def test_a_restart_reads_the_settings_the_manifest_and_the_commits(tmp_path: Path) -> None:
    run, photos = tmp_path / "run", tmp_path / "photos"
    draw_photos(photos, 24)
    read, found = launch(run, photos, "first")
    assert found == {"images": 24, "missing": 0}
    assert {f"photos/{i:03d}.png" for i in range(24)} <= read
    allowed = {"run/run.json", "run/launch.json", "run/manifest.parquet", "run/lease.json"}
    commits = {f"run/commits/{i:05d}.json" for i in range(3)}
    for folder in ("shards", "quarantine", "logs"):
        for path in (run / folder).glob("*"):
            path.write_bytes(b"?" * path.stat().st_size)  # their lengths are looked at, and nothing else

    read, found = launch(run, photos)
    assert found == {"images": 0, "missing": 0}
    assert commits <= read <= allowed | commits

    (run / "commits/00001.json").unlink()
    read, found = launch(run, photos)
    assert found == {"images": 8, "missing": 0}
    assert commits <= read <= allowed | commits | {f"photos/{i:03d}.png" for i in range(8, 16)}
