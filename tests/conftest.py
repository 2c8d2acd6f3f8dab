"""What all tests share: the order they are run in, where the real weights and photos are, what is said in the end."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, settings
from support.named_options import COMMANDS, foreign_options
from support.ray_nodes import Nodes

from pipeline.errors import CutsError

ASSETS = Path(os.environ.get("CUTS3D_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))

# Of an outcome that hangs on seconds, the machine decides.
settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no process is left alone with it in the end."""
    items.sort(key=_seconds, reverse=True)


def _seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker("slow")
    return marker.args[0] if marker and marker.args else 0.0


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Last of all: what was skipped, and why. `make test` calls pytest twice; a file has both add to one list."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", [])]
    kept = Path(os.environ.get("CUTS3D_TEST_SKIPS", os.devnull))
    with kept.open("a+") as file:
        file.writelines(f"{reason}\n" for reason in reasons)
        file.seek(0)
        reasons = file.read().splitlines() or reasons
    for reason, count in Counter(reasons).most_common():
        reporter.write_line(f"skipped: {count} × {reason}")
    reporter.write_line("" if reasons else "nothing was skipped")


@pytest.fixture(autouse=True)
def refusals_name_options_that_the_command_has(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of whatever command a test gives: a message that names another command's option sends the reader astray."""
    foreign: list[str] = []
    invoke = click.Group.invoke

    def invoke_and_look(group: click.Group, context: click.Context) -> object:
        typed = tuple(context.args)
        try:
            return invoke(group, context)
        except (CutsError, click.UsageError) as error:
            command = context.invoked_subcommand
            if command in COMMANDS and not isinstance(error, click.NoSuchOption):
                foreign.extend(
                    f"{command}: {option}: {error}" for option in foreign_options(command, str(error), typed)
                )
            raise

    monkeypatch.setattr(click.Group, "invoke", invoke_and_look)
    yield
    assert foreign == []


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder with `weights/`, `coco/` and `imagenet/`; the test is skipped where it is absent, and fails in CI."""
    if not ASSETS.is_dir():
        message = f"no shared weights and photos at {ASSETS}: set CUTS3D_ASSETS"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return ASSETS


@pytest.fixture(scope="session")
def cluster() -> Iterator[Nodes]:
    """One Ray for all tests of this process that can share one."""
    nodes = Nodes()
    yield nodes
    nodes.shutdown()


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """Without a node that has a core: `add` some."""
    yield cluster
    cluster.clear()
