"""Backbones that other packages bring, by entry points of the group `cuts3d.features`:

    [options.entry_points]
    cuts3d.features =
        mine = my_package.backbone

makes `--features mine` of the module `my_package.backbone`, or of any object, that is a `Backbone`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.plugins import broken, entries, loaded
from stages.feature_presets import FeaturePreset

if TYPE_CHECKING:
    import torch

GROUP = "cuts3d.features"


class Backbone(Protocol):
    """A network that gives one feature per patch."""

    preset: FeaturePreset
    """Its model, patch_size, size, mean and std, kind "tokens", and τ (None: `cuts3d tau` proposes one)."""

    def load(self, weights: Path | None) -> torch.nn.Module:
        """The network, weights loaded, as `stages.features.NetworkFeatures` takes it: normalised photos (B, 3, S, S)
        in, features (B, N, D) out, for any S that is a multiple of patch_size.

        weights: the file of NAME=FILE; None: its own. Raises OSError or ValueError, which says what is wrong with them.
        """


def own_backbones() -> list[str]:
    """Names of those that are installed."""
    return [entry.name for entry in entries(GROUP)]


def own_backbone(name: str) -> Backbone | None:
    """The one of this name; None where there is none. Raises ExtensionError for one that is broken."""
    for entry in entries(GROUP):
        if entry.name == name:
            found: Backbone = loaded(entry)
            preset, load = (getattr(found, name, None) for name in ("preset", "load"))
            if not isinstance(preset, FeaturePreset) or not callable(load):
                raise broken(entry, TypeError("it has no preset, a FeaturePreset, or no load(weights)"))
            return found
    return None
