"""What the tests of runs on Ray share: a small run, and what comes of it undisturbed."""

import pytest
from support.tiny_run import tiny_launch

from pipeline.engine.run import run
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """24 images in 12 shards."""
    return tiny_launch(tmp_path_factory.mktemp("data"), images=24, shard_size=2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, launch: Launch) -> RunFolder:
    out = tmp_path_factory.mktemp("undisturbed")
    assert run(out, launch).complete
    return RunFolder.open(out)
