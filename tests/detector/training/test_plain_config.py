"""Configurations of ours, read without MMEngine, are those that MMEngine reads."""

import json

import pytest

from detector.training.config import CONFIGS, config_names, plain, read_config
from detector.training.plain_config import plain_config


@pytest.mark.parametrize("name", config_names())
def test_both_readers_agree(name: str) -> None:
    found = json.loads(json.dumps(plain_config(CONFIGS / f"{name}.py")))
    assert found == plain(read_config(name))
