"""The masks of the round before, looked up by several threads at once, as the lanes of a worker do."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.sample_run import CONFIG, do_shard, sample_manifest, sample_record
from support.waiting import PATIENCE

from detector.prediction.previous_round import PreviousRound
from pipeline.errors import ConfigError
from pipeline.images.manifest import Manifest
from pipeline.runs.run_folder import RunFolder

IMAGES, THREADS = 60, 4


def made(folder: Path, shard_size: int, *, but: int = 0) -> Manifest:
    """The manifest of a run in the folder, whose last shards are missing."""
    run = RunFolder.create_or_open(folder, CONFIG, sample_manifest(IMAGES, shard_size))
    shards = run.pending()
    for shard in shards[: len(shards) - but]:
        do_shard(run, shard, mended=True)
    return run.manifest


@pytest.mark.parametrize("shard_size", [4, 7])  # as in the run before, where a key is that of the same images, and not
@pytest.mark.slow
def test_threads_find_what_one_finds(tmp_path: Path, shard_size: int) -> None:
    """There are more shards than it keeps, so that threads read, throw away and read again at the same time."""
    made(tmp_path, 4)
    previous = PreviousRound(str(tmp_path))
    shards = sample_manifest(IMAGES, shard_size).shards()
    expected = {ref.id: sample_record(ref.id) for shard in shards for ref in shard.refs}
    together = threading.Barrier(THREADS, timeout=PATIENCE)

    def look_up(seed: int) -> int:
        order = random.Random(seed).sample(shards, len(shards))
        together.wait()
        for shard in order:
            found = previous.records(shard, range(len(shard.refs)))
            assert found == [expected[ref.id] for ref in shard.refs]
        return len(order)

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(look_up, range(THREADS))) == [len(shards)] * THREADS


def test_an_image_that_it_does_not_know_is_none(tmp_path: Path) -> None:
    made(tmp_path, 4)
    (*_, last) = sample_manifest(IMAGES + 4, 4).shards()
    assert PreviousRound(str(tmp_path)).records(last, range(len(last.refs))) == [None] * len(last.refs)


def test_a_run_with_missing_shards_is_refused(tmp_path: Path) -> None:
    made(tmp_path, 4, but=2)
    with pytest.raises(ConfigError, match="lacks 2 of 15 shards: finish it first"):
        PreviousRound(str(tmp_path))
