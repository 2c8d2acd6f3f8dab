"""Making many objects at once leaves the garbage collector as it was."""

import gc

import pytest

from pipeline.images.many_objects import without_gc


@pytest.fixture(autouse=True)
def _collecting() -> None:
    assert gc.isenabled()


def test_it_is_off_meanwhile() -> None:
    @without_gc()
    def inside() -> bool:
        return gc.isenabled()

    assert [inside(), inside()] == [False, False]
    assert gc.isenabled()


def test_it_is_on_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="no"), without_gc():
        raise ValueError("no")
    assert gc.isenabled()


def test_who_turned_it_off_keeps_it_off() -> None:
    with without_gc():
        with without_gc():
            pass
        assert not gc.isenabled()
