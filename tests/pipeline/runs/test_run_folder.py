"""Making a run, resuming it, refusing another one, and clearing up."""

import json
import os
import secrets
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from support.sample_run import CONFIG, UNREADABLE, do_shard, launch, sample_manifest

from pipeline.errors import ConfigError, RunMismatchError, StoreError
from pipeline.images.clip_files import ClipFiles
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.runs.ledger import Outcome
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run
from pipeline.storage.files import FileFacts, RunFiles
from stages.motion.camera import Camera


def test_run_json_says_what_the_run_is(tmp_path: Path) -> None:
    run = RunFolder.create_or_open(tmp_path / "run", CONFIG, sample_manifest())
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["schema"] == "cuts3d-run/1"
    assert record["config"] == CONFIG
    assert record["digest"] == run.digest == sample_manifest().digest
    assert len(record["fingerprint"]) == 64
    assert record["versions"]["zarr"]
    opened = RunFolder.open(str(tmp_path / "run"))
    assert (opened.config, opened.fingerprint, opened.digest) == (CONFIG, run.fingerprint, run.digest)
    assert (opened.n_images, opened.n_shards) == (10, 3)
    assert opened.manifest.digest == run.digest


def test_fingerprint_is_of_the_settings_not_of_their_order(tmp_path: Path) -> None:
    run = RunFolder.create_or_open(tmp_path / "a", {"x": 1, "y": {"p": (1, 2), "q": None}}, sample_manifest())
    same = RunFolder.create_or_open(tmp_path / "b", {"y": {"q": None, "p": [1, 2]}, "x": 1}, sample_manifest())
    other = RunFolder.create_or_open(tmp_path / "c", {"y": {"q": None, "p": [1, 2]}, "x": 2}, sample_manifest())
    assert run.fingerprint == same.fingerprint != other.fingerprint


def test_relaunch_does_only_what_is_missing(tmp_path: Path) -> None:
    run = RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    assert [shard.key for shard in run.pending()] == ["00000", "00001", "00002"]
    assert do_shard(run, run.pending()[1])
    again = RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    assert [shard.key for shard in again.pending()] == ["00000", "00002"]
    assert not again.is_complete()
    first = run.ledger.read("00001")
    launch(str(tmp_path))
    assert again.is_complete()
    assert again.ledger.read("00001") == first


@pytest.mark.parametrize("folder", ["shards", "quarantine"])
@pytest.mark.parametrize("kept", [None, 0, 20])
def test_a_cut_file_is_not_taken_for_done(folder: str, kept: int | None, tmp_path: Path) -> None:
    run = launch(str(tmp_path))
    names = sorted((tmp_path / folder).iterdir())[:2]
    for path in names:
        path.unlink() if kept is None else path.write_bytes(path.read_bytes()[:kept])
    fault = "is committed but missing" if kept is None else f"has {kept} bytes, committed were"
    keys = [path.name.partition("-")[0] for path in names]
    with pytest.raises(
        StoreError, match=f"{names[0].name} {fault} .*, and 1 more shard of the run is damaged"
    ) as caught:
        RunFolder.open(tmp_path).pending()
    records = ", ".join(f"commits/{key}.json" for key in keys)
    assert f"To do them again, delete {records} and start the run again" in str(caught.value)
    for key in keys:
        (tmp_path / f"commits/{key}.json").unlink()
    launch(str(tmp_path))
    assert run.is_complete()
    run.gc(0)
    assert verify_run(run) == []


def test_a_listing_that_is_old_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems list what was a while ago."""
    run = launch(str(tmp_path))
    whole = type(run.files).list_facts

    def old(self: RunFiles, folder: str = "") -> dict[str, FileFacts]:
        return {} if folder == "shards" else whole(self, folder)

    monkeypatch.setattr(type(run.files), "list_facts", old)
    assert run.is_complete()


def test_stage_ledgers_have_their_own_progress(tmp_path: Path) -> None:
    run = RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    depth = run.stage_ledger("depth")
    depth.commit("00000", "a", Outcome(b"depth", {"images": 4}))
    assert [shard.key for shard in run.pending(depth)] == ["00001", "00002"]
    assert len(run.pending()) == 3
    assert run.kept_stages() == ["depth"]
    with pytest.raises(ValueError, match="must match"):
        run.stage_ledger("../shards")


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    now = {"recipe": {"name": "sample", "ncut": {"tau": 0.2, "solver": "lanczos"}}, "seed": 7}
    with pytest.raises(RunMismatchError) as caught:
        RunFolder.create_or_open(tmp_path, now, sample_manifest())
    message = str(caught.value)
    assert "  recipe.ncut.tau: run has 0.15, now 0.2\n" in message
    assert "  recipe.ncut.rounds: run has 3, now no such setting\n" in message
    assert '  recipe.ncut.solver: run has no such setting, now "lanczos"\n' in message
    assert "seed" not in message
    assert "name" not in message
    assert "make a new run in another folder" in message


def test_another_recipe_is_refused_in_one_line(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    now = {"recipe": {"name": "other", "ncut": {"tau": 0.2, "solver": "lanczos"}}, "seed": 7}
    with pytest.raises(RunMismatchError) as caught:
        RunFolder.create_or_open(tmp_path, now, sample_manifest())
    assert '  recipe.name: run has "sample", now "other"\n' in str(caught.value)
    assert "recipe.ncut" not in str(caught.value)


@pytest.mark.parametrize("lost", [False, True])
def test_other_images_are_refused_and_said(tmp_path: Path, lost: bool) -> None:
    RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    if lost:
        (tmp_path / "manifest.parquet").unlink()
    expected = r"images: run has 10 in 3 shards, now 9 in 2" + ("" if lost else r"; 1 image removed \(001/2.jpg\)")
    with pytest.raises(RunMismatchError, match=expected):
        RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest(9, 5))


def test_same_images_mounted_elsewhere_are_the_same_run(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    here = sample_manifest()
    moved = Manifest([type(ref)(ref.id, ref.uri.replace("/data", "/mnt")) for ref in here.refs], here.shard_size)
    assert RunFolder.create_or_open(tmp_path, CONFIG, moved).manifest.refs[0].uri == "/mnt/0.jpg"
    assert RunFolder.open(tmp_path).manifest.refs == moved.refs, "the place is kept"


def test_images_that_were_set_aside_when_listed_are_kept_as_such(tmp_path: Path) -> None:
    refs = [ImageRef("a", "/a"), ImageRef("b", "/list.txt", trouble="its name is odd")]
    manifest = Manifest(refs, 2)
    RunFolder.create_or_open(tmp_path / "run", CONFIG, manifest)
    assert RunFolder.open(tmp_path / "run").manifest.refs == manifest.refs
    clip = ClipFiles("/r", "/ln", "/rn", Camera(1, 1, 0, 0, 1))
    both = Manifest([replace(refs[0], clip=clip), refs[1]], 2)
    assert Manifest.from_parquet_bytes(both.to_parquet_bytes()).refs == both.refs


def test_settings_that_json_cannot_hold(tmp_path: Path) -> None:
    for config in ({"x": object()}, {"x": float("nan")}, {"x": {1, 2}}):
        with pytest.raises(ConfigError, match=r"cannot be written to run.json"):
            RunFolder.create_or_open(tmp_path, config, sample_manifest())
    assert not (tmp_path / "run.json").exists()


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not a run: it has no run.json. `cuts3d run` makes one"):
        RunFolder.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file is a file, and a run is a folder: give that"):
        RunFolder.open(tmp_path / "file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("")
    with pytest.raises(StoreError, match=rf"is not a run: it has no run.json. Give {tmp_path}/run"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:100], "damaged"),
        (lambda text: "[]", "damaged"),
        (lambda text: "", "damaged"),
        (lambda text: text.replace("0.15", "0.25"), "does not match its fingerprint, it was edited"),
        (lambda text: text.replace('"digest"', '"sum"'), "lacks digest"),
    ],
)
def test_damaged_run_json(tmp_path: Path, edit: object, message: str) -> None:
    RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    path = tmp_path / "run.json"
    path.write_text(edit(path.read_text()))  # type: ignore[operator]
    for attempt in (lambda: RunFolder.open(tmp_path), lambda: launch(str(tmp_path))):
        with pytest.raises(StoreError, match=rf"run.json in .*{message}.*delete it and start the run again"):
            attempt()
    # The remedy works, and what was done before is still good.
    path.unlink()
    assert launch(str(tmp_path)).is_complete()


def test_run_of_a_newer_schema(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("cuts3d-run/1", "cuts3d-run/2"))
    with pytest.raises(RunMismatchError, match="made with schema cuts3d-run/2, this cuts3d reads cuts3d-run/1"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "torn", "foreign"])
def test_damaged_manifest_is_told_and_mended_by_a_relaunch(tmp_path: Path, damage: str) -> None:
    RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    path = tmp_path / "manifest.parquet"
    contents = {"torn": path.read_bytes()[:200], "foreign": sample_manifest(9).to_parquet_bytes()}
    path.unlink()
    if damage in contents:
        path.write_bytes(contents[damage])
    with pytest.raises(StoreError, match=r"manifest.parquet.*start the run again with the same images"):
        _ = RunFolder.open(tmp_path).manifest
    path.unlink(missing_ok=True)
    assert launch(str(tmp_path)).is_complete()
    assert RunFolder.open(tmp_path).manifest.digest == sample_manifest().digest


def test_creators_that_race_agree(tmp_path: Path) -> None:
    """Nine creators with three ideas of the run: one idea wins, with its own manifest, and the others are refused."""
    ideas = [(CONFIG, sample_manifest()), (CONFIG, sample_manifest(9)), (CONFIG | {"seed": 8}, sample_manifest())]
    for round_ in range(5):
        url = tmp_path / str(round_)

        def create(i: int, url: Path = url) -> RunFolder | None:
            try:
                return RunFolder.create_or_open(url, *ideas[i % 3])
            except RunMismatchError:
                return None

        with ThreadPoolExecutor(9) as pool:
            runs = list(pool.map(create, range(9)))
        accepted = {i % 3 for i, run in enumerate(runs) if run}
        assert len(accepted) == 1
        assert sum(run is not None for run in runs) == 3
        opened = RunFolder.open(url)
        config, manifest = ideas[accepted.pop()]
        assert (opened.config, opened.digest, opened.manifest.digest) == (config, manifest.digest, manifest.digest)


def test_gc_removes_only_old_orphans(tmp_path: Path) -> None:
    run = launch(str(tmp_path))
    run.stage_ledger("depth").commit("00000", "a", Outcome(b"depth", {"images": 4}))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    garbage = {
        "shards/00001-dead.zarr.zip": b"12345",
        "quarantine/00001-dead.json": b"[]",
        "commits/.00001.json.node-7-00.tmp": b"1",
        "stages/depth/shards/00002-dead.zarr.zip": b"1234567",
        ".run.json.node-7-00.tmp": b"",
    }
    for name, data in garbage.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "shards/keep.txt").write_bytes(b"a user's own")
    assert set(run.orphans()) == garbage.keys()
    assert run.gc() == {}, "an hour has not passed: these may be in flight"
    old = time.time() - 7200
    for name in list(garbage)[1:]:
        os.utime(tmp_path / name, (old, old))
    assert run.gc() == {name: len(data) for name, data in list(garbage.items())[1:]}
    assert run.gc(min_age_s=0) == {"shards/00001-dead.zarr.zip": 5}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before | {tmp_path / "shards/keep.txt"}
    assert run.orphans() == []
    with pytest.raises(ValueError, match="at least 0"):
        run.gc(-1)


def test_retry_shards_have_fresh_keys(tmp_path: Path) -> None:
    run = launch(str(tmp_path))
    shards = run.retry_shards(reversed(UNREADABLE))
    assert [(shard.key, [ref.id for ref in shard.refs]) for shard in shards] == [("retry-00000", list(UNREADABLE))]
    assert do_shard(run, shards[0])
    assert [shard.key for shard in run.retry_shards([UNREADABLE[0]])] == ["retry-00001"]
    assert run.retry_shards([]) == []
    many = run.retry_shards([ref.id for ref in run.manifest.refs])
    assert [(shard.key, len(shard.refs)) for shard in many] == [
        ("retry-00001", 4),
        ("retry-00002", 4),
        ("retry-00003", 2),
    ]
    with pytest.raises(ValueError, match=r"1 image not in the manifest.*nobody.jpg"):
        run.retry_shards(["nobody.jpg"])
    assert run.is_complete()


def test_a_run_lives_in_an_object_store_and_moves_to_disk(tmp_path: Path) -> None:
    url = f"memory://bucket-{secrets.token_hex(4)}/runs/one"
    run = launch(url)
    assert run.is_complete()
    assert verify_run(run) == []
    for name in ("run.json", "manifest.parquet"):
        (tmp_path / name).write_bytes(run.files.read_bytes(name))
    for folder in ("shards", "commits", "quarantine"):
        (tmp_path / folder).mkdir()
        for name in run.files.list_files(folder):
            (tmp_path / name).write_bytes(run.files.read_bytes(name))
    copied = RunFolder.open(tmp_path)
    assert verify_run(copied) == []
    assert list(RunReader(copied)) == list(RunReader(run))
    shutil.rmtree(tmp_path / "commits")
    assert len(copied.orphans()) == 5
    assert launch(str(tmp_path)).is_complete()
    assert list(RunReader(copied)) == list(RunReader(run))
