"""What the layers are worth beyond the contracts of import-linter in setup.cfg, which `make lint` holds."""

import configparser
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support import ROOT

PACKAGES = ("stages", "pipeline", "cluster", "detector")


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by their names alone: of two that share one, the second is an error."""
    names = Counter(file.name for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_an_editable_install_is_found_before_a_folder_of_its_name() -> None:
    """From the folder above a checkout called cuts3d: as in setup.cfg, the checkout is a place on the path."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options"]["package_dir"].strip() == "=."


def test_nothing_imports_the_public_module() -> None:
    """It stands on top of the packages."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert not re.search(r"^\s*(?:import|from) cuts3d\b", file.read_text(), re.MULTILINE), file


def test_modules_are_small() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 500, f"{file.relative_to(ROOT)} is over 500 lines"


def test_no_test_has_a_limit_in_seconds_of_its_own() -> None:
    """They wait for events (tests/support/waiting.py), and one limit for all ends what hangs: setup.cfg."""
    limit = re.compile(r"mark\.timeout\(|\btimeout=\d")
    files = [file for file in (ROOT / "tests").rglob("*.py") if file != Path(__file__)]
    found = [
        (file.name, line.strip()) for file in files for line in file.read_text().splitlines() if limit.search(line)
    ]
    assert found == []


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
