"""The Python examples of the documents, and the notebook, run as they stand, on the demo's photos."""

import builtins
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import pytest
from support import ROOT
from support.made_once import made_once

import cuts3d
from pipeline.engine.run import run
from pipeline.images.samples import PHOTOS, copy_samples
from pipeline.runs.launch import Launch

NEEDS = "# needs "  # the first line of a block for which something has to be installed or trained
DEMO = [name for _, _, name in PHOTOS if name not in ("china.jpg", "camera.png", "motorcycle_left.png", "flower.jpg")]


def blocks(document: str) -> list[str]:
    """The Python blocks of a document, in their order."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / document).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves, with half of its photos and of its size; the folder that examples run in."""
    return made_once(tmp_path_factory, "examples", run_demo)


def run_demo(folder: Path) -> None:
    for photo in copy_samples(folder / "demo" / "photos"):
        if photo.name not in DEMO:
            photo.unlink()
    launch = Launch(images=str(folder / "demo" / "photos"), overrides=("features.size=420",))
    run(folder / "demo" / "run-cuts3d", launch, device="cpu")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was printed, a text a call."""
    lines: list[str] = []

    def keep(*values: object, **_: object) -> None:
        lines.append(" ".join(map(str, values)))

    monkeypatch.setattr(builtins, "print", keep)
    return lines


def execute(codes: list[str], name: str) -> dict[str, Any]:
    """All of them in one namespace, as a reader would type them; what is defined then."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, code in enumerate(codes):
        exec(compile(code, f"{name}, block {number + 1}", "exec"), names)
    return names


@pytest.mark.slow(40)
def test_the_examples_of_the_python_page(demo: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.chdir(demo)
    codes = [code for code in blocks("python.md") if not code.startswith(NEEDS)]
    assert len(codes) > 8
    names = execute(codes, "python.md")
    assert {file.name for file in demo.iterdir()} == {"demo"}, "nothing is left beside it"
    assert Path("demo/python/chelsea.png").is_file()
    assert len(names["table"]) > 3
    assert f"{len(names['table'])} annotations" in said
    assert f"{len(names['table'])} masks" in said
    assert sum("pixels" in line for line in said) == 10
    assert any(line.startswith("unsupported · image: an image must be") for line in said)
    assert any("unknown recipe 'cutsd'" in line for line in said)
    for code in blocks("python.md"):
        compile(code, "python.md", "exec")
        assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 20


@pytest.mark.slow(40)
def test_the_guide_reads_a_shard(demo: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """With what the base install brings: it has no xarray."""
    monkeypatch.chdir(demo)
    monkeypatch.setitem(sys.modules, "xarray", None)
    (code,) = blocks("user-guide.md")
    execute([code], "user-guide.md")
    stored = [(image, one) for image in cuts3d.open_run("demo/run-cuts3d") for one in image.instances]
    masks = said[:-1]
    assert masks == [f"{image.id} {one.score:.3f} {image.size}" for image, one in stored[: len(masks)]]
    assert len(masks) > 3, "those of the first shard"
    assert said[-1].startswith("['ok', 'no_masks', 'quarantined'] [")


def test_the_notebook_opens() -> None:
    nbformat.validate(nbformat.read(ROOT / "docs" / "examples.ipynb", as_version=4))


@pytest.mark.slow(40)
def test_the_notebook_runs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    notebook = nbformat.read(ROOT / "docs" / "examples.ipynb", as_version=4)
    codes = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "kept without its outputs"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("elsewhere")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.images.samples.PHOTOS", PHOTOS[:3])
    matplotlib.use("agg")
    names = execute(codes, "examples.ipynb")
    assert list(tmp_path.iterdir()) == [], "it writes elsewhere"
    assert f"{len(names['table'])} annotations" in said
