"""Imports go one way only: stages ◄ pipeline ◄ cluster ◄ detector, which takes of the cluster its connection alone;
nothing but detector needs mmdet.
"""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "stages": {"stages"},
    "pipeline": {"stages", "pipeline"},
    "cluster": {"stages", "pipeline", "cluster"},
    "detector": {"pipeline", "cluster", "detector"},
}
# What the pure layer must not know: files, clusters, detectors and stores.
FORBIDDEN_IN_STAGES = {"ray", "zarr", "fsspec", "pyarrow", "mmdet", "mmengine", "mmcv", "pathlib", "click", "os", "io"}
DETECTOR_ONLY = {"mmdet", "mmengine", "mmcv"}


def packages() -> list[str]:
    return [name for name in MAY_IMPORT if (ROOT / name).is_dir()]


def imports_of(file: Path) -> set[str]:
    """Top-level names of all imports of a file, also those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", packages())
def test_imports_go_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        ours = imports_of(file) & MAY_IMPORT.keys()
        assert ours <= MAY_IMPORT[package], f"{file.relative_to(ROOT)} imports {ours - MAY_IMPORT[package]}"


def test_stages_are_pure() -> None:
    for file in (ROOT / "stages").rglob("*.py"):
        assert not imports_of(file) & FORBIDDEN_IN_STAGES, f"{file.name}: {imports_of(file) & FORBIDDEN_IN_STAGES}"


def test_the_detector_takes_no_more_of_the_cluster_than_its_connection() -> None:
    for file in (ROOT / "detector").rglob("*.py"):
        modules = {node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
        assert {name for name in modules if (name or "").startswith("cluster")} <= {"cluster.connection"}, file


def test_only_the_detector_needs_mmdet() -> None:
    for package in packages():
        if package != "detector":
            for file in (ROOT / package).rglob("*.py"):
                assert not imports_of(file) & DETECTOR_ONLY, file


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by their names alone: of two that share one, the second is an error."""
    names = Counter(file.name for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_modules_are_small() -> None:
    for package in packages():
        for file in (ROOT / package).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 500, f"{file.relative_to(ROOT)} is over 500 lines"


@pytest.mark.slow
def test_every_module_imports_without_mmdet_and_ray() -> None:
    modules = sorted(
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for package in ("stages", "pipeline")
        for file in (ROOT / package).rglob("*.py")
    )
    code = (
        "import importlib, sys\n"
        "for name in ('mmdet', 'mmengine', 'mmcv', 'ray', 'pydensecrf'): sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name.removesuffix('.__init__'))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)
