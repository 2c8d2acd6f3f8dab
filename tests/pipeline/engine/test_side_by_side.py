"""One shard through several methods at once: each gives what it gives alone, whatever happens to the others."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support.centre_method import Centre
from support.tiny_method import BrightnessDepth, draw_photos, tiny_method
from support.tiny_votes import tiny_votes

from pipeline.engine.shard_worker import ShardWorker
from pipeline.engine.side_by_side import run_side_by_side
from pipeline.engine.whole_shards import WholeShardError
from pipeline.images.manifest import Shard
from pipeline.images.sources import list_images
from pipeline.methods.cuts.method import CutsMethod
from pipeline.methods.cuts.recipes import RECIPES
from pipeline.methods.protocol import SharedOutputs
from pipeline.methods.registry import manifest_of
from pipeline.models import load
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder
from stages.features import FeatureExtractor


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    folder = tmp_path_factory.mktemp("photos")
    draw_photos(folder, 5)
    (folder / "003.png").rename(folder / "003_fails.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return Shard("00000", list_images(str(folder)).refs)


def methods() -> list[CutsMethod | Centre]:
    return [*map(tiny_method, RECIPES), Centre((), torch.device("cpu"))]


def counted(used: Sequence[CutsMethod | Centre]) -> Counter[str]:
    """How many images go through the features and the depth of these methods, from now on."""
    seen: Counter[str] = Counter()

    class Depth(BrightnessDepth):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            seen["depth"] += len(ids)
            return super().predict(images, ids)

    class Features:
        def __init__(self, own) -> None:
            self._own = own

        def __getattr__(self, name: str):
            return getattr(self._own, name)

        def __call__(self, images: Sequence[np.ndarray]) -> torch.Tensor:
            seen["features"] += len(images)
            return self._own(images)

    for method in used:
        if isinstance(method, CutsMethod):
            object.__setattr__(method, "features", Features(method.features))
            if method.depth is not None:
                object.__setattr__(method, "depth", Depth())
    return seen


@pytest.mark.parametrize("lanes", [1, 2])
def test_each_method_gives_what_it_gives_alone(shard: Shard, lanes: int) -> None:
    used = methods()
    alone = [ShardWorker(method, 2).process(shard, None, {}, {}) for method in used]
    seen = counted(used)
    workers = [ShardWorker(method, 2) for method in used]
    states = [worker.begin(shard, None, {}) for worker in workers]
    ShardWorker(used[0], 2, lanes=lanes).work(states)
    together = [worker.end(state, {}) for worker, state in zip(workers, states, strict=True)]
    for one, other in zip(alone, together, strict=True):
        assert (one.data, one.quarantine, one.counts) == (other.data, other.quarantine, other.counts)
    aside = [len(result.quarantine) for result in together]
    assert aside == [1] * len(RECIPES) + [2], "what one cannot use costs the others nothing"
    assert seen == {"features": 5, "depth": 5}
    shared = [result.seconds["features"] for result in together[:-1]]
    assert shared[0] > 0
    assert len(set(shared)) == 1, "as if each had worked alone"
    assert together[list(RECIPES).index("maskcut")].seconds.get("depth", 0) == 0


def test_features_of_a_voter_are_shared_with_recipes_that_cut(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    votes = tiny_votes()
    large = [voter for voter in votes.voters if voter.extractor.config.size == 64]
    votes.voters = (large[0], *(voter for voter in votes.voters if voter not in large))
    used = [tiny_method("maskcut"), votes]
    alone = [ShardWorker(method, 2).process(shard, None, {}, {}) for method in used]
    sizes: Counter[int] = Counter()
    inputs = FeatureExtractor._input

    def counting(extractor: FeatureExtractor, images: Sequence[np.ndarray]) -> torch.Tensor:
        sizes[extractor.config.size] += len(images)
        return inputs(extractor, images)

    monkeypatch.setattr(FeatureExtractor, "_input", counting)
    workers = [ShardWorker(method, 2) for method in used]
    states = [worker.begin(shard, None, {}) for worker in workers]
    ShardWorker(used[0], 2).work(states)
    for worker, state, one in zip(workers, states, alone, strict=True):
        assert worker.end(state, {}).data == one.data
    assert sizes == {64: 5, 48: 5}


class Full(BrightnessDepth):
    """Depth that takes one image at a time."""

    def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        if len(ids) > 1:
            raise torch.OutOfMemoryError("full")
        return super().predict(images, ids)


def test_a_batch_that_does_not_fit_is_halved_for_one_alone(shard: Shard) -> None:
    used = [tiny_method("maskcut"), dataclasses.replace(tiny_method("cuts3d"), depth=Full())]
    seen = counted(used[:1])
    workers = [ShardWorker(method, 4) for method in used]
    states = [worker.begin(shard, None, {}) for worker in workers]
    ShardWorker(used[0], 4).work(states)
    few, many = (worker.end(state, {}) for worker, state in zip(workers, states, strict=True))
    assert "gpu_out_of_memory" not in few.counts
    assert many.counts["gpu_out_of_memory"] > 0
    assert len(few.quarantine) == len(many.quarantine) == 1
    assert seen["features"] == 5


def test_a_shard_that_one_refuses_is_committed_to_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_photos(tmp_path / "photos", 4)
    for i in range(4):
        file = tmp_path / "photos" / f"{i:03d}.png"
        file.rename(file.with_name(f"{i:03d}_fails.png"))
    made = {"maskcut": tiny_method("maskcut"), "cuts3d": Centre((), torch.device("cpu"))}
    monkeypatch.setattr("pipeline.engine.side_by_side.load_method", lambda launch, device: made[launch.recipe])
    launches = {str(tmp_path / name): Launch(str(tmp_path / "photos"), recipe=name, shard_size=2) for name in made}
    manifest = manifest_of(next(iter(launches.values())))
    with pytest.raises(WholeShardError, match="every image of shard 00000 failed"):
        run_side_by_side(launches, manifest, result="instances")
    committed = {name: RunFolder.open(tmp_path / name).ledger.committed_keys() for name in made}
    assert committed == {"maskcut": {"00000"}, "cuts3d": set()}
    summaries = run_side_by_side(launches, manifest, result="instances", accept_set_aside=True)
    assert [summary.images for summary in summaries] == [2, 4]
    assert [summary.standing.exit_status for summary in summaries] == [0, 1]


def test_models_are_loaded_once_within_the_block_alone(tmp_path: Path) -> None:
    (tmp_path / "map.npy").write_bytes(b"x")
    spec = f"maps:{tmp_path}"
    with load.loaded_once():
        assert load.load_depth(spec) is load.load_depth(spec)
        assert load.load_depth(spec) is not load.load_depth(spec, kind="inverse_depth")
    assert load.load_depth(spec) is not load.load_depth(spec)


def test_models_that_are_read_in_one_pass_are_shared_one_by_one() -> None:
    """A method that looks at several features of one network leaves each, and takes those that are there."""
    shared, asked = SharedOutputs(), []
    first: defaultdict[str, float] = defaultdict(float)
    second: defaultdict[str, float] = defaultdict(float)

    def one() -> str:
        first["features"] += 2.0
        return "tokens"

    def several(missing: Sequence[int]) -> list[str]:
        asked.append(list(missing))
        second["features"] += 3.0
        return [f"model {i}" for i in missing]

    assert shared.once("features", "b", [0, 1], first, one) == "tokens"
    found = shared.once_each("features", ["a", "b", "c"], [0, 1], second, several)
    assert (found, asked) == (["model 0", "tokens", "model 2"], [[0, 2]])
    assert (first["features"], second["features"]) == (2.0, 5.0), "as if each had worked alone"
    assert shared.once("features", "c", [0, 1], first, one) == "model 2"
    assert first["features"] == 2.0 + 1.5
    assert shared.once("features", "c", [0], first, one) == "tokens", "of other images"
