"""The tests here need MMDetection, which `make install-test` installs."""

import importlib.util

import pytest

for name in ("mmdet", "mmcv"):
    if importlib.util.find_spec(name) is None:
        raise pytest.UsageError(f"{name} is not installed, which tests/detector needs: run make install-test")
