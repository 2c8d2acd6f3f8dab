"""The tests here need MMDetection, which `make install-test` installs."""

import importlib.util
from collections.abc import Iterator

import pytest

for name in ("mmdet", "mmcv"):
    if importlib.util.find_spec(name) is None:
        raise pytest.UsageError(f"{name} is not installed, which tests/detector needs: run make install-test")


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of cuts3d that all tests of a file share, and no other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTS3D_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
