"""The commit protocol: one winner, whole records, refusals, orphans."""

import hashlib
import json
import multiprocessing
import secrets
from pathlib import Path

import pytest
from support.waiting import PATIENCE

from pipeline.errors import RunMismatchError, StoreError
from pipeline.runs.ledger import Ledger, Outcome
from pipeline.runs.provenance import library_versions, new_attempt
from pipeline.storage.files_at import files_at
from pipeline.storage.local_files import LocalFiles

COUNTS = {"images": 4, "masks": 7, "drops": {"too_small": 2}, "quarantined": 1}
SET_ASIDE = [{"id": "ä/1.jpg", "reason": "truncated", "detail": "ends too early"}]


@pytest.fixture(params=["local", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    url = tmp_path if request.param == "local" else f"memory://ledger-{secrets.token_hex(4)}"
    return Ledger(files_at(url), "f" * 64, "d" * 64)


def commit(ledger: Ledger, key: str = "00042", attempt: str = "a1", data: bytes = b"shard") -> bool:
    return ledger.commit(key, attempt, Outcome(data, COUNTS, SET_ASIDE, {"ncut": 1.23456, "depth": 0.5}))


def test_commit_names_its_files_and_what_made_them(ledger: Ledger) -> None:
    assert not ledger.is_committed("00042")
    assert commit(ledger)
    assert ledger.is_committed("00042")
    assert ledger.committed_keys() == {"00042"}
    found = ledger.read("00042")
    assert ledger.committed() == {"00042": found}
    assert (found.key, found.attempt, found.fingerprint, found.digest) == ("00042", "a1", "f" * 64, "d" * 64)
    assert found.shard.name == "shards/00042-a1.zarr.zip"
    assert (found.shard.bytes, found.shard.sha256) == (5, hashlib.sha256(b"shard").hexdigest())
    assert ledger.contents(found.shard) == b"shard"
    assert found.quarantine is not None
    assert found.quarantine.name == "quarantine/00042-a1.json"
    assert json.loads(ledger.contents(found.quarantine)) == SET_ASIDE
    assert found.counts == COUNTS
    assert found.seconds == {"ncut": 1.2346, "depth": 0.5}
    assert found.versions == library_versions()
    assert found.versions["numpy"]
    assert found.host
    assert found.finished.endswith("+00:00")


def test_no_quarantine_no_file(ledger: Ledger) -> None:
    assert ledger.commit("00001", new_attempt(), Outcome(b"x", {"images": 1}))
    assert ledger.read("00001").quarantine is None
    assert ledger.files.list_files("quarantine") == []


def test_first_writer_wins(ledger: Ledger) -> None:
    assert commit(ledger, attempt="first")
    before = ledger.files.read_bytes("commits/00042.json")
    assert not commit(ledger, attempt="second", data=b"other")
    assert ledger.files.read_bytes("commits/00042.json") == before
    assert ledger.contents(ledger.read("00042").shard) == b"shard"


def test_loser_of_a_true_race_leaves_orphans(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit(ledger, attempt="first")
    # The second had looked before the first committed.
    monkeypatch.setattr(ledger.files, "exists", lambda name: False)
    assert not commit(ledger, attempt="second", data=b"other")
    monkeypatch.undo()
    assert ledger.orphans() == ["shards/00042-second.zarr.zip", "quarantine/00042-second.json"]


def test_put_whose_answer_was_lost_counts_as_won(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    create = ledger.files.create_exclusive

    def create_twice(name: str, data: bytes) -> bool:
        create(name, data)
        return create(name, data)

    monkeypatch.setattr(ledger.files, "create_exclusive", create_twice)
    assert commit(ledger)


def race(url: str, worker: int, start: object, wins: object) -> None:
    ledger = Ledger(files_at(url), "f", "d")
    start.wait()  # type: ignore[attr-defined]
    for key in range(10):
        if commit(ledger, f"{key:05}", new_attempt(), b"%d" % worker * 10_000):
            wins.put((key, worker))  # type: ignore[attr-defined]


def test_eight_processes_race_for_ten_shards(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, wins = context.Barrier(8), context.Queue()
    workers = [context.Process(target=race, args=(str(tmp_path), i, start, wins)) for i in range(8)]
    for worker in workers:
        worker.start()
    won = dict(wins.get(timeout=PATIENCE) for _ in range(10))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert wins.empty(), "a shard had two winners"
    assert sorted(won) == list(range(10))
    ledger = Ledger(files_at(tmp_path), "f", "d")
    for key, found in ledger.committed().items():
        assert ledger.contents(found.shard) == b"%d" % won[int(key)] * 10_000
    assert not any(
        name.endswith(".tmp") for folder in ("shards", "commits") for name in ledger.files.list_files(folder)
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: b"",
        lambda record: json.dumps(record).encode()[:-40],
        lambda record: b"[1, 2]",
        lambda record: b"\xff\xfe",
        lambda record: json.dumps({k: v for k, v in record.items() if k != "attempt"}).encode(),
        lambda record: json.dumps(record | {"surprise": 1}).encode(),
        lambda record: json.dumps(record | {"key": "00041"}).encode(),
        lambda record: json.dumps(record | {"shard": record["shard"] | {"name": "../../etc/passwd"}}).encode(),
        lambda record: json.dumps(record | {"quarantine": record["quarantine"] | {"name": "run.json"}}).encode(),
    ],
)
def test_damaged_record_is_named_with_its_remedy(ledger: Ledger, damage: object) -> None:
    commit(ledger)
    commit(ledger, "00043")
    record = json.loads(ledger.files.read_bytes("commits/00042.json"))
    ledger.files.write_atomic("commits/00042.json", damage(record))  # type: ignore[operator]
    with pytest.raises(StoreError, match=r"commits/00042\.json .*damaged.*delete that file and start the run again"):
        ledger.committed()
    commits, problems = ledger.survey()
    assert (list(commits), list(problems)) == (["00043"], ["00042"])
    # A record that cannot be read may name any file: nothing is declared garbage now.
    with pytest.raises(StoreError, match="damaged"):
        ledger.orphans()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "cuts3d-commit/0"}, r"00042.json has schema cuts3d-commit/0, this cuts3d reads cuts3d-commit/1"),
        (
            {"fingerprint": "0" * 64},
            r"00042.json .* has configuration fingerprint 0+, this run f+.*another folder",
        ),
        ({"digest": "1" * 64}, r"00042.json .* has manifest digest 1+, this run d+.*another folder"),
    ],
)
def test_commit_of_another_run_is_refused(ledger: Ledger, change: dict, message: str) -> None:
    commit(ledger)
    record = json.loads(ledger.files.read_bytes("commits/00042.json"))
    ledger.files.write_atomic("commits/00042.json", json.dumps(record | change).encode())
    with pytest.raises(RunMismatchError, match=message):
        ledger.committed()


@pytest.mark.parametrize(
    ("key", "attempt"), [("../0", "a"), ("42", "a"), ("00042", "a-b"), ("00042", ""), ("00042", "A/b")]
)
def test_names_that_are_no_file_names(ledger: Ledger, key: str, attempt: str) -> None:
    with pytest.raises(ValueError, match="must match"):
        commit(ledger, key, attempt)


def test_only_attempts_without_a_commit_are_orphans(ledger: Ledger) -> None:
    commit(ledger)
    commit(ledger, "retry-00000")
    orphans = ["shards/.00001-b.zarr.zip.host-1-ab.tmp", "shards/00042-b2.zarr.zip", "quarantine/00042-b2.json"]
    orphans.append("logs/00042-b2.jsonl")
    strangers = [
        "logs/00042-a1.jsonl",
        "logs/mine.jsonl",
        "shards/notes.txt",
        "shards/00042-a1.zarr",
        "commits/README",
        "quarantine/mine-00042-b2.json",
    ]
    for name in (*orphans, *strangers, "commits/.00007.json.host-1-cd.tmp"):
        ledger.files.write_atomic(name, b"x")
    assert ledger.orphans() == [*orphans, "commits/.00007.json.host-1-cd.tmp"]
    assert set(ledger.committed()) == {"00042", "retry-00000"}


def test_ledgers_of_stages_are_apart(ledger: Ledger) -> None:
    depth = Ledger(ledger.files, ledger.fingerprint, ledger.digest, "stages/depth")
    assert commit(depth)
    assert depth.read("00042").shard.name == "stages/depth/shards/00042-a1.zarr.zip"
    assert ledger.committed() == {}
    assert commit(ledger, attempt="a2")
    assert (ledger.orphans(), depth.orphans()) == ([], [])


def test_missing_and_altered_files_are_told(ledger: Ledger) -> None:
    commit(ledger)
    shard = ledger.read("00042").shard
    ledger.files.write_atomic(shard.name, b"SHARD")
    with pytest.raises(StoreError, match=r"00042-a1.zarr.zip was altered"):
        ledger.contents(shard)
    ledger.files.write_atomic(shard.name, b"sha")
    with pytest.raises(StoreError, match=r"has 3 bytes, committed were 5"):
        ledger.contents(shard)
    ledger.files.delete(shard.name)
    with pytest.raises(StoreError, match=r"is committed but missing"):
        ledger.contents(shard)


@pytest.mark.slow
def test_ten_thousand_commits_are_listed_without_reading_and_read_once_each(tmp_path: Path) -> None:
    class Counting(LocalFiles):
        def __init__(self, root: Path) -> None:
            super().__init__(root)
            self.read = list[str]()

        def read_bytes(self, name: str) -> bytes:
            self.read.append(name)  # from several threads
            return super().read_bytes(name)

    files = Counting(tmp_path)
    ledger = Ledger(files, "f", "d")
    commit(ledger, "00000")
    record = (tmp_path / "commits/00000.json").read_text()
    for i in range(1, 10_000):
        (tmp_path / f"commits/{i:05}.json").write_text(record.replace("00000", f"{i:05}"))
    files.read.clear()
    assert len(ledger.committed_keys()) == 10_000
    assert files.read == []
    assert len(ledger.committed()) == 10_000
    assert sorted(files.read) == [f"commits/{i:05}.json" for i in range(10_000)]
