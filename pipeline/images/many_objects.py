"""For code that makes a million Python objects which all stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_gc() -> Iterator[None]:
    """No search for garbage meanwhile: among so many objects it doubles the time, again and again, and finds nothing.
    Also a decorator, `@without_gc()`.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
