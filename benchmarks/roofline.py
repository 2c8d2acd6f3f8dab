"""The floor of each stage of a recipe: operations and bytes that it cannot do without, by two measured ceilings.

    python benchmarks/roofline.py --images PHOTOS --count 4 --threads 2

Ceilings are measured on the same cores, in the same process: float32 operations per second of a large matrix product,
bytes per second of copying 16 MB, which is about what a graph of 60×60 patches takes, so that caches help both alike.
A stage's floor is the longer of operations ÷ the one and bytes ÷ the other. What counts:

    depth       multiplications and additions of convolutions and matrix products in the ONNX file; its weights, once
    features    those of the network as torch counts them; its weights, photo and features, once. That softmax and GELU
                take exponentials, 12 · 6 · 3601² of them in a ViT-S/14 at 840, is no operation here
    affinity    products of half of all pairs of patches; features once, what is kept of the pairs once
    ncut        the stored graph, once a product of the iteration, and two operations an entry
    localcut    the graph of each search for components or of a tree, once; products of the cuts after the first
    refine      each filtering of the CRF: weights and indices of the lattice once, values in, between and out once
    encode      each mask, once

What is no arithmetic over arrays (sorting, looking up, k-NN, Python) has no floor and shows as distance from it: no
stage reaches 1. `make bench` prints the same line below its table.
"""

import argparse
import csv
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from bench_report import NETWORKS, STAGES, circumstances
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from pipeline.errors import CutsError
from pipeline.images.photos import Photo, load_photo
from pipeline.methods.cuts.method import BatchWork, CutsMethod
from pipeline.methods.registry import load_method
from pipeline.methods.shared.batch_inputs import BatchInputs
from pipeline.runs.launch import Launch
from pipeline.storage.atomic import written_whole
from stages import affinity
from stages.features import FeatureExtractor
from stages.ncut import NormalisedAffinity
from stages.permutohedral import PermutohedralLattice

RESULTS = Path(__file__).parent / "results" / "roofline.csv"
SIDE = 2048  # of the matrices whose product is timed
COPIED = 16 << 20  # bytes
ATTENTION = {  # which torch counts on GPUs alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, out_shape=None, **__: (
        sdpa_flop_count(q, k, v)
    )
}
TURNS = 12  # of which the fastest counts: a ceiling is what the cores can do


@dataclass(frozen=True)
class Ceilings:
    """operations, bytes: per second at most, on the cores of this process; a copied byte is read and written: two."""

    operations: float
    bytes: float


@dataclass
class Work:
    """What a stage cannot do without."""

    operations: float = 0.0
    bytes: float = 0.0

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds."""
        return max(self.operations / ceilings.operations, self.bytes / ceilings.bytes)


def ceilings() -> Ceilings:
    """Measured on as many threads as torch has."""
    a, b, c = (torch.rand(SIDE, SIDE) for _ in range(3))
    source, target = (torch.zeros(COPIED, dtype=torch.uint8) for _ in range(2))
    products = _fastest(lambda: torch.mm(a, b, out=c))
    copies = _fastest(lambda: target.copy_(source))
    return Ceilings(2 * SIDE**3 / products, 2 * COPIED / copies)


def _fastest(do: Callable[[], Any]) -> float:
    took = []
    for _ in range(TURNS):
        start = time.perf_counter()
        do()
        took.append(time.perf_counter() - start)
    return min(took)


class Meter:
    """Counts the work of the stages while they run. work: by stage."""

    def __init__(self) -> None:
        self.work: defaultdict[str, Work] = defaultdict(Work)
        self._stage = ""

    def add(self, operations: float = 0, bytes_: float = 0) -> None:
        own = self.work[self._stage]
        own.operations += operations
        own.bytes += bytes_

    @contextmanager
    def running(self) -> Iterator[None]:
        """What runs in the block is counted; it takes longer than it would, and gives the same."""
        import pycocotools.mask
        import scipy.sparse.csgraph as graphs

        meter = self
        clock, of_pairs, features = BatchInputs._clock, affinity._of_pairs, FeatureExtractor._features

        @contextmanager
        def clocked(inputs: BatchInputs, stage: str) -> Iterator[None]:
            before, meter._stage = meter._stage, stage
            with clock(inputs, stage):
                yield
            meter._stage = before

        def pairs(features_BND: torch.Tensor, *others: Any) -> torch.Tensor:
            found = of_pairs(features_BND, *others)
            b, n, d = features_BND.shape
            meter.add(b * n * n * d, _size(found) + 4 * b * n * d)
            return found

        def network(extractor: FeatureExtractor, x: torch.Tensor, kinds: Any) -> Any:
            with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
                found = features(extractor, x, kinds)
            weights = sum(map(_size, extractor.network.parameters()))
            meter.add(counter.get_total_flops(), weights + _size(x) + sum(map(_size, found.values())))
            return found

        def before(function: Callable[..., Any], count: Callable[..., None]) -> Callable[..., Any]:
            def counted(*arguments: Any, **options: Any) -> Any:
                count(*arguments)
                return function(*arguments, **options)

            return counted

        def product(operator: NormalisedAffinity, image: int, _: Any) -> None:
            edges_NN = operator.edges_BNN[image]
            meter.add(2 * edges_NN.numel(), _size(edges_NN))

        def filtering(lattice: PermutohedralLattice, values_BPC: torch.Tensor) -> None:
            between = 4 * lattice.n_vertices * values_BPC.shape[2] * 2 * len(lattice.blurs)
            meter.add(0, 2 * _size(values_BPC) + between)
            for rows in (lattice.splat, *lattice.blurs, lattice.slice):
                meter.add(2 * rows.weights.numel() * values_BPC.shape[2], _size(rows.columns) + _size(rows.weights))

        def graph(matrix: Any, *_: Any) -> None:
            meter.add(0, matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)

        with ExitStack() as stack:
            for where, name, what in (
                (BatchInputs, "_clock", clocked),
                (affinity, "_of_pairs", pairs),
                (FeatureExtractor, "_features", network),
                (NormalisedAffinity, "_product_of", before(NormalisedAffinity._product_of, product)),
                (PermutohedralLattice, "filter", before(PermutohedralLattice.filter, filtering)),
                (graphs, "connected_components", before(graphs.connected_components, graph)),
                (graphs, "minimum_spanning_tree", before(graphs.minimum_spanning_tree, graph)),
                (pycocotools.mask, "encode", before(pycocotools.mask.encode, lambda mask: meter.add(0, mask.nbytes))),
            ):
                stack.enter_context(mock.patch.object(where, name, what))
            yield


def onnx_work(session: Any, size: tuple[int, int]) -> Work:
    """Of an ONNX network on one photo, (h, w): convolutions and matrix products; weights once."""
    import onnx

    model = onnx.load_from_string(session._model_bytes or Path(session._model_path).read_bytes())
    taken = next(value for value in model.graph.input if value.name == session.get_inputs()[0].name)
    for dimension, length in zip(taken.type.tensor_type.shape.dim, (1, 3, *size), strict=True):
        dimension.dim_value = length
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    work = Work(0, sum(float(len(tensor.raw_data)) for tensor in graph.initializer))
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            # each weight meets every place: of what comes out, or, of a transposed one, of what goes in
            places = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]]
            work.operations += 2 * float(np.prod(shapes[node.input[1]])) * places[0] * float(np.prod(places[2:]))
        elif node.op_type in ("MatMul", "Gemm"):
            work.operations += 2 * float(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][-1]
    return work


def work_of(method: CutsMethod, photo: Photo) -> dict[str, Work]:
    """Work of a recipe on a photo, by stage: the networks' as well."""
    meter = Meter()
    with meter.running():
        seconds = _stages(method, photo)
    session, spec = getattr(method.depth, "_session", None), getattr(method.depth, "_spec", None)
    if session is not None and spec is not None:
        meter.work["depth"] = onnx_work(session, spec.input_size(*photo.rgb.shape[:2]))
    return {stage: meter.work[stage] for stage in (*NETWORKS, *STAGES) if stage in seconds}


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def mean_floors(method: CutsMethod, photos: Sequence[Photo], limits: Ceilings) -> dict[str, float]:
    """Seconds by stage, mean over photos."""
    of_photos = [work_of(method, photo) for photo in photos]
    return {stage: float(np.mean([work[stage].floor(limits) for work in of_photos])) for stage in of_photos[0]}


def fastest(method: CutsMethod, photo: Photo) -> dict[str, float]:
    """Seconds by stage of the fastest of three turns, stage by stage."""
    turns = [_stages(method, photo) for _ in range(3)]
    return {stage: min(seconds[stage] for seconds in turns) for stage in turns[0]}


def _stages(method: CutsMethod, photo: Photo) -> dict[str, float]:
    seconds: defaultdict[str, float] = defaultdict(float)
    with torch.inference_mode():
        BatchWork(method, [photo], [0], {}, seconds).outputs(None)
    return seconds


def main() -> None:
    import bench  # which imports this module for its own table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench.input_arguments(parser, count=4)
    parser.add_argument("--recipe", default="cuts3d", help="[cuts3d]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="CSV")
    arguments = parser.parse_args()
    try:
        threads = bench.keep_to(arguments.threads)
        torch.set_num_threads(threads)
        settings = {"features": arguments.features, "depth": arguments.depth}
        method = load_method(Launch(recipe=arguments.recipe, settings=settings), "cpu")
        with tempfile.TemporaryDirectory() as folder:
            photos = [load_photo(ref) for ref in bench.photos_of(arguments.images, arguments.count, Path(folder))]
    except CutsError as error:
        sys.exit(f"roofline: {error}")
    cores = bench.Cores()
    rows = report(method, photos, threads)
    rows = [row | {"others": f"{cores.taken_by_others():.2f}"} for row in rows]
    with written_whole(arguments.out) as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def report(method: CutsMethod, photos: Sequence[Photo], threads: int) -> list[dict[str, Any]]:
    """Measure, print a line a stage, and give the same as rows."""
    limits = ceilings()
    print(f"ceilings on {threads} threads: {limits.operations / 1e9:.0f} Gop/s, {limits.bytes / 1e9:.1f} GB/s")
    of_photos = [(work_of(method, photo), fastest(method, photo)) for photo in photos]
    about = circumstances(threads)
    rows = []
    print(f"{'stage':<12}{'Gop':>9}{'MB':>9}{'floor, s':>10}{'took, s':>10}{'times':>8}")
    for stage in of_photos[0][0]:
        work = Work(*(float(np.mean([getattr(w[stage], n) for w, _ in of_photos])) for n in ("operations", "bytes")))
        floor, took = work.floor(limits), float(np.mean([seconds[stage] for _, seconds in of_photos]))
        print(
            f"{stage:<12}{work.operations / 1e9:>9.2f}{work.bytes / 1e6:>9.1f}"
            f"{floor:>10.4f}{took:>10.4f}{took / floor if floor else float('nan'):>8.1f}"
        )
        rows.append(
            {"stage": stage, "gop": f"{work.operations / 1e9:.3f}", "mb": f"{work.bytes / 1e6:.2f}"}
            | {"floor_s": f"{floor:.5f}", "took_s": f"{took:.5f}", "photos": len(photos), "threads": threads}
            | {"gop_s": f"{limits.operations / 1e9:.1f}", "gb_s": f"{limits.bytes / 1e9:.1f}"}
            | {"commit": about["commit"], "cpu": about["machine"]["cpu"]}
        )
    return rows


if __name__ == "__main__":
    main()
