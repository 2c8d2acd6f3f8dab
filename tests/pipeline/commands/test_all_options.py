"""What all commands' options have in common: numbers are finite, and what is written is looked at first."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pipeline.cli import command_line
from pipeline.commands.extensions import installed_extensions, load_extensions
from pipeline.commands.options import OUTPUT_FOLDER, OUTPUT_RUN, Number, Output
from pipeline.errors import ConfigError
from pipeline.methods.cuts.recipes import get_recipe
from pipeline.methods.overrides import parse_overrides
from pipeline.runs.instance_reader import InstanceReader
from stages.local_cut import LocalCutConfig

main = command_line(())
load_extensions(main, installed_extensions())


def options(group: click.Group = main, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from options(command, (*words, name))
        else:
            yield from (((*words, name), o) for o in command.params if isinstance(o, click.Option))


NUMBERS = [(words, option) for words, option in options() if isinstance(option.type, Number)]
OUTPUTS = [(words, option) for words, option in options() if isinstance(option.type, Output)]


def named(case: Any) -> str:
    return f"{' '.join(case[0])} {case[1].opts[0]}" if isinstance(case, tuple) else ""


def test_every_number_and_every_output_is_of_the_one_type() -> None:
    for words, option in options():
        assert not isinstance(option.type, click.types.FloatParamType) or isinstance(option.type, Number), words
        assert not isinstance(option.type, click.Path), (words, option.opts)
    assert len(NUMBERS) >= 8
    assert len(OUTPUTS) >= 15


def test_the_help_says_the_range_where_there_is_one() -> None:
    assert "x<=None" not in CliRunner().invoke(main, ["export", "--help"]).output
    assert "x>=0" in CliRunner().invoke(main, ["gc", "--help"]).output


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf", "1e999", "-infinity"])
@pytest.mark.parametrize("case", NUMBERS, ids=named)
def test_numbers_are_finite(case: tuple[tuple[str, ...], click.Option], text: str) -> None:
    words, option = case
    refused = CliRunner().invoke(main, [*words, f"{option.opts[0]}={text}", "--", "something"])
    assert refused.exit_code == 2
    assert re.search(rf"Invalid value for '{option.opts[0]}': .*(no finite number|not in the range)", refused.output)


@pytest.mark.parametrize("case", OUTPUTS, ids=named)
def test_what_cannot_be_written_is_refused_first(case: tuple[tuple[str, ...], click.Option], tmp_path: Path) -> None:
    words, option = case
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "x.safetensors"
    refused = CliRunner().invoke(main, [*words, option.opts[0], str(path)])
    assert refused.exit_code == 2
    assert (
        f"cannot write {path}: Not a directory: {tmp_path / 'file'} is a file. Mend that, or write elsewhere."
        in refused.output
    )


def test_a_command_that_is_to_be_done_elsewhere_is_not_judged_by_this_machine(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "x.html")
    context = main.commands["gallery"].make_context("gallery", ["--out", out, "run"])  # as `submit` does
    assert context.params["out"] == out


def test_runs_may_be_urls() -> None:
    context = click.Context(main.commands["run"], parent=click.Context(main))
    assert OUTPUT_RUN.convert("s3://bucket/run", None, context) == "s3://bucket/run"
    with pytest.raises(ConfigError, match="is a URL"):
        OUTPUT_FOLDER.convert("s3://bucket/run", None, context)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_options_of_recipes_are_finite(text: str) -> None:
    with pytest.raises(ConfigError, match=f"local_cut.tau_knn is a finite number, got '{text}'"):
        get_recipe("cuts3d", [f"local_cut.tau_knn={text}"])
    with pytest.raises(ConfigError, match="tau_knn is a finite number"):
        parse_overrides(LocalCutConfig, [f"tau_knn={text}"])


def test_scores_to_filter_by_are_finite() -> None:
    class Run:
        result, url = "instances", "run"

    with pytest.raises(ConfigError, match="min_score is nan: it must be a finite number"):
        InstanceReader(Run(), float("nan"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["run", "--images", "photos", "--out", ""], "--out"),
        (["run", "--images=", "--out", "run"], "--images"),
        (["export", "run", "--coco", ""], "--coco"),
        (["info", ""], "info"),
    ],
)
def test_an_empty_text_is_not_the_current_folder(words: list[str], name: str) -> None:
    """As a script gives it when a variable of the shell is not set."""
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert f"{name}: empty text; is a variable of the shell not set?" in refused.output
