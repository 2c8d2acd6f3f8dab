"""Other packages on the command line: what an extension can do, and what a broken one is told."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from support.tiny_method import draw_photos, in_place_of_models, tiny_method

from pipeline import plugins
from pipeline.cli import command_line
from pipeline.commands import executing, extensions
from pipeline.engine import run as runner

GROUP = extensions.GROUP


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> click.Group:
    in_place_of_models(monkeypatch, lambda launch: tiny_method(launch.recipe, launch.overrides))
    return command_line()


def install(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    found = EntryPoints(EntryPoint(name, value, GROUP) for name, value in entries)
    monkeypatch.setattr(plugins, "entry_points", lambda group: found.select(group=group))


def call(main: click.Group, *arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def module_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> str:
    (tmp_path / "strange_extension.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "strange_extension", raising=False)
    return "strange_extension:extend"


def test_an_extension_adds_commands_and_options(
    main: click.Group, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = """
import functools
import click
from pipeline.engine import run as runner
from pipeline.commands.executing import set_executor

def extend(main):
    main.add_command(click.Command("hello", callback=lambda: click.echo("good day")))
    run = main.commands["run"]
    local = run.callback
    def callback(loud, **settings):
        if loud:
            set_executor(shout)
        local(**settings)
    run.callback = callback
    run.params.append(click.Option(["--loud"], is_flag=True))

def shout(out, launch, *, reporter, **settings):
    click.echo(f"LOUD {sorted(settings)}")
    return runner.run(out, launch, reporter=reporter, **settings)
"""
    install(monkeypatch, ("strange", module_with(monkeypatch, tmp_path, source)))
    assert "good day" in call(main, "hello").output
    assert "--loud" in call(main, "run", "--help").output, "and it is extended once, not at every call"
    draw_photos(tmp_path / "photos", 2)
    arguments = "run", "--images", tmp_path / "photos", "--out", tmp_path / "run"
    loud = call(main, *arguments, "--loud", "--until", "depth")
    assert "LOUD ['batch_size', 'device', 'until']" in loud.output
    assert "1 done, 0 missing" in loud.output, "what the executor returns is reported as of any run"
    plain = call(main, *arguments)
    assert plain.exit_code == 0, plain.output
    assert "LOUD" not in plain.output


def test_options_reach_commands_of_extensions_that_come_later(
    main: click.Group, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = """
import click
from pipeline.commands.executing import ExecutingCommand

def extend(main):
    def finish():
        for command in main.commands.values():
            if isinstance(command, ExecutingCommand):
                command.params.append(click.Option(["--far"]))
    return finish

def extend_later(main):
    main.add_command(ExecutingCommand("walk", callback=lambda far: click.echo(f"walked {far}")))
"""
    first = module_with(monkeypatch, tmp_path, source)
    install(monkeypatch, ("a", first), ("b", "strange_extension:extend_later"))
    assert "walked 3" in call(main, "walk", "--far", 3).output
    assert "--far" in call(main, "run", "--help").output
    assert "--far" not in call(main, "status", "--help").output


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("expand = None", "AttributeError"),
        ("def extend(main): main.commands['fly']", "KeyError: 'fly'"),
        ("def extend(main): return lambda: main.commands['fly']", "KeyError: 'fly'"),
        ("syntax error", "SyntaxError"),
    ],
)
@pytest.mark.parametrize("command", [["--help"], ["recipes"]])
def test_a_broken_extension_is_named(
    command: list[str], source: str, says: str, main: click.Group, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, ("strange", module_with(monkeypatch, tmp_path, source)))
    for _ in range(2):
        result = call(main, *command)
        assert result.exit_code == 2
        assert "the extension 'strange' (strange_extension:extend) does not load" in result.output
        assert says in result.output
        assert "uninstall" in result.output
        assert "Traceback" not in result.output


def test_the_package_of_a_broken_extension_is_named(tmp_path: Path) -> None:
    """As a user meets it: a package with metadata on disk, whose module is gone."""
    metadata = tmp_path / "broken_plugin-3.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 3.1\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\nplugin = broken_plugin:extend\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pipeline.cli import main; main(['recipes'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the extension 'plugin' (broken_plugin:extend) of broken-plugin 3.1 does not load" in done.stderr
    assert "install broken-plugin again" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_work_is_done_here_unless_an_extension_says_otherwise() -> None:
    other: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    with click.Context(click.Command("run")):
        assert executing.executor() is runner.run
        executing.set_executor(other)
        assert executing.executor() is other
    with click.Context(click.Command("run")):
        assert executing.executor() is runner.run, "of one command, not of the process"
