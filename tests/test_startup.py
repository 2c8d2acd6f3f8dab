"""A wrong command is refused, and a quick one answers, before anything is imported that takes seconds.

benchmarks/startup.py measures the seconds; here nothing does.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, environment
from support.named_options import foreign_options
from support.wrong_commands import HEAVY, QUICK, WRONG, Wrong, places, words_of

from pipeline.models import weights
from pipeline.storage.cache import cache_folder

# All command lines in one process, one after the other: what any of them imported would still be there.
LINES = """
import contextlib, io, json, sys
from pipeline.cli import main
heavy, lines = json.load(sys.stdin)
answers = []
for words in lines:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(words)
        except SystemExit as end:
            status = end.code
    answers.append((status, said.getvalue(), [name for name in heavy if name in sys.modules]))
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of each command line its exit status, all that it said, and what was imported by then."""
    folder = tmp_path_factory.mktemp("startup")
    absent = folder / "absent"
    for name in ("mmdet", "mmengine", "mmcv"):  # that they are installed is looked at, and no more
        (absent / name).mkdir(parents=True)
        (absent / name / "__init__.py").write_text("raise ImportError('this was not to be imported')\n")
    weights.fetch()  # a first run waits for them
    found = places(folder)
    lines = [wrong.words for wrong in WRONG] + list(QUICK)
    said = subprocess.run(
        [sys.executable, "-c", LINES],
        input=json.dumps([HEAVY, [words_of(line, found) for line in lines]]),
        env=environment(PYTHONPATH=f"{absent}:{ROOT}", CUTS3D_CACHE=str(cache_folder())),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert not Path(found["new"]).exists(), "what is refused leaves nothing behind"
    return dict(zip(lines, json.loads(said.stdout), strict=True))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.words)
def test_what_is_wrong_is_said_before_anything_heavy_is_imported(answers: dict[str, Any], wrong: Wrong) -> None:
    status, said, imported = answers[wrong.words]
    assert wrong.message in said
    assert status == 2
    assert imported == []


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.words)
def test_a_refusal_names_options_that_the_command_has(answers: dict[str, Any], wrong: Wrong) -> None:
    command, *words = wrong.words.split()
    assert foreign_options(command, answers[wrong.words][1], words) == []


@pytest.mark.parametrize("line", QUICK)
def test_a_look_needs_nothing_heavy(answers: dict[str, Any], line: str) -> None:
    status, said, imported = answers[line]
    assert status == 0
    assert said
    assert imported == []


def test_the_public_module_is_there_at_once() -> None:
    """And what is wrong with a method is said as early as on the command line."""
    code = (
        "import sys\n"
        "import cuts3d\n"
        f"heavy = ('click', 'fsspec', 'pyarrow', 'PIL', 'pandas', *{HEAVY!r})\n"
        "assert [name for name in heavy if name in sys.modules] == []\n"
        "try: cuts3d.load(features='dinov9')\n"
        "except cuts3d.ConfigError: pass\n"
        "cuts3d.Run, cuts3d.open_run\n"
        f"sys.exit(', '.join(name for name in {HEAVY!r} if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_options_of_stages_do_not_load_torch() -> None:
    """All of them but those that subclass torch's modules or are made for a library of models."""
    stages = sorted(file.stem for file in (ROOT / "stages").glob("*.py"))
    names = [f"stages.{name}" for name in stages if name not in ("vit", "depth_transformers", "__init__")]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"sys.exit(', '.join(name for name in {HEAVY!r} if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stderr.strip() == ""
