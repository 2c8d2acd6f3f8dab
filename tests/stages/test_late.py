"""torch that is imported at its first use, and is torch then."""

import subprocess
import sys

import pytest
import torch as real
from support import environment

from stages import late

THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from stages.late import torch
assert "torch" not in sys.modules
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda i: torch.full((2,), i).sum().item(), range(8)))
assert found == [0, 2, 4, 6, 8, 10, 12, 14], found
"""


def test_threads_may_be_the_first_to_use_it() -> None:
    subprocess.run([sys.executable, "-c", THREADS], env=environment(), check=True)


def test_it_is_torch_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert late.torch.nn.functional is real.nn.functional
    assert isinstance(real.zeros(1), late.torch.Tensor)
    monkeypatch.setattr(real, "get_num_threads", lambda: 77)
    assert late.torch.get_num_threads() == 77
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        late.torch.nothing  # type: ignore[attr-defined]  # noqa: B018
