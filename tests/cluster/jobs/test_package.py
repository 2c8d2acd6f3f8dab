"""What goes along with a job: the code of a folder, and nothing else; and that the code then runs by itself."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cluster.jobs import package
from cluster.jobs.package import pack
from cluster.jobs.submit import ROOT, own_checkout
from pipeline.errors import ConfigError

CODE = {"a.py": "1", "lists/train.txt": "x.jpg", "pack/b.py": "2", "nested/runs/note.md": "not at the top: kept"}
LEFT_OUT = (
    ".git/config",
    ".venv/bin/python",
    "__pycache__/a.pyc",
    "pack/__pycache__/b.pyc",
    "runs/first/run.json",
    "demo/photo.jpg",
    "cuts3d.egg-info/PKG-INFO",
    ".mypy_cache/x",
    "store.zarr/zarr.json",
    "nested/00000-a.zarr.zip",
    ".env",
    "nested/server.pem",
)


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(CODE.get(name, "no"))
    return folder


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def names_in(file: Path) -> set[str]:
    return set(zipfile.ZipFile(file).namelist())


def test_code_goes_along_and_nothing_else(tmp_path: Path) -> None:
    folder = make(tmp_path / "project", *CODE, *LEFT_OUT)
    packed = pack(folder, tmp_path / "p.zip")
    assert names_in(packed.file) == set(CODE)
    assert (packed.files, packed.bytes) == (4, sum(map(len, CODE.values())))
    assert zipfile.ZipFile(packed.file).read("pack/b.py") == b"2"


def test_gitignore_is_respected(tmp_path: Path) -> None:
    folder = make(tmp_path / "project", *CODE, "weights/big.bin", "pack/notes.tmp")
    (folder / ".gitignore").write_text("/weights/\n")
    (folder / "pack" / ".gitignore").write_text("*.tmp\n")
    git(folder, "init")
    git(folder, "add", "a.py")
    expected = {*CODE, ".gitignore", "pack/.gitignore"}
    assert names_in(pack(folder, tmp_path / "1.zip").file) == expected, "tracked or not, as git sees it"
    (folder / "a.py").unlink()
    assert names_in(pack(folder, tmp_path / "2.zip").file) == expected - {"a.py"}, "tracked and gone"
    below = pack(folder / "pack", tmp_path / "3.zip")
    assert names_in(below.file) == {"b.py", ".gitignore"}, "of a folder inside the repository, that folder"


def test_without_git_the_exclusions_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "project", *CODE, *LEFT_OUT)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert names_in(pack(folder, tmp_path / "p.zip").file) == set(CODE)


def test_the_same_files_make_the_same_zip(tmp_path: Path) -> None:
    """Ray keeps packages by their digest: what was sent once is not sent again."""
    first = pack(make(tmp_path / "one", *CODE), tmp_path / "1.zip").file.read_bytes()
    assert first == pack(make(tmp_path / "two", *reversed(CODE)), tmp_path / "2.zip").file.read_bytes()


def test_links_are_followed_to_files_only(tmp_path: Path) -> None:
    folder = make(tmp_path / "project", "a.py")
    make(tmp_path / "data", "photo.jpg")
    (folder / "b.py").symlink_to("a.py")
    (folder / "photos").symlink_to(tmp_path / "data")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    assert names_in(pack(folder, tmp_path / "p.zip").file) == {"a.py", "b.py"}


def test_what_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "project", "a.py")
    for name, megabytes in (("data/photos", 3), ("data/photos/more", 2), ("notebooks", 1)):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_bytes(bytes(megabytes * 1_000_000))
    monkeypatch.setattr(package, "LIMIT_BYTES", 5_000_000)
    with pytest.raises(ConfigError, match="holds 6 MB, more than the 5") as refused:
        pack(folder, tmp_path / "p.zip")
    assert "data/photos 3 MB, data/photos/more 2 MB, notebooks 1 MB" in str(refused.value)
    assert ".gitignore" in str(refused.value)
    assert not (tmp_path / "p.zip").exists()
    monkeypatch.setattr(package, "LIMIT_BYTES", 7_000_000)
    assert pack(folder, tmp_path / "p.zip").files == 4


@pytest.mark.parametrize(("name", "says"), [("nowhere", "is no folder"), ("empty", "no files to ship")])
def test_nothing_to_ship_is_an_error(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=says) as refused:
        pack(tmp_path / name, tmp_path / "p.zip")
    assert "--working-dir none" in str(refused.value)


def test_the_checkout_is_small_and_runs_by_itself(tmp_path: Path) -> None:
    """Shipped to a cluster that has the libraries and not cuts3d: nobody there knows of its entry points."""
    assert own_checkout() == ROOT
    packed = pack(ROOT, tmp_path / "p.zip")
    assert packed.bytes < 10_000_000
    zipfile.ZipFile(packed.file).extractall(tmp_path / "there")
    code = (
        "import importlib.metadata, runpy, sys\n"
        "importlib.metadata.entry_points = lambda **_: importlib.metadata.EntryPoints()\n"
        "def nothing(name): raise importlib.metadata.PackageNotFoundError(name)\n"
        "importlib.metadata.distribution = nothing\n"
        "sys.argv[1:] = ['run', '--help']\n"
        "try: runpy.run_module('cluster', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as done: assert done.code == 0\n"
        "import pipeline; print(pipeline.__file__)\n"
        "assert not {'ray', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "there", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--ray [ADDRESS]" in done.stdout
    assert f"{tmp_path}/there/pipeline" in done.stdout, "and it is the shipped code that runs"


def test_an_installed_package_has_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.jobs.submit.ROOT", tmp_path)
    assert own_checkout() is None
