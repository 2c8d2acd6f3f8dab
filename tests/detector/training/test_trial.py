"""The parts of a training, built before it begins."""

import pytest

from detector.training import config as train_config
from detector.training.trial import try_parts


def test_the_trial_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """MMEngine tells the weight decay of each parameter, in a line of its own."""
    config = train_config.read_config("tiny")
    train_config.set_backbone(config, train_config.RANDOM)
    try_parts(config, resumes=False)
    said = capfd.readouterr()
    assert said.out + said.err == ""
