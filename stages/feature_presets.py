"""Backbones whose features are known to separate objects, each with the reading of it that does.

Which feature and which affinity threshold belong together, and to a backbone, not to the method: MaskCut cuts DINO's
keys at a cosine of 0.15, while any two of DINOv2's keys have 0.75 to 0.9 (a large bias common to all patches), so that
nothing is left to cut. DINOv2's final tokens, or mean-centred features, do separate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from stages.features import FeatureConfig
from stages.patch_merging import MergeThresholds


@dataclass(frozen=True)
class FeaturePreset:
    """A feature and the threshold on its cosines that it is cut with.

    tau: patches whose features have a cosine above it are similar (the affinity threshold of NCut); None where no one
        has measured it, so that whoever takes the features must say.
    levels: thresholds down to which adjacent regions are merged (`stages.hierarchy`); None like that.
    merge: thresholds on cosines that masks of prompts are merged with; None like that.
    adjacent: those that adjacent patches are grouped and merged with, where `merge.grouping` says so; None like that.
    """

    config: FeatureConfig
    tau: float | None
    levels: tuple[float, ...] | None = None
    merge: MergeThresholds | None = None
    adjacent: MergeThresholds | None = None

    def __post_init__(self) -> None:
        if self.tau is not None and not -1 < self.tau < 1:
            raise ValueError(f"tau is {self.tau}: a threshold on cosines lies between -1 and 1")

    def merging(self, grouping: Literal["prompts", "adjacent"]) -> MergeThresholds | None:
        """Thresholds of merging by a way of grouping."""
        return self.merge if grouping == "prompts" else self.adjacent

    def reading(self, **options: Any) -> FeaturePreset:
        """With fields of `config` changed. Thresholds belong to the kind of features and to whether they are centred:
        those of another reading are not known. Raises TypeError, ValueError for options that cannot be.
        """
        config = replace(self.config, **options)
        is_same = (config.kind, config.centred) == (self.config.kind, self.config.centred)
        return replace(self, config=config) if is_same else FeaturePreset(config, tau=None)


def _dino(model: str, patch_size: int) -> FeaturePreset:
    # MaskCut (CutLER, arXiv 2301.11320): keys of DINO ViT-B/8 at 480 x 480, cosines above 0.15. HASSOD merges them down
    # to 0.4, 0.2 and 0.1, and ProMerge (arXiv 2409.18961) merges the same keys.
    config = FeatureConfig(model, patch_size, kind="keys", centred=False, size=480)
    return FeaturePreset(config, 0.15, levels=(0.4, 0.2, 0.1), merge=MergeThresholds(0.2, 0.1, 0.1))


def _dinov2(model: str) -> FeaturePreset:
    # 840 = 60 patches of 14 pixels: the grid of the papers.
    config = FeatureConfig(model, 14, kind="tokens", centred=False, size=840)
    merge, adjacent = MergeThresholds(0.5, 0.15, 0.5), MergeThresholds(0.9, 0.15, 0.6)
    return FeaturePreset(config, 0.3, levels=(0.7, 0.5, 0.3), merge=merge, adjacent=adjacent)


def _dinov3(model: str) -> FeaturePreset:
    # 960 = 60 patches of 16 pixels. Its weights are given out one by one, so that no τ could be measured here.
    return FeaturePreset(FeatureConfig(model, 16, kind="tokens", centred=False, size=960), tau=None)


PRESETS: dict[str, FeaturePreset] = {
    "dino_vits8": _dino("vit_small_patch8_224.dino", 8),
    "dino_vitb8": _dino("vit_base_patch8_224.dino", 8),
    "dino_vits16": _dino("vit_small_patch16_224.dino", 16),
    "dino_vitb16": _dino("vit_base_patch16_224.dino", 16),
    "dinov2_vits14": _dinov2("vit_small_patch14_dinov2.lvd142m"),
    "dinov2_vitb14": _dinov2("vit_base_patch14_dinov2.lvd142m"),
    "dinov2_vitl14": _dinov2("vit_large_patch14_dinov2.lvd142m"),
    "dinov2_vits14_reg": _dinov2("vit_small_patch14_reg4_dinov2.lvd142m"),
    "dinov2_vitb14_reg": _dinov2("vit_base_patch14_reg4_dinov2.lvd142m"),
    "dinov2_vitl14_reg": _dinov2("vit_large_patch14_reg4_dinov2.lvd142m"),
    "dinov3_vits16": _dinov3("vit_small_patch16_dinov3.lvd1689m"),
    "dinov3_vits16plus": _dinov3("vit_small_plus_patch16_dinov3.lvd1689m"),
    "dinov3_vitb16": _dinov3("vit_base_patch16_dinov3.lvd1689m"),
    "dinov3_vitl16": _dinov3("vit_large_patch16_dinov3.lvd1689m"),
}
