"""The hook that pastes instances among a batch: of the labels at first, then what the model finds and they miss."""

import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData, PixelData
from support import environment
from support.drawn_streets import street_training, write_streets
from support.tiny_panoptic import panoptic_config, panoptic_model
from support.warm import WarmProcess
from torch import nn

from detector.data.confidence_masks import ConfidenceMasks
from detector.data.paste import boxes
from detector.training import self_enhanced
from detector.training.self_enhanced import SelfEnhancedCopyPaste, missed_by, predictions, share_statistics
from detector.training.train import Training, train
from pipeline.errors import ConfigError

SIZE = (64, 96)
STOCK: dict[str, Any] = {"mean": [0.0] * 3, "std": [1.0] * 3, "bgr_to_rgb": True, "pad_size_divisor": 32}
EXACT: dict[str, Any] = {"scale": (1.0, 1.0), "flip": 0.0}


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def packed(shade: int, values: list[np.ndarray], labels: list[int]) -> tuple[torch.Tensor, DetDataSample]:
    """An image of one shade with these instances, as the loader gives it."""
    values_MHW = np.array(values, np.uint8).reshape(-1, *SIZE)
    sample = DetDataSample(
        metainfo={"img_shape": SIZE, "ori_shape": (9, 9), "scale_factor": (7.0, 7.0), "img_id": shade}
    )
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(boxes(values_MHW)),
        labels=torch.tensor(labels, dtype=torch.long),
        masks=ConfidenceMasks.from_values(values_MHW),
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.full((1, *SIZE), 3, dtype=torch.uint8))
    return torch.full((3, *SIZE), shade, dtype=torch.uint8), sample


def batch_of(*images: tuple[torch.Tensor, DetDataSample]) -> dict[str, Any]:
    inputs, samples = zip(*images, strict=True)
    return {"inputs": list(inputs), "data_samples": list(samples)}


class Finder(nn.Module):
    """A model that finds what it is told to, and remembers how it was asked."""

    def __init__(self, *found: tuple[list[np.ndarray], list[float], list[int]]) -> None:
        super().__init__()
        self.data_preprocessor = DetDataPreprocessor(**STOCK)
        self.weight = nn.Parameter(torch.ones(1))
        self.found, self.asked = found, 0
        self.seen: dict[str, Any] = {}

    def forward(self, inputs: torch.Tensor, data_samples: list[DetDataSample], mode: str) -> list[DetDataSample]:
        assert mode == "predict"
        assert not self.training
        assert not (inputs * self.weight).requires_grad
        self.asked += 1
        self.seen = {"inputs": inputs.clone(), "metas": [sample.metainfo for sample in data_samples]}
        for sample, (masks, scores, labels) in zip(data_samples, self.found, strict=True):
            values = np.array(masks, np.uint8).reshape(-1, *SIZE)
            sample.pred_instances = InstanceData(
                bboxes=torch.from_numpy(boxes(values)),
                scores=torch.tensor(scores),
                labels=torch.tensor(labels, dtype=torch.long),
                masks=torch.from_numpy(values > 0),
            )
        return data_samples


class Wrapper:
    """Of an optimiser; knows whether its context is open."""

    entered = 0

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        self.entered += 1
        yield


def runner_of(model: nn.Module | None = None, seed: int = 0) -> Any:
    hub = MessageHub.get_instance("test_self_enhanced")
    return SimpleNamespace(seed=seed, model=(model or Finder()).train(), optim_wrapper=Wrapper(), message_hub=hub)


def labels_of(batch: dict[str, Any]) -> list[list[int]]:
    return [sample.gt_instances.labels.tolist() for sample in batch["data_samples"]]


def shades(image: torch.Tensor) -> set[int]:
    return set(image.unique().tolist())


def run(hook: SelfEnhancedCopyPaste, runner: Any, step: int, batch: dict[str, Any]) -> dict[str, Any]:
    hook.before_train_iter(runner, step, batch)
    return batch


def test_at_first_the_labels_are_pasted() -> None:
    """Into every image, one without instances among them; the model is not asked."""
    runner = runner_of()
    batch = batch_of(packed(10, [rectangle(5, 5, 45, 45)], [2]), packed(20, [], []))
    run(SelfEnhancedCopyPaste(5, **EXACT), runner, 4, batch)
    assert labels_of(batch) in ([[2, 2], [2]], [[2], [2]])  # where the image's own lies below, it may be hidden whole
    assert shades(batch["inputs"][1]) == {10, 20}
    assert runner.model.asked == runner.optim_wrapper.entered == 0
    second = batch["data_samples"][1]
    pasted = batch["inputs"][1][0].numpy() == 10
    assert pasted.sum() == 1600
    np.testing.assert_array_equal(second.gt_instances.masks.masks[0] == 1, pasted)
    np.testing.assert_array_equal(second.gt_sem_seg.sem_seg[0].numpy(), np.where(pasted, 0, 3))
    np.testing.assert_array_equal(second.gt_instances.bboxes.tensor.numpy(), boxes(second.gt_instances.masks.values))
    assert runner.message_hub.get_scalar("train/pasted").current() == 1


def test_then_what_the_labels_miss() -> None:
    """By hand: too small, too unsure, on a label, and the one that is pasted, with its class; the labels are not."""
    label = rectangle(0, 0, 40, 40)
    missed, unsure, small = rectangle(20, 50, 60, 90), rectangle(0, 50, 36, 94), rectangle(0, 80, 30, 96)
    found = [label, missed, unsure, small], [0.99, 0.9, 0.75, 0.95], [4, 1, 3, 3]
    model = Finder(found, ([], [], []))
    batch = batch_of(packed(10, [label], [2]), packed(20, [], []))
    runner = runner_of(model)
    run(SelfEnhancedCopyPaste(5, **EXACT), runner, 5, batch)
    assert labels_of(batch)[1] == [1]
    assert sorted(labels_of(batch)[0]) in ([1, 2], [1])
    assert (batch["inputs"][1] == 10).sum() == 3 * 1600
    assert (model.asked, runner.optim_wrapper.entered, model.training) == (1, 1, True)


def test_the_model_sees_the_batch_before_anything_is_pasted() -> None:
    """And as an image of its own size, whatever was cut and scaled before."""
    model = Finder(([rectangle(0, 0, 40, 40)], [0.9], [0]), ([], [], []))
    batch = batch_of(packed(10, [], []), packed(20, [rectangle(5, 5, 45, 45)], [1]))
    run(SelfEnhancedCopyPaste(0, **EXACT), runner_of(model), 0, batch)
    assert [shades(image[:, : SIZE[0], : SIZE[1]]) for image in model.seen["inputs"]] == [{10}, {20}]
    for meta, shade in zip(model.seen["metas"], (10, 20), strict=True):
        assert (meta["ori_shape"], meta["img_shape"], meta["scale_factor"]) == (SIZE, SIZE, (1.0, 1.0))
        assert meta["img_id"] == shade
    assert batch["data_samples"][0].ori_shape == (9, 9)


def test_nothing_found_nothing_pasted() -> None:
    model = Finder(([], [], []), ([rectangle(0, 0, 40, 40)], [0.7], [0]))
    batch = batch_of(packed(10, [rectangle(5, 5, 45, 45)], [1]), packed(20, [], []))
    run(SelfEnhancedCopyPaste(0), runner_of(model), 9, batch)
    assert labels_of(batch) == [[1], []]
    assert [shades(image) for image in batch["inputs"]] == [{10}, {20}]


def test_labels_for_ever() -> None:
    model = Finder()
    batch = batch_of(packed(10, [rectangle(5, 5, 45, 45)], [1]), packed(20, [], []))
    run(SelfEnhancedCopyPaste(None), runner_of(model), 10**6, batch)
    assert model.asked == 0
    assert labels_of(batch)[1] == [1]


def test_the_bounds_are_strict() -> None:
    """A score of min_score is not enough, an IoU of max_iou too much, with any label."""
    labels = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    found = InstanceData(
        bboxes=torch.tensor([[0, 0, 10, 20], [0, 0, 10, 20.5], [50, 50, 60, 60], [30, 30, 40, 40], [30, 30, 40, 40.0]]),
        scores=torch.tensor([0.9, 0.9, 0.9, 0.75, 0.7501]),
    )
    assert missed_by(labels, found, 0.75, 0.5).tolist() == [False, True, False, False, True]
    assert missed_by(labels[:0], found, 0.75, 0.5).tolist() == [True, True, True, False, True]
    nothing = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0))
    assert missed_by(labels, nothing, 0.75, 0.5).tolist() == []


def test_what_is_pasted_follows_from_seed_and_step() -> None:
    def pasted(seed: int, step: int) -> bytes:
        np.random.rand(seed + step)  # noqa: NPY002 - what others have drawn does not count
        batch = batch_of(packed(10, [rectangle(5, 5, 45, 45), rectangle(20, 50, 60, 90)], [1, 2]), packed(20, [], []))
        run(SelfEnhancedCopyPaste(None), runner_of(seed=seed), step, batch)
        return batch["inputs"][1].numpy().tobytes()

    assert pasted(0, 3) == pasted(0, 3)
    assert len({pasted(0, 3), pasted(0, 4), pasted(1, 3)}) == 3


def test_with_a_real_model() -> None:
    """Masks at the image's size, whatever it is padded to; the mode of each part stays as it was."""
    model = panoptic_model(panoptic_config()).train()
    model.backbone.eval()
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 70, 90), generator=generator, dtype=torch.uint8) for _ in range(2)]
    batch = {"inputs": images, "data_samples": [packed(1, [], [])[1] for _ in range(2)]}
    found = predictions(model, batch)
    assert all(len(one) > 0 for one in found)
    for one in found:
        assert one.masks.shape == (len(one), 70, 90)
        assert one.masks.dtype == torch.bool
        assert one.bboxes[:, 2].max() <= 90
        assert set(one.labels.tolist()) <= {0, 1}
    assert model.training
    assert model.roi_head.training
    assert not model.backbone.training
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_all_ranks_predict_by_the_statistics_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of plain batch norms that are being trained: all others are the same anyway."""
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(self_enhanced, "broadcast", sent.append)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.SyncBatchNorm(2), nn.Sequential(nn.BatchNorm2d(3), nn.GroupNorm(1, 3)))
    model.append(nn.BatchNorm2d(4).eval())
    share_statistics(model)
    expected = [buffer for norm in (model[0], model[2][0]) for buffer in norm.buffers()]
    assert [id(one) for one in sent] == [id(one) for one in expected]
    assert len(sent) == 6
    finder = Finder(([], [], []))
    finder.norm = nn.BatchNorm1d(5)
    run(SelfEnhancedCopyPaste(1), runner_of(finder), 0, batch_of(packed(10, [], [])))
    assert len(sent) == 6, "not while the labels are pasted"
    run(SelfEnhancedCopyPaste(1), runner_of(finder), 1, batch_of(packed(10, [], [])))
    assert len(sent) == 9


def in_two_processes(wanted: Training, *words: str) -> None:
    """The training, as torchrun starts it."""
    settings = [word for setting in wanted.settings for word in ("--set", setting)]
    launch = [
        "-m",
        "detector.training",
        "--run",
        *wanted.runs,
        "--config",
        wanted.config,
        "--work-dir",
        wanted.work_dir,
    ]
    launch += ["--batch-size", "4", "--iterations", "4", *settings, *words]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [WarmProcess(launch, environment(RANK=rank, LOCAL_RANK=rank, **group)) for rank in ("0", "1")]
    with ThreadPoolExecutor(2) as readers:
        said = list(readers.map(WarmProcess.communicate, ranks))
    assert [rank.returncode for rank in ranks] == [0, 0], said


@pytest.mark.slow(20)
def test_two_processes_resume_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has batch norms of its own, and a checkpoint has those of the first. One process has nearly
    the same losses.
    """
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    streets = write_streets(tmp_path, range(6))
    pasting = ("custom_hooks.3.min_score=0.05", "custom_hooks.3.start=1", "custom_hooks.2.batches=1")
    wanted = street_training(streets.url, tmp_path / "work", "default_hooks.checkpoint.interval=2", *pasting)
    in_two_processes(wanted)
    path = tmp_path / "work" / "detector.safetensors"
    whole = path.read_bytes()
    lines = [json.loads(line) for line in next(path.parent.glob("*/vis_data/scalars.json")).read_text().splitlines()]
    assert all(line["pasted"] > 0 for line in lines)
    train(replace(wanted, work_dir=str(tmp_path / "one"), batch_size=4, iterations=1))
    (alone,) = (tmp_path / "one").glob("*/vis_data/scalars.json")
    assert lines[0]["loss"] == pytest.approx(json.loads(alone.read_text().splitlines()[0])["loss"], rel=0.1)
    path.unlink()
    (tmp_path / "work" / "iter_4.pth").unlink()
    in_two_processes(wanted, "--resume")
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": -1}, "start must be a number of iterations or None"),
        ({"min_score": 1.5}, "min_score must be in 0..1"),
        ({"max_iou": -0.1}, "max_iou must be in 0..1"),
        ({"copies": 3}, "there is no copies; there are instances"),
        ({"flip": 3}, "flip must be in 0..1"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SelfEnhancedCopyPaste(**options)
