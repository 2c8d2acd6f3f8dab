"""Images that end or hold every worker that looks at them are found and set aside, and the run goes on."""

from pathlib import Path

import pytest
from support.ray_nodes import Nodes
from support.ray_processes import assert_equal_stores, finish, warm_driver

from pipeline.faults import IMAGE_VARIABLE
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow(90)]


def test_images_that_end_or_hold_their_worker_are_set_aside(
    tmp_path: Path, nodes: Nodes, launch: Launch, undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far longer than a shard that is not held takes, on a machine as fast or slow as this one is now.
    walls = [commit.wall for commit in undisturbed.ledger.committed().values()]
    deadline = max(10.0, 20 * max(walls))
    monkeypatch.setenv(IMAGE_VARIABLE, "exit:005.png,hang:018.png")
    nodes.add(cpus=2)
    driver = warm_driver(
        tmp_path / "run", launch, "--ray", nodes.address, "--workers", "2", "--cpus-per-worker", "1",
        "--deadline", str(deadline),
    )  # fmt: skip
    said = finish(driver, status=1)
    assert "2 of them set aside" in said
    assert_equal_stores(RunFolder.open(tmp_path / "run"), undisturbed, {"005.png": "crashed", "018.png": "hung"})
