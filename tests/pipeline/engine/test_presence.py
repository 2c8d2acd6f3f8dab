"""Photos that have moved, or whose mount is gone, stop a launch; where they are now is kept for all that follows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_method import draw_photos, in_place_of_models, tiny_method

from pipeline.engine import run as engine
from pipeline.engine.run import retry_quarantined, run
from pipeline.errors import SourceError
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.views.export import export_overlays


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_models(monkeypatch, lambda launch: tiny_method(launch.recipe, launch.overrides))


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    draw_photos(tmp_path / "old" / "photos", 6)
    return Launch(images=str(tmp_path / "old" / "photos"), shard_size=2)


def undo(out: Path, *keys: str) -> None:
    """As if it had been killed before these shards."""
    for key in keys:
        (out / "commits" / f"{key}.json").unlink()


def move(launch: Launch, tmp_path: Path) -> Launch:
    (tmp_path / "old").rename(tmp_path / "new")
    return replace(launch, images=str(tmp_path / "new" / "photos"))


def refuse_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object) -> None:
        raise AssertionError("models were loaded")

    monkeypatch.setattr(engine, "load_method", load)


def test_moved_photos_stop_a_resumed_run(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    run(out, launch)
    undo(out, "00001", "00002")
    moved = move(launch, tmp_path)
    with monkeypatch.context() as patch:
        refuse_models(patch)
        with pytest.raises(SourceError, match=r"none of 2 images .* is there, .*old/photos/002.png; nothing"):
            run(out)
    assert sorted(RunFolder.open(out).ledger.committed_keys()) == ["00000"]
    assert run(out, moved).complete
    assert {ref.uri for ref in RunFolder.open(out).manifest.refs} == {
        str(p) for p in (tmp_path / "new/photos").iterdir()
    }
    assert not any(commit.counts["quarantined"] for commit in RunFolder.open(out).ledger.committed().values())
    undo(out, "00002")
    assert run(out).complete, "the new place is kept"
    assert len(export_overlays(RunFolder.open(out), tmp_path / "overlays")) == 6


def test_the_new_place_is_kept_when_nothing_is_left_to_do(launch: Launch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (tmp_path / "old" / "photos" / "003.png").write_bytes(b"")
    assert run(out, launch).quarantined == 1
    draw_photos(tmp_path / "old" / "photos", 6)
    moved = move(launch, tmp_path)
    with pytest.raises(SourceError, match=r"none of 1 image .*old/photos/003.png"):
        retry_quarantined(out)
    assert run(out, moved).images == 0
    assert retry_quarantined(out).quarantined == 0
    assert {record.status for record in RunReader(RunFolder.open(out))} != {"quarantined"}


@pytest.mark.parametrize("resumed", [True, False])
def test_a_mount_that_goes_while_the_run_is_at_work(
    resumed: bool, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run(out, launch)
    undo(out, "00001", "00002")
    compute: Callable[..., object] = engine.ShardJob.compute

    def compute_and_lose(job: engine.ShardJob, shard: object, *arguments: object) -> object:
        done = compute(job, shard, *arguments)
        (tmp_path / "old").rename(tmp_path / "gone")
        return done

    monkeypatch.setattr(engine.ShardJob, "compute", compute_and_lose)
    with pytest.raises(SourceError, match=r"none of 2 images looked for is there, .*004.png"):
        run(out, None if resumed else launch)
    assert sorted(RunFolder.open(out).ledger.committed_keys()) == ["00000", "00001"]


def test_photos_that_a_listing_knows_to_be_missing_are_set_aside(launch: Launch, tmp_path: Path) -> None:
    """A data set of which a part was fetched."""
    photos = tmp_path / "old" / "photos"
    (tmp_path / "list.txt").write_text("\n".join(str(photos / f"{i:03d}.png") for i in range(12)))
    names = replace(launch, images=str(tmp_path / "list.txt"), shard_size=4)
    summary = run(tmp_path / "run", names, accept_set_aside=True)
    assert (summary.images, summary.quarantined) == (12, 6)
    assert retry_quarantined(tmp_path / "run").quarantined == 6


def test_whoever_accepts_it_has_them_set_aside(launch: Launch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, launch)
    undo(out, "00002")
    move(launch, tmp_path)
    summary = run(out, accept_set_aside=True)
    assert (summary.complete, summary.quarantined) == (True, 2)
    assert summary.standing.exit_status == 1


def test_what_stages_have_kept_needs_no_photos(launch: Launch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, launch, until="confidence")
    move(launch, tmp_path)
    method = tiny_method(launch.recipe, launch.overrides)
    if method.needs_inputs(None, dict.fromkeys(method.stages[: method.stages.index("confidence") + 1])):
        with pytest.raises(SourceError, match="none of 2 images"):
            run(out)
    else:
        assert run(out).complete
