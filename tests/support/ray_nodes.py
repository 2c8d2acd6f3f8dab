"""A Ray cluster of several nodes on this machine."""

import os

from support.ray_processes import WITHOUT_TOKEN, worker_pids


class Nodes:
    """A cluster of raylets on this machine: a head without a core, and what is added."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        from cluster.connection import started

        os.environ.update(WITHOUT_TOKEN)
        head = {"num_cpus": 0, "num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
        self._started = started
        self._cluster = started(lambda: Cluster(initialize_head=True, head_node_args=head))
        self._nodes: list[object] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> object:
        node = self._started(lambda: self._cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=80 << 20))
        self._nodes.append(node)
        return node

    def kill(self, node: object) -> None:
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.remove(node)

    def clear(self) -> None:
        for node in list(self._nodes):
            self.kill(node)

    def shutdown(self) -> None:
        self._cluster.shutdown()

    def workers(self) -> list[int]:
        return worker_pids(os.getpid())
