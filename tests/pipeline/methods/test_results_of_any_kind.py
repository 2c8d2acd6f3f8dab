"""A method of another package whose result is one integer a clip, through everything: run, kept stage, kill at each
crash point, resume, retry, verify, status, info, export, gallery.
"""

import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.browser import chromium
from support.killed_runs import check_killed
from support.pages import check_policy, check_strangers
from support.toy_method import KIND, NAME, ToyMethod, changed, draw_clips, installed

from pipeline import plugins
from pipeline.cli import command_line
from pipeline.errors import ConfigError, RunMismatchError
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_photo
from pipeline.methods import registry as methods
from pipeline.results import registry as kinds
from pipeline.results.kinds import Failed
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run

CLIPS = 7


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint(NAME, f"{ToyMethod.__module__}:ToyMethod", methods.GROUP),
        EntryPoint(KIND, f"{ToyMethod.__module__}:ChangeKind", kinds.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints(entries).select(group=group))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return draw_clips(tmp_path / "clips", CLIPS)


def cuts3d(*words: object) -> Result:
    return CliRunner().invoke(command_line([]), [str(word) for word in words], catch_exceptions=False)


def words(clips: Path, out: Path) -> list[str]:
    return ["run", "--images", f"clips:{clips}", "--recipe", NAME, "--out", str(out), "--shard-size", "3"]


def pixels(folder: Path, i: int) -> int:
    """The expected result, from the files."""
    one, other = (load_photo(ImageRef("-", str(folder / f"{i:03d}_left{end}.png"))) for end in ("", "_next"))
    return changed(one.rgb, other.rgb)


def test_a_run_and_everything_that_looks_at_it(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = cuts3d(*words(clips, out))
    assert done.exit_code == 0, done.output
    expected = [pixels(clips.parent, i) for i in range(CLIPS)]
    assert f"changes    {sum(expected)} pixels" in done.output
    record = json.loads((out / "run.json").read_text())
    assert (record["method"], record["result"]) == (NAME, KIND)
    reader = RunReader(RunFolder.open(out))
    assert [(change.id, change.pixels) for change in reader] == [
        (f"{i:03d}_left.png", count) for i, count in enumerate(expected)
    ]
    assert expected[0] == 0
    assert len(set(expected)) > 4, "the clips differ"

    status = cuts3d("status", out)
    assert (status.exit_code, f"changes      {sum(expected)} pixels" in status.output) == (0, True), status.output
    as_json = json.loads(cuts3d("status", out, "--json").output)
    assert (as_json["pixels"], as_json["by_status"]) == (sum(expected), {"moves": CLIPS - 1, "still": 1})
    info = cuts3d("info", out)
    assert f"in all {sum(expected)} pixels" in info.output
    assert "threshold    0" in info.output, "settings of a method that nobody knows here are shown as they are"
    assert "masks" not in status.output + info.output
    assert cuts3d("verify", out).exit_code == 0
    pictures = cuts3d("export", out, "--overlays", tmp_path / "pictures")
    assert pictures.exit_code == 0, pictures.output
    assert len(list((tmp_path / "pictures").glob("*.png"))) == CLIPS
    with pytest.raises(ConfigError, match="results of kind 'change'"):
        InstanceReader(reader.run)
    refused = cuts3d("export", out, "--coco", tmp_path / "masks.json")
    assert refused.exit_code == 2
    assert "--coco is for instance masks" in refused.output
    assert not (tmp_path / "masks.json").exists()


def test_a_kept_stage_and_what_follows_it(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cuts3d(*words(clips, out), "--until", "shift").exit_code == 0
    assert "kept         shift: 3 of 3 shards" in cuts3d("status", out).output
    assert cuts3d("run", "--out", out).exit_code == 0
    assert verify_run(RunFolder.open(out)) == []
    wrong = cuts3d(*words(clips, tmp_path / "other"), "--until", "depth")
    assert (wrong.exit_code, "recipe toy has no stage depth" in wrong.output) == (2, True)


def test_what_was_set_aside_is_tried_again(clips: Path, tmp_path: Path) -> None:
    out, right = tmp_path / "run", clips.parent / "002_right.png"
    hidden = right.rename(tmp_path / "hidden.png")
    Image.new("RGB", (9, 9)).resize((20, 20)).save(clips.parent / "004_right_next.png")
    assert cuts3d(*words(clips, out)).exit_code == 1
    failed = {result.id: result.reason for result in RunReader(RunFolder.open(out)) if isinstance(result, Failed)}
    assert failed == {"002_left.png": "missing", "004_left.png": "other_size"}
    hidden.rename(right)
    again = cuts3d("retry-quarantined", out)
    assert "2 images tried again, 1 succeeded\nset aside    1 other_size, the first is 004_left.png: " in again.output
    assert [q.id for q in RunReader(RunFolder.open(out)).quarantined()] == ["004_left.png"]
    assert verify_run(RunFolder.open(out)) == []
    assert "set aside    1 image: `cuts3d info` says why," in cuts3d("status", out).output


def test_damage_is_found(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cuts3d(*words(clips, out))
    run = RunFolder.open(out)
    commit = run.ledger.read("00000")
    data = run.ledger.contents(commit.shard).replace(b'"pixels": 0', b'"pixels": 7')
    (out / commit.shard.name).write_bytes(data)
    (problem,) = verify_run(run)
    assert "altered" in problem.message


def test_pages_show_pictures_and_facts(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (clips.parent / "003_right.png").unlink()
    cuts3d(*words(clips, out))
    page = tmp_path / "page.html"
    assert cuts3d("gallery", out, "--out", page).exit_code == 1, "one is set aside"
    check_policy(page.read_text("utf-8"))
    with chromium() as browser:
        browser.open(page)
        browser.wait("document.querySelectorAll('.plain').length === 7")
        browser.wait("[...document.querySelectorAll('.plain img')].filter((i) => i.naturalWidth > 20).length === 7")
        text = browser.run("return document.body.innerText")
        assert "missing" in text
        browser.run(
            "const s = document.getElementById('sort'); s.value = 'pixels'; s.dispatchEvent(new Event('input'));"
        )
        first = browser.run("return document.querySelector('.plain figcaption').innerText")
        assert first.startswith("006_left.png"), "sorted by the fact, largest first"
        check_strangers(browser)


def test_a_kind_that_nobody_reads_any_more(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts3d(*words(clips, tmp_path / "run"))
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints([]).select(group=group))
    with pytest.raises(RunMismatchError, match="no installed package reads results of kind 'change'"):
        RunReader(RunFolder.open(tmp_path / "run"))
    told = cuts3d("info", tmp_path / "run")
    assert (told.exit_code, "install the package that made them" in told.output) == (2, True)


def test_photos_are_no_clips(clips: Path, tmp_path: Path) -> None:
    told = cuts3d("run", "--images", clips.parent, "--recipe", NAME, "--out", tmp_path / "run")
    assert (told.exit_code, "every image of shard 00000 was set aside as no_clip" in told.output) == (2, True)
    assert cuts3d("run", "--out", tmp_path / "run", "--accept-set-aside").exit_code == 1
    reasons = {q.reason for q in RunReader(RunFolder.open(tmp_path / "run")).quarantined()}
    assert reasons == {"no_clip"}


@pytest.mark.slow
def test_killed_it_resumes_to_the_same_bytes(clips: Path, tmp_path: Path) -> None:
    environment = installed(tmp_path / "site")
    check_killed(tmp_path, lambda out: words(clips, out), cuts3d, environment)
