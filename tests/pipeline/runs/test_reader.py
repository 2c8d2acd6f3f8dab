"""RunReader: order, one shard at a time, retries that supersede, figures."""

from pathlib import Path

import numpy as np
import pytest
from support.sample_run import UNREADABLE, do_shard, drops_of, launch, masks_of, sample_manifest, shard_records

from pipeline.errors import StoreError
from pipeline.results.instance_file import ShardFile
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.reader import QuarantineRecord, RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run

EXPECTED = [record for shard in sample_manifest().shards() for record in shard_records(shard)]
MENDED = [record for shard in sample_manifest().shards() for record in shard_records(shard, mended=True)]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return launch(str(tmp_path))


def test_every_image_once_in_the_order_of_the_manifest(run: RunFolder) -> None:
    assert list(RunReader(run)) == EXPECTED


def test_masks_with_low_scores_can_be_left_out(run: RunFolder) -> None:
    scores = sorted(instance.score for record in EXPECTED for instance in masks_of(record))
    least = scores[len(scores) // 2]
    images = list(InstanceReader(run, least))
    assert [image.id for image in images] == [image.id for image in EXPECTED]
    for image, whole in zip(images, EXPECTED, strict=True):
        kept = [instance for instance in masks_of(whole) if instance.score >= least]
        assert list(masks_of(image)) == kept
        assert image.status == (whole.status if kept or whole.status != "ok" else "no_masks")
    left = sum(len(masks_of(image)) for image in images)
    assert 0 < left < len(scores)
    assert InstanceReader(run, least).summary().survey["masks"] == len(scores), "figures are of what is stored"


def test_only_one_shard_is_open_at_a_time(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    original = ShardFile.open.__func__  # type: ignore[attr-defined]

    def open_(cls: type, source: bytes, name: str) -> ShardFile:
        opened.append(len(opened))
        return original(cls, source, name)

    monkeypatch.setattr(ShardFile, "open", classmethod(open_))
    images = iter(RunReader(run))
    for expected in (1, 1, 1, 1, 2, 2, 2, 2, 3, 3):
        next(images)
        assert len(opened) == expected


def test_unfinished_run_reads_as_far_as_it_is(run: RunFolder) -> None:
    Path(run.url, "commits/00001.json").unlink()
    assert list(RunReader(run)) == EXPECTED[:4] + EXPECTED[8:]
    assert RunReader(run).summary().committed_shards == 2


def test_quarantined_images_and_why(run: RunFolder) -> None:
    assert RunReader(run).quarantined() == [
        QuarantineRecord("000/4.jpg", "truncated", "000/4.jpg ends too early", "00001"),
        QuarantineRecord("001/1.jpg", "truncated", "001/1.jpg ends too early", "00002"),
    ]


def test_retry_that_succeeds_supersedes(run: RunFolder) -> None:
    (shard,) = run.retry_shards(UNREADABLE)
    do_shard(run, shard, mended=True)
    reader = RunReader(run)
    assert list(reader) == MENDED
    assert reader.quarantined() == []
    assert verify_run(run) == []


def test_retries_that_fail_then_succeed_in_part(run: RunFolder) -> None:
    (both,) = run.retry_shards(UNREADABLE)
    do_shard(run, both)
    reader = RunReader(run)
    assert list(reader) == EXPECTED
    assert [(q.id, q.shard) for q in reader.quarantined()] == [(id_, "retry-00000") for id_ in UNREADABLE]
    (second,) = run.retry_shards(UNREADABLE[1:])
    do_shard(run, second, mended=True)
    # A straggler that fails again later does not undo a success.
    (third,) = run.retry_shards(UNREADABLE)
    do_shard(run, third)
    reader = RunReader(run)
    at = [record.id for record in EXPECTED].index(UNREADABLE[1])
    assert list(reader) == [*EXPECTED[:at], MENDED[at], *EXPECTED[at + 1 :]]
    assert [(q.id, q.shard) for q in reader.quarantined()] == [(UNREADABLE[0], "retry-00002")]


def test_a_retry_does_not_replace_what_was_good(run: RunFolder) -> None:
    good = EXPECTED[0].id
    (shard,) = run.retry_shards([good, *UNREADABLE])
    do_shard(run, shard, mended=True)
    assert list(RunReader(run)) == MENDED
    assert RunReader(run).summary().committed_images == len(MENDED)


@pytest.mark.parametrize("retried", [False, True])
def test_summary_counts_every_image_once(run: RunFolder, retried: bool) -> None:
    records = EXPECTED
    if retried:
        (shard,) = run.retry_shards(UNREADABLE)
        do_shard(run, shard, mended=True)
        records = MENDED
    summary = RunReader(run).summary()
    instances = [instance for record in records for instance in masks_of(record)]
    masks_per_image = [len(masks_of(record)) for record in records if record.status != "quarantined"]
    assert summary.schema == "cuts3d-pseudo-masks 1"
    assert (summary.images, summary.committed_images, summary.shards, summary.committed_shards) == (10, 10, 3, 3)
    survey = summary.survey
    assert survey["masks"] == len(instances)
    assert survey["masks_per_image"] == {n: masks_per_image.count(n) for n in sorted(set(masks_per_image))}
    statuses = [record.status for record in records]
    assert survey["statuses"] == {name: statuses.count(name) for name in ("ok", "no_masks", "quarantined")}
    assert survey["drops"] == {"too_small": sum(drops_of(record).get("too_small", 0) for record in records)}
    assert summary.quarantine == ({} if retried else {"truncated": 2})
    assert summary.bytes == sum(
        path.stat().st_size for f in ("shards", "quarantine") for path in Path(run.url, f).iterdir()
    )
    for histogram in (survey["score"], survey["mean_confidence"], survey["log10_area_share"]):
        assert sum(histogram["counts"]) == len(instances)
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    scores = [instance.score for instance in instances]
    np.testing.assert_array_equal(survey["score"]["counts"], np.histogram(scores, 20)[0])
    confidence = [np.mean(i.confidence[i.confidence > 0]) / 255 for i in instances]
    np.testing.assert_array_equal(survey["mean_confidence"]["counts"], np.histogram(confidence, 20, (0, 1))[0])


def test_summary_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = RunFolder.create_or_open(tmp_path, {}, sample_manifest())
    summary = RunReader(run).summary()
    assert (summary.survey["masks"], summary.committed_images, summary.images) == (0, 0, 10)
    assert sum(summary.survey["score"]["counts"]) == 0
    assert list(RunReader(run)) == []


def test_missing_or_altered_shard_is_told(run: RunFolder) -> None:
    path = Path(run.url, run.ledger.read("00001").shard.name)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(StoreError, match=r"00001-\w+\.zarr\.zip was altered.*cuts3d verify"):
        list(RunReader(run))
    path.unlink()
    with pytest.raises(StoreError, match=r"00001-\w+\.zarr\.zip is committed but missing.*cuts3d verify"):
        list(RunReader(run))
