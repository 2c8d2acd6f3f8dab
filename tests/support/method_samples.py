"""A small run of every method that there is, without weights: a method that has none here is a failing test.

As a script: python method_samples.py RECIPE FOLDER OUT     does what is missing of the run at OUT
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.engine.run import run
from pipeline.images.manifest import Manifest
from pipeline.methods.coco_import.importing import CocoImport
from pipeline.methods.coco_import.settings import launch_of
from pipeline.methods.cups.method import CupsMethod
from pipeline.methods.cups.motion_method import MotionMethod
from pipeline.methods.cups.motion_work import MoverSearch
from pipeline.methods.cups.recipe import read_cups, read_motion
from pipeline.methods.protocol import Method
from pipeline.methods.registry import entry_of
from pipeline.runs.launch import Launch
from pipeline.runs.summary import RunSummary
from stages.motion.opencv_motion import OpencvMotion
from support.given_motion import write_clips
from support.stereo_scenes import KITTI, render, street
from support.tiny_inputs import tiny_inputs
from support.tiny_labels import tiny_labels, write_tiny
from support.tiny_method import draw_photos, tiny_method
from support.tiny_votes import tiny_votes

# What photos of all kinds a method must get through, beside ordinary ones.
ODD = {
    "empty.png": np.full((64, 80, 3), 200, np.uint8),  # nothing to see
    "patch.png": np.full((16, 16, 3), (90, 30, 10), np.uint8),  # the smallest that is taken, a patch or two
    "ties.png": np.tile(np.array([[40, 200], [200, 40]], np.uint8).repeat(32, 0).repeat(40, 1)[..., None], 3),
}
SHARD_SIZE = 3
MOVERS = ("movers.runs=2", "movers.surface=0.1", "movers.grid=0.25")  # of pictures of 96 x 192 pixels


def draw(folder: Path) -> Path:
    """Photos for a run, and a COCO file of masks in them; the folder of the photos."""
    photos = folder / "photos"
    draw_photos(photos, 4)
    for name, pixels in ODD.items():
        Image.fromarray(pixels).save(photos / name)
    images, annotations = [], []
    for number, file in enumerate(sorted(photos.glob("*.png")), start=1):
        with Image.open(file) as image:
            width, height = image.size
        images.append({"id": number, "file_name": file.name, "height": height, "width": width})
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[4:12, 3 : 8 + number % 5] = 1
        rle = coco_mask.encode(mask)
        segmentation = {"size": [height, width], "counts": rle["counts"].decode()}
        annotations.append({"id": number, "image_id": number, "category_id": 1, "segmentation": segmentation})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "masks.json").write_text(json.dumps(document))
    draw_clips(folder / "stereo")
    return photos


def draw_clips(folder: Path) -> None:
    """Four clips in which something moves, and one of each odd photo, in which nothing does."""
    size = (96, 192)
    camera = replace(KITTI.scaled(192 / 750, 192 / 750), cx=size[1] / 2, cy=size[0] / 2)
    clips = {}
    for seed in range(4):
        scene = render(*street(seed, movers=2), camera, size)
        clips[f"{seed:03d}.png"] = [
            scene.picture(later, right) for later, right in ((False, False), (False, True), (True, False), (True, True))
        ]
    write_clips(folder, {**clips, **{name: [pixels] * 4 for name, pixels in ODD.items()}}, camera)


def _of_cuts(recipe: str, folder: Path) -> tuple[Launch, Method]:
    return Launch(str(folder / "photos"), recipe=recipe, shard_size=SHARD_SIZE), tiny_method(recipe)


def _of_votecut(recipe: str, folder: Path) -> tuple[Launch, Method]:
    return Launch(str(folder / "photos"), recipe=recipe, shard_size=SHARD_SIZE), tiny_votes(recipe)


def _of_inputs(recipe: str, folder: Path) -> tuple[Launch, Method]:
    return Launch(str(folder / "photos"), recipe=recipe, shard_size=SHARD_SIZE), tiny_inputs()


def _of_depthg(recipe: str, folder: Path) -> tuple[Launch, Method]:
    overrides = (
        write_tiny(folder / "model"),
        "depthg.windows=on",
        "depthg.windows.whole_share=0.3",
        "depthg.refine.side=32",
    )
    launch = Launch(str(folder / "photos"), recipe=recipe, overrides=overrides, shard_size=SHARD_SIZE)
    return launch, tiny_labels(overrides)


def _of_motion(recipe: str, folder: Path) -> tuple[Launch, Method]:
    launch = Launch(_clips(folder), recipe=recipe, overrides=MOVERS, shard_size=SHARD_SIZE)
    return launch, MotionMethod(MoverSearch(read_motion(MOVERS), OpencvMotion()))


def _of_cups(recipe: str, folder: Path) -> tuple[Launch, Method]:
    checkpoint = write_tiny(folder / "model").partition("=")[2]
    overrides = (f"cups.checkpoint={checkpoint}", "cups.refine.side=32", *MOVERS)
    asked = read_cups(overrides)
    assert asked.labels is not None
    labeller = replace(tiny_labels().labeller, recipe=asked.labels)
    launch = Launch(_clips(folder), recipe=recipe, overrides=overrides, shard_size=SHARD_SIZE)
    return launch, CupsMethod(MoverSearch(asked.finding, OpencvMotion()), labeller)


def _clips(folder: Path) -> str:
    return f"clips:{folder / 'stereo' / 'clips.csv'}"


def _of_an_import(recipe: str, folder: Path) -> tuple[Launch, Method]:
    launch = launch_of(str(folder / "masks.json"), str(folder / "photos"), shard_size=SHARD_SIZE)
    return launch, CocoImport.of(launch)


def _of_a_detector(recipe: str, folder: Path) -> tuple[Launch, Method]:
    from detector.prediction.method import load
    from support.tiny_detector import write_tiny as write_tiny_detector

    checkpoint = folder / "detector.pth"
    if not checkpoint.exists():
        write_tiny_detector(checkpoint)
    overrides = (f"detector.checkpoint={checkpoint}", "detector.max_per_image=3", "detector.grid=4")
    launch = Launch(str(folder / "photos"), recipe=recipe, overrides=overrides, shard_size=SHARD_SIZE)
    return launch, load(overrides, torch.device("cpu"))


# By name of the method: the launch of a recipe of it on the photos in a folder, and the loaded method.
SAMPLES: dict[str, Callable[[str, Path], tuple[Launch, Method]]] = {
    "cuts": _of_cuts,
    "votecut": _of_votecut,
    "semantic_inputs": _of_inputs,
    "depthg": _of_depthg,
    "motion": _of_motion,
    "cups": _of_cups,
    "coco_import": _of_an_import,
    "detector": _of_a_detector,
}


def sample(recipe: str, folder: Path) -> tuple[Launch, Method]:
    """The launch of a recipe and its loaded method; KeyError, with the remedy, for a method without a sample."""
    name = entry_of(recipe).name
    if name not in SAMPLES:
        raise KeyError(f"method {name!r} has no sample: add one to SAMPLES in {__file__}, so that it is tested")
    return SAMPLES[name](recipe, folder)


def do(recipe: str, folder: Path, out: Path) -> RunSummary:
    """The whole run, or what is missing of it."""
    launch, method = sample(recipe, folder)
    manifest: Manifest = entry_of(recipe).manifest(launch)
    return run(out, launch, method=method, manifest=manifest)


if __name__ == "__main__":
    do(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
