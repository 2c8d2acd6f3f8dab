"""Where a training process runs."""

import pytest
import torch

from detector.training import processes


@pytest.mark.parametrize(("device", "chosen"), [("cuda", []), ("cuda:1", [torch.device("cuda:1")]), ("cpu", [])])
def test_a_gpu_of_a_number_becomes_the_current_one(
    device: str, chosen: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch refuses to make "cuda", which has none, the current one: that it is already."""

    def set_device(device: torch.device) -> None:
        if device.index is None:
            raise ValueError(f"Expected a torch.device with a specified index, but got: {device}")
        made_current.append(device)

    made_current: list[torch.device] = []
    monkeypatch.setattr(processes, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    with processes.this_process(device) as process:
        assert process.device == torch.device(device)
    assert made_current == chosen
