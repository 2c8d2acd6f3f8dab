"""Files of torch are read without running what is in them; what training scripts keep beside their weights is."""

import argparse
import pathlib
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import WeightsError
from pipeline.models.torch_files import need_weights, read_torch
from pipeline.models.vit_checkpoints import read_checkpoint


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def save(value: object) -> Path:
        path = tmp_path / "whole.pth"
        torch.save({"beside": value, "weight": torch.ones(2)}, path, _use_new_zipfile_serialization=request.param)
        return path

    return save


@pytest.mark.parametrize(
    "value",
    [
        *(np.float64(0.1), np.float32(2), np.float16(3), np.int64(-4), np.uint8(5), np.bool_(True), np.str_("vit")),
        *(np.dtype("f4"), np.dtype(">i2"), np.datetime64("2021-04-29")),
        argparse.Namespace(arch="vit_small", patch_size=16, lr=np.float64(0.1), crops=(0.4, 1.0), out=None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_training_scripts_keep_is_read(saved: Any, value: object) -> None:
    content = read_torch(saved(value), "")
    assert content["beside"] == value
    assert type(content["beside"]) is type(value)
    assert torch.equal(content["weight"], torch.ones(2))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (pathlib.PurePosixPath("/data"), "pathlib.PurePosixPath"),
        (deque([1]), "collections.deque"),
        (np.array([{}], dtype=object), "numpy"),
        (Path, "pathlib.Path"),
    ],
    ids=str,
)
def test_other_things_are_named_on_one_line_and_not_made(saved: Any, value: object, name: str) -> None:
    with pytest.raises(WeightsError, match=f"holds more than tensors and plain values .*{name}.*; do this") as error:
        read_torch(saved(value), "do this")
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


def test_nothing_is_allowed_beyond_the_read(saved: Any) -> None:
    path = saved(argparse.Namespace(a=1))
    read_torch(path, "")
    with pytest.raises(Exception, match=r"argparse\.Namespace"):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("content", [b"", b"<html>Not today</html>", b"PK\x03\x04", b"\x80\x02"])
def test_damage_is_told_in_one_line_without_advice_to_run_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.pth cannot be read .* damaged or no checkpoint") as error:
        read_torch(tmp_path / "a.pth", "")
    assert "weights_only" not in str(error.value)


ODD = {
    "sparse": torch.eye(3).to_sparse(),
    "complex": torch.ones(3, dtype=torch.complex64),
    "without values": torch.ones(3, device="meta"),
    "of 8 bits": torch.ones(3).to(torch.float8_e4m3fn),
    "whole numbers": torch.ones(3, dtype=torch.int8),
}


@pytest.mark.parametrize("form", ODD)
def test_tensors_that_no_network_computes_with_are_named(form: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    torch.save({"head.bias": torch.ones(2), "fc.weight": ODD[form]}, path)
    message = rf"odd.pth has 1 tensor that cannot be used as weights \(fc.weight: {form}\): save the network's weights"
    with pytest.raises(WeightsError, match=message) as refused:
        read_checkpoint(path)
    assert "\n" not in str(refused.value)


def test_ordinary_tensors_are_weights() -> None:
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    need_weights({f"{kind}.weight": torch.ones(2, dtype=kind) for kind in kinds}, Path("good.pth"))
    need_weights({"bn.num_batches_tracked": torch.tensor(7), "attn.mask": torch.ones(2, dtype=torch.bool)}, Path("a"))
