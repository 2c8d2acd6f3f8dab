"""What all tests share: the order they are run in, and where the real weights and photos are."""

import os
from pathlib import Path

import pytest

ASSETS = Path(os.environ.get("CUTS3D_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray's tests in one process, one by one, beside all others (--dist loadgroup); what may take longest comes first,
    so that no process is left alone with it in the end.
    """
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
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
