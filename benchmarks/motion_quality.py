"""Flow and disparity against the truth of KITTI 2012: how far off they are, and what they cost.

A folder in KITTI's layout, with flow_occ and disp_occ beside its pictures, such as data_stereo_flow/training. Row by
row a scene and a model: of `opencv` its settings and the presets of OpenCV, or any other model that --motion takes. EPE
is the mean distance to the truth in pixels, bad3 the share of pixels with more than 3, occluded ones included; of
disparity both are of the pixels that have an answer, whose share of the truth is beside them.

    python benchmarks/motion_quality.py KITTI [--motion opencv] [--out results/motion_quality.csv]
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pipeline.images.sources import list_images
from pipeline.images.stereo_clips import Clip, load_clip
from pipeline.models.load import load_motion
from pipeline.models.motion_files import read_disparity, read_flow
from stages.motion.clip_motion import ClipPictures
from stages.motion.disparity import DisparityConfig, stereo_disparity
from stages.motion.flow import FlowConfig, dense_flow

PRESETS = ("ULTRAFAST", "FAST", "MEDIUM")
DISPARITIES = {
    "sgbm": DisparityConfig(),
    "sgbm, speckle range 32": replace(DisparityConfig(), speckle_range=32),
    "sgbm, blocks of 5": replace(DisparityConfig(), block=5),
    "sgbm, an eighth of the width": replace(DisparityConfig(), largest=0.125),
}

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Row:
    """One line of the table. answered: share of the truth that has an answer. cpu_s: of one map."""

    scene: str
    what: str
    model: str
    epe: float
    bad3: float
    answered: float
    cpu_s: float


def rows_of_opencv(scene: str, clip: Clip, flow: np.ndarray, disparity: np.ndarray) -> Iterator[Row]:
    grey = [cv2.cvtColor(photo.rgb, cv2.COLOR_RGB2GRAY) for photo in (clip.left, clip.right, clip.left_next)]
    left, right, left_next = grey
    flows: dict[str, Flow] = {"dis": partial(dense_flow, config=FlowConfig())}
    for name in PRESETS:
        search = cv2.DISOpticalFlow.create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{name}"))
        flows[f"dis, preset {name.lower()}"] = lambda one, other, search=search: search.calc(one, other, None)
    for name, find in flows.items():
        found, seconds = timed(lambda find=find: find(left, left_next))
        yield Row(scene, "flow", name, *errors(found, flow), seconds)
    for name, config in DISPARITIES.items():
        found, seconds = timed(lambda config=config: stereo_disparity(left, right, config))
        yield Row(scene, "disparity", name, *errors(found, disparity), seconds)


def rows_of(spec: str, scene: str, clip: Clip, flow: np.ndarray, disparity: np.ndarray) -> Iterator[Row]:
    model = load_motion(spec, "cpu")
    pictures = ClipPictures(*(photo.rgb for photo in clip.photos))
    (motion,), seconds = timed(lambda: model([pictures], [clip.id]))
    yield Row(scene, "flow", spec, *errors(motion.flow_HW2, flow), seconds / 6)
    yield Row(scene, "disparity", spec, *errors(motion.disparity_HW, disparity), seconds / 6)


def timed(compute: Callable[[], object]) -> tuple[object, float]:
    start = time.process_time()
    found = compute()
    return found, time.process_time() - start


def errors(found: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """EPE, share off by more than 3 pixels, share of the truth that is answered."""
    difference = found - truth
    distance = np.linalg.norm(difference, axis=2) if truth.ndim == 3 else np.abs(difference)
    known = np.isfinite(truth).all(axis=2) if truth.ndim == 3 else np.isfinite(truth)
    both = known & np.isfinite(distance)
    return float(distance[both].mean()), float((distance[both] > 3).mean()), float(both.sum() / known.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kitti", type=Path)
    parser.add_argument("--motion", default="opencv")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/motion_quality.csv")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    rows: list[Row] = []
    for ref in list_images(f"kitti:{given.kitti}").refs:
        name = Path(ref.id).name
        if not (given.kitti / "flow_occ" / name).is_file():
            continue
        truth = read_flow(given.kitti / "flow_occ" / name), read_disparity(given.kitti / "disp_occ" / name)
        clip = load_clip(ref)
        rows += (rows_of_opencv if given.motion == "opencv" else partial(rows_of, given.motion))(name, clip, *truth)
    with given.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows([_shown(value) for value in astuple(row)] for row in rows)
    for row in rows:
        errors_ = f"EPE {row.epe:6.2f}  bad3 {row.bad3:6.1%}  answered {row.answered:6.1%}"
        print(f"{row.scene}  {row.what:9}  {row.model:28}  {errors_}  {row.cpu_s:.2f} s")


def _shown(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
