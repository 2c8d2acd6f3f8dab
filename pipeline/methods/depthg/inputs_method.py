"""One batch of photos: the features of their crops from one pass of the network, and their depth, once for a photo.

B photos of the batch · K crops of a photo · N = h·w patches · D feature width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.methods.depthg.crops import CropConfig, cut_depth, cut_photo
from pipeline.methods.depthg.inputs_settings import NAME, recipe_of
from pipeline.methods.protocol import Batch, Inputs
from pipeline.methods.shared.batch_inputs import BatchInputs, once
from pipeline.models.depth_maps import DepthMaps
from pipeline.results.crop_features import CropFeatures
from pipeline.results.crop_features_kind import CropFeaturesKind
from stages.depth import DepthModel
from stages.features import FeatureExtractor
from stages.late import torch


@dataclass(frozen=True)
class InputsMethod:
    """A `pipeline.methods.protocol.Method`. depth: None keeps none."""

    crops: CropConfig
    features: FeatureExtractor
    depth: DepthModel | None
    device: torch.device

    name = NAME
    takes: ClassVar[Inputs] = "photos"
    stages: ClassVar[Sequence[str]] = ()
    batch_size = 2

    def kind(self, until: str | None) -> CropFeaturesKind:
        """Features and depth of crops."""
        return CropFeaturesKind(self.crops.per_photo)

    def config(self) -> dict[str, Any]:
        """What run.json freezes. Device and batch size are not in it: they do not decide results."""
        return {
            "recipe": recipe_of(self.crops),
            "features": {**asdict(self.features.config), "fingerprint": self.features.fingerprint},
            "depth": {"name": self.depth.name, "fingerprint": self.depth.fingerprint} if self.depth else None,
        }

    def mended(self, config: Mapping[str, Any]) -> dict[str, str]:
        """See `pipeline.methods.protocol.mended_values`: a map that was missing is there now, a bad one is good."""
        if not isinstance(self.depth, DepthMaps) or not config.get("depth"):
            return {}
        return {"depth.fingerprint": config["depth"]["fingerprint"]}

    def needs_inputs(self, until: str | None, kept: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def outputs(self, batch: Batch) -> Sequence[CropFeatures]:
        """See `pipeline.methods.protocol.Method`."""
        return InputsWork(self, batch).records


class InputsWork(BatchInputs):
    """The steps of one batch, each a lazily computed attribute."""

    def __init__(self, method: InputsMethod, batch: Batch) -> None:
        super().__init__(method.device, batch.photos, batch.seconds, batch.pool)
        self.method = method
        self._positions, self._shared = batch.positions, batch.shared

    @once
    def features_BKDhw(self) -> np.ndarray:
        """(B, K, D, h, w) float16."""
        method, side = self.method, self.method.features.config.size
        with self._clock("features"):
            crops = [crop for photo in self.photos for crop in cut_photo(photo.rgb, method.crops, side)]
            features_CND: np.ndarray = method.features(crops).cpu().numpy()
        features_CDN = features_CND.transpose(0, 2, 1)
        return features_CDN.reshape(len(self.photos), method.crops.per_photo, -1, *method.features.grid)

    @once
    def depths(self) -> list[np.ndarray]:
        """Of each photo, float32 (height, width) of any size; masked where it was filled."""
        model = self.method.depth
        assert model is not None  # asked for by methods with depth alone

        def predict() -> list[np.ndarray]:
            with self._clock("depth"):
                return model.predict([photo.rgb for photo in self.photos], [photo.id for photo in self.photos])

        return self._shared.once("depth", model.fingerprint, self._positions, self._seconds, predict)

    @once
    def records(self) -> list[CropFeatures]:
        """The finished photos."""
        depths = self.depths if self.method.depth is not None else [None] * len(self.photos)  # a missing map costs less
        features = [np.ascontiguousarray(own) for own in self.features_BKDhw]
        return [
            CropFeatures(id_, size, own, None if depth is None else self._cut(depth, size), _filled(depth))
            for (id_, size), own, depth in zip(self.names, features, depths, strict=True)
        ]

    def _cut(self, depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        side, (grid, _) = self.method.features.config.size, self.method.features.grid
        return cut_depth(np.ma.getdata(depth), size, self.method.crops, side, grid)


def _filled(depth: np.ndarray | None) -> float:
    """The share of a depth map that was filled, as the file keeps it."""
    return 0.0 if depth is None else float(np.float32(np.ma.getmaskarray(depth).mean()))
