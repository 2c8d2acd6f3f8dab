"""An image that eats the memory of every worker that looks at it is found and set aside, and the run goes on."""

from pathlib import Path

import psutil
import pytest
from support.ray_processes import assert_equal_stores, finish, start_driver

from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow(110)]


def test_an_image_that_eats_memory_is_set_aside(tmp_path: Path, launch: Launch, undisturbed: RunFolder) -> None:
    """Ray's memory monitor ends the worker that takes too much."""
    memory = psutil.virtual_memory()
    threshold = 1 - memory.available / 2 / memory.total  # other tests may take the one half
    driver = start_driver(
        tmp_path, launch, "--ray", "--workers", "1", "--cpus-per-worker", "1", CUTS3D_IMAGE_FAULT="eat:018.png",
        RAY_memory_usage_threshold=f"{threshold:.3f}", RAY_memory_monitor_refresh_ms="100",
    )  # fmt: skip
    finish(driver, status=1)
    assert_equal_stores(RunFolder.open(tmp_path), undisturbed, {"018.png": "crashed"})
