"""The same run on Ray: workers, driver-owned queue, progress, job submission, manifests for KubeRay, Slurm and VMs."""

import os

# For workers on a cluster, whose processes Ray has started; as `pipeline.cli` does, and for its reason. It counts only
# before torch is loaded, and this is the first that a worker loads of cuts3d.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
