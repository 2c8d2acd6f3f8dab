"""The scripts in findings/ install packages, so they are run by hand; what can be checked without is checked here."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

FINDINGS = sorted((ROOT / "findings").glob("*.sh"))


@pytest.mark.parametrize("script", FINDINGS, ids=lambda script: script.stem)
def test_a_finding_says_what_it_is(script: Path) -> None:
    head = re.match(r"#!/bin/sh\n((?:#.*\n)+)set -eu\n", script.read_text())
    assert head, "a head comment, then set -eu"
    for part in ("# Expected:", "# Seen:", "# Why it matters:", "# Instead:"):
        assert part in head[1], part


def test_shellcheck_finds_nothing_in_the_findings() -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck, "no shellcheck: make install-test"
    found = subprocess.run([shellcheck, *FINDINGS], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
