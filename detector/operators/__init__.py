"""mmcv's operators without a compiler.

MMDetection imports mmcv.ops all over. That is Python around one compiled module, mmcv._ext: the distribution mmcv has
both, mmcv-lite has the Python alone. `kernels` is found in place of the module that is missing, and nothing else of
mmcv is touched, so that nms, batched_nms, roi_align, RoIAlign and all registered layers are mmcv's own.

It is looked for after everything else, so that a compiled module always goes first. Two ways lead to it:

- whatever imports `detector` or a part of it can import MMDetection from there on;
- `python -m detector.operators`, which `make install-detector` ends with, leaves a file beside mmcv-lite that does the
  same for programs that import MMDetection first, such as its own training script.

This module imports neither torch nor mmcv: `cuts3d` imports it whenever it starts.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

EXTENSION = "mmcv._ext"
INSTALL_COMPILED = "`make install-mmcv`, or `sh scripts/install_mmcv.sh PYTHON` for an environment of your own"


class _LastFinder(MetaPathFinder):
    """Finds `kernels` under the name of mmcv's compiled module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != EXTENSION:
            return None
        return importlib.util.spec_from_file_location(fullname, Path(__file__).with_name("kernels.py"))


def stand_in() -> None:
    """From now on mmcv.ops can be imported with mmcv-lite; where mmcv is compiled this changes nothing."""
    if not any(isinstance(finder, _LastFinder) for finder in sys.meta_path):
        sys.meta_path.append(_LastFinder())


def compiled() -> bool:
    """Whether the operators of the mmcv that is installed are compiled. Imports mmcv; False where there is none."""
    try:
        spec = importlib.util.find_spec(EXTENSION)
    except ModuleNotFoundError:
        return False
    return spec is not None and (spec.origin or "").endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
