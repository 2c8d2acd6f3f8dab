"""What the layers are worth beyond the contracts of import-linter in setup.cfg, which `make lint` holds."""

import subprocess
import sys
from collections import Counter

import pytest
from support import ROOT

PACKAGES = ("stages", "pipeline", "cluster", "detector")


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by their names alone: of two that share one, the second is an error."""
    names = Counter(file.name for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_modules_are_small() -> None:
    for package in PACKAGES:
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
        "for name in ('mmdet', 'mmengine', 'mmcv', 'ray'): sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name.removesuffix('.__init__'))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
