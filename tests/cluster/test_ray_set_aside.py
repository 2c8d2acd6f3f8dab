"""Images that end or hold every worker that looks at them are found and set aside, and the run goes on."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import environment
from support.ray_processes import assert_equal_stores, finish, start_driver

from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow(90)]


def seconds_of_a_start() -> float:
    """Of what takes a worker longest, which it has behind it when it is given a shard."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import timm"], env=environment(), check=True)
    return time.monotonic() - started


def test_images_that_end_or_hold_their_worker_are_set_aside(
    tmp_path: Path, launch: Launch, undisturbed: RunFolder
) -> None:
    # Far longer than a shard that is not held takes, on a machine as fast or slow as this one is now.
    deadline = max(20.0, 4 * seconds_of_a_start())
    driver = start_driver(
        tmp_path, launch, "--ray", "--workers", "2", "--cpus-per-worker", "1", "--deadline", str(deadline),
        CUTS3D_IMAGE_FAULT="exit:005.png,hang:018.png",
    )  # fmt: skip
    said = finish(driver, status=1)
    assert "2 of them set aside" in said
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed, {"005.png": "crashed", "018.png": "hung"})
