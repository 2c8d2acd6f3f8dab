"""A Ray cluster of several nodes on this machine, whose workers start quickly."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar
from unittest import mock

from support.ray_processes import WITHOUT_TOKEN, worker_pids
from support.warm_workers import WORKER, warm_workers

T = TypeVar("T")


class Nodes:
    """A cluster of raylets on this machine: a head without a core, and what is added. Of what only looks on (dashboard,
    monitors, agents) there is as little as Ray allows.
    """

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(WITHOUT_TOKEN)
        head = _node(0) | {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
        with ExitStack() as stack:
            stack.enter_context(warm_workers())
            self._cluster = _started(lambda: Cluster(initialize_head=True, head_node_args=head))
            stack.callback(self._cluster.shutdown)
            self._end = stack.pop_all()
        self._nodes: list[object] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, cpus: int = 1) -> object:
        """Workers on it have the environment that this process has now."""
        node = _started(lambda: self._cluster.add_node(**_node(cpus)))
        self._nodes.append(node)
        return node

    def kill(self, node: object) -> None:
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.remove(node)

    def clear(self) -> None:
        for node in list(self._nodes):
            self.kill(node)

    def shutdown(self) -> None:
        self._end.close()

    def workers(self) -> list[int]:
        return worker_pids(os.getpid())


def _started(start: Callable[[], T]) -> T:
    from cluster.connection import started

    # Agents that believe that what the dashboard needs is not installed load the few modules that a node needs.
    lacking = ImportError("left off in tests")
    with mock.patch("ray._private.utils.get_dashboard_dependency_error", return_value=lacking):
        return started(start)


def _node(cpus: int) -> dict[str, object]:
    return {"num_cpus": cpus, "num_gpus": 0, "object_store_memory": 80 << 20, "worker_path": WORKER}
