"""What a batch of panoptic samples goes through on the device, in training: another resolution, and colours.

B images · H, W pixels
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData, PixelData
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as colours

from detector.data.options import options_of
from detector.data.panoptic_loading import random_window
from detector.data.paste import boxes
from pipeline.errors import ConfigError

# CUPS' eleven for streets of 1024x2048 (long side, short side), of which 640x1280 is the size that labels are made at.
SCALES = tuple((2 * short, short) for short in range(384, 705, 32))


@dataclass(frozen=True)
class Photometric:
    """Random blur and colours, drawn for each image; the defaults are CUPS'.

    blur: standard deviation of the Gaussian, least and most, in pixels; its kernel has `kernel` pixels.
    brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x. hue: shifts from -x to x, 1 is the circle.
    prob: of these four, in random order.
    grey: probability of no colour at all.

    Raises ConfigError for values out of range.
    """

    blur: tuple[float, float] = (0.1, 2.0)
    kernel: int = 7
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    prob: float = 0.5
    grey: float = 0.2

    def __post_init__(self) -> None:
        self._check("blur", 0 < self.blur[0] <= self.blur[1], "two rising numbers above 0")
        self._check("kernel", self.kernel >= 1 and self.kernel % 2 == 1, "an odd number of pixels")
        for name in ("brightness", "contrast", "saturation", "prob", "grey"):
            self._check(name, 0 <= getattr(self, name) <= 1, "in 0..1")
        self._check("hue", 0 <= self.hue <= 0.5, "in 0..0.5")

    def _check(self, name: str, holds: bool, legal: str) -> None:
        if not holds:
            raise ConfigError(f"photometric: {name} must be {legal}, not {getattr(self, name)}")

    def apply(self, rgb_3HW: Tensor, rng: np.random.Generator) -> Tensor:
        """The image, float 0..1, with blur and colours by this generator."""
        sigma = rng.uniform(*self.blur)
        # the kernel mirrors what is beside it: on a side of n pixels there are n - 1 of them
        kernel = [min(self.kernel, 2 * side - 1) for side in (rgb_3HW.shape[2], rgb_3HW.shape[1])]
        rgb_3HW = colours.gaussian_blur(rgb_3HW, kernel, [sigma, sigma])
        if rng.random() < self.prob:
            for step in rng.permutation(4).tolist():
                rgb_3HW = self._step(step, rgb_3HW, rng)
        return colours.rgb_to_grayscale(rgb_3HW, 3) if rng.random() < self.grey else rgb_3HW

    def _step(self, step: int, rgb_3HW: Tensor, rng: np.random.Generator) -> Tensor:
        if step == 3:
            return colours.adjust_hue(rgb_3HW, rng.uniform(-self.hue, self.hue))
        change, strength = (
            (colours.adjust_brightness, self.brightness),
            (colours.adjust_contrast, self.contrast),
            (colours.adjust_saturation, self.saturation),
        )[step]
        return change(rgb_3HW, rng.uniform(1 - strength, 1 + strength))


@MODELS.register_module()
class PanopticPreprocessor(DetDataPreprocessor):
    """MMDetection's DetDataPreprocessor that in training crops all images of a batch alike, brings them to one random
    resolution, and changes the colours of each. Outside of training it is the stock one.

    Images keep their aspect: one is as large as the scale that was drawn, or fits into it, as MMDetection scales them.
    Masks and semantic targets go along (nearest neighbour); boxes are those of the masks as they are then. What is
    drawn comes from numpy's global generator.

    crop: least and largest height of the crop in pixels, drawn for the batch; of each image at most its own, the width
        in proportion, from a random place. None crops nothing.
    scales: of long and short side in pixels, to draw from; None leaves the sizes.
    min_pixels: instances with fewer pixels left are dropped.
    photometric: of `Photometric`; None leaves the colours.

    Everything else is as in DetDataPreprocessor. Raises ConfigError for wrong scales or colours, or images that come
    neither as BGR to be turned over nor as RGB.
    """

    def __init__(
        self,
        *args: Any,
        crop: tuple[int, int] | None = None,
        scales: Sequence[tuple[int, int]] | None = SCALES,
        photometric: Mapping[str, Any] | None = None,
        min_pixels: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._check("scales", scales is None or (len(scales) > 0 and all(map(_are_sides, scales))), scales)
        self._check("crop", crop is None or (_are_sides(crop) and crop[0] <= crop[1]), crop)
        self._check("min_pixels", min_pixels >= 1, min_pixels)
        self.crop, self.scales, self.min_pixels = crop, scales, min_pixels
        self.photometric = None if photometric is None else options_of(Photometric, photometric, "photometric")

    def forward(self, data: dict, training: bool = False) -> dict:
        """See DetDataPreprocessor. data: `inputs`, uint8 (3, H, W) of each image, and `data_samples`."""
        if training:
            # numpy's global generator is the one that is seeded for each step
            rng = np.random.default_rng(np.random.randint(0, 1 << 32, 2, dtype=np.uint32))  # noqa: NPY002
            # samples stay where they are until the stock preprocessor moves them: masks are numpy's
            data = self._cut_and_scaled({**data, "inputs": self.cast_data(data["inputs"])}, rng)
            if self.photometric is not None:
                data = {**data, "inputs": [self._recoloured(image, rng) for image in data["inputs"]]}
        done: dict = super().forward(data, training)
        return done

    def _cut_and_scaled(self, data: dict, rng: np.random.Generator) -> dict:
        if self.crop is None and self.scales is None:
            return data
        height = None if self.crop is None else int(rng.integers(self.crop[0], self.crop[1] + 1))
        scale = None if self.scales is None else tuple(self.scales[int(rng.integers(len(self.scales)))])
        images, samples = [], []
        for image_3HW, sample in zip(data["inputs"], data["data_samples"], strict=True):
            window = _window(image_3HW.shape[1:], height, rng)
            sides = [part.stop - part.start for part in window]
            size = sides if scale is None else mmcv.rescale_size((sides[1], sides[0]), scale)[::-1]
            height_width = max(1, size[0]), max(1, size[1])  # of a strip nothing may be left
            images.append(_image(image_3HW[:, *window], height_width))
            samples.append(_sample(sample, window, height_width, self.min_pixels))
        return {**data, "inputs": images, "data_samples": samples}

    def _recoloured(self, image_3HW: Tensor, rng: np.random.Generator) -> Tensor:
        assert self.photometric is not None
        rgb_3HW = (image_3HW[[2, 1, 0]] if self._channel_conversion else image_3HW).float() / 255
        rgb_3HW = self.photometric.apply(rgb_3HW, rng) * 255
        return rgb_3HW[[2, 1, 0]] if self._channel_conversion else rgb_3HW

    def _check(self, name: str, holds: bool, value: Any) -> None:
        legal = {
            "scales": "pairs of long and short side in pixels",
            "crop": "two rising heights in pixels",
            "min_pixels": "at least 1",
        }
        if not holds:
            raise ConfigError(f"PanopticPreprocessor: {name} must be {legal[name]}, not {value}")


def _are_sides(pair: Sequence[int]) -> bool:
    return len(pair) == 2 and min(pair) > 0


def _window(size: Sequence[int], height: int | None, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random window of this height, and of the image's aspect; None: all of the image."""
    share = 1.0 if height is None else min(height / size[0], 1.0)
    return random_window(size, share, rng.integers)


def _image(image_3HW: Tensor, size: tuple[int, int]) -> Tensor:
    if image_3HW.shape[1:] == size:
        return image_3HW
    return functional.interpolate(image_3HW[None].float(), size=size, mode="bilinear", align_corners=False)[0]


def _sample(
    sample: DetDataSample, window: tuple[slice, slice], size: tuple[int, int], min_pixels: int
) -> DetDataSample:
    """What is to be learnt in a window of the image that becomes so large; instances of fewer pixels are gone."""
    rows, columns = window
    factor = size[1] / (columns.stop - columns.start), size[0] / (rows.stop - rows.start)
    before = sample.metainfo.get("scale_factor", (1.0, 1.0))
    seen = sample.new()
    seen.set_metainfo({"img_shape": size, "scale_factor": (before[0] * factor[0], before[1] * factor[1])})
    corners = np.array([columns.start, rows.start, columns.stop, rows.stop])
    masks = sample.gt_instances.masks.crop(corners).resize(size)
    keep_M = masks.areas >= min_pixels
    labels_M = sample.gt_instances.labels
    seen.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.from_numpy(boxes(masks.values[keep_M]))),
        labels=labels_M[torch.from_numpy(keep_M)],
        masks=masks[keep_M],
    )
    window_hw = np.ascontiguousarray(sample.gt_sem_seg.sem_seg[0].numpy()[window])
    seg_hw = cv2.resize(window_hw, size[::-1], interpolation=cv2.INTER_NEAREST)
    seen.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(seg_hw[None]))
    return seen
