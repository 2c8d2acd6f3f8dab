"""One batch of photos through a trained semantic model: features of their windows, codes, labels.

B photos of the batch · V windows of a photo · N = h·w patches of a window · D feature width · K code width
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from pipeline.images.photos import Photo
from pipeline.methods.depthg.checkpoint import SemanticModel
from pipeline.methods.depthg.recipe import NAME, LabelRecipe
from pipeline.methods.depthg.settings import model_facts
from pipeline.methods.protocol import Batch, Inputs
from pipeline.methods.shared.batch_inputs import BatchInputs, once
from pipeline.models.depth_maps import DepthMaps
from pipeline.results.semantic import Classes, SemanticRecord
from pipeline.results.semantic_kind import SemanticKind
from stages.features import FeatureExtractor
from stages.late import torch
from stages.semantics.clusters import ClusterProbe
from stages.semantics.head import IdentityHead, SemanticHead
from stages.semantics.labelling import Near, Seen, label_photo
from stages.semantics.windows import Window, WindowConfig, covering_windows, cut_out, near_windows, whole_shares

_AT_ONCE = 8  # windows that go through the network together


@dataclass(frozen=True, eq=False)
class Labeller:
    """A trained model on its device, and how it labels photos.

    extractor: of the features that the model was trained on.
    head, probe: of the model, in evaluation mode, on the extractor's device.
    """

    recipe: LabelRecipe
    model: SemanticModel
    extractor: FeatureExtractor
    head: SemanticHead | IdentityHead
    probe: ClusterProbe

    @property
    def device(self) -> torch.device:
        """Where all of it runs."""
        return self.extractor.device

    @cached_property
    def classes(self) -> Classes:
        """What the labels are: clusters."""
        return Classes.clusters(len(self.model.clusters))

    def config(self) -> dict[str, Any]:
        """What decides its labels, for run.json: model and features. The recipe is the caller's."""
        extractor = self.extractor
        return {
            "model": model_facts(self.model),
            "features": {**asdict(extractor.config), "fingerprint": extractor.fingerprint},
        }


class LabelMethod:
    """A `pipeline.methods.protocol.Method`: a trained model labels photos.

    depth: distances by which windows are mixed, None for a recipe that needs none.
    """

    name = NAME
    takes: ClassVar[Inputs] = "photos"
    stages: ClassVar[Sequence[str]] = ()
    batch_size = 2

    def __init__(self, labeller: Labeller, depth: DepthMaps | None = None) -> None:
        if labeller.recipe.needs_depth != (depth is not None):
            raise ValueError("depth maps belong to a recipe that mixes windows by distance, and to no other")
        self.labeller, self.depth = labeller, depth
        self.device = labeller.device

    def kind(self, until: str | None) -> SemanticKind:
        """Semantic labels, of clusters."""
        return SemanticKind(self.labeller.classes)

    def config(self) -> dict[str, Any]:
        """What run.json freezes. Device and batch size are not in it: they do not decide results."""
        depth = self.depth
        return {
            "recipe": self.labeller.recipe.as_dict(),
            **self.labeller.config(),
            "depth": {"name": depth.name, "fingerprint": depth.fingerprint} if depth else None,
        }

    def mended(self, config: Mapping[str, Any]) -> dict[str, str]:
        """See `pipeline.methods.protocol.mended_values`: a map that was missing is there now, a bad one is good."""
        if self.depth is None or not config.get("depth"):
            return {}
        return {"depth.fingerprint": config["depth"]["fingerprint"]}

    def needs_inputs(self, until: str | None, kept: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def outputs(self, batch: Batch) -> Sequence[SemanticRecord]:
        """See `pipeline.methods.protocol.Method`."""
        return LabelWork(self.labeller, batch, self._stored_share).records

    def _stored_share(self, photo: Photo, config: WindowConfig) -> np.ndarray:
        assert self.depth is not None  # the recipe needs it
        return whole_shares(self.depth.stored(photo.rgb, photo.id), self.depth.kind, config)


WholeShare = Callable[[Photo, WindowConfig], np.ndarray]
"""Of a photo the share of what is seen of it as a whole, by its distances: float32, see `windows.whole_shares`."""


class LabelWork(BatchInputs):
    """The steps of one batch of photos, each a lazily computed attribute.

    whole_share: asked where the recipe mixes windows by distance.
    """

    def __init__(self, labeller: Labeller, batch: Batch, whole_share: WholeShare | None = None) -> None:
        super().__init__(labeller.device, batch.photos, batch.seconds, batch.pool)
        self.labeller, self._by_distance = labeller, whole_share
        self._positions, self._shared = batch.positions, batch.shared

    @once
    def whole(self) -> list[Seen]:
        """Of each photo its codes, mirrored ones averaged in."""
        recipe = self.labeller.recipe
        windows = [self._whole_windows(photo) for photo in self.photos]
        layout = f"squares {recipe.overlap}" if recipe.view == "squares" else recipe.view
        codes = self._codes(windows, layout, mirrored=False)
        if recipe.mirror:
            mirrored = self._codes(windows, layout, mirrored=True)
            codes = [(one + other) / 2 for one, other in zip(codes, mirrored, strict=True)]
        return [Seen(own, seen, blended=True) for own, seen in zip(windows, codes, strict=True)]

    @once
    def near(self) -> list[Near | None]:
        """Of each photo the codes of its windows and how they are mixed; None for recipes without."""
        config = self.labeller.recipe.windows
        if config is None:
            return [None] * len(self.photos)
        windows = [near_windows(photo.rgb.shape[0], photo.rgb.shape[1], config) for photo in self.photos]
        shares = [self._whole_share(photo, config) for photo in self.photos]
        codes = self._codes(windows, f"windows {config.side} {config.overlap} {config.reading}", mirrored=False)
        return list(map(Near, map(Seen, windows, codes), shares))

    @once
    def records(self) -> list[SemanticRecord]:
        """The finished photos."""
        found = []
        for photo, (labels_HW, confidence_HW) in zip(self.photos, self.labels(), strict=True):
            with self._clock("encode"):
                found.append(SemanticRecord.of(photo.id, labels_HW, confidence_HW, self.labeller.classes))
        return found

    def labels(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of one photo after the other its labels and their confidence, see `label_photo`: they are large."""
        probe, refine = self.labeller.probe, self.labeller.recipe.refine
        for photo, whole, near in zip(self.photos, self.whole, self.near, strict=True):
            with self._clock("labels"):
                found = label_photo(photo.rgb, whole, near, probe, refine)
            yield found

    def _whole_windows(self, photo: Photo) -> list[Window]:
        height, width = photo.rgb.shape[:2]
        recipe = self.labeller.recipe
        if recipe.view == "squeezed":
            return [Window(0, 0, height, width)]
        return covering_windows(height, width, recipe.overlap)

    def _whole_share(self, photo: Photo, config: WindowConfig) -> float | np.ndarray:
        if config.whole_share is not None:
            return config.whole_share
        assert self._by_distance is not None  # of a recipe that mixes by distance
        return self._by_distance(photo, config)

    def _codes(self, windows: Sequence[Sequence[Window]], layout: str, mirrored: bool) -> list[torch.Tensor]:
        """Of each photo the codes of its windows, float32 (V, K, h, w); of mirrored ones mirrored back."""
        head, grid = self.labeller.head, self.labeller.extractor.grid
        codes = []
        for features_VND in self._features(windows, layout, mirrored):
            with self._clock("codes"):
                features_VDhw = features_VND.transpose(1, 2).unflatten(2, grid)
                codes_VKhw = torch.cat([head(some) for some in features_VDhw.split(_AT_ONCE)])
                codes.append(codes_VKhw.flip(3) if mirrored else codes_VKhw)
        return codes

    def _features(self, windows: Sequence[Sequence[Window]], layout: str, mirrored: bool) -> list[torch.Tensor]:
        """Of each photo (V, N, D) float16. What other methods have of these very windows is taken from them."""
        extractor = self.labeller.extractor
        made_by = f"{extractor.fingerprint} {layout}{' mirrored' if mirrored else ''}"
        if layout == "squeezed" and not mirrored:  # as all methods see a photo
            features_BND = self._once(extractor.fingerprint, lambda: extractor([photo.rgb for photo in self.photos]))
            return list(features_BND[:, None])
        return self._once(made_by, lambda: self._extracted(windows, mirrored))

    def _once(self, made_by: str, compute: Callable[[], Any]) -> Any:
        def timed() -> Any:
            with self._clock("features"):
                return compute()

        return self._shared.once("features", made_by, self._positions, self._seconds, timed)

    def _extracted(self, windows: Sequence[Sequence[Window]], mirrored: bool) -> list[torch.Tensor]:
        extractor = self.labeller.extractor
        beyond = [round(255 * value) for value in extractor.config.mean]  # 0 to the network
        cuts = [(photo.rgb, window) for photo, own in zip(self.photos, windows, strict=True) for window in own]
        found = []
        for start in range(0, len(cuts), _AT_ONCE):
            images = [cut_out(rgb, window, beyond) for rgb, window in cuts[start : start + _AT_ONCE]]
            found.append(extractor([image[:, ::-1] if mirrored else image for image in images]))
        return list(torch.cat(found).split([len(own) for own in windows]))
