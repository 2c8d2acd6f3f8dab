"""LocalCut: a MinCut on the k-NN graph of the depth point cloud separates one instance from its semantic group.

N = Gh·Gw patches · K neighbours · E edges · Gh, Gw patch grid

Source: CutS3D, "LocalCut"; what the digests leave open is an option here. The source is the patch where the
eigenvector says "foreground" most, the sink where it says "background" most. The graph holds the edges shorter than
τ_knn only, so source and sink often lie in different components; the minimal min-cut then *is* the component of the
source, and no max-flow is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy

from stages.point_cloud import orthographic_points

# Capacities are integers, so that both solvers solve the very same problem; 2**20 steps are finer than depth is.
CAPACITY_SCALE = 1 << 20


@dataclass(frozen=True)
class LocalCutConfig:
    """k: neighbours of a point, >= 1.
    tau_knn: longest edge kept, > 0, in units of the point cloud (image side 1, depth range 1) at 60×60 patches, which
        are 1/59 apart; on other grids it is scaled with the distance of the patches, see `tau_on`.
    depth_scale: factor on z before distances are taken, > 0.
    outside: what becomes of points outside the semantic group: "push" moves them `outside_depth` farther away (CutS3D),
        "keep" leaves them where they are, "remove" takes them out before neighbours are sought, "sever" cuts their
        edges, so that one graph serves all groups of an image.
    outside_depth: how far "push" moves them, > 0.
    sink: "image" takes the eigenvector's minimum over all patches, "group" over the semantic group.
    capacity: of an edge of length d: "decreasing" τ_knn - d; "exponential" exp(-4 d / τ_knn); "unit" 1;
        "distance" d, as the digests print it, which cuts short edges first.
    solver: "pymaxflow" (Boykov-Kolmogorov; GPL) or "scipy" (Dinic; BSD). Both give the same cut.
    pieces: what is taken out of a group: "source" the one piece that holds the source (CutS3D); "all" every piece that
        the group falls into, as if LocalCut were run again on what is left of it.
    """

    k: int = 10
    tau_knn: float = 0.06
    depth_scale: float = 1.0
    outside: Literal["push", "keep", "remove", "sever"] = "push"
    outside_depth: float = 2.0
    sink: Literal["image", "group"] = "image"
    capacity: Literal["decreasing", "exponential", "unit", "distance"] = "decreasing"
    solver: Literal["pymaxflow", "scipy"] = "pymaxflow"
    pieces: Literal["source", "all"] = "source"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"local_cut.k must be at least 1, got {self.k}")
        for name in ("tau_knn", "depth_scale", "outside_depth"):
            if not getattr(self, name) > 0:
                raise ValueError(f"local_cut.{name} must be > 0, got {getattr(self, name)}")
        choices = {
            "outside": ("push", "keep", "remove", "sever"),
            "sink": ("image", "group"),
            "capacity": ("decreasing", "exponential", "unit", "distance"),
            "solver": ("pymaxflow", "scipy"),
            "pieces": ("source", "all"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"local_cut.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    def tau_on(self, grid: tuple[int, int]) -> float:
        """τ_knn on a (Gh, Gw) patch grid: in proportion to the distance of its patches."""
        return self.tau_knn * 59.0 / max(max(grid) - 1, 1)


@dataclass(frozen=True)
class KnnGraph:
    """Undirected k-NN graph: two points are joined when either is among the other's k nearest.

    n: number of points.
    edges_E2: (E, 2) int32, i < j.
    lengths_E: (E,) float64, Euclidean.
    """

    n: int
    edges_E2: np.ndarray
    lengths_E: np.ndarray

    def truncated(self, tau: float) -> KnnGraph:
        """The graph without the edges of length `tau` or more."""
        short_E = self.lengths_E < tau
        return KnnGraph(self.n, self.edges_E2[short_E], self.lengths_E[short_E])

    def within(self, groups_N: np.ndarray) -> KnnGraph:
        """The graph without the edges that lead out of a group. groups_N: the group that each node is in, (N,) int or
        bool, 0 for none.
        """
        first_E, second_E = groups_N[self.edges_E2.T]
        inside_E = (first_E == second_E) & (first_E != 0)
        return KnnGraph(self.n, self.edges_E2[inside_E], self.lengths_E[inside_E])

    def adjacency(self, weights_E: np.ndarray) -> scipy.sparse.csr_array:
        """Symmetric (n, n) sparse matrix of the edges with these weights."""
        i, j = self.edges_E2.T
        rows, columns = np.concatenate([i, j]), np.concatenate([j, i])
        return scipy.sparse.csr_array((np.concatenate([weights_E, weights_E]), (rows, columns)), shape=(self.n, self.n))


@dataclass(frozen=True)
class LocalCut:
    """mask: (Gh, Gw) bool, the instance.
    source, sink: flat patch indices.
    flow: value of the cut in the capacity's unit; 0 where source and sink lay in different components.
    """

    mask: np.ndarray
    source: int
    sink: int
    flow: float


def knn_graph(points_N3: np.ndarray, k: int) -> KnnGraph:
    """k-NN graph of (N, 3) float points by a kd-tree."""
    n = len(points_N3)
    k = min(k, n - 1)
    distances_NK, neighbours_NK = scipy.spatial.KDTree(points_N3).query(points_N3, k=k + 1)
    i = np.repeat(np.arange(n), k + 1)
    j = neighbours_NK.ravel()
    proper = i != j  # a point finds itself; of coincident points not always in first place
    low, high = np.minimum(i, j)[proper], np.maximum(i, j)[proper]
    unique, first = np.unique(low * np.int64(n) + high, return_index=True)
    edges_E2 = np.stack(np.divmod(unique, n), axis=1).astype(np.int32)
    return KnnGraph(n, edges_E2, distances_NK.ravel()[proper][first])


def image_graph(depth_GhGw: np.ndarray, config: LocalCutConfig) -> KnnGraph:
    """k-NN graph of the whole point cloud, remembered for a while. depth_GhGw: (Gh, Gw) float, relative depth 0..1."""
    return _image_graph(depth_GhGw.tobytes(), depth_GhGw.dtype, depth_GhGw.shape, config.depth_scale, config.k)


@lru_cache(maxsize=32)  # the cuts of an image and their confidences are of one graph
def _image_graph(
    depth: bytes, dtype: np.dtype[np.floating], grid: tuple[int, int], depth_scale: float, k: int
) -> KnnGraph:
    depth_GhGw = np.frombuffer(depth, dtype).reshape(grid)
    return knn_graph(orthographic_points(depth_GhGw) * [1.0, 1.0, depth_scale], k)


def group_graph(depth_GhGw: np.ndarray, group_GhGw: np.ndarray, config: LocalCutConfig) -> KnnGraph:
    """k-NN graph of the point cloud with the points outside the semantic group treated as `config.outside` says.

    depth_GhGw: float, relative depth 0..1.
    group_GhGw: bool.

    Node i is the patch of flat index i in every case; removed points have no edges.
    """
    group_N = group_GhGw.ravel()
    if config.outside == "sever":
        return image_graph(depth_GhGw, config).within(group_N)
    points_N3 = orthographic_points(depth_GhGw) * [1.0, 1.0, config.depth_scale]
    if config.outside == "remove":
        inside = np.flatnonzero(group_N)
        if len(inside) < 2:
            return KnnGraph(len(group_N), np.zeros((0, 2), np.int32), np.zeros(0))
        graph = knn_graph(points_N3[inside], config.k)
        return KnnGraph(len(group_N), inside[graph.edges_E2].astype(np.int32), graph.lengths_E)
    if config.outside == "push":
        points_N3[~group_N, 2] += config.outside_depth * config.depth_scale
    return knn_graph(points_N3, config.k)


def terminals(eigenvector_GhGw: np.ndarray, group_GhGw: np.ndarray, sink: str) -> tuple[int, int]:
    """Source and sink: the patches of largest and of smallest signed eigenvector entry (foreground positive).

    The source is sought in the group, the sink in the whole image or in the group. ValueError on an empty group.
    """
    if not group_GhGw.any():
        raise ValueError("the semantic group is empty: nothing to cut")
    group_N = group_GhGw.ravel()
    x_N = eigenvector_GhGw.ravel()
    source = int(np.where(group_N, x_N, -np.inf).argmax())
    sink_index = int((np.where(group_N, x_N, np.inf) if sink == "group" else x_N).argmin())
    return source, sink_index


def local_cut(
    depth_GhGw: np.ndarray, group_GhGw: np.ndarray, eigenvector_GhGw: np.ndarray, config: LocalCutConfig
) -> LocalCut:
    """Cut the instance that holds the source out of the semantic group.

    depth_GhGw: (Gh, Gw) float, relative depth 0..1, larger = farther.
    group_GhGw: (Gh, Gw) bool.
    eigenvector_GhGw: (Gh, Gw) float, foreground positive.

    Raises ValueError on an empty group.
    """
    graph = group_graph(depth_GhGw, group_GhGw, config)
    source, sink = terminals(eigenvector_GhGw, group_GhGw, config.sink)
    side_N, flow = cut_at(graph, config.tau_on(group_GhGw.shape), source, sink, config)
    return LocalCut(side_N.reshape(group_GhGw.shape) & group_GhGw, source, sink, flow)


def local_cut_pieces(
    depth_GhGw: np.ndarray,
    group_GhGw: np.ndarray,
    eigenvector_GhGw: np.ndarray,
    config: LocalCutConfig,
    least: int,
) -> list[LocalCut]:
    """All instances that a semantic group falls into, the one with the eigenvector's peak first.

    LocalCut on the group, then on what is left of it, on one and the same graph: the components of the truncated graph,
    of which the one that holds the sink is cut in two. Each piece's source is its patch of largest eigenvector entry.
    Pieces of at most `least` patches are specks and left out, unless there is nothing else: then the largest is
    returned, for the caller to drop by name. Other arguments as for `local_cut`.
    """
    graph = group_graph(depth_GhGw, group_GhGw, config)
    _, sink = terminals(eigenvector_GhGw, group_GhGw, config.sink)
    tau = config.tau_on(group_GhGw.shape)
    labels_N = component_labels(graph.truncated(tau))
    group_N, x_N = group_GhGw.ravel(), eigenvector_GhGw.ravel()
    sizes = np.bincount(labels_N[group_N])
    wanted = np.flatnonzero(sizes > least) if sizes.max() > least else np.array([sizes.argmax()])
    cuts = []
    for label in wanted:
        piece_N = (labels_N == label) & group_N
        source = _peak(x_N, piece_N)
        side_N, flow = cut_at(graph, tau, source, sink, config)
        cuts.append(LocalCut((piece_N & side_N).reshape(group_GhGw.shape), source, sink, flow))
        rest_N = piece_N & ~side_N
        if rest_N.sum() > least:
            cuts.append(LocalCut(rest_N.reshape(group_GhGw.shape), _peak(x_N, rest_N), sink, flow))
    return sorted(cuts, key=lambda cut: -x_N[cut.source])


def _peak(x_N: np.ndarray, among_N: np.ndarray) -> int:
    return int(np.where(among_N, x_N, -np.inf).argmax())


def component_labels(graph: KnnGraph) -> np.ndarray:
    """Which connected component each node is in: (N,) int32 from 0."""
    edges = (np.ones(len(graph.edges_E2), bool), tuple(graph.edges_E2.T))
    adjacency = scipy.sparse.csr_array(edges, shape=(graph.n, graph.n))
    return scipy.sparse.csgraph.connected_components(adjacency, directed=False)[1]


def cut_at(graph: KnnGraph, tau: float, source: int, sink: int, config: LocalCutConfig) -> tuple[np.ndarray, float]:
    """Source side of the minimal min-cut of the graph truncated at `tau`: (N,) bool, and the cut's value.

    With source = sink (a group of one patch) the side is the component.
    """
    short = graph.truncated(tau)
    labels_N = component_labels(short)
    component_N = labels_N == labels_N[source]
    if source == sink or not component_N[sink]:
        return component_N, 0.0
    capacities_E = integer_capacities(short.lengths_E, tau, config.capacity)
    solve = min_cut_pymaxflow if config.solver == "pymaxflow" else min_cut_scipy
    side_N, flow = solve(short, capacities_E, source, sink)
    return side_N, flow / CAPACITY_SCALE


def integer_capacities(lengths_E: np.ndarray, tau: float, capacity: str) -> np.ndarray:
    """Capacities of edges of these lengths (< tau), int32 >= 1, in units of 1/CAPACITY_SCALE; see `LocalCutConfig`."""
    if capacity == "decreasing":
        weights_E = (tau - lengths_E) / tau
    elif capacity == "exponential":
        weights_E = np.exp(-4.0 * lengths_E / tau)
    elif capacity == "distance":
        weights_E = lengths_E / tau
    else:
        weights_E = np.ones_like(lengths_E)
    return np.maximum(np.rint(weights_E * CAPACITY_SCALE), 1).astype(np.int32)


def min_cut_pymaxflow(graph: KnnGraph, capacities_E: np.ndarray, source: int, sink: int) -> tuple[np.ndarray, int]:
    """Minimal source side, (N,) bool, and value of the min-cut, by PyMaxflow's Boykov-Kolmogorov.

    Raises ModuleNotFoundError, with the way out, where PyMaxflow is not installed.
    """
    try:
        import maxflow  # here, so that environments that must be free of the GPL can do without it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "PyMaxflow is not installed: pip install PyMaxflow, or use local_cut.solver=scipy"
        ) from error
    i, j = graph.edges_E2.T.astype(np.int64)
    flow_graph = maxflow.GraphInt(graph.n, len(capacities_E))
    flow_graph.add_nodes(graph.n)
    flow_graph.add_edges(i, j, capacities_E, capacities_E)
    # Nodes that neither terminal reaches in the residual graph are reported on PyMaxflow's source side. With the
    # terminals exchanged (the graph is undirected) they fall to our sink: what is left is the minimal source side, the
    # same whichever maximum flow was found.
    # more than all edges of the source together can carry: the terminals' own edges are never the bottleneck
    unbounded = int(capacities_E[(i == source) | (j == source)].sum(dtype=np.int64)) + 1
    flow_graph.add_tedge(sink, unbounded, 0)
    flow_graph.add_tedge(source, 0, unbounded)
    flow = flow_graph.maxflow()
    return flow_graph.get_grid_segments(np.arange(graph.n)).astype(bool), int(flow)


def min_cut_scipy(graph: KnnGraph, capacities_E: np.ndarray, source: int, sink: int) -> tuple[np.ndarray, int]:
    """The same by scipy's Dinic and a search of its residual graph from the source."""
    capacities = graph.adjacency(capacities_E).astype(np.int32)
    result = scipy.sparse.csgraph.maximum_flow(scipy.sparse.csr_matrix(capacities), source, sink)
    residual = scipy.sparse.csr_matrix(capacities - result.flow)
    residual.eliminate_zeros()
    reached = scipy.sparse.csgraph.breadth_first_order(residual, source, return_predecessors=False)
    side_N = np.zeros(graph.n, dtype=bool)
    side_N[reached] = True
    return side_N, int(result.flow_value)
