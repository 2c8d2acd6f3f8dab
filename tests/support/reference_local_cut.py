"""LocalCut by brute force, as the independent reference the product code is compared with. For tiny grids (N < 1000).

Every step is its own function, so that a test can feed the product's intermediate result to the next one:
unprojection, k-NN graph, exact minimum cut, connected component. Source: LocalCut of CutS3D (arXiv 2411.16319).

Dimension letters: N = Gh·Gw patches in row-major order, K neighbours, Gh, Gw patch grid.

Where two neighbours are exactly as far as each other, which one is the K-th is nobody's promise: use generic (random)
depth, or ask `has_neighbour_ties` first. A constant background depth makes ties on the regular grid.
"""

from collections.abc import Collection, Mapping

import networkx as nx  # type: ignore[import-untyped]
import numpy as np

Edge = tuple[int, int]
"""Two patches, smaller flat index first."""


def unproject(
    depth: np.ndarray, bipartition: np.ndarray | None = None, background_depth: float | None = None
) -> np.ndarray:
    """Orthographic point cloud (N, 3) float64 of a depth map (Gh, Gw): x and y span 0..1 over the grid, z is the depth.

    With `bipartition` and `background_depth`, patches outside the bipartition take that depth.
    """
    gh, gw = depth.shape
    points = []
    for row in range(gh):
        for column in range(gw):
            z = float(depth[row, column])
            if bipartition is not None and background_depth is not None and not bipartition[row, column]:
                z = background_depth
            points.append((column / max(gw - 1, 1), row / max(gh - 1, 1), z))
    return np.array(points, dtype=np.float64)


def distances(points_N3: np.ndarray) -> np.ndarray:
    """(N, N) Euclidean distances, infinite on the diagonal: no point is its own neighbour."""
    distance_NN = np.sqrt(((points_N3[:, None, :] - points_N3[None, :, :]) ** 2).sum(axis=-1))
    np.fill_diagonal(distance_NN, np.inf)
    return distance_NN


def nearest_neighbours(points_N3: np.ndarray, k: int) -> np.ndarray:
    """(N, K) indices of the k nearest other points, nearest first, the smaller index first among equals."""
    if not 1 <= k < len(points_N3):
        raise ValueError(f"k must be in 1..{len(points_N3) - 1} for {len(points_N3)} points, is {k}")
    return np.argsort(distances(points_N3), axis=1, kind="stable")[:, :k]


def has_neighbour_ties(points_N3: np.ndarray, k: int, tolerance: float = 1e-9) -> bool:
    """Whether some point's k-th and (k+1)-th nearest are equally far, so that its k nearest are not defined."""
    if k >= len(points_N3) - 1:
        return False
    sorted_NN = np.sort(distances(points_N3), axis=1)
    return bool(np.any(sorted_NN[:, k] - sorted_NN[:, k - 1] <= tolerance))


def truncated_graph(points_N3: np.ndarray, k: int, tau_knn: float) -> dict[Edge, float]:
    """Edges {(i, j): distance}, i < j: either is among the k nearest of the other, at a distance <= tau_knn."""
    distance_NN = distances(points_N3)
    edges: dict[Edge, float] = {}
    for i, neighbours in enumerate(nearest_neighbours(points_N3, k)):
        for j in map(int, neighbours):
            if distance_NN[i, j] <= tau_knn:
                edges[min(i, j), max(i, j)] = float(distance_NN[i, j])
    return edges


def min_cut(n: int, capacities: Mapping[Edge, int], source: int, sink: int) -> tuple[int, np.ndarray]:
    """Value of the minimum cut and its smallest source side, (N,) bool, on an undirected graph of `n` nodes.

    Capacities are integers, so the flow is exact. The side is what the source reaches in the residual graph of a
    maximum flow: of all minimum cuts the one with the fewest nodes, the same for every solver.
    """
    if source == sink:
        raise ValueError(f"source and sink are the same node, {source}")
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    for (i, j), capacity in capacities.items():
        graph.add_edge(i, j, capacity=int(capacity))
        graph.add_edge(j, i, capacity=int(capacity))
    residual = nx.algorithms.flow.edmonds_karp(graph, source, sink)
    open_edges = [(i, j) for i, j, edge in residual.edges(data=True) if edge["flow"] < edge["capacity"]]
    reachable = nx.DiGraph()
    reachable.add_nodes_from(range(n))
    reachable.add_edges_from(open_edges)
    side_N = np.zeros(n, dtype=bool)
    side_N[list(nx.descendants(reachable, source) | {source})] = True
    return int(residual.graph["flow_value"]), side_N


def connected_component(n: int, edges: Collection[Edge], source: int) -> np.ndarray:
    """(N,) bool: the nodes connected with `source`, itself among them."""
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(edges)
    component_N = np.zeros(n, dtype=bool)
    component_N[list(nx.node_connected_component(graph, source))] = True
    return component_N
