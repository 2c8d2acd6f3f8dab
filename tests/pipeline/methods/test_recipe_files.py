"""A recipe of one's own from a file, and the words for the options of all recipes."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.tiny_run import tiny_launch

from cuts3d import load
from pipeline.cli import command_line
from pipeline.errors import ConfigError
from pipeline.methods import registry
from pipeline.methods.cuts.options import read_recipe, recipe_lines
from pipeline.methods.cuts.recipes import RECIPES, get_recipe
from pipeline.methods.depthg.training_recipes import recipe_options
from pipeline.methods.option_words import OptionLine, field_words
from pipeline.methods.recipe_file import read_recipe_file
from pipeline.runs.launch import Launch
from stages.motion.camera import Camera

OWN = """
base = "cuts3d"
score = "contrast*stability"

[select]
masks = 5

[refine]
fill_holes = false
crf = "none"

[affinity]
tau = 0.1

[features]
size = 128
"""


def cuts3d(*words: object) -> Result:
    return CliRunner().invoke(command_line([]), [str(word) for word in words])


def test_a_run_goes_on_without_the_file(tmp_path: Path) -> None:
    tiny, file, out = tiny_launch(tmp_path, images=4), tmp_path / "own.toml", tmp_path / "run"
    models = "\n".join(f"{name} = {json.dumps(value)}" for name, value in tiny.settings.items())
    file.write_text(f"{OWN}\n[models]\n{models}\n")
    words = ["run", "--images", tmp_path / "photos", "--out", out, "--device", "cpu", "--recipe", file]
    done = cuts3d(*words, "--set", "select.masks=3", "--set", "refine.size=64")
    assert done.exit_code == 0, done.output
    recipe = json.loads((out / "run.json").read_text())["config"]["recipe"]
    assert (recipe["name"], recipe["select"]["masks"], recipe["score"]) == ("cuts3d", 3, "contrast*stability")
    assert (recipe["refine"]["fill_holes"], recipe["refine"]["crf"]) == (False, None)
    again = cuts3d(*words, "--set", "select.masks=3", "--set", "refine.size=64")
    assert "nothing was left to do" in again.output, again.output
    file.unlink()
    assert "nothing was left to do" in cuts3d("run", "--out", out).output
    told = cuts3d("info", out).output
    assert "changed      select.masks = 3 (default 10)" in told
    assert 'changed      refine.crf = none (default "on")' in told


def test_python_takes_the_file_too(tmp_path: Path) -> None:
    tiny, file = tiny_launch(tmp_path, images=1), tmp_path / "own.toml"
    file.write_text(f"{OWN}\n[models]\n" + f"features = {json.dumps(tiny.settings['features'])}\n")
    model = load(str(file), depth=tiny.settings["depth"], overrides={"select.masks": 2}, device="cpu")
    recipe = model.method.config()["recipe"]
    assert (recipe["name"], recipe["select"]["masks"], recipe["refine"]["crf"]) == ("cuts3d", 2, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("masks = 5", "own.toml does not say which recipe it changes"),
        ("base = ", "own.toml is no TOML"),
        ('base = "cuts3d"\n[select]\nmasks = ["5"]', r"select.masks is \['5'\]: give a number, a list of them"),
        ('base = "cuts3d"\nmodels = "dino_vitb8"', r"models is 'dino_vitb8': make it a table, \[models\]"),
        ('base = "cuts3d"\n[models]\ndepth = 3', "models.depth is 3: give one text, as --depth takes it"),
        ('base = "votecut"\n[models]\nfeatures = ["a"]', r"models.features is \['a'\]: give one text, as --features"),
        (b"\xff\xfe", "own.toml cannot be read"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(text: str | bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=says):
        read_recipe_file(file)


def said_twice(lines: Iterable[OptionLine]) -> list[str]:
    """Words of several options, of which nobody can tell which is meant."""
    return [words for words, count in Counter(line.words for line in lines).items() if count > 1]


def test_every_option_of_a_training_has_words_of_its_own() -> None:
    lines = recipe_options("depthg")
    assert [line.path for line in lines if not line.words] == []
    assert said_twice(lines) == []


@pytest.mark.parametrize("recipe", [name for name in registry.recipes() if name != "import"])
def test_every_option_has_words(recipe: str) -> None:
    lines = registry.entry_of(recipe).options(Launch(recipe=recipe))
    assert lines
    assert [line.path for line in lines if not line.words] == []
    assert said_twice(lines) == []


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_listed_is_what_is_read(name: str) -> None:
    """Each line can be given back as an override; what is not listed is refused."""
    listed = [line for line in recipe_lines(Launch(recipe=name)) if not line.path.startswith(("features.", "--"))]
    assert read_recipe(name, [f"{line.path}={line.value}" for line in listed]) == RECIPES[name]
    for path, value in (("select.masks", "1"), ("filters.min_area", "0.2"), ("bipartition.foreground", "peak")):
        if path not in {line.path for line in listed}:
            with pytest.raises(ConfigError, match=f"never reads {path}"):
                read_recipe(name, [f"{path}={value}"])


def test_a_search_that_is_switched_reads_other_options() -> None:
    switched = ["rounds=none", "tree=on", "select.masks=4"]
    assert read_recipe("maskcut", switched) == get_recipe("maskcut", switched)
    paths = {line.path for line in recipe_lines(Launch(recipe="maskcut", overrides=tuple(switched)))}
    assert {"tree.depth", "select.masks", "boundary"} <= paths
    assert not [path for path in paths if path.startswith(("rounds.", "bipartition.", "filters."))]


def test_a_file_s_options_are_those_that_its_search_and_stages_read(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('base = "maskcut"\nrounds = "none"\nmerge = "on"\n[refine]\ncrf = "none"\n')
    shown = cuts3d("recipes", file).output
    for line in ("  rounds = none\n", "  merge = on\n", "  merge.stride = 4\n", "  refine.crf = none\n"):
        assert line in shown
    assert not any(f"  {path}" in shown for path in ("rounds.n", "filters.", "bipartition.", "ncut.", "refine.crf."))
    file.write_text('base = "votecut"\n[votes]\nsame_iou = 0.5\n')
    assert "  votes.same_iou = 0.5\n" in cuts3d("recipes", file).output


def test_names_that_share_words_all_have_them() -> None:
    words = field_words(Camera)
    assert words["fx"] == words["fy"] == "focal lengths in pixels, > 0."
    assert words["baseline"].startswith("distance of the two lenses")
