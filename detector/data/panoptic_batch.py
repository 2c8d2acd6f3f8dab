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
        rgb_3HW = colours.gaussian_blur(rgb_3HW, [self.kernel, self.kernel], [sigma, sigma])
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
    """MMDetection's DetDataPreprocessor that in training brings all images of a batch to one random resolution, and
    then changes the colours of each. Outside of training it is the stock one.

    Images keep their aspect: one is as large as the scale that was drawn, or fits into it, as MMDetection scales them.
    Masks and semantic targets go along (nearest neighbour); boxes are those of the scaled masks, and instances without
    a pixel left are dropped. What is drawn comes from numpy's global generator.

    scales: of long and short side in pixels, to draw from; None leaves the sizes.
    photometric: of `Photometric`; None leaves the colours.

    Everything else is as in DetDataPreprocessor. Raises ConfigError for wrong scales or colours, or images that come
    neither as BGR to be turned over nor as RGB.
    """

    def __init__(
        self,
        *args: Any,
        scales: Sequence[tuple[int, int]] | None = SCALES,
        photometric: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if scales is not None and not (len(scales) and all(len(s) == 2 and min(s) > 0 for s in scales)):
            raise ConfigError(f"PanopticPreprocessor: scales must be pairs of two sides in pixels, not {scales}")
        self.scales = None if scales is None else [tuple(scale) for scale in scales]
        unknown = sorted((photometric or {}).keys() - Photometric.__dataclass_fields__.keys())
        if unknown:
            known = ", ".join(Photometric.__dataclass_fields__)
            raise ConfigError(f"photometric: there is no {', '.join(unknown)}; there are {known}")
        self.photometric = None if photometric is None else Photometric(**photometric)

    def forward(self, data: dict, training: bool = False) -> dict:
        """See DetDataPreprocessor. data: `inputs`, uint8 (3, H, W) of each image, and `data_samples`."""
        if training and (self.scales is not None or self.photometric is not None):
            rng = np.random.default_rng(np.random.randint(0, 1 << 32, 2, dtype=np.uint32))  # noqa: NPY002 - seeded by the step
            data = self.cast_data(data)
            if self.scales is not None:
                data = _rescaled(data, self.scales[int(rng.integers(len(self.scales)))])
            if self.photometric is not None:
                data = {**data, "inputs": [self._recoloured(image, rng) for image in data["inputs"]]}
        done: dict = super().forward(data, training)
        return done

    def _recoloured(self, image_3HW: Tensor, rng: np.random.Generator) -> Tensor:
        assert self.photometric is not None
        rgb_3HW = (image_3HW[[2, 1, 0]] if self._channel_conversion else image_3HW).float() / 255
        rgb_3HW = self.photometric.apply(rgb_3HW, rng) * 255
        return rgb_3HW[[2, 1, 0]] if self._channel_conversion else rgb_3HW


def _rescaled(data: dict, scale: tuple[int, int]) -> dict:
    """The batch with every image as large as fits into the scale."""
    pairs = [
        _rescaled_one(image, sample, scale) for image, sample in zip(data["inputs"], data["data_samples"], strict=True)
    ]
    images, samples = zip(*pairs, strict=True)
    return {**data, "inputs": list(images), "data_samples": list(samples)}


def _rescaled_one(image_3HW: Tensor, sample: DetDataSample, scale: tuple[int, int]) -> tuple[Tensor, DetDataSample]:
    height, width = image_3HW.shape[-2:]
    new_width, new_height = mmcv.rescale_size((width, height), scale)
    size = new_height, new_width
    scaled = sample.new()
    factor = new_width / width, new_height / height
    before = sample.metainfo.get("scale_factor", (1.0, 1.0))
    scaled.set_metainfo({"img_shape": size, "scale_factor": (before[0] * factor[0], before[1] * factor[1])})
    masks = sample.gt_instances.masks.resize(size)
    boxes_M4 = boxes(masks.values)
    keep_M = boxes_M4[:, 2] > 0
    labels_M = sample.gt_instances.labels
    scaled.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.from_numpy(boxes_M4[keep_M]).to(image_3HW.device)),
        labels=labels_M[torch.from_numpy(keep_M).to(labels_M.device)],
        masks=masks[keep_M],
    )
    seg_HW = sample.gt_sem_seg.sem_seg[0]
    seg_hw = cv2.resize(seg_HW.cpu().numpy(), size[::-1], interpolation=cv2.INTER_NEAREST)
    scaled.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(seg_hw[None]).to(seg_HW.device))
    image = functional.interpolate(image_3HW[None].float(), size=size, mode="bilinear", align_corners=False)
    return image[0], scaled
