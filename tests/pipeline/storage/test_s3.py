"""A run folder in an S3 bucket: a real server in its own process, over HTTP, with credentials from the environment."""

import json
import logging
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner
from s3fs import S3FileSystem
from support import ROOT, environment, sample_run, warm
from support.s3_server import S3Server
from support.sample_run import CONFIG, UNREADABLE, do_shard, launch, sample_manifest
from support.tiny_method import draw_photos, in_place_of_models, tiny_method
from support.waiting import PATIENCE, wait_for
from support.warm import WarmProcess

from pipeline.cli import main
from pipeline.errors import StoreError
from pipeline.faults import VARIABLE
from pipeline.runs.ledger import Ledger, Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run
from pipeline.storage.files_at import files_at

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def run_url(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a run folder in a bucket of its own."""
    return url_at(server, monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return launch(str(tmp_path_factory.mktemp("undisturbed")))


def url_at(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # fsspec goes on with a connection whatever the environment says now
    return f"{server.make_bucket(f'bucket-{random.getrandbits(48):x}')}/runs/one"


def cuts3d(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def start_worker(url: str, crash_at: str = "", *hold_at: str) -> WarmProcess:
    return WarmProcess([sample_run.__file__, url, *hold_at], environment(**{VARIABLE: crash_at}))


def assert_equal_to(undisturbed: RunFolder, run: RunFolder) -> None:
    run.gc(min_age_s=0)
    assert verify_run(run) == []
    assert len(run.files.list_files("shards")) == 3
    theirs = undisturbed.ledger.committed()
    assert {key: c.shard.sha256 for key, c in run.ledger.committed().items()} == {
        key: c.shard.sha256 for key, c in theirs.items()
    }
    assert list(RunReader(run)) == list(RunReader(undisturbed))


def test_whole_run_and_its_commands(run_url: str, undisturbed: RunFolder, tmp_path: Path) -> None:
    run = launch(run_url)
    assert_equal_to(undisturbed, run)
    assert cuts3d("status", run_url)[0] == 1, "two images are set aside"
    code, said = cuts3d("verify", run_url)
    assert (code, "no errors" in said) == (1, True)
    run.files.write_atomic("shards/00001-dead.zarr.zip", b"12345")
    assert "1 file of no commit" in cuts3d("verify", run_url)[1]
    assert "0 files" in cuts3d("gc", run_url)[1], "an hour has not passed"
    assert "shards/00001-dead.zarr.zip\n1 file," in cuts3d("gc", run_url, "--min-age", "0")[1]
    assert cuts3d("export", run_url, "--coco", str(tmp_path / "a.json"), "--masks", str(tmp_path / "masks"))[0] == 1
    assert cuts3d("export", undisturbed.url, "--coco", str(tmp_path / "b.json"))[0] == 1
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    do_shard(run, run.retry_shards(UNREADABLE)[0], mended=True)
    assert RunReader(run).quarantined() == []


def test_photos_and_run_in_a_bucket(run_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: images listed and read there, masks kept there, then looked at and exported from there."""
    in_place_of_models(monkeypatch, lambda launch: tiny_method())
    photos = run_url.replace("/runs/one", "/photos")
    for file in draw_photos(tmp_path / "photos", 9):
        files_at(photos).write_atomic(file.name, file.read_bytes())
    assert cuts3d("run", "--images", photos, "--out", run_url)[0] == 0
    assert cuts3d("run", "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "local"))[0] == 0
    there, here = RunFolder.open(run_url), RunFolder.open(tmp_path / "local")
    assert list(RunReader(there)) == list(RunReader(here))
    assert there.fingerprint == here.fingerprint
    assert there.digest == here.digest
    code, said = cuts3d("run", "--out", run_url)
    assert (code, "nothing was left to do" in said) == (0, True)
    assert "9 of 9 in 5 of 5 shards" in cuts3d("info", run_url)[1]
    pages = [str(tmp_path / name) for name in ("there.html", "here.html")]
    for url, page in zip((run_url, tmp_path / "local"), pages, strict=True):
        assert cuts3d("gallery", str(url), "--out", page)[0] == 0
    assert Path(pages[0]).stat().st_size == pytest.approx(Path(pages[1]).stat().st_size, abs=1000)
    assert cuts3d("export", run_url, "--overlays", str(tmp_path / "pictures"))[0] == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 9


def test_a_run_begun_on_disk_goes_on_in_a_bucket(run_url: str, undisturbed: RunFolder, tmp_path: Path) -> None:
    begun = RunFolder.create_or_open(tmp_path, CONFIG, sample_manifest())
    do_shard(begun, begun.pending()[1])
    files = files_at(run_url)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            files.write_atomic(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    again = launch(run_url)
    assert again.ledger.read("00001") == begun.ledger.read("00001")
    assert_equal_to(undisturbed, again)


def race(url: str, worker: int, start: object, wins: object) -> None:
    files = files_at(url)
    start.wait()  # type: ignore[attr-defined]

    def create(key: int, thread: int) -> None:
        if files.create_exclusive(f"commits/{key:05}.json", b"%d-%d" % (worker, thread) * 500):
            wins.put((key, worker, thread))  # type: ignore[attr-defined]

    with ThreadPoolExecutor(8) as pool:
        for key in range(15):
            list(pool.map(create, [key] * 8, range(8)))


def test_one_of_many_processes_and_threads_wins_each_commit(run_url: str) -> None:
    """Forked on purpose, with a connection open: it must not be used by two processes."""
    assert files_at(run_url).list_files() == []
    context = multiprocessing.get_context("fork")
    start, wins = context.Barrier(4), context.Queue()
    workers = [context.Process(target=race, args=(run_url, i, start, wins)) for i in range(4)]
    for worker in workers:
        worker.start()
    won = [wins.get(timeout=PATIENCE) for _ in range(15)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert wins.empty(), "a commit had two winners"
    files = files_at(run_url)
    for key, worker, thread in won:
        assert files.read_bytes(f"commits/{key:05}.json") == b"%d-%d" % (worker, thread) * 500
    assert sorted(key for key, _, _ in won) == list(range(15))
    assert files.list_files() == [], "a probe was left behind"


def test_a_forked_process_uses_the_run_it_inherits(run_url: str) -> None:
    run = RunFolder.create_or_open(run_url, CONFIG, sample_manifest())
    child = multiprocessing.get_context("fork").Process(target=do_shard, args=(run, run.pending()[0]))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert run.ledger.committed_keys() == {"00000"}


def test_files_can_be_sent_to_another_process(run_url: str) -> None:
    files_at(run_url).write_atomic("a", b"1")
    copy = pickle.loads(pickle.dumps(files_at(run_url)))
    assert (copy.url, copy.read_bytes("a")) == (run_url, b"1")


@pytest.mark.parametrize(
    ("point", "committed", "orphans"),
    [
        ("after_write:00001", 1, 2),
        ("after_commit:00001", 2, 0),
        pytest.param("after_run_json", 0, 0, marks=pytest.mark.slow),
        pytest.param("mid_write:manifest.parquet", 0, 0, marks=pytest.mark.slow),
        pytest.param("before_write:00001", 1, 0, marks=pytest.mark.slow),
        pytest.param("mid_write:00001", 1, 0, marks=pytest.mark.slow),
        pytest.param("mid_write:00001.json", 1, 2, marks=pytest.mark.slow),
    ],
)
def test_killed_at_every_point_of_the_protocol(
    run_url: str, undisturbed: RunFolder, point: str, committed: int, orphans: int
) -> None:
    assert start_worker(run_url, point).wait() == -signal.SIGKILL
    run = RunFolder.open(run_url)
    assert (len(run.ledger.committed_keys()), len(run.orphans())) == (committed, orphans)
    before = run.ledger.committed()
    again = launch(run_url)
    assert before.items() <= again.ledger.committed().items(), "what was finished is skipped"
    assert_equal_to(undisturbed, again)


@pytest.mark.slow
def test_killed_at_random_moments(run_url: str, undisturbed: RunFolder) -> None:
    chance = random.Random()
    files = files_at(run_url)
    for event in ("run.json", "commits/00000.json", "shards/00001-"):
        folder = event.rpartition("/")[0]
        workers = [start_worker(run_url, "", "00002") for _ in range(2)]
        wait_for(
            lambda event=event, folder=folder: any(name.startswith(event) for name in files.list_files(folder)), event
        )
        for worker in workers:
            time.sleep(chance.uniform(0, 0.1))
            worker.kill()
        assert [worker.wait() for worker in workers] == [-signal.SIGKILL] * 2
    assert RunFolder.open(run_url).ledger.committed_keys() <= {"00000", "00001"}
    assert_equal_to(undisturbed, launch(run_url))


@pytest.mark.parametrize("fault", ["conflict", "plain412"])
def test_what_servers_answer_to_the_loser_of_a_race(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server(fault) as server:
        files = files_at(url_at(server, monkeypatch))
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda i: files.create_exclusive("commits/00000.json", b"%d" % i), range(8)))
        assert sum(won) == 1
        assert files.read_bytes("commits/00000.json") == b"%d" % won.index(True)


@pytest.mark.parametrize("fault", ["unconditional", "unimplemented"])
def test_server_without_conditions_is_refused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server(fault) as server:
        url = url_at(server, monkeypatch)
        with pytest.raises(StoreError, match=r"cannot commit to s3://.*ignores conditional puts.*mounted file system"):
            launch(url)
        assert files_at(url).list_files() == []


def test_missing_bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url_at(server, monkeypatch)
    for command in (["status"], ["verify"], ["gc"], ["run", "--images", str(ROOT / "docs/images"), "--out"]):
        code, said = cuts3d(*command, "s3://nobody-has-this/run")
        assert code == 2
        assert "s3://nobody-has-this/run: The specified bucket does not exist. Create the bucket, or mend" in said
    files = files_at("s3://nobody-has-this/run")
    for attempt in (
        lambda: files.write_atomic("a", b""),
        lambda: files.create_exclusive("a", b""),
        lambda: files.read_many("abcdef"),
        lambda: files.list_files("commits"),
        lambda: files.delete("a"),
    ):
        with pytest.raises(StoreError, match="bucket does not exist"):
            attempt()


def test_wrong_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server(INITIAL_NO_AUTH_ACTION_COUNT="1") as server:  # the one that makes the bucket
        url = url_at(server, monkeypatch)
        for command in (["status", url], ["run", "--images", str(ROOT / "docs/images"), "--out", url]):
            code, said = cuts3d(*command)
            assert code == 2
            assert f"cannot read run.json in {url}: The AWS Access Key Id you provided does not exist" in said
            assert "Check the credentials (environment or fsspec's configuration, never the URL)" in said
            assert "test-secret" not in said
        with pytest.raises(StoreError, match=r"cannot write a in .*Check the credentials.*shards are kept"):
            files_at(url).write_atomic("a", b"")


def test_clock_so_wrong_that_the_server_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server("skewed") as server:
        url = url_at(server, monkeypatch)
        with pytest.raises(StoreError, match=r"cannot write run.json in .*too large. Set this machine's clock right"):
            launch(url)


def test_no_credentials(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = url_at(server, monkeypatch)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    # Another process: this one's connection to the server has its credentials already.
    result = warm.run(["-m", "pipeline.cli", "status", url])
    assert result.returncode == 2
    assert "cannot read run.json" in result.stderr
    assert "Check the credentials" in result.stderr
    assert "Traceback" not in result.stderr


def test_server_goes_away_in_the_middle_of_a_run(monkeypatch: pytest.MonkeyPatch, undisturbed: RunFolder) -> None:
    # Less patience than by default; who configures fsspec has the last word.
    patience = {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 3}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", patience)
    with S3Server() as server:
        url = url_at(server, monkeypatch)
        run = RunFolder.create_or_open(url, CONFIG, sample_manifest())
        first, second, _ = run.pending()
        do_shard(run, first)
        server.go_away()
        with pytest.raises(StoreError, match=r"cannot .*00001.* in s3://.*connect.*Check network.*shards are kept"):
            do_shard(run, second)
        with pytest.raises(StoreError, match=r"cannot list commits"):
            run.pending()
        server.come_back()
        assert [shard.key for shard in run.pending()] == ["00001", "00002"], "nothing lost"
        assert do_shard(run, second), "the connection heals by itself"
        assert_equal_to(undisturbed, launch(url))


def test_short_absence_of_the_server_is_not_even_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with S3Server() as server:
        files = files_at(url_at(server, monkeypatch))
        files.write_atomic("a", b"before")
        server.go_away()
        back = threading.Event()

        def come_back(record: logging.LogRecord) -> bool:
            """Once the client has found nobody there and is about to try again."""
            if record.getMessage().startswith("Retry needed") and not back.is_set():
                server.come_back()
                back.set()
            return True

        retries = logging.getLogger("botocore.retries.standard")
        monkeypatch.setattr(retries, "filters", [come_back])
        with caplog.at_level(logging.DEBUG, retries.name):
            files.write_atomic("a", b"after")
        assert back.is_set()
        assert files.read_bytes("a") == b"after"


def test_copies_of_records_spare_a_restart_most_requests(server: S3Server, run_url: str) -> None:
    ledger = Ledger(files_at(run_url), "f", "d")
    keys = [f"{i:05}" for i in range(130, 250)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: ledger.commit(key, new_attempt(), Outcome(b"x", {"images": 1})), keys[:-1]))
    ledger.commit(keys[-1], new_attempt(), Outcome(b"x", {"images": 1}))
    server.requests()
    assert list(ledger.committed()) == keys
    requests = server.requests()
    assert len(requests) < 5, requests
    # A record that is made again counts as it is now, whatever was copied; a lost or damaged index costs time only.
    ledger.files.delete("commits/00137.json")
    assert list(ledger.committed()) == [*keys[:7], *keys[8:]]
    ledger.commit("00137", "anew", Outcome(b"y", {"images": 1}))
    assert ledger.committed()["00137"].attempt == "anew"
    before = ledger.committed()
    index = ledger.files.read_bytes("index/00.json.gz")
    for damage in (index[:100], b"", b"[]", index[:-1] + b"\0"):
        ledger.files.write_atomic("index/00.json.gz", damage)
        assert ledger.committed() == before
    assert ledger.committed(keep_copies=True) == before
    server.requests()
    assert ledger.committed() == before
    assert len(server.requests()) < 5
    # Who checks reads the records themselves.
    ledger.survey(copies=False)
    assert sum("/commits/0" in request for request in server.requests()) == len(keys)


def test_restart_reads_no_shard(server: S3Server, run_url: str) -> None:
    launch(run_url)
    server.requests()
    assert launch(run_url).is_complete()
    read = {request.partition("/runs/one/")[2] for request in server.requests() if request.startswith("GET /bucket")}
    assert read - {""} == {
        "run.json",
        "manifest.parquet",  # the photos may have moved
        "index/00.json.gz",
        *(f"commits/{key}.json" for key in ("00000", "00001", "00002")),
    }


@pytest.mark.slow
def test_records_beyond_one_page_of_a_listing(run_url: str) -> None:
    files = files_at(run_url)
    names = [f"commits/{i:05}.json" for i in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: files.write_atomic(name, name.encode()), names))
    assert files.list_files("commits") == names
    assert files.read_many(names) == {name: name.encode() for name in names}


def test_credentials_leave_no_trace(run_url: str) -> None:
    run = launch(run_url)
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    names = [
        *run.files.list_files(),
        *(n for f in ("shards", "commits", "quarantine") for n in run.files.list_files(f)),
    ]
    assert len(names) == 10
    assert all(secret not in run.files.read_bytes(name) for name in names)
    assert "test-key" not in json.dumps(run.config) + repr(vars(run.files))
