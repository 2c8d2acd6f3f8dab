"""Who votes: features, each of a backbone, a kind and a size, as `--features` names them.

    --features dinov2_vits14,dinov2_vits14:keys:centred:644:tau=0.2,dino_vits8=FILE

A voter is what `--features` of other recipes takes, and after colons what differs from its preset.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from pipeline.errors import ConfigError
from pipeline.models.specs import absolute_features, feature_spec
from stages.feature_presets import FeaturePreset
from stages.features import FeatureConfig, FeatureKind

KINDS = get_args(FeatureKind)
CENTRED = {"centred": True, "uncentred": False}
GRAMMAR = f"FEATURES[:{'|'.join(KINDS)}][:centred][:SIZE][:tau=VALUE], voters separated by commas"


@dataclass(frozen=True)
class Voter:
    """features: see `pipeline.models.load.load_features`.
    kind, centred, size: fields of `FeatureConfig`; None takes the preset's.
    tau: threshold on the cosines of these features; None takes the recipe's, else the preset's.
    """

    features: str
    kind: FeatureKind | None = None
    centred: bool | None = None
    size: int | None = None
    tau: float | None = None

    def __str__(self) -> str:
        centred = next((word for word, value in CENTRED.items() if value is self.centred), None)
        tau = None if self.tau is None else f"tau={self.tau:g}"
        return ":".join(str(word) for word in (self.features, self.kind, centred, self.size, tau) if word is not None)

    @property
    def options(self) -> dict[str, Any]:
        """What differs from the preset, as fields of `FeatureConfig`."""
        own = {"kind": self.kind, "centred": self.centred, "size": self.size}
        return {name: value for name, value in own.items() if value is not None}


def read_voters(text: str) -> tuple[Voter, ...]:
    """The voters that a text names, in an order that does not depend on its own; ConfigError for wrong ones."""
    voters = [_read_voter(part.strip()) for part in text.split(",")]
    for voter in voters:
        if voters.count(voter) > 1:
            raise ConfigError(f"voter {voter} is named twice: its votes would count twice")
    return tuple(sorted(voters, key=str))


def absolute_voters(text: str) -> str:
    """The text with the paths in it absolute."""
    return ",".join(str(replace(voter, features=absolute_features(voter.features))) for voter in read_voters(text))


def _read_voter(text: str) -> Voter:
    found: dict[str, Any] = {}
    name, colon, word = text.rpartition(":")
    while colon and (read := _read_word(word, text)) is not None:
        if read[0] in found:
            raise ConfigError(f"voter {text!r} says twice what its {read[0]} is: {GRAMMAR}")
        found[read[0]] = read[1]
        text_before, (name, colon, word) = name, name.rpartition(":")
    rest = text_before if found else text
    if not rest:
        raise ConfigError(f"voter {text!r} names no features: {GRAMMAR}")
    if ":" in rest and "/" not in rest and "=" not in rest:
        raise ConfigError(f"voter {text!r}: {rest.rpartition(':')[2]!r} is none of the words it can have: {GRAMMAR}")
    return Voter(rest, **found)


def _read_word(word: str, voter: str) -> tuple[str, Any] | None:
    """Field and value that a word after a colon gives; None for a word that is none."""
    if word in KINDS:
        return "kind", word
    if word in CENTRED:
        return "centred", CENTRED[word]
    if word.isdecimal():
        return "size", int(word)
    if not word.startswith("tau="):
        return None
    try:
        tau = float(word.removeprefix("tau="))
    except ValueError:
        tau = float("nan")
    if not -1 <= tau <= 1:
        raise ConfigError(f"voter {voter!r}: {word} must be a number in -1..1")
    return "tau", tau


@dataclass(frozen=True)
class SettledVoter:
    """A voter with all that is known of it before weights are loaded. tau: threshold on the cosines."""

    voter: Voter
    config: FeatureConfig
    tau: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for run.json."""
        return {**asdict(self.config), "tau": self.tau}


def known_preset(voter: Voter, files_here: bool) -> FeaturePreset | None:
    """None where only timm or a checkpoint knows it. ConfigError, WeightsError for features that there are not."""
    try:
        return feature_spec(voter.features, files_here).preset
    except ConfigError as error:
        raise ConfigError(f"voter {voter}: {error}") from error


def settled(
    voter: Voter, preset: FeaturePreset, tau: float | None, features: Mapping[str, Any], eigenvectors: int
) -> SettledVoter:
    """A voter, its preset known; ConfigError for what is out of range.

    tau: of the recipe, for all voters that have none of their own. features: options of all of them. eigenvectors: of
    each that are looked at.
    """
    try:
        read = preset.reading(**voter.options, **features)
    except ValueError as error:
        raise ConfigError(f"voter {voter}: {error}") from error
    config = read.config
    patches = (config.size // config.patch_size) ** 2
    if eigenvectors > patches - 2:
        raise ConfigError(
            f"voter {voter}: {patches} patches have {patches - 2} eigenvectors to look at, not {eigenvectors}: use a "
            "larger size, or fewer candidates.eigenvectors"
        )
    for known in (voter.tau, tau, read.tau):
        if known is not None:
            return SettledVoter(voter, config, known)
    centred = " --set features.centred=true" if config.centred and not preset.config.centred else ""
    raise ConfigError(
        f"voter {voter}: no τ is known for {config.kind} of {voter.features}: give one, {voter}:tau=VALUE; `cuts3d tau "
        f"--images FOLDER --features {voter.features} --set features.kind={config.kind}{centred}` proposes it"
    )
