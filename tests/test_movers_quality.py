"""The figures of benchmarks/movers_quality.py are counts, and its variants what they are called."""

import movers_quality
import numpy as np
import pytest
from movers_quality import MAPS, VARIANTS, Maps, Outcome
from support.stereo_scenes import SMALL, SMALL_SIZE, Judged, judge, render, small_street

from stages.motion.movers_config import MoversConfig


def test_a_line_has_shares_of_all_scenes_and_their_intervals() -> None:
    found = [Outcome(Judged((0.9, 0.7, 0.2), 1), 1.0)] * 5 + [Outcome(Judged((), 0), 3.0)] * 5
    line = movers_quality.row(Maps(0.5, 0.25), "corrected", found)
    assert (line["maps"], line["scenes"], line["movers"], line["found"], line["false"]) == (
        "noise 0.5 0.25",
        10,
        15,
        10,
        5,
    )
    assert (line["recall"], line["precision"], line["iou_of_found"], line["cpu_s"]) == (
        "0.667",
        "0.667",
        "0.800",
        "2.00",
    )
    assert line["recall_low"] == line["recall_high"] == "0.667", "every scene with movers has this share"
    mixed = [Outcome(Judged((0.9,), 0), 1.0)] * 4 + [Outcome(Judged((0.1,), 1), 1.0)] * 4
    line = movers_quality.row(Maps(), "corrected", mixed)
    assert float(line["recall_low"]) < 0.5 < float(line["recall_high"])  # type: ignore[arg-type]
    nothing = movers_quality.row(Maps(), "corrected", [Outcome(Judged((), 0), 1.0)])
    assert (nothing["recall"], nothing["precision"], nothing["iou_of_found"]) == ("", "", "")


def test_variants_are_options() -> None:
    assert [str(maps) for maps in MAPS] == list(dict.fromkeys(str(maps) for maps in MAPS))
    for options in VARIANTS.values():
        MoversConfig(**options)  # type: ignore[arg-type]
    assert movers_quality._options("noise=1,runs=4,background=released") == {
        "noise": 1.0, "runs": 4, "background": "released",
    }  # fmt: skip
    assert movers_quality._options("corrected") == {}


@pytest.mark.slow
def test_opencv_finds_the_bodies_in_rendered_pictures() -> None:
    """At a third of KITTI's size, with a finer grid: the constants are in pixels and cells."""
    scene = small_street()
    motion = Maps(opencv=True).of(scene, 0)
    assert np.nanmedian(np.abs(motion.flow_HW2 - scene.motion.flow_HW2)) < 0.5
    found = movers_quality.find_movers(motion, SMALL, MoversConfig(grid=0.08), 0)
    assert judge(found.masks_MHW, scene).false == 0
    assert judge(found.masks_MHW, scene).found() == 2
    assert render([], camera=SMALL, size=SMALL_SIZE).movers == ()
