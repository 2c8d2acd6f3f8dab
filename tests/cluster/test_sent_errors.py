"""Errors across the border of a process: the project's, another package's, and such as do not come out the same."""

import importlib
import inspect
import multiprocessing
import pkgutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import cluster
import pipeline
from cluster.jobs.job_server import LostConnectionError
from cluster.sent_errors import MadeOf, SentError
from pipeline.errors import ConfigError, CutsError, ImageError, StoreError
from pipeline.images.coco_masks import UnusableMaskError
from pipeline.runs.lease import LeaseError

FOREIGN = """
from pipeline.errors import CutsError

class TheirError(CutsError):
    fatal = True
"""


def error_classes() -> list[type[Exception]]:
    """All of the project's, wherever they stand."""
    for package in (pipeline, cluster):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found, open_ = set[type[Exception]](), [Exception]
    while open_:
        for one in open_.pop().__subclasses__():
            if one not in found and not issubclass(one, Warning):
                found.add(one)
                open_.append(one)
    return sorted((c for c in found if c.__module__.startswith(("pipeline.", "cluster."))), key=lambda c: c.__name__)


def made(of: type[Exception]) -> Exception:
    takes_reason = "reason" in inspect.signature(of.__init__).parameters
    return of("truncated", "it ends early") if takes_reason else of("it went wrong: mend it")


def sent(of: type[Exception]) -> SentError:
    """In the other process."""
    try:
        raise made(of)
    except Exception as error:  # noqa: BLE001  as a worker does
        return SentError.of(error)


def sent_foreign(folder: str, name: str) -> SentError:
    sys.path.insert(0, folder)
    return sent(getattr(importlib.import_module("their_errors"), name))


class UnpicklableError(CutsError):
    """It holds what is of its process alone, and does not pickle."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.held = lambda: text


class TwoArgumentsError(CutsError):
    """Without a `__reduce__` it is made again of its message alone."""

    def __init__(self, what: str, remedy: str = "mend it") -> None:
        super().__init__(f"{what}: {remedy}")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_every_class_of_the_project_comes_out_as_itself(elsewhere: ProcessPoolExecutor) -> None:
    classes = error_classes()
    assert {ConfigError, ImageError, LeaseError, LostConnectionError, UnusableMaskError} <= set(classes)
    for of, error in zip(classes, elsewhere.map(sent, classes), strict=True):
        found, expected = error.error(), made(of)
        assert (type(found), str(found), found.args) == (of, str(expected), expected.args)
        assert not isinstance(expected, CutsError) or error.text == str(expected)
    image = elsewhere.submit(sent, ImageError).result().error()
    assert isinstance(image, ImageError)
    assert (image.reason, image.detail) == ("truncated", "it ends early")


def store_error() -> SentError:
    """In the other process."""
    return SentError.of(StoreError("a is damaged: b", "Do this."))


def test_what_is_wrong_and_what_to_do_arrive_apart(elsewhere: ProcessPoolExecutor) -> None:
    found = elsewhere.submit(store_error).result().error()
    assert isinstance(found, StoreError)
    assert (found.what, found.remedy, str(found)) == ("a is damaged: b", "Do this.", "a is damaged: b. Do this.")


def test_an_error_of_another_package(
    elsewhere: ProcessPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_errors.py").write_text(FOREIGN)
    error = elsewhere.submit(sent_foreign, str(tmp_path), "TheirError").result()
    unknown = error.error()  # here that package is not installed
    assert (type(unknown), str(unknown)) == (CutsError, "it went wrong: mend it")
    monkeypatch.syspath_prepend(tmp_path)
    found = error.error()
    assert (type(found).__name__, str(found)) == ("TheirError", "it went wrong: mend it")
    assert isinstance(found, CutsError)
    assert found.fatal


def test_an_error_that_is_no_ones_own_says_where_it_was_raised(elsewhere: ProcessPoolExecutor) -> None:
    error = elsewhere.submit(sent, ZeroDivisionError).result()
    found = error.error()
    assert (type(found), str(found)) == (ZeroDivisionError, "it went wrong: mend it")
    assert "in sent\n" in found.__notes__[0]
    assert error.text.startswith("ZeroDivisionError: it went wrong: mend it\nTraceback")


class OddlyMadeError(CutsError):
    """It says that it is made by something else than its class."""

    def __reduce__(self) -> Any:
        return print, (str(self),)


@pytest.mark.parametrize("of", [UnpicklableError, TwoArgumentsError, OddlyMadeError])
def test_what_does_not_come_out_the_same_is_a_plain_error_that_says_it(
    of: type[Exception], elsewhere: ProcessPoolExecutor
) -> None:
    error = elsewhere.submit(sent, of).result()
    found = error.error()
    assert (type(found), str(found)) == (CutsError, str(made(of)))


def test_nothing_but_an_exception_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    for module, name in (("builtins", "print"), ("pathlib", "Path"), ("os", "path.join"), ("no_such_module", "Error")):
        found = SentError("it went wrong", MadeOf(module, name, ("a",), {})).error()
        assert (type(found), str(found)) == (CutsError, "it went wrong")
    assert capsys.readouterr().out == ""


def test_what_is_fatal() -> None:
    """What was asked for cannot be done; a store, a driver, a connection may be otherwise the next time."""
    names = {of.__name__ for of in error_classes() if issubclass(of, CutsError) and of.fatal}
    assert names == {"ConfigError", "ImageError", "MapError", "RunMismatchError", "SourceError"}
    assert not StoreError("…").fatal
