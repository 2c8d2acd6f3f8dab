"""The same run on Ray: workers, driver-owned queue, progress, job submission, manifests for KubeRay, Slurm and VMs."""
