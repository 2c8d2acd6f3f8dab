"""What all tests share: the order they are run in, and where the real weights and photos are."""

import os
from pathlib import Path

import pytest

ASSETS = Path(os.environ.get("CUTS3D_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest comes first, so that no process is left alone with it in the end."""
    items.sort(key=_time_limit, reverse=True)


def _time_limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return marker.args[0] if marker and item.get_closest_marker("slow") else 0.0


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder with `weights/`, `coco/` and `imagenet/`; the test is skipped where it is absent, and fails in CI."""
    if not ASSETS.is_dir():
        message = f"no shared weights and photos at {ASSETS}: set CUTS3D_ASSETS"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return ASSETS
