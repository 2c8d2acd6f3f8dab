"""Detectors that Detectron2 trained find here what they find there, and other files are refused by name."""

import collections
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mmdet.structures.bbox import bbox2roi
from pycocotools import mask as coco_mask
from safetensors.torch import save_file
from support.detectron2_files import write_config, write_pickle
from support.recorded_detectron2 import BEST, CASES, NETWORKS, photo, recorded
from support.reference_detectron2 import CUTLER, RGB_MEAN, ZOO, Trace, detect, random_state
from torch import Tensor

from detector.model.build import build_model
from detector.model.checkpoints import read_detector
from detector.prediction.detections import Detections, PasteRule, instance_of
from detector.prediction.predictor import Predictor, _sample
from detector.training.hooks import start_from
from detector.training.import_detectron2 import Told, _content, _network, import_detectron2
from pipeline.cli import main
from pipeline.errors import ConfigError, CutsError, WeightsError

State = dict[str, Tensor]
CLASSIFIER = "roi_heads.box_predictor.0.cls_score.weight"


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By layout, a configuration of the small network."""
    folder = tmp_path_factory.mktemp("configs")
    return {name: str(write_config(folder / f"{name}.py", network)) for name, network in NETWORKS.items()}


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    return {name: random_state(network) for name, network in NETWORKS.items()}


@pytest.fixture(scope="module")
def predictors(
    configs: dict[str, str], states: dict[str, State], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Predictor]:
    folder = tmp_path_factory.mktemp("detectors")
    made = {}
    for name, config in configs.items():
        torch.save({"model": states[name], "iteration": 7}, folder / "model_final.pth")
        import_detectron2(folder / "model_final.pth", folder / "d.safetensors", Told(name), config)
        made[name] = Predictor(read_detector(folder / "d.safetensors"), torch.device("cpu"))
    return made


@pytest.fixture(scope="module")
def traces(states: dict[str, State]) -> Callable[[str], Trace]:
    """By case, what the reference computes; once."""
    found: dict[str, Trace] = {}

    def trace(case: str) -> Trace:
        name, size = CASES[case]
        if case not in found:
            found[case] = detect(states[name], NETWORKS[name], photo(size))
        return found[case]

    return trace


@pytest.mark.parametrize("case", CASES)
def test_the_reference_is_detectron2(case: str, traces: Callable[[str], Trace]) -> None:
    wanted, trace = recorded(case), traces(case)
    for level, mean in zip(trace.features, wanted["features"], strict=True):
        assert level.abs().mean().item() == pytest.approx(mean, rel=1e-5)
    close(trace.scores, wanted["scores"])
    close(trace.boxes, wanted["boxes"], 2e-4)
    close(trace.probabilities[:BEST], wanted["probabilities"].astype(np.float32), 1e-3)  # half precision is kept
    few_pixels_differ(trace.masks.sum(dim=(1, 2)).numpy(), wanted["areas"])


@pytest.mark.parametrize("case", CASES)
def test_layer_by_layer(case: str, traces: Callable[[str], Trace], predictors: dict[str, Predictor]) -> None:
    name, size = CASES[case]
    wanted, predictor = traces(case), predictors[name]
    model, image = predictor._model, predictor._fitted(photo(size))
    sample = _sample(size, image.shape)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
    batch = model.data_preprocessor({"inputs": [pixels], "data_samples": [sample]})
    with torch.inference_mode():
        features = model.extract_feat(batch["inputs"])
        objectness, deltas = model.rpn_head(features)
        proposals = model.rpn_head.predict_by_feat(objectness, deltas, batch_img_metas=[sample.metainfo])[0].bboxes
    for ours, theirs in ((features, wanted.features), (objectness, wanted.objectness), (deltas, wanted.deltas)):
        for level, other in zip(ours, theirs, strict=True):
            close(level, other)
    assert len(wanted.proposals) > 100
    # Those of one score come in any order.
    apart = torch.cdist(proposals, wanted.proposals, p=float("inf"))
    assert len(proposals) == len(wanted.proposals)
    assert max(apart.amin(dim=0).max(), apart.amin(dim=1).max()) < 2e-4
    rois = bbox2roi([wanted.proposals])
    with torch.inference_mode():
        for stage, (probabilities, boxes) in enumerate(wanted.stages):
            result = model.roi_head._bbox_forward(stage, features, rois)
            head = model.roi_head.bbox_head[stage]
            close(result["cls_score"].softmax(-1), probabilities)
            close(head.regress_by_class(rois[:, 1:], None, result["bbox_pred"], sample.metainfo), boxes)
            rois = bbox2roi([boxes])
        labels = torch.zeros(len(wanted.scaled_boxes), dtype=torch.long)
        (masks,) = predictor._network.masks(features, [wanted.scaled_boxes], [labels])
    close(masks, wanted.probabilities)


@pytest.mark.parametrize("case", CASES)
def test_what_is_found(case: str, traces: Callable[[str], Trace], predictors: dict[str, Predictor]) -> None:
    name, size = CASES[case]
    wanted, (found,) = traces(case), predictors[name]([photo(size)])
    assert len(found.scores) == len(wanted.scores) > 20
    close(found.scores, wanted.scores)
    close(found.boxes, wanted.boxes)
    close(found.masks, wanted.probabilities)
    masks = pasted(found, size)
    few_pixels_differ(masks, wanted.masks.numpy())
    theirs = recorded(case)
    close(found.scores, theirs["scores"])
    close(found.boxes, theirs["boxes"], 2e-4)
    few_pixels_differ(masks.sum(axis=(1, 2)), theirs["areas"])


def test_photos_together_are_photos_alone(predictors: dict[str, Predictor]) -> None:
    photos = [photo(CASES[case][1]) for case in list(CASES)[:3]]
    for photo_, together in zip(photos, predictors["cutler"](photos), strict=True):
        (alone,) = predictors["cutler"]([photo_])
        close(together.boxes, alone.boxes)
        close(together.scores, alone.scores)


class Importer:
    """Imports what a test makes of a state, and gives the detector's tensors. Its file is `out`."""

    def __init__(self, folder: Path, configs: dict[str, str]) -> None:
        self.folder, self.configs, self.count = folder, configs, 0

    def __call__(self, content: Any, layout: str = "cutler", config: str = "cutler", **told: Any) -> State:
        self.count += 1
        path, self.out = self.folder / "model.pth", self.folder / f"{self.count}.safetensors"
        torch.save(content, path)
        self.left_out = import_detectron2(path, self.out, Told(layout, **told), self.configs[config]).left_out
        self.detector = read_detector(self.out)
        return dict(self.detector.state_dict)


@pytest.fixture
def imported(tmp_path: Path, configs: dict[str, str]) -> Importer:
    return Importer(tmp_path, configs)


@pytest.fixture
def state(states: dict[str, State]) -> State:
    return dict(states["cutler"])


def test_all_kinds_of_files_hold_the_same(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "model.safetensors")
    torch.save({"model": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    contents: dict[str, Any] = {
        "detectron2.pth": {"model": state, "optimizer": {"state": {}}, "iteration": 159999},
        "plain.pth": state,
        "ordered.pth": collections.OrderedDict(state),
        "distributed.pth": {"model": {f"module.{name}": value for name, value in state.items()}},
        "lightning.ckpt": {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    for protocol in (0, 2, 4, 5):
        write_pickle(tmp_path / f"{protocol}.pkl", state, protocol)
    paths = [path for path in tmp_path.iterdir() if path.is_file()]
    assert len(paths) == 11
    for path in paths:
        found, left_out, copy = _network(_content(path), Told("cutler"), path)
        assert (found.keys(), left_out, copy) == (state.keys(), [], "student"), path
        assert [name for name in state if not torch.equal(found[name], state[name])] == [], path


def test_half_precision_is_widened(imported: Importer, state: State) -> None:
    tensors = imported({name: value.half() if value.is_floating_point() else value for name, value in state.items()})
    assert imported.left_out == ()
    assert {value.dtype for value in tensors.values()} == {torch.float32, torch.int64}


def test_provenance(imported: Importer, state: State, tmp_path: Path) -> None:
    imported({"model": state}, layout="cuvler")
    assert imported.detector.trained_on == {
        "imported": str(tmp_path / "model.pth"),
        "sha256": imported.detector.trained_on["sha256"],
        "layout": "cuvler",
        "copy": "student",
        "left_out": [],
        "pixel_order": "rgb",
        "stride_in": "3x3",
    }
    assert len(imported.detector.trained_on["sha256"]) == 64
    config = imported.detector.config
    assert (config["mean"], config["resize"]) == (list(RGB_MEAN), {"short": 160, "long": 240, "backend": "pillow"})
    assert config["model"]["roi_head"]["type"] == "DetectronCascade"
    build_model(imported.detector)


def with_levels(state: State) -> State:
    """HASSOD's: a level for each box of each stage."""
    extra = {
        f"roi_heads.box_predictor.{stage}.level_predictor.{part}": torch.ones((3, 32) if part == "weight" else 3)
        for stage in range(3)
        for part in ("weight", "bias")
    }
    return {**state, **extra}


def test_hassod_and_its_mean_teacher(imported: Importer, state: State) -> None:
    plain = imported({"model": state})
    level_line = "roi_heads.box_predictor.*.level_predictor (6 tensors): boxes and masks do not need it"
    alone = imported({"model": with_levels(state)}, layout="hassod")
    assert imported.left_out == (level_line,)
    teacher = {name: 2 * value for name, value in with_levels(state).items()}
    both = {
        "model": {f"modelStudent.{name}": value for name, value in with_levels(state).items()}
        | {f"modelTeacher.{name}": value for name, value in teacher.items()}
    }
    student = imported(both, layout="hassod")
    assert imported.left_out == (f"teacher ({len(teacher)} tensors): --copy teacher takes it", level_line)
    for tensors in (alone, student):
        assert [name for name in plain if not torch.equal(plain[name], tensors[name])] == []
    doubled = imported(both, layout="hassod", copy="teacher")
    assert torch.equal(doubled["rpn_head.rpn_conv.bias"], 2 * plain["rpn_head.rpn_conv.bias"])
    assert imported.detector.trained_on["copy"] == "teacher"


@pytest.mark.parametrize("section", ["model_ema", "ema_state"])
def test_averages_beside_the_network(state: State, section: str) -> None:
    average = {name: 2 * value for name, value in state.items()}
    path, told = Path("a.pth"), Told("cutler", copy="teacher")
    found, left_out, _ = _network({"model": state, section: average}, Told("cutler"), path)
    assert (found, left_out) == (state, [f"teacher ({len(state)} tensors): --copy teacher takes it"])
    assert _network({"model": state, section: average}, told, path)[0] == average
    alone = {"model": {f"modelTeacher.{name}": value for name, value in average.items()}}
    found, left_out, copy = _network(alone, Told("cutler"), path)
    assert (found, left_out, copy) == (average, [], "teacher")
    with pytest.raises(ConfigError, match=r"a\.pth has no teacher, only one network: leave --copy out"):
        _network({"model": state}, told, path)
    with pytest.raises(WeightsError, match=r"a\.pth holds no tensors by name under `model`"):
        _network({1: torch.ones(1)}, Told("cutler"), path)
    with pytest.raises(ConfigError, match=r"a\.pth has no student, only one network: leave --copy out"):
        _network(alone, Told("cutler", copy="student"), path)


def test_what_a_file_says_of_pixels_and_anchors(imported: Importer, state: State) -> None:
    plain = imported({"model": state})
    for shape in ((3, 1, 1), (3,)):
        said = {
            "pixel_mean": torch.tensor(CUTLER.mean).view(shape),
            "pixel_std": torch.tensor(CUTLER.std).view(shape),
            **anchors(),
        }
        assert imported({"model": {**state, **said}}).keys() == plain.keys()
        assert imported.left_out == ()
        turned = {**said, "pixel_mean": torch.tensor(CUTLER.mean[::-1]).view(shape)}
        with pytest.raises(ConfigError, match=r"pixel_mean 103.53,116.28,123.675, but 123.+--pixel-order bgr"):
            imported({"model": {**state, **turned}})
        ones = {**said, "pixel_std": torch.ones(shape)}
        with pytest.raises(ConfigError, match=r"pixel_std 1,1,1, but 58.+give --pixel-std 1,1,1, or another --layout"):
            imported({"model": {**state, **ones}})
        imported({"model": {**state, **ones}}, pixel_std=(1.0, 1.0, 1.0))
        assert imported.detector.config["std"] == [1.0, 1.0, 1.0]
    with pytest.raises(WeightsError, match=r"other anchors than .*give --config FILE with its sizes"):
        imported({"model": {**state, **anchors(2.0)}})


def anchors(scale: float = 1.0) -> State:
    """As files of Detectron2 before 0.4 have them."""
    cells = {}
    for level in range(5):
        sides = [(32 * 2**level / ratio**0.5, 32 * 2**level * ratio**0.5) for ratio in (0.5, 1.0, 2.0)]
        cell = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])
        cells[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = scale * cell
    return cells


def test_blue_first_becomes_red_first(imported: Importer, state: State) -> None:
    plain = imported({"model": state})
    turned = imported({"model": state}, pixel_order="bgr")
    name = "backbone.conv1.weight"
    assert torch.equal(turned[name], plain[name].flip(1))
    assert [n for n in plain if n != name and not torch.equal(turned[n], plain[n])] == []
    assert imported.detector.config["mean"] == list(RGB_MEAN)  # the layout's, whatever the order
    imported({"model": state}, pixel_order="bgr", pixel_mean=(1.0, 2.0, 3.0), stride_in="1x1")
    assert imported.detector.config["mean"] == [3.0, 2.0, 1.0]
    assert imported.detector.config["model"]["backbone"]["style"] == "caffe"


def changed(state: State, **tensors: Tensor | None) -> State:
    parts = {name.replace("__", "."): value for name, value in tensors.items()}
    return {name: value for name, value in {**state, **parts}.items() if value is not None}


REFUSED: dict[str, tuple[Callable[[State], State], str, str]] = {
    "ViTDet": (lambda s: {"backbone.net.patch_embed.proj.weight": torch.ones(1)}, "cutler", "is a ViTDet"),
    "Mask2Former": (lambda s: {"sem_seg_head.predictor.query_feat.weight": torch.ones(1)}, "cutler", "a Mask2Former"),
    "no cascade": (
        lambda s: {n.replace("predictor.0.", "predictor."): v for n, v in s.items() if "predictor.1" not in n},
        "cutler",
        "is a Mask R-CNN without a cascade",
    ),
    "backbone alone": (
        lambda s: {n.removeprefix("backbone.bottom_up."): v for n, v in s.items() if "bottom_up" in n},
        "cutler",
        "is a backbone alone",
    ),
    "MMDetection": (
        lambda s: {"roi_head.bbox_head.0.fc_cls.weight": torch.ones(2, 4)},
        "cutler",
        "names of MMDetection: give --config",
    ),
    "RetinaNet": (
        lambda s: {n: v for n, v in s.items() if n.startswith("backbone")},
        "cutler",
        "has no roi_heads.box_predictor.0.cls_score.weight: a Cascade",
    ),
    "boxes only": (
        lambda s: {n: v for n, v in s.items() if "mask_head" not in n},
        "cutler",
        "has no roi_heads.mask_head.predictor.weight",
    ),
    "80 classes": (lambda s: {**s, CLASSIFIER: torch.ones(81, 32)}, "cutler", "tells 80 classes apart"),
    "a tensor missing": (
        lambda s: {n: v for n, v in s.items() if n != "backbone.bottom_up.res3.1.conv2.weight"},
        "cutler",
        r"1 missing \(backbone.bottom_up.res3.1.conv2.weight\)\. Give --config FILE",
    ),
    "group norm": (
        lambda s: {n: v for n, v in s.items() if "running" not in n},
        "cutler",
        r"missing \(backbone.bottom_up.res2.0.conv1.norm.running_mean,",
    ),
    "another shape": (
        lambda s: {**s, "roi_heads.box_head.1.fc1.weight": torch.ones(64, 784)},
        "cutler",
        r"1 of another shape \(roi_heads.box_head.1.fc1.weight \(64, 784\) for \(32, 784\)\)",
    ),
    "boxes by class": (
        lambda s: {**s, "roi_heads.box_predictor.2.bbox_pred.weight": torch.ones(8, 32)},
        "cutler",
        r"box_predictor.2.bbox_pred.weight \(8, 32\) for \(4, 32\)",
    ),
    "one more convolution": (
        lambda s: {**s, "roi_heads.mask_head.mask_fcn5.weight": torch.ones(16, 16, 3, 3)},
        "cutler",
        r"1 that it has no place for \(roi_heads.mask_head.mask_fcn5.weight\)",
    ),
    "one more stage": (
        lambda s: {**s, "roi_heads.box_predictor.3.cls_score.weight": torch.ones(2, 32)},
        "cutler",
        r"no place for \(roi_heads.box_predictor.3.cls_score.weight\)",
    ),
    "NaN": (
        lambda s: {**s, "roi_heads.box_head.0.fc2.bias": torch.full((32,), torch.nan)},
        "cutler",
        r"infinite values or NaN \(roi_heads.box_head.0.fc2.bias\)",
    ),
    "one number for classes": (
        lambda s: {**s, CLASSIFIER: torch.tensor(1.0)},
        "cutler",
        r"1 of another shape \(roi_heads.box_predictor.0.cls_score.weight \(\) for \(2, 32\)\)",
    ),
    "one pixel mean": (
        lambda s: {**s, "pixel_mean": torch.tensor(3.0)},
        "cutler",
        "pixel_mean 3, where one number for",
    ),
    "pixel std NaN": (lambda s: {**s, "pixel_std": torch.full((3,), torch.nan)}, "cutler", "pixel_std nan,nan,nan, wh"),
    "sparse": (
        lambda s: {**s, CLASSIFIER: s[CLASSIFIER].to_sparse()},
        "cutler",
        r"1 tensor that cannot be used as weights \(roi_heads.box_predictor.0.cls_score.weight: sparse\)",
    ),
    "complex": (lambda s: {**s, CLASSIFIER: s[CLASSIFIER] + 1j}, "cutler", "cls_score.weight: complex"),
    "whole numbers": (lambda s: {**s, CLASSIFIER: s[CLASSIFIER].char()}, "cutler", "cls_score.weight: whole numbers"),
    "HASSOD's": (with_levels, "cutler", "give --layout hassod"),
    "not HASSOD's": (lambda s: s, "hassod", "has no level_predictor"),
    "no norms in the pyramid": (lambda s: random_state(ZOO), "cuts3d", "no backbone.fpn_lateral2.norm.weight"),
    "no tensors": (lambda s: {}, "cutler", "holds no tensors by name under `model`"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_others_are_refused(kind: str, imported: Importer, state: State) -> None:
    change, layout, message = REFUSED[kind]
    with pytest.raises(CutsError, match=message) as refused:
        imported({"model": change(state)}, layout=layout)
    assert "\n" not in str(refused.value)
    assert str(imported.folder / "model.pth") in str(refused.value)
    assert not imported.out.exists()


def test_heads_beside_are_named(imported: Importer, state: State) -> None:
    more = {
        "roi_heads.keypoint_head.conv_fcn1.weight": torch.ones(1),
        "sem_seg_head.p2.0.weight": torch.ones(1),
    }
    imported({"model": {**state, **more}})
    assert imported.left_out == (
        "roi_heads.keypoint_head.conv_fcn1 (1 tensors): boxes and masks do not need it",
        "sem_seg_head.p2.* (1 tensors): boxes and masks do not need it",
    )


def test_a_round_of_self_training_starts_from_it(imported: Importer, state: State, tmp_path: Path) -> None:
    imported({"model": state})
    detector, model = str(imported.out), build_model(imported.detector)
    start_from(model, detector)
    with pytest.raises(WeightsError, match="is a detector of cuts3d already"):
        _content(imported.out)
    imported({"model": state}, pixel_std=(1.0, 1.0, 1.0))
    with pytest.raises(WeightsError, match=r"std is \[1.0, 1.0, 1.0\].+--set model.data_preprocessor.std=\[1.0,"):
        start_from(model, str(imported.out))
    imported({"model": state}, stride_in="1x1")
    with pytest.raises(WeightsError, match=r"its model.backbone.style is caffe, not pytorch: --set model.backbone"):
        start_from(model, str(imported.out))


def test_configurations_of_other_networks(imported: Importer, state: State, tmp_path: Path) -> None:
    small = Path(imported.configs["cutler"])
    for text, message in (
        ("model = dict(backbone=dict(deep_stem=True))", r"has backbone\.stem\.0\.weight, which has no counterpart"),
        ("model = dict(backbone=dict(depth=101))", r"missing \(backbone.bottom_up.res4.10.conv1.norm.bias, .*--config"),
        ("model = dict(backbone=dict(depth=7))", r"the model of .*other\.py cannot be built"),
        (
            "model = dict(_delete_=True, data_preprocessor=dict())",
            r"other\.py is no Cascade Mask R-CNN: it has no .+b",
        ),
    ):
        (tmp_path / "other.py").write_text(f'_base_ = ["{small}"]\n{text}\n')
        imported.configs["other"] = str(tmp_path / "other.py")
        with pytest.raises(CutsError, match=message):
            imported({"model": state}, config="other")


def command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["import-detector", *words])
    logging.getLogger("detector").setLevel(logging.NOTSET)
    return done.exit_code, done.output


def test_the_command(state: State, configs: dict[str, str], tmp_path: Path) -> None:
    checkpoint = write_pickle(tmp_path / "model.pkl", with_levels(state))
    out = tmp_path / "hassod.safetensors"
    words = [str(checkpoint), "--out", str(out)]
    status, text = command(*words, "--layout", "hassod", "--config", configs["cutler"], "--pixel-std", "1")
    assert status == 0, text
    assert text.splitlines() == [
        "left out   roi_heads.box_predictor.*.level_predictor (6 tensors): boxes and masks do not need it",
        f"detector   {out}",
    ]
    assert read_detector(out).config["std"] == [1.0, 1.0, 1.0]
    for more, message in (
        ((), "give --config FILE for a detector of MMDetection, --layout NAME for Detectron2's"),
        (("--config", configs["cutler"], "--stride-in", "1x1"), "--stride-in goes with --layout only"),
        (("--layout", "hassod", "--pixel-std", "1,2"), "'1,2' is not N,N,N"),
        (("--layout", "hassod", "--pixel-mean", "0,0,nan"), "is not N,N,N"),
        (("--layout", "cutler"), "give --layout hassod"),
        (("--layout", "hassod", "--out", str(tmp_path / "d.pth")), "would be a safetensors file"),
        (("--config", configs["cutler"]), "`cuts3d import-detector --layout`"),
    ):
        status, text = command(*words, *more)
        assert (status, message in text) == (2, True), text


def few_pixels_differ(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours.astype(int) - theirs.astype(int)).sum() <= 1e-4 * theirs.sum() + 2


def pasted(found: Detections, size: tuple[int, int]) -> np.ndarray:
    """Bool (M, H, W)."""
    masks = np.zeros((len(found.scores), *size), bool)
    for mask, probability, box in zip(masks, found.masks, found.boxes, strict=True):
        instance = instance_of(probability, box, 1.0, 0, size, PasteRule(0.5, (2, 2)))
        if instance is not None:
            mask[:] = coco_mask.decode({"size": list(size), "counts": instance.rle})
    return masks


def close(ours: Tensor | np.ndarray, theirs: Tensor | np.ndarray, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=tolerance, rtol=1e-6)
