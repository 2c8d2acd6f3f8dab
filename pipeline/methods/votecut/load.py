"""The recipe and the voters of a launch, loaded: each network once, whatever is read from it."""

from typing import Any

from pipeline.errors import ConfigError
from pipeline.methods.votecut.method import LoadedVoter, VoteMethod
from pipeline.methods.votecut.settings import refuse_twice, vote_settings
from pipeline.models.device import pick_device
from pipeline.models.load import feature_preset, load_features
from pipeline.runs.launch import Launch
from stages.features import FeatureExtractor


def load_votecut(launch: Launch, device: str) -> VoteMethod:
    """Recipe and voters of a launch, on a device."""
    settings = vote_settings(launch)
    torch_device = pick_device(device)
    settled = [
        known or settings.settle(voter, feature_preset(voter.features)[0])
        for voter, known in zip(settings.voters, settings.settled, strict=True)
    ]
    refuse_twice(settled)
    networks: dict[Any, FeatureExtractor] = {}
    voters = []
    for one in settled:
        key = (one.voter.features, one.config.size)
        if key not in networks:
            options = {**settings.features, **one.voter.options}
            networks[key] = load_features(one.voter.features, torch_device, options)
        try:
            voters.append(LoadedVoter(networks[key].reading(one.config.kind, one.config.centred), one.tau))
        except ValueError as error:
            raise ConfigError(f"voter {one.voter}: {error}") from error
    return VoteMethod(settings.recipe, voters, torch_device)
