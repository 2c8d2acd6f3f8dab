"""Semantic training: what it leaves, that it resumes to the bit wherever it dies, and what it says of odd inputs."""

import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import semantic_training as script
from support.made_once import made_once
from support.semantic_training import ITERATIONS, small_recipe, small_training
from support.tiny_inputs import drawn_inputs, tiny_inputs
from support.tiny_method import BrightnessDepth
from support.warm import WarmProcess

from pipeline.errors import ConfigError, RunMismatchError, StoreError, TrainingError
from pipeline.methods.depthg import training_log
from pipeline.methods.depthg.checkpoint import read_model
from pipeline.methods.depthg.crops import CropConfig
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.learner import Batches, HeadLearner
from pipeline.methods.depthg.load import networks
from pipeline.methods.depthg.training import SemanticTraining, train
from pipeline.methods.depthg.training_log import EVENTS, read_log
from pipeline.runs.lease import Lease, LeaseError
from pipeline.storage.files_at import files_at

LOSSES = ("loss/own", "loss/neighbour", "loss/random", "loss/clusters")
SIMILARITIES = ("similarity/own", "similarity/neighbour", "similarity/random")


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes seconds to import."""
    monkeypatch.setattr(training_log, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrainingInputs:
    """25 crops of 5 photos, features (32, 4, 4)."""
    return TrainingInputs.open(made_once(tmp_path_factory, "semantic_inputs", drawn_inputs) / "inputs")


def weights(file: Path) -> dict[str, Any]:
    return {**read_model(file).head, "clusters": read_model(file).clusters}


def test_a_training_leaves_a_model_a_log_and_the_last_two_checkpoints(inputs: TrainingInputs, tmp_path: Path) -> None:
    file = small_training(inputs, tmp_path, features="tiny")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("iter_8.pth", "iter_9.pth", "log.jsonl", "model.safetensors", "training.json")
    ]
    model = read_model(file)
    assert model.clusters.shape == (3, 6)
    assert {name: tensor.shape for name, tensor in model.head.items()}["linear.weight"][:2] == (6, 32)
    assert (model.info.recipe, model.info.features, model.info.width, model.info.iterations) == (
        "depthg",
        "tiny",
        32,
        9,
    )
    assert (model.info.inputs, model.info.feature_config.size) == (inputs.digest, 32)
    assert model.info.feature_fingerprint == inputs.config["features"]["fingerprint"]
    assert model.info.objective["depth_weight"] == 0.19
    assert model.info.training["photos"] == 5
    assert sum(model.info.training["judgement"]["shares"]) == pytest.approx(1.0)
    reports = read_log(tmp_path)
    assert [report["iteration"] for report in reports] == [3, 6, 9]
    assert set(reports[0]) == {"iteration", "loss", "loss/depth", *LOSSES, *SIMILARITIES}


def test_progress_says_losses_and_the_three_similarities(
    inputs: TrainingInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pipeline"):
        small_training(inputs, tmp_path)
    said = [record.message for record in caplog.records if record.message.startswith("iteration ")]
    assert len(said) == 3
    assert re.match(r"iteration 3/9, \d.* left: loss ", said[0])
    assert all(
        word in said[0] for word in ("(own ", "neighbour ", "random ", "depth ", "clusters ", "; similarity own ")
    )


def test_without_tensorboard_the_log_is_lines_of_json_and_it_says_so(
    inputs: TrainingInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pipeline"):
        small_training(inputs, tmp_path)
    assert "TensorBoard is not installed (pip install 'cuts3d[semantics]')" in caplog.text
    assert not (tmp_path / EVENTS).exists()
    assert len(read_log(tmp_path)) == 3


def test_tensorboard_reads_the_events(inputs: TrainingInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(training_log, "find_spec", find_spec)
    small_training(inputs, tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / EVENTS)).Reload()
    own = [(event.step, event.value) for event in events.Scalars("similarity/own")]
    assert own == [(report["iteration"], pytest.approx(report["similarity/own"])) for report in read_log(tmp_path)]


@pytest.mark.parametrize("name", ["depthg", "depthg_released", "depthg_probe", "depthg_corr_fps_lhp", "kmeans"])
def test_equal_seeds_give_equal_models_and_others_do_not(inputs: TrainingInputs, tmp_path: Path, name: str) -> None:
    first, second = (small_training(inputs, tmp_path / out, name) for out in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    other = small_training(inputs, tmp_path / "c", name, seed=1)
    assert not np.array_equal(read_model(first).clusters, read_model(other).clusters)


def test_training_moves_head_and_clusters_and_the_loss_falls(inputs: TrainingInputs, tmp_path: Path) -> None:
    recipe = small_recipe("stego", "training.learning_rate=0.01", "training.log_every=20")
    assert recipe.training is not None
    recipe = replace(recipe, training=replace(recipe.training, iterations=100))
    train(SemanticTraining(recipe, tmp_path, device="cpu"), inputs)
    reports = read_log(tmp_path)
    assert reports[-1]["loss"] < reports[0]["loss"]
    assert reports[-1]["loss/clusters"] < reports[0]["loss/clusters"]


def test_kmeans_has_the_features_as_codes(inputs: TrainingInputs, tmp_path: Path) -> None:
    model = read_model(small_training(inputs, tmp_path, "kmeans"))
    assert model.head == {}
    assert model.clusters.shape == (3, 32)
    assert (model.info.iterations, model.info.objective) == (0, {})
    assert np.linalg.norm(model.clusters, axis=1) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(RunMismatchError, match="holds a training already"):
        small_training(inputs, tmp_path, "kmeans")


def test_clusters_are_those_of_the_codes_when_the_head_is_trained(inputs: TrainingInputs, tmp_path: Path) -> None:
    by_probe = read_model(small_training(inputs, tmp_path / "probe", "depthg_probe"))
    model = read_model(small_training(inputs, tmp_path / "kmeans", "depthg"))
    assert all(np.array_equal(model.head[name], by_probe.head[name]) for name in by_probe.head)
    head, _ = networks(model, "")
    features = torch.from_numpy(inputs.features(range(len(inputs)))).float()
    with torch.inference_mode():
        codes = head.eval()(features).permute(0, 2, 3, 1).reshape(-1, model.clusters.shape[1])
    codes = torch.nn.functional.normalize(codes, dim=1)
    likeness = codes @ torch.from_numpy(model.clusters).T
    for cluster in range(len(model.clusters)):  # each lies where its codes are
        own = codes[likeness.argmax(1) == cluster].mean(0)
        assert np.dot(own / own.norm(), model.clusters[cluster]) == pytest.approx(1, abs=1e-4)
    assert likeness.amax(1).mean() > (codes @ normalised(by_probe.clusters).T).amax(1).mean()


def normalised(vectors: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1)


def test_a_search_trains_by_the_objective_that_the_criterion_likes_best(inputs: TrainingInputs, tmp_path: Path) -> None:
    recipe = small_recipe("depthg", "search.iterations=4", trials=3)
    file = train(SemanticTraining(recipe, tmp_path, device="cpu"), inputs)
    tried = [json.loads(line) for line in (tmp_path / "search.jsonl").read_text().splitlines()]
    assert [one["trial"] for one in tried] == [0, 1, 2]
    best = max(tried, key=lambda one: one["criterion"])
    objective = read_model(file).info.objective
    assert objective == best["objective"]
    assert recipe.objective is not None
    own = [one["objective"]["own_weight"] for one in tried]
    assert own[0] == recipe.objective.own_weight
    assert all(0.5 <= weight / own[0] <= 2.0 and weight != own[0] for weight in own[1:])
    assert {one["objective"]["depth_decay"] for one in tried} == {recipe.objective.depth_decay}


# --- resuming ---------------------------------------------------------------------------------------------------------


def work_on(inputs: TrainingInputs, out: Path, moment: str, number: int = 0) -> int:
    """The exit status of a process that trains until then."""
    process = WarmProcess([script.__file__, inputs.run.url, out, moment, number])
    _, said = process.communicate()
    assert process.returncode in (0, -9), said
    return process.wait()


@pytest.fixture(scope="module")
def undisturbed(inputs: TrainingInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "undisturbed", lambda folder: work_on(inputs, folder, "none"))


def same(first: Path, second: Path) -> None:
    names = ("model.safetensors", "log.jsonl", "search.jsonl", "training.json")
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    last = [torch.load(out / f"iter_{ITERATIONS}.pth", weights_only=True) for out in (first, second)]
    torch.testing.assert_close(*last, rtol=0, atol=0)


@pytest.mark.parametrize("step", [0, 1, 4, ITERATIONS - 1])
def test_killed_before_any_step_it_resumes_to_the_bit(
    inputs: TrainingInputs, undisturbed: Path, tmp_path: Path, step: int
) -> None:
    """Its trials have steps of the same numbers, 0..3: the first two deaths are in the search."""
    assert work_on(inputs, tmp_path, "step", step) == -9
    assert work_on(inputs, tmp_path, "none") == 0
    same(tmp_path, undisturbed)


@pytest.mark.parametrize("checkpoint", [1, 3])
def test_killed_while_it_writes_a_checkpoint_it_resumes_to_the_bit(
    inputs: TrainingInputs, undisturbed: Path, tmp_path: Path, checkpoint: int
) -> None:
    assert work_on(inputs, tmp_path, "save", checkpoint) == -9
    assert work_on(inputs, tmp_path, "none") == 0
    same(tmp_path, undisturbed)


def test_a_torn_checkpoint_and_a_torn_line_of_the_log_are_passed_over(
    inputs: TrainingInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = small_training(inputs, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    checkpoint = tmp_path / "torn" / "iter_9.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    (tmp_path / "torn" / "model.safetensors").unlink()
    with (tmp_path / "torn" / "log.jsonl").open("a") as log:
        log.write('{"iteration": 12, "lo')
    again = small_training(inputs, tmp_path / "torn", resume=True)
    assert "iter_9.pth cannot be read, using the one before it" in caplog.text
    assert "a line of" in caplog.text
    assert again.read_bytes() == file.read_bytes()
    assert (tmp_path / "torn" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()


def test_what_is_there_is_not_trained_over(inputs: TrainingInputs, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no training to resume: leave out --resume"):
        small_training(inputs, tmp_path, resume=True)
    file = small_training(inputs, tmp_path)
    before = file.read_bytes()
    with pytest.raises(RunMismatchError, match="add --resume to continue it, or give another --out"):
        small_training(inputs, tmp_path)
    with pytest.raises(RunMismatchError, match=r"recipe.training.codes: before 6, now 7"):
        small_training(inputs, tmp_path, "depthg", "training.codes=7", resume=True)
    with pytest.raises(RunMismatchError, match="seed: before 0, now 1"):
        small_training(inputs, tmp_path, seed=1, resume=True)
    assert small_training(inputs, tmp_path, "depthg", "training.log_every=1", resume=True).read_bytes() == before


def test_one_process_trains_in_a_folder(inputs: TrainingInputs, tmp_path: Path) -> None:
    with Lease(files_at(tmp_path), lifetime=5.0), pytest.raises(LeaseError, match="is being worked on by"):
        small_training(inputs, tmp_path)


def test_trials_of_another_training_are_neither_taken_nor_lost(inputs: TrainingInputs, tmp_path: Path) -> None:
    (tmp_path / "search.jsonl").write_text('{"trial": 0, "criterion": 9, "objective": {}}\n')
    recipe = small_recipe("depthg", "search.iterations=1", trials=1)
    with pytest.raises(RunMismatchError, match=r"holds the search\.jsonl of another training: give another --out"):
        train(SemanticTraining(recipe, tmp_path, device="cpu"), inputs)
    assert not (tmp_path / "training.json").exists()
    (tmp_path / "search.jsonl").unlink()
    train(SemanticTraining(recipe, tmp_path, device="cpu"), inputs)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_depends_on_seed_and_number_alone(inputs: TrainingInputs) -> None:
    batches = Batches(inputs, 4, 7, seed=3, with_depth=True)
    later, earlier = batches[5], batches[1]
    assert np.array_equal(later.crops[0], Batches(inputs, 4, 7, seed=3, with_depth=True)[5].crops[0])
    assert not np.array_equal(later.crops[0], earlier.crops[0])
    assert not np.array_equal(later.crops[0], Batches(inputs, 4, 7, seed=4, with_depth=True)[5].crops[0])
    assert later.crops[0].dtype == np.float16
    assert Batches(inputs, 4, 7, seed=3, with_depth=False)[5].crops[1] is None


class Recording:
    """Inputs that tell which crops were read."""

    def __init__(self, inputs: TrainingInputs) -> None:
        self.neighbours, self.read = inputs.neighbours, []

    def __len__(self) -> int:
        return len(self.neighbours)

    def features(self, crops: np.ndarray) -> np.ndarray:
        self.read.append(crops)
        return crops


def test_batches_take_every_crop_and_each_of_the_nearest_but_itself(inputs: TrainingInputs) -> None:
    recording = Recording(inputs)
    batches = Batches(recording, 4, 7, seed=0, with_depth=False)  # type: ignore[arg-type]
    for number in range(300):
        batches[number]
    crops, neighbours = (np.stack(recording.read[start::2]) for start in (0, 1))
    assert all(len(set(batch)) == 4 for batch in crops.tolist())
    assert set(crops.flat) == set(range(25))
    column = (inputs.neighbours[crops] == neighbours[..., None]).argmax(axis=2)
    assert set(column.flat) == set(range(1, 8))


# --- odd inputs -------------------------------------------------------------------------------------------------------


def test_a_recipe_that_needs_depth_says_so(tmp_path: Path) -> None:
    inputs = drawn_inputs(tmp_path, 3, tiny_inputs(depth=None))
    with pytest.raises(ConfigError, match="recipe depthg needs depth, and these inputs have none"):
        small_training(inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    small_training(inputs, tmp_path / "out", "stego")


class OnePlane(BrightnessDepth):
    """The same depth everywhere."""

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        return [np.zeros_like(depth) for depth in super().predict(images, ids)]


def test_depth_that_tells_nothing_anywhere_is_refused(tmp_path: Path) -> None:
    inputs = drawn_inputs(tmp_path, 3, tiny_inputs(depth=OnePlane()))
    with pytest.raises(ConfigError, match="the depth of all 3 photos is the same everywhere"):
        small_training(inputs, tmp_path / "out")
    model = read_model(small_training(inputs, tmp_path / "out", "stego"))
    assert "3 photos" in " ".join(model.info.training["warnings"])


def test_one_image_is_too_few_and_its_crops_are_said_to_be_of_one(tmp_path: Path) -> None:
    whole = drawn_inputs(tmp_path / "whole", 1, tiny_inputs(CropConfig("whole")))
    with pytest.raises(ConfigError, match=r"learns from pairs of images, and there is one: give more photos"):
        small_training(whole, tmp_path / "out")
    small_training(whole, tmp_path / "kmeans", "kmeans")
    five = drawn_inputs(tmp_path / "five", 1)
    model = read_model(small_training(five, tmp_path / "out"))
    said = " ".join(model.info.training["warnings"])
    assert "all crops are of one photo" in said
    assert "there are 4 other crops for 7 neighbours" in said


def test_a_batch_of_all_crops_is_recorded(inputs: TrainingInputs, tmp_path: Path) -> None:
    model = read_model(small_training(inputs, tmp_path, "depthg", "training.batch_size=64"))
    assert "a batch has all 25 crops, since there are not 64" in " ".join(model.info.training["warnings"])


def test_more_points_than_patches_are_refused(inputs: TrainingInputs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"objective.samples") as refused:
        small_training(inputs, tmp_path, "depthg", "objective.samples=5")
    assert "\n" not in str(refused.value)


def test_fewer_patches_than_clusters_are_refused(inputs: TrainingInputs, tmp_path: Path) -> None:
    recipe = replace(small_recipe("kmeans", "kmeans.patches=25"), clusters=200)
    with pytest.raises(ConfigError, match="there are 25 patches for 200 clusters: take fewer, --clusters N"):
        train(SemanticTraining(recipe, tmp_path, device="cpu"), inputs)


def test_dead_clusters_are_a_recorded_warning(
    inputs: TrainingInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = small_recipe("depthg_probe", clusters=60)
    model = read_model(train(SemanticTraining(recipe, tmp_path, device="cpu"), inputs))
    assert "of 60 clusters are dead, without a patch in 25 crops" in caplog.text
    assert "of 60 clusters are dead" in " ".join(model.info.training["warnings"])


def test_a_loss_that_is_no_number_ends_it_and_leaves_whole_checkpoints(
    inputs: TrainingInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = HeadLearner.step

    def spoilt(self: HeadLearner, number: int) -> dict[str, float]:
        if number == 5:
            with torch.no_grad():
                next(self.head.parameters()).fill_(float("nan"))
        return step(self, number)

    monkeypatch.setattr(HeadLearner, "step", spoilt)
    with pytest.raises(TrainingError, match=r"iteration 6: .*loss.* is no number any more") as refused:
        small_training(inputs, tmp_path)
    assert "\n" not in str(refused.value)
    monkeypatch.undo()
    whole = small_training(inputs, tmp_path / "whole")
    assert small_training(inputs, tmp_path, resume=True).read_bytes() == whole.read_bytes()


def test_mixed_precision_is_for_gpus(inputs: TrainingInputs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mixed precision is for GPUs"):
        small_training(inputs, tmp_path, amp=True)


def test_a_model_of_another_training_is_not_overwritten(inputs: TrainingInputs, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"the only copy")
    for resume in (False, None):
        with pytest.raises(RunMismatchError, match=r"holds a model already, model.safetensors: give another --out"):
            small_training(inputs, tmp_path, resume=resume)
    assert model.read_bytes() == b"the only copy"
    model.unlink()
    small_training(inputs, tmp_path)
    for checkpoint in tmp_path.glob("iter_*.pth"):
        checkpoint.unlink()
    kept = model.read_bytes()
    with pytest.raises(RunMismatchError, match="holds a model already"):
        small_training(inputs, tmp_path, seed=1)
    small_training(inputs, tmp_path, resume=True)
    assert model.read_bytes() == kept


def test_a_folder_may_be_called_like_a_model(inputs: TrainingInputs, tmp_path: Path) -> None:
    out = tmp_path / "first.safetensors"
    assert small_training(inputs, out) == out / "model.safetensors"


@pytest.mark.parametrize("change", ["iteration", "learner", "tally", "clusters"])
def test_a_checkpoint_of_something_else_is_an_error(change: str, inputs: TrainingInputs, tmp_path: Path) -> None:
    small_training(inputs, tmp_path)
    file = tmp_path / f"iter_{ITERATIONS}.pth"
    state = torch.load(file, weights_only=True)
    if change == "clusters":
        state["learner"]["clusters"]["centroids"] = torch.zeros(9, 9)
    else:
        state[change] = "text"
    torch.save(state, file)
    with pytest.raises(TrainingError, match=rf"iter_{ITERATIONS}.pth is no checkpoint of this training: delete it"):
        small_training(inputs, tmp_path, resume=True)
    file.unlink()
    assert small_training(inputs, tmp_path, resume=True).is_file()


def test_a_record_without_an_identity_is_an_error(inputs: TrainingInputs, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text('{"schema": "cuts3d-semantic-training/1"}')
    with pytest.raises(TrainingError, match='lacks "identity"'):
        small_training(inputs, tmp_path)


@pytest.mark.parametrize("criterion", ["1", True, None])
def test_trials_without_a_criterion_are_damaged(criterion: object, inputs: TrainingInputs, tmp_path: Path) -> None:
    recipe = small_recipe("depthg", "search.iterations=1", trials=1)
    training = SemanticTraining(recipe, tmp_path, device="cpu")
    train(training, inputs)
    for checkpoint in tmp_path.glob("iter_*.pth"):
        checkpoint.unlink()
    file = tmp_path / "search.jsonl"
    file.write_text(json.dumps({**json.loads(file.read_text()), "criterion": criterion}) + "\n")
    with pytest.raises(TrainingError, match=r"search.jsonl cannot be read .* delete it to search again"):
        train(replace(training, resume=True), inputs)


def test_neighbours_that_are_no_crops_are_damaged(tmp_path: Path) -> None:
    own = drawn_inputs(tmp_path, photos=2)
    assert own.neighbours.max() == 9
    file = Path(own.run.url, "neighbours", f"{own.digest}.npy")
    np.save(file, np.full_like(np.load(file), 1000))
    again = TrainingInputs.open(own.run.url)
    with pytest.raises(StoreError, match=r"neighbours in .* are damaged: they name crops beyond 10"):
        Batches(again, 4, 7, 0, False)[0]
