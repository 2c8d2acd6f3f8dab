"""What the documents name exists: commands and their options, make targets, options of recipes, files, Python names.

Names are looked for in code alone, in blocks and between backticks. What is made up for an example is told by its form:
an ellipsis, CAPITALS, angle brackets; whoever writes of something else that does not exist writes it without backticks.
"""

import ast
import csv
import dataclasses
import re
import shlex
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from support import ROOT

from detector.prediction.method import DetectorOptions
from pipeline.cli import command_line
from pipeline.commands.extensions import installed_extensions, load_extensions
from pipeline.methods.cuts.recipes import Recipe
from pipeline.methods.depthg import training_recipes
from pipeline.methods.depthg.crops import CropConfig
from pipeline.methods.votecut.recipe import VoteRecipe
from stages.features import FeatureConfig

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "cluster/deploy/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LINKING = [*DOCUMENTS, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
PACKAGES = ("stages", "pipeline", "cluster", "detector")
FOLDERS = (*PACKAGES, "tests", "benchmarks", "docs", "scripts", ".ci")


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


@cache
def files() -> frozenset[str]:
    """All files and folders of the project."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    return frozenset(relative(path) for path in [*found, *ROOT.iterdir(), *(ROOT / folder for folder in FOLDERS)])


@cache
def commands() -> click.Group:
    group = command_line()
    load_extensions(group, installed_extensions())
    return group


@cache
def source() -> str:
    """Everything that may read an environment variable, or define an option of a script."""
    suffixes = (".py", ".sh", ".sbatch", ".yaml", "Makefile", "Containerfile", ".ci/run")
    names = [name for name in files() if name.endswith(suffixes) and not name.startswith("tests/test_")]
    return "\n".join((ROOT / name).read_text() for name in names if (ROOT / name).is_file())


def blocks(text: str) -> Iterator[str]:
    """Lines of code blocks, indented or fenced, with those that a backslash continues in one."""
    fenced, code = False, []
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            code.append(line.strip())
        else:
            code.append("")
    joined = re.sub(r"\\\n\s*", "", "\n".join(code))
    return (line for line in joined.splitlines() if line)


def inline(text: str) -> list[str]:
    """What stands between backticks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def words(code: str) -> list[str]:
    try:
        return shlex.split(code, comments=True)
    except ValueError:  # a lone quote in prose
        return code.split()


# --- what is wrong with a piece of code -------------------------------------------------------------------------------


def wrong_command(code: str) -> Iterator[str]:
    """Of `cuts3d COMMAND --option …`, also after the `--` of submit."""
    for call in re.findall(r"(?:^|# or: |[/(])cuts3d +((?:[a-z]|--).*)", code):
        said = words(call)
        for part in " ".join(said).split(" -- "):
            yield from _wrong_call(part.split())


def _wrong_call(said: list[str]) -> Iterator[str]:
    command: click.Command = commands()
    taken = 0
    for word in said:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        if not re.fullmatch(r"[a-z][a-z-]+", word):
            return
        found = command.commands.get(word)
        if found is None:
            yield f"no command {word}"
            return
        command, taken = found, taken + 1
    known = {"--help", "-h", "--version"} | {name for option in command.params for name in option.opts}
    for before, word in zip(["", *said[taken:]], said[taken:], strict=False):
        if word in ("|", "&&", ";"):
            return
        if re.fullmatch(r"--[a-z][a-z0-9-]*", word) and word not in known:
            yield f"{command.name} has no {word}"
        if before == "--set" and command.name in ("run", "inspect"):
            yield from wrong_option(word, needs_stage=False)


def wrong_flag(code: str) -> Iterator[str]:
    """Of `--option …` by itself."""
    flag = re.match(r"--[a-z][a-z0-9-]*", code)
    if flag is None:
        return
    known = {name for command in all_commands(commands()) for option in command.params for name in option.opts}
    if flag[0] not in known and f'"{flag[0]}"' not in source():
        yield f"no command has {flag[0]}"
    for option in re.findall(r"--set (\S+)", code):
        yield from wrong_option(option)


def all_commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from all_commands(command)


def wrong_target(code: str) -> Iterator[str]:
    """Of `make TARGET … VARIABLE=value`."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    targets = [name for names in re.findall(r"^\.PHONY:(.*)", makefile, re.MULTILINE) for name in names.split()]
    for call in re.findall(r"^make +([^&|;]*)", code):
        for word in words(call):
            name, is_variable, _ = word.partition("=")
            if is_variable and not re.search(rf"\$\({name}\)", makefile):
                yield f"make knows no variable {name}"
            if not is_variable and re.fullmatch(r"[a-z-]+", name) and name not in targets:
                yield f"make has no target {name}"


def option_names(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of a configuration's options, of its parts, too."""
    for name, hint in typing.get_type_hints(kind).items():
        yield prefix + name
        for part in (hint, *typing.get_args(hint)) if isinstance(hint, types.UnionType) else (hint,):
            if dataclasses.is_dataclass(part):
                yield from option_names(part, f"{prefix}{name}.")


@cache
def recipe_options() -> frozenset[str]:
    return frozenset(
        [
            *option_names(Recipe),
            *option_names(VoteRecipe),
            *("features." + field.name for field in dataclasses.fields(FeatureConfig)),
            *("detector." + field.name for field in dataclasses.fields(DetectorOptions)),
            *("crops." + field.name for field in dataclasses.fields(CropConfig)),
            *(line.path for name in training_recipes.RECIPES for line in training_recipes.recipe_options(name)),
        ]
    )


def wrong_option(code: str, needs_stage: bool = True) -> Iterator[str]:
    """Of `stage.option`, or `stage.option=value`; whatever begins otherwise is not of a recipe."""
    match = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)*)(?: ?= ?.*)?", code)
    if match is None or (needs_stage and "." not in match[1]):
        return
    stages = {name.partition(".")[0] for name in recipe_options()}
    is_file = match[1] in files() or match[1].partition(".")[2] in ("pth", "json", "jsonl", "safetensors")
    is_name = is_file or resolves(match[1])
    if match[1].partition(".")[0] in stages and match[1] not in recipe_options() and not is_name:
        yield f"no recipe has an option {match[1]}"


def wrong_file(code: str, document: Path) -> Iterator[str]:
    """Of a path into the project, and of the name of a file that can be of nobody else."""
    if "NAME" in code or not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)*/?", code):
        return
    folder = relative(document.parent).strip(".")
    name = code.rstrip("/")
    is_ours = code.split("/")[0] in FOLDERS and "/" in code
    is_ours |= name.endswith((".py", ".sh", ".sbatch", ".cfg")) or re.fullmatch(r"results/[\w.]+", name) is not None
    if is_ours and not any(file == name or file.endswith(f"/{name}") for file in files()):
        yield f"no file {code}" + (f" here or below {folder}" if folder else "")


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or something defined in one; nothing is imported."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if file.is_file() or (path.is_dir() and length == len(parts)):
            return length == len(parts) or _defines(ast.parse(file.read_text()).body, parts[length:])
    return False


def _defines(body: list[ast.stmt], parts: list[str]) -> bool:
    for node in body:
        names = {alias.asname or alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)}
        names |= {target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)}
        target = getattr(node, "target", None)
        names |= {target.id} if isinstance(target, ast.Name) else {getattr(node, "name", "")}
        if parts[0] in names:
            return len(parts) == 1 or _defines(getattr(node, "body", []), parts[1:])
    return False


def wrong_name(code: str) -> Iterator[str]:
    """Of `package.module.name`, and of what Python examples import."""
    found = re.findall(rf"^((?:{'|'.join(PACKAGES)})(?:\.\w+){{2,}})(?:\(.*\))?$", code)
    for dotted in [*found, *re.findall(r"\b(cuts3d\.\w+)\(", code)]:
        if not resolves(dotted):
            yield f"no {dotted}"
    for module, names in re.findall(rf"^from ((?:{'|'.join(PACKAGES)})[\w.]*) import ([\w, ]+)$", code):
        for name in names.split(","):
            dotted = f"{module}.{name.split()[0]}"  # without what it is called here: "run as make_run"
            if not resolves(dotted):
                yield f"no {dotted}"


def wrong_variable(code: str) -> Iterator[str]:
    for name in re.findall(r"CUTS3D_[A-Z_]+", code):
        if name not in source():
            yield f"nothing reads {name}"


def wrong(code: str, document: Path) -> list[str]:
    return [
        *wrong_command(code),
        *wrong_flag(code),
        *wrong_target(code),
        *wrong_option(code),
        *wrong_file(code, document),
        *wrong_name(code),
        *wrong_variable(code),
    ]


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_what_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    pieces = [*blocks(text), *inline(text)]
    assert [f"{code}: {fault}" for code in pieces for fault in wrong(code, document)] == []


@pytest.mark.parametrize("document", LINKING, ids=relative)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (document.parent / target) if target else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert broken == []


def anchors(file: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ +(.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


def test_the_table_of_scores_is_the_one_on_record() -> None:
    with (ROOT / "benchmarks" / "results" / "score_precision.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["size"] in ("840", "420")]
    guide = (ROOT / "docs" / "user-guide.md").read_text()
    table = [line.strip("| \n").split(" | ") for line in guide.splitlines() if line.startswith("| 0")]
    assert len(table) == len(rows) / 2
    for cells, large, small in zip(table, rows, rows[len(table) :], strict=False):
        assert (cells[:2], large["size"], small["size"]) == (
            [f"{float(large['score']):g}", large["masks"]],
            "840",
            "420",
        )
        shares = [_percent(row, name) for row in (large, small) for name in ("precision", "objects_found")]
        assert cells[3:] == shares


def _percent(row: dict[str, str], name: str) -> str:
    value, low, high = (f"{100 * float(row[name + end]):.1f}" for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("cuts3d rum --out a", "no command rum"),
        (".venv/bin/cuts3d run --outt a", "run has no --outt"),
        ("cuts3d submit --address A -- run --imagez p", "run has no --imagez"),
        ("cuts3d weights fecth", "no command fecth"),
        ("cuts3d run --set local_cut.tau=1", "no recipe has an option local_cut.tau"),
        ("--no-such-option N", "no command has --no-such-option"),
        ("make demos IMAGES=p", "make has no target demos"),
        ("make demo PHOTOS=p", "make knows no variable PHOTOS"),
        ("refine.crf.backend=pydensecrf", "no recipe has an option refine.crf.backend"),
        ("stages/no_such.py", "no file stages/no_such.py"),
        ("no_such.py", "no file no_such.py"),
        ("pipeline.runs.reader.Reader", "no pipeline.runs.reader.Reader"),
        ("from pipeline.runs.launch import Launched", "no pipeline.runs.launch.Launched"),
        ('run = cuts3d.open_runs("a")', "no cuts3d.open_runs"),
        ("CUTS3D_NO_SUCH", "nothing reads CUTS3D_NO_SUCH"),
    ],
)
def test_what_does_not_exist_is_found(code: str, fault: str) -> None:
    assert wrong(code, ROOT / "README.md") == [fault]
