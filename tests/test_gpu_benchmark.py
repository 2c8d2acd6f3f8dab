"""`benchmarks/gpu.py` is used when there is no time to mend it: what it records, what it ends, what it refuses."""

import csv
import os
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import gpu
import gpu_bundle
import gpu_networks
import gpu_steps
import gpu_usage
import numpy as np
import psutil
import pytest
import timm
import torch
from gpu_record import COLUMNS, FAILED, OK, OUTCOME, SKIPPED, Records, read_lines, summary
from gpu_speed import Clock, Plan, TimeIsUpError
from gpu_steps import Agreement, StepError
from gpu_training import Course, compare
from pycocotools import mask as coco_mask
from support.tiny_run import tiny_launch
from support.waiting import PATIENCE, wait_for
from transformers import DepthAnythingForDepthEstimation

from pipeline.engine import run as engine
from pipeline.engine.shard_worker import ShardWorker
from pipeline.methods.protocol import Method
from pipeline.results.instances import ImageRecord, Instance
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder


def outcomes(out: Path) -> dict[str, str]:
    return {
        line["step"]: f"{line['value']} {line['note']}".strip() for line in read_lines(out) if line["what"] == OUTCOME
    }


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


# --- records ----------------------------------------------------------------------------------------------------------


def test_lines_of_all_calls_stand_in_one_table(tmp_path: Path) -> None:
    for step in ("speed", "big"):
        records = Records(tmp_path, step, "abc", "a GPU", "2.11")
        records.add("cuts3d", "throughput", 12.34567, "images/s", "in two\nlines")
        records.outcome(OK)
    with (tmp_path / "gpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["what"], row["value"]) for row in rows[:2]] == [
        ("speed", "throughput", "12.35"),
        ("speed", OUTCOME, OK),
    ]
    assert len(rows) == 4
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["note"] == "in two lines"
    assert [line["step"] for line in read_lines(tmp_path, 2)] == ["big", "big"]
    text = "\n".join(summary(read_lines(tmp_path)))
    assert "speed: ok" in text
    assert "throughput [images/s]   12.35" in text
    assert "on a GPU, torch 2.11" in text


def test_a_line_under_way_is_left_out(tmp_path: Path) -> None:
    assert read_lines(tmp_path) == []
    Records(tmp_path, "speed", "abc").add("", "cores", 2)
    with (tmp_path / "gpu.jsonl").open("a") as file:
        file.write('{"step": "sp')
    assert [line["what"] for line in read_lines(tmp_path)] == ["cores"]


# --- steps as processes -----------------------------------------------------------------------------------------------


def test_a_step_whose_time_is_up_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    code = f"""
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", {child!r}])
Path({str(tmp_path / "new")!r}).write_text(str(child.pid))
Path({str(tmp_path / "new")!r}).rename({str(tmp_path / "pid")!r})
time.sleep(600)
"""
    started = tmp_path / "pid"
    # its time is up as soon as it has a child
    clock = SimpleNamespace(monotonic=lambda: 10.0 * started.exists(), sleep=time.sleep)
    monkeypatch.setattr(gpu, "time", clock)
    gpu.watch("speed", python(code), 3.0, tmp_path, dict(os.environ))
    pid = int(started.read_text())
    wait_for(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the child's end"
    )
    assert outcomes(tmp_path) == {"speed": f"{FAILED} not done after 3 s"}


def test_a_step_that_dies_says_why_and_the_next_one_begins(tmp_path: Path) -> None:
    gpu.watch("parity", python("raise ValueError('no such mask')"), PATIENCE, tmp_path, dict(os.environ))
    code = "import sys; sys.path.insert(0, 'benchmarks'); from gpu_record import Records; from pathlib import Path; "
    code += f"Records(Path({str(tmp_path)!r}), 'speed', 'abc').outcome('ok')"
    gpu.watch("speed", python(code), PATIENCE, tmp_path, dict(os.environ))
    assert outcomes(tmp_path) == {"parity": f"{FAILED} ended with 1: ValueError: no such mask", "speed": OK}


def test_packages_of_the_bundle_are_for_the_python_they_were_made_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "BUNDLE", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "module.py").touch()
    for tag in ("cpython-27", sys.implementation.cache_tag):
        with tarfile.open(tmp_path / f"site-{tag}.tar.xz", "w:xz") as archive:
            archive.add(tmp_path / "module.py", f"of_{tag}.py")
    work = tmp_path / "work"
    assert gpu.search_path(work) == f"{work / 'site'}{os.pathsep}{gpu.ROOT}"
    assert [path.name for path in (work / "site").iterdir()] == [f"of_{sys.implementation.cache_tag}.py"]
    (tmp_path / f"site-{sys.implementation.cache_tag}.tar.xz").unlink()
    assert gpu.search_path(work) == str(gpu.ROOT)


def test_without_weights_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--assets", str(tmp_path)])
    assert "run `make gpu-bundle` first" in capsys.readouterr().err


@pytest.mark.slow
def test_every_step_on_the_cpu(tmp_path: Path) -> None:
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path), "--scale", "100"]) == 0
    ended = outcomes(tmp_path)
    assert list(ended) == list(gpu.STEPS)
    assert {step: ended[step] for step in ("parity", "speed", "big")} == dict.fromkeys(("parity", "speed", "big"), OK)
    assert ended["tests"] in (OK, f"{SKIPPED} they need a GPU")
    missing = gpu_steps.detector_missing()
    assert ended["train"] == (f"{SKIPPED} {missing}" if missing else OK)
    found = {(line["step"], line["case"], line["what"]): line["value"] for line in read_lines(tmp_path)}
    for recipe in gpu_steps.RECIPES:
        assert found["parity", recipe, "equal masks"] == 1  # both are the CPU
        assert found["speed", recipe, "throughput"] > 0
        assert found["speed", recipe, "set aside"] == 0
    assert found["speed", "cuts3d", "localcut"] > 0
    assert found["speed", "cuts3d", "masks"] > 0
    assert found["big", "tiny", "throughput"] > 0
    if not missing:
        assert found["train", "float32", "throughput"] > 0
        assert found["train", "resumed", "iterations"] == 15
        assert found["train", "resumed", "iterations done twice"] >= 1
        assert found["train", "resumed", "loss apart at most"] == 0  # on a CPU it is the same to the bit
    assert (tmp_path / "summary.txt").read_text().startswith("parity: ok")


# --- what is measured -------------------------------------------------------------------------------------------------


def record(*corners: int) -> ImageRecord:
    """An image of 20 × 20 with a square of 8 × 8 at each of these places."""
    instances = []
    for corner in corners:
        mask = np.zeros((20, 20), np.uint8)
        mask[corner : corner + 8, corner : corner + 8] = 1
        rle = coco_mask.encode(np.asfortranarray(mask))["counts"]
        instances.append(Instance(rle, (corner, corner, 8, 8), 64, 1.0, np.ones((2, 2), np.uint8), 0))
    return ImageRecord("a", (20, 20), "ok" if corners else "no_masks", tuple(instances), {}, None)


def test_masks_are_matched_one_to_one() -> None:
    agreement = Agreement()
    agreement.add(record(0, 12), record(12, 0))  # the same in another order
    agreement.add(record(0, 10), record(1))  # one has moved by a pixel, one is missing
    agreement.add(record(), record(3))
    assert agreement.counts == [(2, 2), (2, 1), (0, 1)]
    assert agreement.masks == 5
    assert agreement.equal == 2
    assert agreement.ious == [1, 1, pytest.approx(49 / 79)]
    assert agreement.same_counts == pytest.approx(1 / 3)


class Ticks:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.mark.parametrize(("images", "skipped"), [(9, 4), (8, 4), (7, 3), (2, 1)])
def test_the_first_shard_or_half_is_left_out(images: int, skipped: int) -> None:
    clock = Clock(Plan(100, 4, 1000.0), Ticks())
    clock.start(100, 0, "instances")
    for _ in range(images):
        clock.add({})
    counted, start, end = clock.steady
    assert counted == images - skipped
    assert end - start == counted  # one a second


def test_one_image_is_no_measurement() -> None:
    clock = Clock(Plan(100, 4, 1000.0), Ticks())
    clock.add({})
    with pytest.raises(StepError, match="1 images were done"):
        _ = clock.steady


@pytest.mark.parametrize(("seconds", "images"), [(6, 8), (3, 6)])
def test_two_shards_are_waited_for_a_while(seconds: float, images: int) -> None:
    clock = Clock(Plan(100, 4, seconds), Ticks())
    clock.start(100, 0, "instances")
    for _ in range(images - 1):
        clock.add({})
    with pytest.raises(TimeIsUpError):
        clock.add({})


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_run_that_the_clock_ends_keeps_its_shards(
    lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worker(method: Method, batch_size: int | None, cores: int) -> ShardWorker:
        return ShardWorker(method, 1, lanes=lanes)

    monkeypatch.setattr(engine, "local_worker", worker)
    clock = Clock(Plan(8, 2, 4.5), Ticks())
    with pytest.raises(TimeIsUpError):
        engine.run(tmp_path / "run", tiny_launch(tmp_path, 8, 2), device="cpu", reporter=clock)
    assert 5 <= len(clock.times) < 8
    assert len(list(RunReader(RunFolder.open(tmp_path / "run")))) == 4


def course(losses: dict[int, float], finished: bool = False) -> Course:
    logged = {step: {"loss": loss, "time": 0.1} for step, loss in losses.items()}
    return Course(logged, 1.0, 10**9, gpu_usage.Busy(None, None, None), finished)


def test_a_training_that_goes_on_is_held_against_the_one_that_was_killed(tmp_path: Path) -> None:
    records = Records(tmp_path, "train", "abc")
    killed = course({10: 5.0, 20: 4.0, 30: 3.0, 40: 2.0})
    compare(records, killed, course({30: 3.03, 40: 2.1, 50: 1.0}), kept=20)
    found = {line["what"]: line["value"] for line in read_lines(tmp_path)}
    assert found["goes on after"] == 20
    assert found["iterations done twice"] == 2
    assert found["loss apart at first"] == pytest.approx(0.0099, abs=1e-4)
    assert found["loss apart at most"] == pytest.approx(0.0476, abs=1e-4)
    with pytest.raises(StepError, match="it started over"):
        compare(records, killed, course({10: 5.0}), kept=20)
    with pytest.raises(StepError, match="the loss of the resumed training is"):
        compare(records, killed, course({30: 6.0}), kept=20)


def test_usage_by_nvidias_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho '40, 1000'\necho '90, 9000'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    start = time.perf_counter()
    with gpu_usage.Usage(0.01) as usage:
        while len(usage.samples) < 3:
            time.sleep(0.01)
    busy = usage.between(start, time.perf_counter())
    assert busy.gpu == pytest.approx(0.4)
    assert busy.gpu_bytes == 1000 << 20
    assert busy.cpu is not None
    assert usage.between(start - 2, start - 1) == gpu_usage.Busy(None, None, None)


@pytest.mark.parametrize(("size", "millions"), [("small", 24.8), ("base", 97.5)])
def test_random_networks_are_as_large_as_the_published(size: str, millions: float) -> None:
    with torch.device("meta"):
        model = DepthAnythingForDepthEstimation(gpu_networks.depth_config(gpu_networks.DEPTH_SIZES[size]))
        vit = timm.create_model("vit_base_patch8_224.dino", num_classes=0)
    assert round(gpu_networks.parameters(model) / 1e6, 1) == millions
    assert round(gpu_networks.parameters(vit) / 1e6, 1) == 85.8


# --- the bundle -------------------------------------------------------------------------------------------------------


def test_packages_have_the_versions_that_are_tested_together() -> None:
    assert gpu_bundle.pinned(["zarr", "pymaxflow", "other==1.0"]) == [
        next(line for line in (gpu.ROOT / "constraints.txt").read_text().split() if line.startswith("zarr==")),
        next(line for line in (gpu.ROOT / "constraints.txt").read_text().split() if line.startswith("PyMaxflow==")),
        "other==1.0",
    ]
    assert all("==" in package for package in gpu_bundle.pinned(gpu_bundle.PACKAGES))


def test_a_bundle_that_is_too_large_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"checkout": 3 << 20, ".gpu/assets": 54 << 20}
    assert gpu_bundle.judge(sizes, 64) == 0
    assert "57.00 MiB  together" in capsys.readouterr().out
    assert gpu_bundle.judge(sizes, 56) == 1
    assert "more than the 56 MiB that may travel" in capsys.readouterr().err


def test_photos_are_taken_evenly_and_what_is_missing_is_named(tmp_path: Path) -> None:
    source, target = tmp_path / "assets", tmp_path / "copy"
    (source / "weights").mkdir(parents=True)
    (source / "coco" / "images").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"fastdepth\.onnx.*give --assets"):
        gpu_bundle.copy_assets(source, target)
    for name in gpu_bundle.WEIGHTS:
        (source / "weights" / name).touch()
    with pytest.raises(SystemExit, match="40 photos"):
        gpu_bundle.copy_assets(source, target)
    for i in range(80):
        (source / "coco" / "images" / f"{i:03d}.jpg").touch()
    gpu_bundle.copy_assets(source, target)
    assert [path.stem for path in sorted((target / "coco" / "images").iterdir())] == [
        f"{i:03d}" for i in range(0, 80, 2)
    ]
    assert {path.name for path in (target / "weights").iterdir()} == set(gpu_bundle.WEIGHTS)


def test_a_checkout_is_what_git_would_take(tmp_path: Path) -> None:
    names = {path.relative_to(gpu.ROOT).as_posix() for path in gpu_bundle.checkout()}
    assert "benchmarks/gpu.py" in names
    assert not any(name.startswith((".gpu/", ".venv/")) for name in names)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(b"12345")
    assert gpu_bundle.size_of(gpu_bundle.files_in(tmp_path)) == 5
