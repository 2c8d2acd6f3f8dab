"""Options of training, as two commands share them."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from detector.commands.options import TrainingOptions, training_options
from detector.commands.prediction import self_train
from detector.commands.training import train
from pipeline.commands.options import device_options


def options_of(command: click.Command) -> dict[str, Any]:
    """Default by option."""
    return {param.opts[0]: param.default for param in command.params}


@pytest.mark.parametrize("prefix", ["", "train-"])
def test_what_is_typed_is_what_is_trained(prefix: str) -> None:
    given: dict[str, Any] = {}

    @click.command()
    @training_options("tiny", prefix)
    def command(**arguments: Any) -> None:
        given.update(arguments)

    words = ["--set", "a=1", "--set", "b=2", "--iterations", "5", "--seed", "7"]
    words += [f"--{prefix}batch-size", "4", f"--{prefix}amp"]
    CliRunner().invoke(command, words, catch_exceptions=False)
    assert given == {"how": TrainingOptions("tiny", ("a=1", "b=2"), 5, 4, 7, True)}
    training = given["how"].training(("run",), "work", device="cpu")
    assert (training.runs, training.work_dir, training.device) == (("run",), "work", "cpu")
    assert (training.config, training.settings, training.amp) == ("tiny", ("a=1", "b=2"), True)
    assert (training.iterations, training.batch_size, training.seed) == (5, 4, 7)
    CliRunner().invoke(command, [], catch_exceptions=False)
    assert given == {"how": TrainingOptions("tiny", (), None, None, None, False)}


def test_a_command_keeps_its_own_batch_size() -> None:
    given: dict[str, Any] = {}

    @click.command()
    @training_options("tiny", "train-")
    @device_options
    def command(how: TrainingOptions, **arguments: Any) -> None:
        given.update(arguments, trained=how.batch_size)

    CliRunner().invoke(command, ["--batch-size", "2", "--train-batch-size", "16"], catch_exceptions=False)
    assert given == {"trained": 16, "device": "auto", "batch_size": 2}


def test_train_and_self_train_have_their_own_configurations() -> None:
    assert options_of(train)["--config"] == "cuts3d_r50_fpn"
    assert options_of(self_train)["--config"] == "self_train_r50_fpn"
    assert {"--batch-size", "--train-batch-size", "--amp", "--train-amp"} & options_of(self_train).keys() == {
        *("--batch-size", "--train-batch-size", "--train-amp"),
    }
