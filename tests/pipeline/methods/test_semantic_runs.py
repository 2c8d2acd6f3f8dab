"""Semantic labels through everything, by a tiny method: run, kill at each crash point, resume, retry, verify, status,
info, pictures; and what takes masks alone refuses them.
"""

import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.killed_runs import check_damage_is_found, check_killed
from support.label_method import NAME, STEPS, LabelMethod, installed, labels_of
from support.stored_run import photo

from pipeline import plugins
from pipeline.cli import command_line
from pipeline.commands.extensions import installed_extensions, load_extensions
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_photo
from pipeline.methods import registry as methods
from pipeline.results.kinds import Failed
from pipeline.results.semantic import SemanticRecord
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import SemanticReader
from pipeline.runs.verify import verify_run

PHOTOS = 7
COMMANDS = command_line()
load_extensions(COMMANDS, installed_extensions())


def install(patch: pytest.MonkeyPatch) -> None:
    """The method, by two names."""
    where = f"{LabelMethod.__module__}:LabelMethod"
    entries = EntryPoints([EntryPoint(name, where, methods.GROUP) for name in (NAME, f"{NAME}_too")])
    patch.setattr(plugins, "entry_points", lambda group: entries.select(group=group))


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(PHOTOS):
        pixels = photo((40 + i, 56), i).copy()
        pixels[:10, : 4 * i] = 0  # without a class
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def cuts3d(*words: object) -> Result:
    return CliRunner().invoke(COMMANDS, [str(word) for word in words], catch_exceptions=False)


def words(photos: Path, out: Path) -> list[str]:
    return ["run", "--images", str(photos), "--recipe", NAME, "--out", str(out), "--shard-size", "3"]


def test_a_run_and_everything_that_looks_at_it(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = cuts3d(*words(photos, out))
    assert done.exit_code == 0, done.output
    assert json.loads((out / "run.json").read_text())["result"] == "semantic"
    reader = SemanticReader(RunFolder.open(out))
    records = [record for record in reader if isinstance(record, SemanticRecord)]
    assert [record.id for record in records] == [f"{i}.png" for i in range(PHOTOS)]
    pixels = np.zeros(256, np.int64)
    for record in records:
        labels, confidence = labels_of(load_photo(ImageRef("-", str(photos / record.id))).rgb)
        np.testing.assert_array_equal(record.labels, labels)
        assert record.mean_confidence == pytest.approx(confidence.mean(), abs=0.01)
        pixels += np.bincount(labels.ravel(), minlength=256)
    total = int(pixels.sum())
    largest = int(pixels[:STEPS].argmax())
    occur = f"{(pixels[:STEPS] > 0).sum()} occur, most of all cluster {largest} {pixels[largest] / total:.0%}"
    unlabelled = f"{pixels[255] / total:.1%} of pixels"
    for output in (done.output, cuts3d("status", out).output, cuts3d("info", out).output):
        assert occur in output
        assert unlabelled in output
        assert "masks" not in output
    as_json = json.loads(cuts3d("status", out, "--json").output)
    assert as_json["pixels"] == {f"cluster {c}": int(pixels[c]) for c in range(STEPS) if pixels[c]}
    told = json.loads(cuts3d("info", out, "--json").output)
    assert (told["unlabelled"], told["schema"]) == (int(pixels[255]), "cuts3d-semantic 1")
    verified = cuts3d("verify", out)
    assert (verified.exit_code, "no errors" in verified.output) == (0, True)
    assert cuts3d("export", out, "--overlays", tmp_path / "pictures", "--limit", "2").exit_code == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_a_method_that_labels_wrongly_sets_its_image_aside(photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").rename(photos / "2_fails.png")
    (photos / "9.png").write_bytes(b"no photo")
    out = tmp_path / "run"
    assert cuts3d(*words(photos, out)).exit_code == 1
    failed = {result.id: result.reason for result in SemanticReader(RunFolder.open(out)) if isinstance(result, Failed)}
    assert failed == {"2_fails.png": "failed", "9.png": "not_an_image"}
    Image.fromarray(photo((40, 40), 9)).save(photos / "9.png")
    again = cuts3d("retry-quarantined", out)
    assert "2 images tried again, 1 succeeded" in again.output
    assert [one.id for one in SemanticReader(RunFolder.open(out)).quarantined()] == ["2_fails.png"]
    assert verify_run(RunFolder.open(out)) == []
    done = {result.id for result in SemanticReader(RunFolder.open(out)) if not isinstance(result, Failed)}
    assert "9.png" in done
    assert "set aside    1 failed" in cuts3d("info", out).output


def test_damage_is_found(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cuts3d(*words(photos, out))
    check_damage_is_found(out)


@pytest.mark.slow
def test_killed_it_resumes_to_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    environment = installed(tmp_path / "site")
    check_killed(tmp_path, lambda out: words(photos, out), cuts3d, environment)


# --- what takes masks alone -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of labels, and a truth beside it."""
    folder = tmp_path_factory.mktemp("labels")
    (folder / "photos").mkdir()
    for i in range(2):
        Image.fromarray(photo((40, 56), i)).save(folder / "photos" / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        assert cuts3d(*words(folder / "photos", folder / "run")).exit_code == 0
    images = [{"id": i + 1, "file_name": f"{i}.png", "height": 40, "width": 56} for i in range(2)]
    truth = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


REMEDY = "for semantic labels there are `cuts3d evaluate-semantic`, `cuts3d export --semantic` and `cuts3d gallery`"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("export {run} --coco {new}", f"--coco is for instance masks; {REMEDY}"),
        ("export {run} --masks {new}", f"--masks is for instance masks; {REMEDY}"),
        ("export {run} --semantic {new} --coco {new}.json", "--coco is for instance masks"),
        ("export {run} --overlays {new} --min-score 0.1", "--min-score is for instance masks"),
        ("evaluate {run} --truth {truth}", f"instance masks are needed here; {REMEDY}"),
        ("evaluate {run} --truth {nowhere}", "instance masks are needed here"),
        ("scores {run} --truth {truth}", "instance masks are needed here"),
        ("scores {run} --truth {nowhere}", "instance masks are needed here"),
        ("train --run {run} --work-dir {new} --config tiny", f"--config tiny is for instance masks; {REMEDY}"),
        ("train --run {run} --work-dir {new} --backbone {nowhere}", "--config cuts3d_r50_fpn is for instance masks"),
        ("inspect {photo} --recipe labels --out {new}", "recipe labels has none: look at its gallery"),
        (
            "compare --images {photos} --out {new} --recipes labels,labels_too --device cpu",
            "recipe labels gives semantic labels: instance masks are needed here",
        ),
    ],
)
def test_what_takes_masks_refuses_labels_in_a_line(labels: Path, tmp_path: Path, command: str, message: str) -> None:
    places = {"run": labels / "run", "truth": labels / "truth.json", "photos": labels / "photos"}
    places |= {"photo": labels / "photos" / "0.png", "new": tmp_path / "new", "nowhere": tmp_path / "nowhere"}
    told = cuts3d(*command.format(**places).split())
    assert (told.exit_code, message in told.output) == (2, True), told.output
    assert len(told.output.strip().splitlines()) == 1 or "Usage" in told.output
    assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir())
