"""mmcv's operators, whether compiled or stood in for, against what the compiled ones of mmcv 2.1.0 gave; and how the
stand-in takes its place.

Nothing here imports anything of cuts3d before mmcv.ops: programs of other people do not either.
"""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import mmcv.ops
import numpy as np
import pytest
import torch
from support import ROOT
from support.operator_cases import CASES, RECORDED, boxes_and_scores, features_and_regions

from detector import operators
from detector.operators import kernels
from detector.operators.__main__ import FILE, put_beside_mmcv
from pipeline.errors import ConfigError

RECORDS = np.load(RECORDED)
# Sums may be taken in another order on other machines. Where they were recorded both are equal to the last bit.
TOLERANCE = {"torch.float64": 1e-12, "torch.float32": 1e-6, "torch.float16": 2e-3}
# The compiled operator takes single precision only; double is refused in no place that MMDetection would come to.
MORE_THAN_COMPILED = {"nms float64", "batched_nms float64"}

stood_in = pytest.mark.skipif(operators.compiled(), reason="mmcv is compiled here")


def recorded(name: str) -> dict[str, np.ndarray]:
    parts = ("kept", "indices", "pooled", "gradient", "dtype", "refused")
    return {part: RECORDS[f"{name}/{part}"] for part in parts if f"{name}/{part}" in RECORDS.files}


def test_all_cases_are_recorded() -> None:
    assert {name.rpartition("/")[0] for name in RECORDS.files} == CASES.keys()


@pytest.mark.filterwarnings("ignore:.iou_thr. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", [name for name in CASES if name not in MORE_THAN_COMPILED])
def test_like_the_compiled_operators(name: str) -> None:
    outcome, compiled = CASES[name].outcome(), recorded(name)
    assert outcome.keys() == compiled.keys(), (outcome, compiled)
    for part, array in compiled.items():
        assert (outcome[part].dtype, outcome[part].shape) == (array.dtype, array.shape), part
        if part in ("pooled", "gradient"):
            largest = np.abs(array).max(initial=1)
            np.testing.assert_allclose(outcome[part], array, rtol=0, atol=TOLERANCE[str(compiled["dtype"])] * largest)
        else:
            np.testing.assert_array_equal(outcome[part], array)


@stood_in
@pytest.mark.parametrize("name", sorted(MORE_THAN_COMPILED))
def test_double_precision_gives_the_same_boxes(name: str) -> None:
    assert recorded(name)["refused"] == "RuntimeError"
    np.testing.assert_array_equal(
        CASES[name].outcome()["indices"], recorded(name.replace("float64", "random"))["indices"]
    )


@stood_in
@pytest.mark.parametrize("threshold", [0.3, 0.5, 1.0])
def test_of_equal_scores_the_earlier_box_comes_first(threshold: float) -> None:
    boxes, scores = boxes_and_scores("ties")
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        x1, y1 = np.maximum(boxes[kept, :2], boxes[i, :2]).T
        x2, y2 = np.minimum(boxes[kept, 2:], boxes[i, 2:]).T
        overlap = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        union = areas[kept] + areas[i] - overlap
        if not (overlap > np.float32(threshold) * union).any():
            kept.append(int(i))
    assert mmcv.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)[1].tolist() == kept


@stood_in
def test_features_may_have_any_strides() -> None:
    """The compiled operator reads them as if they had the usual ones."""
    features, regions = map(torch.from_numpy, features_and_regions("random"))
    strided = features.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not strided.is_contiguous()
    plain, ours = (mmcv.ops.roi_align(x, regions, 7, 0.0625, 0, "avg", True) for x in (features, strided))
    torch.testing.assert_close(ours, plain, rtol=0, atol=0)


def test_gradients_are_those_of_finite_differences() -> None:
    features, regions = (torch.from_numpy(array).double() for array in features_and_regions("random"))
    features = features[:, :1, :6, :8].contiguous().requires_grad_()
    layer = mmcv.ops.RoIAlign((2, 3), 0.02)
    assert torch.autograd.gradcheck(lambda x: layer(x, regions[:3]), features)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gpu_gives_the_same(dtype: torch.dtype) -> None:
    features, regions = (torch.from_numpy(array).to(dtype) for array in features_and_regions("random"))
    pooled = [mmcv.ops.roi_align(features.to(d), regions.to(d), 7, 0.0625, 0, "avg", True) for d in ("cpu", "cuda")]
    torch.testing.assert_close(pooled[1].cpu(), pooled[0])
    boxes, scores = map(torch.from_numpy, boxes_and_scores("random"))
    kept = [mmcv.ops.nms(boxes.to(d), scores.to(d), 0.5)[1].tolist() for d in ("cpu", "cuda")]
    assert kept[0] == kept[1]


# --- what there is none of -------------------------------------------------------------------------------------------


@stood_in
def test_every_other_operator_says_how_to_get_it() -> None:
    remedy = r"needs the compiled mmcv.*`make install-mmcv`.*install_mmcv.sh"
    features = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ConfigError, match=f"deform_conv_forward {remedy}"):
        mmcv.ops.deform_conv2d(features, torch.zeros(1, 18, 6, 6), torch.zeros(4, 3, 3, 3))
    with pytest.raises(ConfigError, match=f"softnms {remedy}"):
        mmcv.ops.soft_nms(torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(ConfigError, match=f"pool_mode='max' {remedy}"):
        mmcv.ops.roi_align(features, torch.zeros(1, 5), 2, 1.0, 0, "max", True)


@stood_in
def test_registered_layers_are_built_and_say_so_when_they_are_used() -> None:
    from mmcv.cnn import build_conv_layer

    layer = build_conv_layer({"type": "DCNv2"}, 3, 4, 3)
    assert isinstance(layer, mmcv.ops.ModulatedDeformConv2d)
    with pytest.raises(ConfigError, match="modulated_deform_conv_forward needs the compiled mmcv"):
        layer(torch.zeros(1, 3, 8, 8))


def test_operators_written_in_python_are_there() -> None:
    attention = mmcv.ops.MultiScaleDeformableAttention(embed_dims=8, num_heads=2, num_levels=1)
    query = torch.rand(5, 1, 8)
    found = attention(
        query,
        value=torch.rand(12, 1, 8),
        reference_points=torch.rand(1, 5, 1, 2),
        spatial_shapes=torch.tensor([[3, 4]]),
        level_start_index=torch.tensor([0]),
    )
    assert found.shape == query.shape


def test_all_models_of_mmdetection_can_be_imported() -> None:
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules()
    assert MODELS.get("CascadeRCNN") is not None
    assert MODELS.get("FPN_CARAFE") is not None  # which needs operators that there may be none of
    head = {"type": "FCNMaskHead", "num_convs": 1, "in_channels": 8, "conv_out_channels": 8, "num_classes": 1}
    assert MODELS.build(head)(torch.zeros(2, 8, 14, 14)).shape == (2, 1, 28, 28)


def test_the_environment_can_be_reported() -> None:
    from mmdet.utils import collect_env

    assert collect_env()["MMDetection"].startswith("3.3.0")
    assert isinstance(mmcv.ops.get_compiler_version(), str)
    assert isinstance(mmcv.ops.get_compiling_cuda_version(), str)


# --- how it takes its place ------------------------------------------------------------------------------------------


def fake_mmcv(folder: Path, name: str, extension: str = "") -> Path:
    """An installed distribution whose package holds `extension`. Returns where packages are."""
    information = folder / f"{name.replace('-', '_')}-2.1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "mmcv").mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1.0\n")
    files = ["mmcv/__init__.py", f"{information.name}/METADATA", f"{information.name}/RECORD"]
    if extension:
        files.append(f"mmcv/{extension}")
    (information / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file in (files[0], *files[3:]):
        (folder / file).touch()
    return folder


def beside(folder: Path) -> subprocess.CompletedProcess[str]:
    """python -m detector.operators, with the distribution in `folder` alone."""
    code = (
        f"import runpy, sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n"
        "from importlib import metadata; found = metadata.distribution\n"
        "def distribution(name):\n"
        "    there = found(name)\n"
        f"    if str(there.locate_file('')).startswith({str(folder)!r}): return there\n"
        "    raise metadata.PackageNotFoundError(name)\n"
        "metadata.distribution = distribution\n"
        "runpy.run_module('detector.operators', run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_file_beside_mmcv_lite_goes_with_it(tmp_path: Path) -> None:
    folder = fake_mmcv(tmp_path / "site", "mmcv-lite")
    for _ in range(2):
        done = beside(folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("mmcv-lite: ")
    assert "detector.operators import kernels" in (folder / FILE).read_text()
    (lite,) = metadata.distributions(path=[str(folder)])
    assert [str(file) for file in lite.files or []].count(FILE) == 1


def test_a_compiled_mmcv_is_left_alone(tmp_path: Path) -> None:
    folder = fake_mmcv(tmp_path / "site", "mmcv", "_ext.abi3.so")
    done = beside(folder)
    assert (done.returncode, done.stdout) == (0, "mmcv is compiled: its own operators are used\n"), done.stderr
    assert not (folder / FILE).exists()


def test_without_any_mmcv_it_says_what_to_install(tmp_path: Path) -> None:
    done = beside(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "mmcv-lite is not installed: `make install-detector`" in done.stderr


@stood_in
@pytest.mark.slow
def test_an_environment_without_the_file(tmp_path: Path) -> None:
    """Such as one that pip alone has filled: importing the detector is enough."""
    assert metadata.distribution("mmcv-lite").version == "2.1.0"
    code = (
        "import importlib.machinery, sys\n"
        "find = importlib.machinery.FileFinder.find_spec\n"
        "hidden = lambda self, name, *rest: None if name == 'mmcv._ext' else find(self, name, *rest)\n"
        "importlib.machinery.FileFinder.find_spec = hidden\n"
        "try: import mmcv.ops\n"
        "except ModuleNotFoundError as error: print(error)\n"
        "else: raise SystemExit('the file is found after all')\n"
        "import detector.operators as operators, mmcv.ops\n"
        "operators.stand_in()\n"
        "assert sum(type(finder).__name__ == '_LastFinder' for finder in sys.meta_path) == 1\n"
        "assert not operators.compiled()\n"
        "import torch; print(mmcv.ops.nms(torch.tensor([[0., 0, 1, 1]]), torch.ones(1), 0.5)[1].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["No module named 'mmcv._ext'", "[0]"], done.stderr


@stood_in
def test_it_can_be_put_where_it_is() -> None:
    assert put_beside_mmcv().startswith("mmcv-lite: ")
    assert sys.modules["mmcv._ext"].nms.__code__ == kernels.nms.__code__


def test_starting_up_imports_neither_torch_nor_mmcv() -> None:
    code = "import sys, detector; assert not {'torch', 'mmcv', 'mmdet', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
