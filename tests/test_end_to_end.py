"""The main job as users run it: the installed command, real weights, real photos, real kills."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from support import environment, warm
from support.sample_run import masks_of
from support.waiting import wait_for
from support.warm import WarmProcess

from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow(60)


def command(assets: Path, photos: Path, out: Path, size: int, *more: str) -> list[str]:
    """`cuts3d run` with the shared weights at a small input size."""
    weights = assets / "weights"
    return [
        *("-m", "pipeline.cli", "run", "--images", str(photos), "--out", str(out)),
        *("--features", f"dinov2_vits14={weights}/dinov2_vits14_fp16.safetensors"),
        *("--depth", str(weights / "fastdepth.onnx"), "--set", f"features.size={size}", "--device", "cpu", *more),
    ]


def cuts3d(arguments: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return warm.run(arguments, environment(**variables))


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return warm.run(["-m", "pipeline.cli", *arguments])


def photos_in(folder: Path, source: Path, n: int) -> Path:
    folder.mkdir()
    for photo in sorted(source.iterdir())[:n]:
        (folder / photo.name).symlink_to(photo)
    return folder


def test_200_imagenet_photos_run_without_a_failure(assets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = cuts3d(command(assets, assets / "imagenet", out, 112, "--set", "refine.size=96"))
    assert done.returncode == 0, done.stderr
    records = list(RunReader(RunFolder.open(out)))
    assert len(records) == 200
    assert {record.status for record in records} <= {"ok", "no_masks"}
    masks = sum(len(masks_of(record)) for record in records)
    assert masks / 200 > 1, "most photos of ImageNet show an object"
    assert cli("verify", out).returncode == 0
    assert "200 of 200 done" in cli("status", out).stdout
    exported = cli("export", out, "--coco", tmp_path / "pseudo.json", "--overlays", tmp_path / "o", "--limit", 4)
    assert exported.returncode == 0, exported.stderr
    coco = COCO(str(tmp_path / "pseudo.json"))
    assert len(coco.imgs) == 200
    assert len(coco.anns) == masks
    assert len(list((tmp_path / "o").iterdir())) == 4


def committed(out: Path) -> list[str]:
    return sorted(path.stem for path in (out / "commits").glob("*.json"))


def same_store(one: Path, other: Path) -> None:
    for a, b in zip(RunReader(RunFolder.open(one)), RunReader(RunFolder.open(other)), strict=True):
        assert a == b


def test_killed_again_and_again_until_done(assets: Path, tmp_path: Path) -> None:
    """SIGKILL while a file is written, then shortly after some commits; what comes of it is the undisturbed store.

    The last image is held until all kills are done, so that no job is through before, however fast it is. Every other
    point of the protocol: tests/pipeline/engine/test_crash.py.
    """
    photos = photos_in(tmp_path / "photos", assets / "coco" / "images", 12)
    undisturbed, struck = tmp_path / "undisturbed", tmp_path / "struck"
    assert cuts3d(command(assets, photos, undisturbed, 224, "--shard-size", "1")).returncode == 0
    launch = command(assets, photos, struck, 224, "--shard-size", "1")
    assert cuts3d(launch, CUTS3D_CRASH_AT="mid_write:00003").returncode == -signal.SIGKILL
    assert committed(struck) == ["00000", "00001", "00002"]
    assert cli("status", struck).returncode == 1

    last = sorted(photos.iterdir())[-1].name
    held = {"CUTS3D_IMAGE_FAULT": f"hold:{last}", "CUTS3D_HOLD_UNTIL": str(tmp_path / "never")}
    dice = random.Random(0)
    for commits in sorted(dice.sample(range(4, 12), 3)):
        process = WarmProcess(launch, environment(**held))
        wait_for(lambda least=commits: len(committed(struck)) >= least, f"{commits} commits", process)
        time.sleep(dice.uniform(0, 0.5))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert len(committed(struck)) < 12

    again = cuts3d(launch)
    assert again.returncode == 0, again.stderr
    same_store(undisturbed, struck)
    assert cli("gc", struck, "--min-age", 0).returncode == 0
    assert cli("verify", struck).stdout.strip() == "12 shards, 12 images: no errors"


def test_interrupted_by_the_keyboard(assets: Path, tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", assets / "coco" / "images", 100)
    out = tmp_path / "run"
    process = WarmProcess(command(assets, photos, out, 224, "--shard-size", "2"))
    wait_for(lambda: committed(out), "a commit", process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "committed shards are safe" in stderr
    assert "Traceback" not in stderr


def test_localcut_uses_depth_that_the_user_brings(assets: Path, tmp_path: Path) -> None:
    """Depth maps of one's own, for all photos but one: that one is set aside, the rest is done."""
    photos = photos_in(tmp_path / "photos", assets / "coco" / "images", 3)
    maps = tmp_path / "maps"
    maps.mkdir()
    names = sorted(path.stem for path in photos.iterdir())
    ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    for name in names[:2]:
        np.save(maps / f"{name}.npy", ramp)
    launch = command(assets, photos, tmp_path / "run", 224)
    launch[launch.index("--depth") + 1] = f"maps:{maps}"
    done = cuts3d(launch)
    assert done.returncode == 1, done.stderr
    info = json.loads(cli("info", tmp_path / "run", "--json").stdout)
    assert [(image["id"], image["reason"]) for image in info["set_aside"]] == [(f"{names[2]}.jpg", "no_depth_map")]
