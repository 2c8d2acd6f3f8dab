"""A threshold τ for features that no one has measured it for, proposed from a few photos of a set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError, ImageError, SourceError
from pipeline.images.photos import load_photo
from pipeline.images.sources import list_images
from pipeline.methods.cuts.settings import known_preset, reading
from pipeline.methods.overrides import parse_overrides
from pipeline.models.device import pick_device
from pipeline.models.load import feature_preset, load_features
from pipeline.models.specs import check_features
from pipeline.wording import counted
from stages.features import FeatureConfig
from stages.tau import Proposal, TauConfig, TauSearch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProposedTau:
    """features: how they were read. fingerprint: of them.
    known: τ of the preset, None where it has none.
    photos: ids of those looked at. listed: how many there were to draw from.
    set_aside: reasons by id, of photos that were drawn and cannot be read.
    """

    features: FeatureConfig
    fingerprint: str
    known: float | None
    photos: tuple[str, ...]
    listed: int
    set_aside: dict[str, str]
    proposal: Proposal


def propose_tau(
    images: str,
    features: str,
    overrides: Sequence[str] = (),
    root: str | None = None,
    count: int = 32,
    seed: int = 0,
    device: str = "auto",
    config: TauConfig | None = None,
) -> ProposedTau:
    """Draw `count` of the images with `seed` and propose a τ for the features.

    images, root: see `pipeline.images.sources.list_images`. features: see `pipeline.models.load.load_features`.
    overrides: "features.option=value".

    Raises ConfigError, WeightsError for features that there are not, SourceError where no image can be read.
    """
    if foreign := [override for override in overrides if not override.startswith("features.")]:
        raise ConfigError(f"--set {foreign[0]}: τ depends on the features alone, set features.OPTION=VALUE")
    options = parse_overrides(
        FeatureConfig, [override.removeprefix("features.") for override in overrides], "features."
    )
    preset = known_preset(features)
    if preset is not None:
        reading(features, preset, options)  # what is wrong is said before images are listed
    check_features(features, preset)
    refs = list_images(images, root).refs
    drawn = sorted(np.random.default_rng(seed).choice(len(refs), min(count, len(refs)), replace=False))
    extractor = load_features(features, pick_device(device), options)
    known = feature_preset(features)[0].tau
    search, seen, set_aside = TauSearch(config or TauConfig()), [], {}
    for place in drawn:
        ref = refs[place]
        try:
            photo = load_photo(ref)
        except ImageError as error:
            log.warning("%s is left out: %s", ref.id, error)
            set_aside[ref.id] = error.reason
            continue
        search.add(extractor([photo.rgb])[0])
        seen.append(ref.id)
    if not seen:
        raise SourceError(
            f"none of {counted(len(set_aside), 'image')} of {images} can be read, such as {next(iter(set_aside))}"
        )
    return ProposedTau(
        extractor.config, extractor.fingerprint, known, tuple(seen), len(refs), set_aside, search.proposal(seed)
    )
