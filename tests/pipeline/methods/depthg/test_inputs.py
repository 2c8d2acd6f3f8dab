"""Training inputs: what is read is what the models give, for one photo or many, in flat memory; and what is refused."""

import gc
import shutil
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.tiny_inputs import FIVE, GRID, SIDE, WIDTH, drawn_inputs, run_inputs, tiny_inputs
from support.tiny_method import BrightnessDepth, draw_photos, tiny_method

from pipeline.engine.run import retry_quarantined, run
from pipeline.errors import ConfigError, RunMismatchError, StoreError
from pipeline.methods.depthg import inputs as inputs_module
from pipeline.methods.depthg.crops import CropConfig, cut_depth, cut_photo
from pipeline.methods.depthg.inputs import TrainingInputs
from pipeline.methods.depthg.inputs_settings import NAME, inputs_settings
from pipeline.models.depth_maps import DepthMaps
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.verify import verify_run


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingInputs]:
    """A folder with five photos, and their inputs. Not to be changed."""
    folder = tmp_path_factory.mktemp("inputs")
    return folder, drawn_inputs(folder)


def test_they_are_what_the_models_give(made: tuple[Path, TrainingInputs]) -> None:
    folder, inputs = made
    method = tiny_inputs()
    crops, depths = [], []
    for photo in sorted((folder / "photos").glob("*.png")):
        rgb = pixels(photo)
        crops += cut_photo(rgb, FIVE, SIDE)
        (depth,) = BrightnessDepth().predict([rgb], ["-"])
        depths += list(cut_depth(depth, rgb.shape[:2], FIVE, SIDE, GRID))
    features = method.features(crops).numpy().transpose(0, 2, 1).reshape(-1, WIDTH, GRID, GRID)
    assert (len(inputs), inputs.photos, inputs.crops_per_photo) == (25, 5, 5)
    assert inputs.shape == (WIDTH, GRID, GRID)
    found = inputs.features(range(25))
    assert found.dtype == np.float16
    assert np.abs(found.astype(float) - features.astype(float)).max() < 0.01, "batches may round differently"
    assert np.array_equal(inputs.depth(range(25)), np.stack(depths))
    assert (inputs.left_out, inputs.flat_depth, inputs.has_depth, inputs.config["features"]["size"]) == (0, 0, True, 32)


def test_any_crops_in_any_order(made: tuple[Path, TrainingInputs]) -> None:
    _, inputs = made
    features, depth = inputs.features(range(25)), inputs.depth(range(25))
    wanted = np.array([24, 0, 7, 7, 13])
    assert np.array_equal(inputs.features(wanted), features[wanted])
    assert np.array_equal(inputs.depth(list(wanted)), depth[wanted])
    assert inputs.names(wanted[:3]) == [("004.png", 4), ("000.png", 0), ("001.png", 2)]
    assert inputs.features([]).shape == (0, *inputs.shape)
    for beyond in ([25], [-1]):
        with pytest.raises(IndexError, match=r"crops are 0..24"):
            inputs.features(beyond)


def test_neighbours_are_of_the_means_and_kept_in_the_run(made: tuple[Path, TrainingInputs]) -> None:
    _, inputs = made
    means = inputs.features(range(25)).astype(np.float64).mean(axis=(2, 3))
    assert np.allclose(np.concatenate(list(inputs.means())), means, atol=1e-3)
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    cosines = units @ units.T
    found = inputs.neighbours
    assert found.shape == (25, 25)
    assert np.array_equal(found[:, 0], np.arange(25))
    ordered = np.take_along_axis(cosines, np.asarray(found), axis=1)
    assert (np.diff(ordered[:, 1:]) < 1e-6).all()
    file = Path(inputs.run.url, "neighbours", f"{inputs.digest}.npy")
    assert np.array_equal(np.load(file), found)
    assert verify_run(inputs.run) == []
    assert inputs.warnings == ("there are 25 crops: each has 24 neighbours, not 29",)


def test_resumed_they_are_the_same(made: tuple[Path, TrainingInputs], tmp_path: Path) -> None:
    folder, inputs = made
    shutil.copytree(inputs.run.url, tmp_path / "inputs")
    (tmp_path / "inputs" / "commits" / "00001.json").unlink()
    with pytest.raises(StoreError, match=r"is not finished, 1 of 3 shards missing\. `cuts3d run --out"):
        TrainingInputs.open(tmp_path / "inputs")
    again = run_inputs(folder / "photos", tmp_path / "inputs")
    assert again.digest == inputs.digest


def test_the_digest_is_of_all_that_decides(made: tuple[Path, TrainingInputs], tmp_path: Path) -> None:
    folder, inputs = made
    photos, digests = folder / "photos", {inputs.digest}
    for i, method in enumerate([tiny_inputs(CropConfig("whole")), tiny_inputs(depth=None)]):
        digests.add(run_inputs(photos, tmp_path / str(i), method).digest)
    fewer = draw_photos(tmp_path / "photos", 4)[0].parent
    digests.add(run_inputs(fewer, tmp_path / "fewer").digest)
    assert len(digests) == 4


def test_without_depth(tmp_path: Path) -> None:
    inputs = drawn_inputs(tmp_path, 2, tiny_inputs(depth=None))
    assert not inputs.has_depth
    assert inputs.features([9]).shape == (1, *inputs.shape)
    with pytest.raises(ConfigError, match="has no depth: make the inputs with --depth"):
        inputs.depth([0])


def test_one_photo(tmp_path: Path) -> None:
    """Five crops have each other; one crop has no neighbour."""
    five = drawn_inputs(tmp_path, 1)
    assert sorted(five.neighbours[2]) == [0, 1, 2, 3, 4]
    assert five.warnings == ("there are 5 crops: each has 4 neighbours, not 29",)
    whole = run_inputs(tmp_path / "photos", tmp_path / "whole", tiny_inputs(CropConfig("whole")))
    assert len(whole) == 1
    with pytest.raises(ConfigError, match="one crop, which has no neighbour"):
        _ = whole.neighbours


def test_a_broken_photo_is_left_out_and_counted_until_a_retry_has_it(tmp_path: Path) -> None:
    good = pixels(draw_photos(tmp_path / "photos", 4)[1])
    (tmp_path / "photos" / "001.png").write_bytes(b"no picture")
    inputs = run_inputs(tmp_path / "photos", tmp_path / "inputs")
    assert (inputs.photos, inputs.left_out, len(inputs)) == (3, 1, 15)
    assert inputs.warnings[0].startswith("1 of 4 photos is left out: `cuts3d info ")
    assert [id_ for id_, _ in inputs.names([4, 5, 14])] == ["000.png", "002.png", "003.png"]
    before = inputs.features(range(15))
    Image.fromarray(good).save(tmp_path / "photos" / "001.png")
    retry_quarantined(tmp_path / "inputs", method=tiny_inputs())
    again = TrainingInputs.open(tmp_path / "inputs")
    assert (again.photos, again.left_out, len(again)) == (4, 0, 20)
    assert again.names([15, 19]) == [("001.png", 0), ("001.png", 4)]
    assert np.array_equal(again.features(range(15)), before)
    assert again.digest != inputs.digest
    assert again.neighbours.shape == (20, 20)


def test_two_retries_of_one_photo_count_once(tmp_path: Path) -> None:
    photo = pixels(draw_photos(tmp_path / "photos", 2)[1])
    (tmp_path / "photos" / "001.png").write_bytes(b"no picture")
    run_inputs(tmp_path / "photos", tmp_path / "inputs")
    Image.fromarray(photo).save(tmp_path / "photos" / "001.png")
    retry_quarantined(tmp_path / "inputs", method=tiny_inputs())
    folder = tmp_path / "inputs"
    (commit,) = (folder / "commits").glob("retry-*.json")
    first = commit.stem
    second = first[:-1] + "1"
    text = commit.read_text().replace(first, second)
    commit.with_name(f"{second}.json").write_text(text)
    for kind in ("shards", "quarantine"):
        for file in (folder / kind).glob(f"{first}-*"):
            shutil.copy(file, file.with_name(file.name.replace(first, second)))
    inputs = TrainingInputs.open(folder)
    assert (len(inputs), inputs.photos) == (10, 2)
    assert inputs.names([5]) == [("001.png", 0)]


def test_photos_without_a_depth_map_are_left_out_until_there_is_one(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", 3)
    maps = tmp_path / "maps"
    maps.mkdir()
    for photo in photos[1:]:
        Image.fromarray(pixels(photo)[..., 0]).save(maps / photo.name)
    inputs = run_inputs(photos[0].parent, tmp_path / "inputs", tiny_inputs(depth=DepthMaps(maps)))
    assert (inputs.photos, inputs.left_out) == (2, 1)
    Image.fromarray(pixels(photos[0])[..., 0]).save(maps / photos[0].name)
    with pytest.raises(RunMismatchError, match=r"depth\.fingerprint"):  # the photo was not tried again yet
        run_inputs(photos[0].parent, tmp_path / "inputs", tiny_inputs(depth=DepthMaps(maps)))
    retry_quarantined(tmp_path / "inputs", method=tiny_inputs(depth=DepthMaps(maps)))
    assert TrainingInputs.open(tmp_path / "inputs").photos == 3
    again = run_inputs(photos[0].parent, tmp_path / "inputs", tiny_inputs(depth=DepthMaps(maps)))
    assert again.photos == 3, "as the same training command does, with --resume"
    (next((tmp_path / "inputs" / "commits").glob("00000.json"))).unlink()
    with pytest.raises(RunMismatchError, match=r"depth\.fingerprint"):  # photos would be computed with other maps
        run_inputs(photos[0].parent, tmp_path / "inputs", tiny_inputs(depth=DepthMaps(maps)))


def test_flat_depth_is_recorded(tmp_path: Path) -> None:
    class Flat(BrightnessDepth):
        def predict(self, images: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
            return [np.zeros(image.shape[:2], np.float32) for image in images]

    draw_photos(tmp_path / "photos", 3)
    launch = Launch(str(tmp_path / "photos"), recipe=NAME)
    summary = run(tmp_path / "inputs", launch, method=tiny_inputs(depth=Flat()))
    assert summary.counts["depth_flat"] == 3
    assert any("3 photos with the same depth everywhere" in line for line in summary.lines())
    inputs = TrainingInputs.open(tmp_path / "inputs")
    assert inputs.flat_depth == 3
    assert inputs.warnings[0] == "3 photos with the same depth everywhere, which tells nothing apart"
    assert inputs.depth([0, 14]).max() == 0


def test_all_set_aside(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no picture")
    launch = Launch(str(tmp_path / "photos"), recipe=NAME)
    run(tmp_path / "inputs", launch, method=tiny_inputs(), accept_set_aside=True)
    with pytest.raises(ConfigError, match=r"the only image of .* is set aside"):
        TrainingInputs.open(tmp_path / "inputs")


def test_what_is_no_run_of_inputs_is_refused(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 1)
    run(tmp_path / "masks", Launch(str(tmp_path / "photos")), method=tiny_method())
    with pytest.raises(ConfigError, match="holds instance masks: features of crops are needed here"):
        TrainingInputs.open(tmp_path / "masks")
    with pytest.raises(StoreError, match="is not a run"):
        TrainingInputs.open(tmp_path / "photos")


@pytest.mark.parametrize("change", ["cut", "gone"])
def test_damage_is_refused_before_anything_is_read(change: str, tmp_path: Path) -> None:
    drawn_inputs(tmp_path, 3)
    file = min((tmp_path / "inputs" / "shards").iterdir())
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    with pytest.raises(StoreError, match="To do the shard again, delete"):
        TrainingInputs.open(tmp_path / "inputs")


def test_memory_does_not_grow_with_the_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened, and batches read: what is kept grows by the name of a file a shard, of 32 photos in earnest."""
    monkeypatch.setattr(inputs_module, "_MAPS", 2)
    monkeypatch.setattr(inputs_module, "_PLACES", 2)

    def memory(photos: int) -> tuple[int, int]:
        """Bytes that are kept, and at most while batches are read."""
        folder = tmp_path / str(photos)
        drawn_inputs(folder, photos)
        gc.collect()
        tracemalloc.start()
        inputs = TrainingInputs.open(folder / "inputs")
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        rng = np.random.default_rng(0)
        for _ in range(5):
            batch = rng.integers(len(inputs), size=4)
            inputs.features(batch)
            inputs.depth(batch)
        found = kept, tracemalloc.get_traced_memory()[1] - kept
        tracemalloc.stop()
        return found

    memory(2)  # what is imported late
    few, many = memory(8), memory(24)
    assert many[0] - few[0] < 8 * 1000
    assert many[1] < 1.5 * few[1]


def settings(*overrides: str, **given: str) -> Mapping[str, Any]:
    return inputs_settings(Launch(recipe=NAME, settings=given, overrides=overrides), files_here=False).known()


def test_features_are_tokens_on_28_patches_unless_told() -> None:
    usual = settings()["features"]
    assert (usual["kind"], usual["centred"], usual["size"]) == ("tokens", False, 392)
    dino = settings(features="dino_vits8")["features"]
    assert (dino["kind"], dino["size"]) == ("tokens", 224)
    own = settings("features.size=320", "features.kind=keys", "crops.layout=whole", features="dino_vits8")
    assert (own["features"]["kind"], own["features"]["size"]) == ("keys", 320)
    assert own["recipe"] == {"name": NAME, "crops": {"layout": "whole", "resize": "bilinear"}}


@pytest.mark.parametrize(
    ("overrides", "given", "said"),
    [
        (["features.size=400"], {}, "use a multiple of patch_size"),
        (["features.patch_size=8"], {}, "features.patch_size follows from the model"),
        (["crops.layout=six"], {}, r"crops.layout is 'six': use one of five, whole"),
        (["crops.size=4"], {}, "no option 'crops.size'"),
        (["ncut.x=4"], {}, "has no option 'ncut.x': it has crops.layout"),
        (["size"], {}, "has no option 'size'"),
        ([], {"depth": "none", "depth_kind": "depth"}, "leave --depth-kind out"),
        ([], {"depth_kind": "up"}, "use one of depth, inverse_depth"),
        ([], {"colour": "red"}, "has no setting 'colour': it has features, depth, depth_kind"),
        ([], {"features": "no_such_vit"}, "no features 'no_such_vit'"),
    ],
)
def test_wrong_settings_are_refused(overrides: list[str], given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(*overrides, **given)


def test_shards_stay_small(tmp_path: Path) -> None:
    from pipeline.methods.registry import manifest_of

    names = tmp_path / "names.txt"
    names.write_text("".join(f"{i}.jpg\n" for i in range(9000)))
    (tmp_path / "0.jpg").touch()
    for overrides, size in (((), 32), (("crops.layout=whole",), 160)):
        launch = Launch(str(names), str(tmp_path), recipe=NAME, overrides=overrides)
        assert manifest_of(launch).shard_size == size
    assert manifest_of(Launch(str(names), str(tmp_path), recipe=NAME, shard_size=200)).shard_size == 200


def test_a_run_says_what_it_is_of(made: tuple[Path, TrainingInputs]) -> None:
    from pipeline.methods.registry import describe

    _, inputs = made
    assert describe(NAME, RunFolder.open(inputs.run.url).config) == [
        ("features", "tiny tokens, 32 px"),
        ("depth", "brightness"),
        ("crops", "five, bilinear"),
    ]
