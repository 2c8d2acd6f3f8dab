"""cuts3d from Python: masks and labels of images in memory, finished runs, COCO files.

    import cuts3d

    model = cuts3d.load(overrides={"features.size": 420})
    image = model.predict("photo.jpg")
    print(image.scores, image.masks.shape)

`load` and `open_run` are for instance masks, `load_labels` and `open_labels` for semantic labels, `load_panoptic` and
`open_panoptic` for panoptic ones. Errors are those of `pipeline.errors`, here by the same names. Importing this module
is quick: torch is loaded when a method is.
"""

from cuts3d.labels import ImageLabels, LabelModel, LabelRun, load_labels, open_labels
from cuts3d.masks import ImageMasks, Model, Run, from_coco, load, open_run
from cuts3d.panoptic import ImagePanoptic, PanopticModel, PanopticRun, load_panoptic, open_panoptic
from pipeline.errors import (
    ConfigError,
    CutsError,
    ExtensionError,
    ImageError,
    RunMismatchError,
    SourceError,
    StoreError,
    WeightsError,
)

__all__ = [
    "ConfigError",
    "CutsError",
    "ExtensionError",
    "ImageError",
    "ImageLabels",
    "ImageMasks",
    "ImagePanoptic",
    "LabelModel",
    "LabelRun",
    "Model",
    "PanopticModel",
    "PanopticRun",
    "Run",
    "RunMismatchError",
    "SourceError",
    "StoreError",
    "WeightsError",
    "from_coco",
    "load",
    "load_labels",
    "load_panoptic",
    "open_labels",
    "open_panoptic",
    "open_run",
]
