"""One image laid open in a folder: panel, point clouds, the interactive page."""

import logging
from pathlib import Path

from pipeline.images.photos import load_photo
from pipeline.methods.cuts.load import load_cuts
from pipeline.runs.launch import Launch
from pipeline.storage.outputs import writing
from pipeline.views.inspect.checks import checked_image
from pipeline.views.inspect.inspection import Inspection, inspect_image
from pipeline.views.inspect.page import page_html
from pipeline.views.inspect.panel import draw_panel
from stages.point_cloud import to_open3d

logger = logging.getLogger(__name__)


def inspect(image: str, out: str | Path, launch: Launch | None = None, device: str = "auto") -> list[Path]:
    """Lay one image open in a folder: panel.png always; cloud.ply and instances.ply for recipes that look at depth;
    cloud.html, the interactive page, for those with LocalCut. Returns the files.

    image: path or URL of one image.
    launch: recipe, models and overrides; its images and shard size do not matter.

    Raises ConfigError when it is not one image, ImageError when it cannot be used, StoreError when `out` cannot be
    written, and what `load_cuts` raises.
    """
    launch = launch or Launch()
    photo = load_photo(checked_image(image, out, launch, device))
    inspection = inspect_image(photo, load_cuts(launch, device))
    if inspection.record.depth_filled:
        logger.warning("%.1f %% of the depth map was not measured and is filled", 100 * inspection.record.depth_filled)
    if inspection.record.has_flat_depth:
        logger.warning("depth is the same everywhere: nothing is separated by it")
    folder = Path(out)
    files = [folder / "panel.png"]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draw_panel(inspection).save(files[0])
        if inspection.depth is not None:
            files += write_clouds(inspection, folder)
        if inspection.recipe.local_cut is not None:
            files.append(folder / "cloud.html")
            files[-1].write_text(page_html(inspection), encoding="utf-8")
    return files


def write_clouds(inspection: Inspection, folder: Path) -> list[Path]:
    """The point cloud as PLY files: cloud.ply in the colours of the photo, instances.ply in those of the instances.

    OSError when a file cannot be written, ValueError for recipes that do not look at depth.
    """
    import open3d as o3d  # heavy (a second)

    files = []
    for name, colours_N3 in (("cloud.ply", inspection.photo_N3), ("instances.ply", inspection.instances_N3)):
        files.append(folder / name)
        # open3d reports a failed write as a warning and False
        if not o3d.io.write_point_cloud(str(files[-1]), to_open3d(inspection.points_N3, colours_N3 / 255)):
            raise OSError(f"{files[-1]} cannot be written: is the folder writable and the disk not full?")
    return files
