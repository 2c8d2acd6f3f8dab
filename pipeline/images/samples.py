"""Sample photos that published packages ship, for the demo: no download of our own, no photos in the repository."""

import importlib.resources
import shutil
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.storage.outputs import writing

# package, folder within it, file
PHOTOS = (
    ("skimage", "data", "astronaut.png"),
    ("skimage", "data", "chelsea.png"),
    ("skimage", "data", "coffee.png"),
    ("skimage", "data", "motorcycle_left.png"),
    ("skimage", "data", "rocket.jpg"),
    ("skimage", "data", "camera.png"),
    ("sklearn", "datasets/images", "china.jpg"),
    ("sklearn", "datasets/images", "flower.jpg"),
)


def copy_samples(folder: str | Path) -> list[Path]:
    """Copy the sample photos into a folder; returns the files. SourceError when the packages are not installed."""
    target = Path(folder)
    copied = []
    for package, inner, name in PHOTOS:
        try:
            source = importlib.resources.files(package).joinpath(inner, name)
        except ModuleNotFoundError as error:
            raise SourceError(
                "the sample photos come with scikit-image and scikit-learn: pip install 'cuts3d[demo]'"
            ) from error
        with importlib.resources.as_file(source) as path, writing(target):
            target.mkdir(parents=True, exist_ok=True)
            copied.append(Path(shutil.copyfile(path, target / name)))
    return copied
