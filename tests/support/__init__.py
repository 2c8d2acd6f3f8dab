"""What several tests share: small methods, runs and detectors, drawn photos, a browser, references to compare with."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that is to find the project and this package, whatever is installed."""
    return os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | more
