"""Fixtures shared by all tests: where the real weights and photos are."""

import os
from pathlib import Path

import pytest

ASSETS = Path(os.environ.get("CUTS3D_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder with `weights/`, `coco/` and `imagenet/`; the test is skipped where it is absent, and fails in CI."""
    if not ASSETS.is_dir():
        message = f"no shared weights and photos at {ASSETS}: set CUTS3D_ASSETS"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return ASSETS
