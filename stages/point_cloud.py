"""The depth map as a point cloud: orthographic unprojection of the patch grid.

N = Gh·Gw patches · Gh, Gw patch grid
"""

from typing import Any

import numpy as np


def orthographic_points(depth_GhGw: np.ndarray) -> np.ndarray:
    """Unproject relative depth orthographically: (Gh, Gw) float in 0..1 -> points_N3 float64 (x, y, z).

    x runs over the columns and y over the rows, each 0..1; z is the depth. Row i of the result is the patch of flat
    index i.
    Source: CutS3D section on LocalCut; orthographic, not pinhole.
    """
    gh, gw = depth_GhGw.shape
    y, x = np.meshgrid(np.linspace(0.0, 1.0, gh), np.linspace(0.0, 1.0, gw), indexing="ij")
    return np.stack([x.ravel(), y.ravel(), depth_GhGw.ravel().astype(np.float64)], axis=1)


def to_open3d(points_N3: np.ndarray, colours_N3: np.ndarray) -> Any:
    """An `open3d.geometry.PointCloud` for viewing and export: points (N, 3) float, colours (N, 3) float in 0..1.

    The axes are turned to open3d's: y up, the viewer on the positive z side.
    """
    import open3d as o3d  # heavy (a second), and only viewing needs it

    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points_N3 * [1.0, -1.0, -1.0]))
    cloud.colors = o3d.utility.Vector3dVector(colours_N3)
    return cloud
