"""What every registered method must do, whichever it is. One that is added to the registry is tested here before its
author writes a test; all it needs is a sample in tests/support/method_samples.py.
"""

import json
import signal
from pathlib import Path

import pytest
import torch
from support import ROOT, environment, method_samples, warm
from support.method_samples import ODD, do, draw, sample

from pipeline.errors import RunMismatchError
from pipeline.faults import VARIABLE
from pipeline.methods.registry import describe, entry_of, recipes
from pipeline.results.kinds import Failed
from pipeline.results.registry import kind_named
from pipeline.runs.launch import Launch, last_launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run

RECIPES = recipes()
POINTS = ("before_write:00001", "mid_write:00001", "after_write:00001", "after_commit:00001")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("methods")
    draw(place)
    return place


@pytest.fixture(scope="module", params=RECIPES)
def done(request: pytest.FixtureRequest, folder: Path) -> tuple[str, RunFolder]:
    """An undisturbed run of each recipe."""
    out = folder / request.param
    assert do(request.param, folder, out).complete
    return request.param, RunFolder.open(out)


def shards_of(run: RunFolder) -> dict[str, str]:
    return {key: commit.shard.sha256 for key, commit in run.ledger.committed().items()}


def test_odd_images_have_results(done: tuple[str, RunFolder]) -> None:
    """An empty image, one of a patch or two, one full of ties: none of them fails, and the store is sound."""
    _, run = done
    assert verify_run(run) == []
    results = {result.id: result for result in RunReader(run)}
    assert len(results) == 4 + len(ODD)
    assert [result for result in results.values() if isinstance(result, Failed)] == []
    assert results.keys() >= ODD.keys()


def test_what_is_missing_is_done_to_the_same_bytes(done: tuple[str, RunFolder], folder: Path) -> None:
    recipe, run = done
    expected = shards_of(run)
    run.files.delete("commits/00001.json")
    summary = do(recipe, folder, Path(run.url))
    assert (summary.complete, summary.images) == (True, 3)
    run.gc(min_age_s=0)
    assert shards_of(run) == expected
    assert verify_run(run) == []


def test_a_run_knows_its_method_and_kind(done: tuple[str, RunFolder], folder: Path) -> None:
    recipe, run = done
    _, method = sample(recipe, folder)
    assert (run.method, run.recipe) == (method.name, recipe)
    kind = kind_named(run.result)
    assert kind.name == method.kind(None).name
    assert entry_of(recipe).result in (kind.name, "")  # of other packages nobody knows before they are loaded
    counts = run.ledger.read("00000").counts
    assert {"images", "quarantined"} <= counts.keys()
    assert all(isinstance(word, str) and isinstance(value, str) for word, value in kind.summary(counts))
    assert all(isinstance(value, str) for _, value in describe(run.method, run.config))


def test_its_configuration_survives_json_and_freezes_the_run(done: tuple[str, RunFolder], folder: Path) -> None:
    recipe, run = done
    launch, method = sample(recipe, folder)
    config = method.config()
    assert json.loads(json.dumps(config)) == json.loads(json.dumps(run.config))
    assert config["recipe"]["name"] == recipe
    run.refuse_other_config(config)
    with pytest.raises(RunMismatchError, match="surprise: run has no such setting, now 1"):
        run.refuse_other_config({**config, "surprise": 1})
    assert Launch.from_dict(json.loads(json.dumps(launch.as_dict()))) == launch == last_launch(run.url)


def test_its_results_are_written_the_same_way_twice(done: tuple[str, RunFolder], folder: Path) -> None:
    recipe, run = done
    _, method = sample(recipe, folder)
    kind, reader = method.kind(None), RunReader(run)
    shard = reader.open_shard("00000")
    results = [shard.result(i) for i in range(len(shard))]
    assert kind.write(results, {}) == kind.write(results, {})
    again = kind.open(kind.write([*results, Failed("z", "missing", "it is not there")], {}))
    assert [again.result(i) for i in range(len(again))] == [*results, Failed("z", "missing", "it is not there")]
    assert again.done.tolist() == [True] * len(results) + [False]
    assert kind.counts(results)["images"] == len(results)


def test_the_readme_names_it(done: tuple[str, RunFolder]) -> None:
    recipe, _ = done
    table = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert any(f"`{recipe}`" in line.split("|")[1] for line in table), f"README.md: a line for the recipe {recipe}"


@pytest.mark.slow
def test_killed_it_resumes_to_the_same_bytes(done: tuple[str, RunFolder], folder: Path, tmp_path: Path) -> None:
    """By SIGKILL, at each point of the commit protocol, in one run after the other."""
    recipe, undisturbed = done
    expected = shards_of(undisturbed)
    once = tmp_path / "once"
    once.mkdir()
    crashes = environment(**{VARIABLE: ",".join(POINTS), "CUTS3D_CRASH_ONCE": str(once)})
    words = (method_samples.__file__, recipe, folder, tmp_path / "run")
    for _ in POINTS:
        killed = warm.run(words, crashes)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = warm.run(words, crashes)
    assert last.returncode == 0, last.stderr
    run = RunFolder.open(tmp_path / "run")
    run.gc(min_age_s=0)
    assert shards_of(run) == expected
    assert verify_run(run) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_what_the_cpu_finds(done: tuple[str, RunFolder], folder: Path, tmp_path: Path) -> None:
    """The counts of each image, but for one of ten."""
    from support.tiny_method import tiny_method

    from pipeline.engine.run import run as run_it

    recipe, on_cpu = done
    launch, method = sample(recipe, folder)
    if method.name != "cuts":
        pytest.skip("its sample is of the CPU")
    run_it(tmp_path / "run", launch, method=tiny_method(recipe, device="cuda"))
    there = {result.id: result for result in RunReader(RunFolder.open(tmp_path / "run"))}
    kind = method.kind(None)
    same = [kind.counts([result]) == kind.counts([there[result.id]]) for result in RunReader(on_cpu)]
    assert sum(same) >= 0.9 * len(same)
