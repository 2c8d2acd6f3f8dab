"""What a stage cannot do without, counted beside the same written out by hand; no times are judged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import roofline
import torch
from bench_report import STAGES
from support.tiny_method import draw_photos, tiny_method

from pipeline.images.photos import Photo, load_photo
from pipeline.images.sources import list_images
from stages.ncut import NormalisedAffinity
from stages.permutohedral import PermutohedralLattice

N, D = 64, 32  # patches and width of the tiny method's features


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Photo:
    folder = tmp_path_factory.mktemp("photos")
    draw_photos(folder, 1)
    return load_photo(list_images(str(folder)).refs[0])


def test_a_floor_is_of_what_takes_longer() -> None:
    limits = roofline.Ceilings(operations=100.0, bytes=10.0)
    assert roofline.Work(50, 1).floor(limits) == 0.5
    assert roofline.Work(50, 20).floor(limits) == 2.0


def test_work_of_networks_and_affinity(photo: Photo) -> None:
    method = tiny_method("maskcut")
    work = roofline.work_of(method, photo)
    tokens = N + 1
    of_block = 2 * tokens * D * (3 * D + D + 8 * D) + 4 * tokens**2 * D  # products with weights, and attention
    assert work["features"].operations == 2 * N * 3 * 8 * 8 * D + 2 * of_block
    weights = sum(parameter.numel() for parameter in method.features.network.parameters())
    assert work["features"].bytes == 4 * (weights + 3 * 64 * 64 + N * D)
    assert work["affinity"].operations == N * N * D
    assert work["affinity"].bytes == 4 * N * D + N * N  # one byte for each pair


def test_the_graph_is_read_once_a_product() -> None:
    edges_BNN, all_there = torch.ones(2, 40, 40), torch.ones(2, 40, dtype=torch.bool)
    operator = NormalisedAffinity(edges_BNN, all_there, 1e-5)
    meter = roofline.Meter()
    with meter.running():
        operator(torch.ones(2, 40))
        operator.product_of(1)(np.ones(40, np.float32))
    assert (meter.work[""].operations, meter.work[""].bytes) == (3 * 2 * 40 * 40, 3 * 4 * 40 * 40)


def test_stages_are_those_that_ran_and_results_are_the_same(photo: Photo) -> None:
    method = tiny_method("cuts3d", ["refine.crf=on"])
    before = roofline.BatchWork(method, [photo], [0], {}, roofline.defaultdict(float)).outputs(None)
    meter = roofline.Meter()
    with meter.running():
        during = roofline.BatchWork(method, [photo], [0], {}, roofline.defaultdict(float)).outputs(None)
    assert repr(before) == repr(during)
    work = roofline.work_of(method, photo)
    assert work == {stage: meter.work[stage] for stage in work}
    assert set(STAGES) <= work.keys()
    assert all(work[stage].bytes > 0 for stage in ("affinity", "ncut", "localcut", "refine", "encode"))


def test_a_filtering_reads_the_lattice_and_writes_what_comes_out() -> None:
    features_1Pd = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0)) * 3
    lattice, values = PermutohedralLattice.build(features_1Pd), torch.ones(1, 50, 4)
    meter = roofline.Meter()
    with meter.running():
        lattice.filter(values)
    entries = sum(rows.weights.numel() for rows in (lattice.splat, *lattice.blurs, lattice.slice))
    assert meter.work[""].operations == 2 * entries * 4
    between = 2 * 3 * lattice.n_vertices * 4 * 4  # each of three blurs reads and writes four channels
    assert meter.work[""].bytes == 2 * 50 * 4 * 4 + between + 8 * entries


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_of_an_onnx_network(transposed: bool) -> None:
    """Each weight meets each place, of what comes out of a convolution or goes into a transposed one."""
    shape = (3, 5, 4, 4) if transposed else (5, 3, 4, 4)
    weights = onnx.numpy_helper.from_array(np.zeros(shape, np.float32), "w")
    node = onnx.helper.make_node("ConvTranspose" if transposed else "Conv", ["x", "w"], ["y"], strides=[2, 2])
    taken, given = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, None, None])
        for name, channels in (("x", 3), ("y", 5))
    )
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [taken], [given], [weights]))
    session: Any = SimpleNamespace(
        _model_bytes=model.SerializeToString(), get_inputs=lambda: [SimpleNamespace(name="x")]
    )
    places = 10 * 12 if transposed else 4 * 5
    work = roofline.onnx_work(session, (10, 12))
    assert (work.operations, work.bytes) == (2 * places * 3 * 5 * 16, 4 * 3 * 5 * 16)


def test_rows_and_table(photo: Photo, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = roofline.report(tiny_method("cuts3d"), [photo], 1)
    said = capsys.readouterr().out
    for row in rows:
        assert float(row["took_s"]) >= 0
        assert row["stage"] in said
    assert {row["stage"] for row in rows} >= set(STAGES)
