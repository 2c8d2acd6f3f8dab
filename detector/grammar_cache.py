"""yapf, which MMEngine imports, by one process of a machine at a time until it has written its grammar.

It keeps the grammar in the user's cache, and renames a file into place before its bytes are in it
(findings/yapf_grammar_cache.sh). Of several processes that start at once where there is no such file yet, as those of
a training do, some would read an empty one and end with EOFError. Where the disk was full it stays empty.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType

from pipeline.storage.cache import cache_folder
from pipeline.storage.file_lock import lock

LOCK = "yapf.lock"
_KEEPER = "yapf_third_party._ylib2to3.pgen2.driver"
_GRAMMARS = ("Grammar.txt", "PatternGrammar.txt")


class _Guard(MetaPathFinder):
    """Finds nothing: before MMEngine is imported, it imports yapf."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "mmengine":
            sys.meta_path.remove(self)
            with _alone():
                _import_yapf()
        return None


def guard_yapf() -> None:
    """From now on MMEngine can be imported by any number of processes at once."""
    if "yapf" not in sys.modules and not any(isinstance(finder, _Guard) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Guard())


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock; without it where it cannot be had, as where there is no home: nothing can be kept there either."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        file = (cache_folder() / LOCK).open("w")
    except OSError:
        yield
        return
    with file:
        lock(file, "waiting for another process, which imports MMEngine for the first time")
        yield


def _import_yapf() -> None:
    try:
        with suppress(ModuleNotFoundError):  # of which whoever needs it will be told
            importlib.import_module("yapf")
    except (EOFError, UnpicklingError):
        keeper = sys.modules[_KEEPER]
        for grammar in _GRAMMARS:
            Path(keeper._generate_pickle_name(grammar)).unlink(missing_ok=True)
        importlib.import_module("yapf")
