"""What CONTRIBUTING prints runs: the smallest method of another package."""

import re
import types
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support import ROOT
from support.tiny_method import draw_photos

from pipeline import plugins
from pipeline.cli import command_line
from pipeline.methods import registry

MODULE = "my_package_of_contributing"


def cuts3d(*words: object) -> Result:
    return CliRunner().invoke(command_line([]), [str(word) for word in words])


def test_the_smallest_method_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?class Centre:.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    module = types.ModuleType(MODULE)
    monkeypatch.setitem(__import__("sys").modules, MODULE, module)
    exec(code, module.__dict__)
    entry = EntryPoint("centre", f"{MODULE}:Centre", registry.GROUP)
    with monkeypatch.context() as patch:
        patch.setattr(plugins, "entry_points", lambda group: EntryPoints([entry]).select(group=group))
        assert "centre               The middle of every photo, as one mask." in cuts3d("recipes").output
        assert "centre.share = 0.5\n      of the photo's height" in cuts3d("recipes", "centre").output
        draw_photos(tmp_path / "photos", 3)
        words = ["run", "--images", tmp_path / "photos", "--out", tmp_path / "run", "--recipe", "centre"]
        done = cuts3d(*words, "--set", "centre.share=0.25")
        assert done.exit_code == 0, done.output
        assert "3 (1.00" in done.output
        refused = cuts3d(*words, "--depth", "zoedepth")
        assert (refused.exit_code, "recipe centre never reads --depth" in refused.output) == (2, True)
    for command in ("status", "info", "verify"):
        assert cuts3d(command, tmp_path / "run").exit_code == 0, "the package is needed no more"
    again = cuts3d("run", "--out", tmp_path / "run")
    assert (again.exit_code, "If another package brings it, install that here" in again.output) == (2, True)
