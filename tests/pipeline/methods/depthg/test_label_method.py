"""Labels of photos by a tiny model: against the formula, by symmetry, and alone as in a batch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_labels import tiny_labels, tiny_model
from support.tiny_method import draw_photos
from torch.nn import functional

from pipeline.engine.run import run
from pipeline.errors import ImageError, RunMismatchError
from pipeline.images.photos import Photo
from pipeline.methods.depthg.method import LabelMethod
from pipeline.methods.protocol import Batch, SharedOutputs
from pipeline.models.depth_maps import DepthMaps
from pipeline.results.kinds import Failed
from pipeline.results.semantic import SemanticRecord
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder

PLAIN = ("depthg.refine.crf=none", "depthg.mirror=false")
WINDOWS = "depthg.windows=on"


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return np.ascontiguousarray(small.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def label(method: LabelMethod, *images: np.ndarray, shared: SharedOutputs | None = None) -> list[SemanticRecord]:
    photos = [Photo(f"{place}.png", image, "") for place, image in enumerate(images)]
    with torch.inference_mode():
        return list(method.outputs(Batch(None, range(len(photos)), photos, shared=shared or SharedOutputs())))


@pytest.mark.parametrize("head", [True, False])
def test_labels_of_a_square_photo_are_those_of_the_formula(head: bool) -> None:
    image, method = noise(64, 64), tiny_labels(PLAIN, tiny_model(head))
    (record,) = label(method, image)
    features = method.labeller.extractor([image]).float().transpose(1, 2).reshape(1, -1, 8, 8)
    codes = functional.interpolate(method.labeller.head(features), (64, 64), mode="bilinear", align_corners=False)[0]
    cosines = functional.cosine_similarity(codes[None], method.labeller.probe.centroids[:, :, None, None], dim=1)
    shares = (2 * cosines).softmax(dim=0)
    assert np.array_equal(record.labels, shares.argmax(dim=0).numpy())
    assert abs(record.mean_confidence - shares.amax(dim=0).mean().item()) < 0.005
    assert record.classes.names == tuple(f"cluster {c}" for c in range(5))
    assert len(np.unique(record.labels)) > 1


@pytest.mark.parametrize("view", ["squares", "squeezed"])
def test_with_mirroring_a_mirrored_photo_has_mirrored_labels(view: str) -> None:
    image = noise(64, 96)
    for mirror, least in (("true", 0.999), ("false", 0)):
        method = tiny_labels(["depthg.refine.crf=none", f"depthg.view={view}", f"depthg.mirror={mirror}"])
        first, second = label(method, image, np.ascontiguousarray(image[:, ::-1]))
        same = (first.labels[:, ::-1] == second.labels).mean()
        assert least <= same
        assert mirror == "true" or same < 0.999


def test_views_and_sizes_differ() -> None:
    image = noise(64, 128)
    labels = {}
    for view in ("squares", "squeezed"):
        (record,) = label(tiny_labels([*PLAIN, f"depthg.view={view}"]), image)
        labels[view] = record.labels
    (squeezed,) = label(tiny_labels(PLAIN), np.ascontiguousarray(image[:, ::2]))
    assert (labels["squares"] != labels["squeezed"]).any()
    (record,) = label(tiny_labels(PLAIN, size=128), image)
    assert (record.labels != labels["squares"]).any()
    assert squeezed.size == (64, 64)


@pytest.mark.parametrize("options", [(), (WINDOWS, "depthg.windows.whole_share=0.5")])
def test_a_photo_does_not_depend_on_its_batch(options: tuple[str, ...]) -> None:
    images = [noise(64, 80), noise(70, 64, seed=1), noise(16, 16, seed=2)]
    method = tiny_labels(options)
    together = label(method, *images)
    for place, (record, image) in enumerate(zip(together, images, strict=True)):
        (alone,) = label(method, image)
        assert (alone.labels == record.labels).mean() > 0.999
        assert record.id == f"{place}.png"
        assert record.size == image.shape[:2]


def test_windows_add_what_the_whole_does_not_see() -> None:
    image = noise(64, 80)
    (whole,) = label(tiny_labels(PLAIN), image)
    mixed = {}
    for share in ("0", "0.5", "1"):
        (mixed[share],) = label(tiny_labels([*PLAIN, WINDOWS, f"depthg.windows.whole_share={share}"]), image)
    assert np.array_equal(mixed["1"].labels, whole.labels)
    assert (mixed["0"].labels != whole.labels).mean() > 0.1
    assert (mixed["0.5"].labels != mixed["0"].labels).any()


@pytest.mark.parametrize(("reading", "share"), [("paper", "0"), ("released", "1")])
def test_where_there_is_no_distance_the_reading_decides(tmp_path: Path, reading: str, share: str) -> None:
    image = noise(64, 80)
    depth = np.zeros((64, 80), np.float32)
    depth[0, 0] = 1
    np.save(tmp_path / "0.npy", depth)
    by_depth = tiny_labels([*PLAIN, WINDOWS, f"depthg.windows.reading={reading}"], depth=DepthMaps(tmp_path))
    fixed = [*PLAIN, WINDOWS, f"depthg.windows.reading={reading}", f"depthg.windows.whole_share={share}"]
    (one,), (other,) = label(by_depth, image), label(tiny_labels(fixed), image)
    assert np.array_equal(one.labels.ravel()[1:], other.labels.ravel()[1:])


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_map_without_any_distance_is_told(tmp_path: Path, value: float) -> None:
    np.save(tmp_path / "0.npy", np.full((64, 80), value, np.float32))
    method = tiny_labels([*PLAIN, WINDOWS], depth=DepthMaps(tmp_path))
    with pytest.raises(ImageError, match=r"bad_depth_map.*0\.npy is of no use: none of its values is above 0"):
        label(method, noise(64, 80))


def test_squares_of_a_wide_photo_overlap_unless_told_otherwise() -> None:
    """A photo of 2:1 whose two squares have nothing in common: with 0 what is right of its middle does not matter left
    of it, with the default it does.
    """
    image = noise(64, 128)
    changed = image.copy()
    changed[:, 64:] = noise(64, 64, seed=1)
    same = {}
    for overlap in ("0", "0.2"):
        method = tiny_labels([*PLAIN, f"depthg.overlap={overlap}"])
        first, second = label(method, image, changed)
        same[overlap] = (first.labels[:, :64] == second.labels[:, :64]).mean()
    assert same["0"] == 1
    assert same["0.2"] < 1


def test_a_photo_without_its_depth_map_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "1.npy", np.ones((64, 80), np.float32))
    method = tiny_labels([*PLAIN, WINDOWS], depth=DepthMaps(tmp_path))
    with pytest.raises(ImageError, match="no_depth_map"):
        label(method, noise(64, 80))


def test_methods_side_by_side_share_features() -> None:
    images, shared = [noise(64, 80), noise(64, 64)], SharedOutputs()
    first, second = tiny_labels(), tiny_labels(model=tiny_model(seed=1))
    alone = label(second, *images)
    label(first, *images, shared=shared)
    facts = {name: getattr(first.labeller.extractor, name) for name in ("fingerprint", "grid", "device")}
    known = type("Known", (), facts)()  # which cannot be asked for features
    second.labeller = replace(second.labeller, extractor=known)
    assert [record.code for record in label(second, *images, shared=shared)] == [record.code for record in alone]


def test_depth_belongs_to_windows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="depth maps belong"):
        tiny_labels(PLAIN, depth=DepthMaps(tmp_path))
    with pytest.raises(ValueError, match="depth maps belong"):
        tiny_labels([*PLAIN, WINDOWS])


def test_a_replaced_model_is_noticed(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 2)
    launch = Launch(str(tmp_path / "photos"), recipe="depthg")
    assert run(tmp_path / "run", launch, method=tiny_labels()).complete
    with pytest.raises(RunMismatchError, match="model"):
        run(tmp_path / "run", launch, method=tiny_labels(model=tiny_model(seed=1)))
    found = list(RunReader(RunFolder.open(tmp_path / "run")))
    assert [type(result) for result in found] == [SemanticRecord, SemanticRecord]


def test_a_run_sets_photos_without_depth_aside_and_takes_them_when_it_is_there(tmp_path: Path) -> None:
    from pipeline.engine import run as runner
    from pipeline.engine.run import retry_quarantined

    draw_photos(tmp_path / "photos", 3)
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in ("000", "002"):
        np.save(maps / f"{name}.npy", np.ones((64, 80), np.float32))
    launch = Launch(str(tmp_path / "photos"), recipe="depthg")
    run(tmp_path / "run", launch, method=tiny_labels([WINDOWS], depth=DepthMaps(maps)))
    found = {result.id: result for result in RunReader(RunFolder.open(tmp_path / "run"))}
    assert isinstance(found["001.png"], Failed) or "001.png" not in found
    np.save(maps / "001.npy", np.ones((65, 80), np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "load_method", lambda *_: tiny_labels([WINDOWS], depth=DepthMaps(maps)))
        summary = retry_quarantined(tmp_path / "run")
    assert summary.quarantined == 0


@pytest.mark.slow
def test_memory_is_bounded_for_a_large_photo_and_many_clusters() -> None:
    """12 megapixels, 54 clusters: their shares alone would take 2.6 GB."""
    code = """
import resource, torch, numpy as np
from stages.semantics.clusters import ClusterProbe
from stages.semantics.labelling import LabelRefineConfig, Near, Seen, label_photo
from stages.semantics.windows import WindowConfig, covering_windows, near_windows
torch.set_num_threads(1)
image = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8).repeat(100, 0).repeat(100, 1)
probe = ClusterProbe(90, 54).requires_grad_(False)
def seen(windows):
    return Seen(windows, torch.randn(len(windows), 90, 28, 28), blended=True)
whole, near = seen(covering_windows(3000, 4000)), seen(near_windows(3000, 4000, WindowConfig()))
small = image[::20, ::20].copy()
label_photo(small, whole, None, probe, LabelRefineConfig(side=64))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
labels, confidence = label_photo(image, whole, Near(near, 0.3), probe, LabelRefineConfig())
assert labels.shape == confidence.shape == (3000, 4000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 500
