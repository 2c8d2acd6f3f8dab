"""Moving objects of a clip, from maps to masks: exact scenes, why there are none, and real street video."""

import dataclasses
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support import reference_movers as reference
from support.stereo_scenes import SMALL, SMALL_SIZE, StereoScene, judge, noisy, overlap, render, small_street, street

from stages.motion.clip_motion import ClipMotion
from stages.motion.movers import EMPTY_REASONS, Movers, find_movers
from stages.motion.movers_config import MoversConfig
from stages.motion.reliable import look

CONFIG = MoversConfig(proposals=25, grid=0.08, runs=3, smallest=32)


@pytest.fixture(scope="module")
def scene() -> StereoScene:
    return small_street()


def why_none(motion: ClipMotion, config: MoversConfig = CONFIG) -> str:
    found = find_movers(motion, SMALL, config, seed=0)
    assert found.masks_MHW.shape == (0, *SMALL_SIZE)
    assert found.masks_MHW.dtype == bool
    assert found.agreement_M.shape == (0,)
    assert found.agreement_M.dtype == np.float32
    return found.reason


def test_both_bodies_are_found_and_nothing_else(scene: StereoScene) -> None:
    found = find_movers(scene.motion, SMALL, CONFIG, seed=0)
    judged = judge(found.masks_MHW, scene)
    assert judged.false == 0
    assert min(judged.ious) > 0.8
    assert found.masks_MHW.dtype == bool
    assert found.agreement_M.dtype == np.float32
    assert found.reason == ""
    assert found.masks_MHW.sum(axis=0).max() == 1, "disjoint"
    assert (found.agreement_M >= 0.8).all()
    assert (np.diff(found.agreement_M) <= 0).all()
    assert 0.2 < found.reliable < 0.7


def test_equal_seeds_give_equal_masks(scene: StereoScene) -> None:
    motion = noisy(scene.motion, 0.8, 0.3, seed=0)
    first, again = (find_movers(motion, SMALL, CONFIG, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.masks_MHW, again.masks_MHW)
    np.testing.assert_array_equal(first.agreement_M, again.agreement_M)


@pytest.mark.parametrize("seed", [0, 1])
def test_as_a_plain_transcription(scene: StereoScene, seed: int) -> None:
    motion = noisy(scene.motion, 0.4, 0.2, seed)
    found = find_movers(motion, SMALL, CONFIG, seed)
    seen = look(motion, SMALL, CONFIG)
    plain = reference.relying_on(reference.look(motion, SMALL, CONFIG), seen.reliable_HW, seen.flow_HW)
    masks, agreements = reference.movers_seen(plain, CONFIG, seed)
    assert len(masks) == len(found.masks_MHW) == 2
    order = np.argsort(-np.array(agreements), kind="stable")
    for mask, expected in zip(found.masks_MHW, order, strict=True):
        assert overlap(mask, masks[expected]) > 0.98
    np.testing.assert_allclose(found.agreement_M, np.array(agreements)[order], atol=0.01)


def test_nothing_moves_but_the_cameras() -> None:
    standing = small_street((0, 0, 0), (0, 0, 0))
    assert why_none(standing.motion) == "all_background"
    assert why_none(noisy(standing.motion, 0.2, 0.1, seed=0)) == "all_background"


def test_few_pixels_are_reliable(scene: StereoScene) -> None:
    unknown = replace(scene.motion, disparity_right_HW=np.full(SMALL_SIZE, np.nan, np.float32))
    assert why_none(unknown) == "few_reliable"
    count = round(find_movers(scene.motion, SMALL, CONFIG, 0).reliable * SMALL_SIZE[0] * SMALL_SIZE[1])
    assert why_none(scene.motion, replace(CONFIG, fewest=count + 1)) == "few_reliable"
    assert find_movers(scene.motion, SMALL, replace(CONFIG, fewest=count), 0).reason == ""


def test_no_two_points_move_rigidly(scene: StereoScene) -> None:
    assert why_none(noisy(scene.motion, 0.3, 0.1, seed=0), replace(CONFIG, rigid=1e-7)) == "no_proposal"


def test_masks_are_too_small(scene: StereoScene) -> None:
    assert why_none(scene.motion, replace(CONFIG, surface=50)) == "too_small"
    assert why_none(scene.motion, replace(CONFIG, area=50_000)) == "too_small"
    assert why_none(scene.motion, replace(CONFIG, smallest=50_000)) == "too_small"


def test_runs_do_not_agree(scene: StereoScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of four finds something."""
    from stages.motion import movers

    found_by, runs = movers.pieces, iter(range(99))
    monkeypatch.setattr(movers, "pieces", lambda *args: found_by(*args) if next(runs) % 4 == 0 else None)
    assert why_none(scene.motion, replace(CONFIG, runs=4)) == "no_agreement"
    assert find_movers(scene.motion, SMALL, replace(CONFIG, runs=4, agreement=0.25), 0).reason == ""


def test_every_reason_has_a_test_and_a_place() -> None:
    assert set(EMPTY_REASONS) == {"few_reliable", "no_proposal", "all_background", "too_small", "no_agreement"}
    assert [field.name for field in dataclasses.fields(Movers)] == ["masks_MHW", "agreement_M", "reason", "reliable"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "movers.runs must be at least 1, got 0"),
        ({"noise": 0.0}, "movers.noise must be above 0, got 0.0"),
        ({"rigid": -0.1}, "movers.rigid must be above 0, got -0.1"),
        ({"agreement": 1.2}, "movers.agreement must lie in 0..1, got 1.2"),
        ({"background": "intended"}, "movers.background is corrected or released, got 'intended'"),
        ({"near": 5, "far": 5}, "movers.far must be above movers.near, 5, got 5"),
        ({"group": 1}, "movers.group must be at least 2, got 1"),
        ({"top": 0.5, "bottom": 0.5}, "leave nothing of the picture"),
        ({"sides": 0.5}, "leave nothing of the picture"),
        ({"extent": float("nan")}, "movers.extent must be above 0, got nan"),
    ],
)
def test_wrong_constants_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        MoversConfig(**options)


@pytest.mark.slow
def test_nearly_all_that_moves_is_found_in_exact_maps() -> None:
    """The bar: recall and precision of 0.95 for what moves by 0.1 m or more, across the street and along it.
    benchmarks/movers_quality.py has more.
    """
    judged = []
    for seed in range(200, 211):
        scene = render(*street(seed, along=seed >= 207))
        judged.append(judge(find_movers(scene.motion, scene.camera, MoversConfig(), 0).masks_MHW, scene))
    movers, found, false = (sum(n) for n in zip(*((len(j.ious), j.found(), j.false) for j in judged), strict=True))
    assert movers >= 30
    assert found >= 0.95 * movers
    assert found >= 0.95 * (found + false)


_PEAK = """
import sys
from pathlib import Path

import cv2, scipy.sparse.csgraph, scipy.spatial, scipy.special
import numpy as np
from stages.motion.camera import Camera
from stages.motion.clip_motion import ClipMotion, MAPS
from stages.motion.movers import find_movers
from stages.motion.movers_config import MoversConfig

def peak():  # getrusage has that of the process that this one was forked from
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) / 1024

cv2.remap(np.zeros((9, 9), np.float32), *np.zeros((2, 9, 9), np.float32), cv2.INTER_LINEAR)
before = peak()
maps = np.load(sys.argv[1])
found = find_movers(ClipMotion(*(maps[name] for name in MAPS)), Camera(744, 744, 639.5, 180, 0.54), MoversConfig(), 0)
print(len(found.masks_MHW), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak of a process")
def test_memory_of_a_pair_as_large_as_those_of_cityscapes(tmp_path: Any) -> None:
    """640×1280, of which nearly all is reliable: 500 MB at most beyond what the imports take, the maps included."""
    from stages.motion.camera import Camera

    bodies, ego = street(1)
    scene = render(bodies, ego, Camera(744, 744, 639.5, 180, 0.54), (640, 1280))
    np.savez(tmp_path / "maps.npz", **dataclasses.asdict(scene.motion))
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path / "maps.npz")],
        capture_output=True,
        text=True,
        check=True,
    )
    movers, megabytes = done.stdout.split()
    assert int(movers) >= 2
    assert 26 < float(megabytes) < 500  # the maps alone are 26 MB
