"""An image that eats the memory of every worker that looks at it is found and set aside, and the run goes on."""

from pathlib import Path

import psutil
import pytest
from support.ray_nodes import Nodes
from support.ray_processes import assert_equal_stores, finish, warm_driver

from pipeline.faults import IMAGE_VARIABLE
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow(110)]


def test_an_image_that_eats_memory_is_set_aside(
    tmp_path: Path, nodes: Nodes, launch: Launch, undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's memory monitor ends the worker that takes too much."""
    memory = psutil.virtual_memory()
    eaten = min(memory.available / 2, 4 << 30)  # others may take the rest
    monkeypatch.setenv(IMAGE_VARIABLE, "eat:018.png")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{1 - (memory.available - eaten) / memory.total:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    nodes.add()
    finish(warm_driver(tmp_path / "run", launch, "--ray", nodes.address), status=1)
    assert_equal_stores(RunFolder.open(tmp_path / "run"), undisturbed, {"018.png": "crashed"})
