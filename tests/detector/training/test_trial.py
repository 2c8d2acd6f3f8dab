"""The parts of a training, built before it begins."""

import errno
import io
import logging

import pytest

from detector.training import config as train_config
from detector.training.train import log_to_raise
from detector.training.trial import try_parts


def test_the_trial_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """MMEngine tells the weight decay of each parameter, in a line of its own."""
    config = train_config.read_config("tiny")
    train_config.set_backbone(config, train_config.RANDOM)
    try_parts(config, resumes=False)
    said = capfd.readouterr()
    assert said.out + said.err == ""


def test_a_log_that_cannot_be_written_is_an_error() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    handler = logging.StreamHandler(Full())
    log_to_raise(handler)
    with pytest.raises(OSError, match="No space left"):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "a line", (), None))
