"""RAFT-large out of files in the layouts that there are: torchvision's own, and SMURF's, whose network differs.

SMURF's differences are as its authors' port to PyTorch states them (google-research issue 1883): instance norm in the
context encoder, and the neighbourhood of correlations row by row.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.optical_flow import raft_large
from torchvision.models.optical_flow.raft import CorrBlock, FeatureEncoder, ResidualBlock

from pipeline.errors import ConfigError, WeightsError
from pipeline.models import hub, raft_weights
from pipeline.models.load import load_motion
from pipeline.models.raft_weights import RAFT_THINGS, load_raft
from pipeline.models.specs import absolute_motion, check_motion, motion_source
from stages.motion.clip_motion import MAPS, ClipPictures
from stages.motion.raft import RaftConfig, RaftMotion


class RowByRow(CorrBlock):
    """SMURF's neighbourhood: the offset in x changes fastest. torchvision has the offset in y there."""

    def index_pyramid(self, centroids_coords: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = super().index_pyramid(centroids_coords)
        side = 2 * self.radius + 1
        return features.unflatten(1, (self.num_levels, side, side)).transpose(2, 3).flatten(1, 3)


def smurf() -> torch.nn.Module:
    """SMURF's network with weights of a fixed seed."""
    torch.manual_seed(0)
    context = FeatureEncoder(block=ResidualBlock, layers=(64, 64, 96, 128, 256), norm_layer=torch.nn.InstanceNorm2d)
    return raft_large(weights=None, context_encoder=context, corr_block=RowByRow()).eval()


def torchvisions() -> torch.nn.Module:
    torch.manual_seed(0)
    return raft_large(weights=None).eval()


def flow(network: torch.nn.Module) -> torch.Tensor:
    pictures = torch.rand(2, 1, 3, 128, 136, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        found: torch.Tensor = network(pictures[0], pictures[1], num_flow_updates=2)[-1]
    return found


@pytest.fixture(scope="module")
def smurf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As CUPS keeps it: every name begins with raft."""
    path = tmp_path_factory.mktemp("smurf") / "raft_smurf.pt"
    torch.save({f"raft.{name}": value for name, value in smurf().state_dict().items()}, path)
    return path


def test_smurf_computes_what_its_own_network_does(smurf_file: Path) -> None:
    loaded = load_raft(smurf_file).eval()
    expected = flow(smurf())
    torch.testing.assert_close(flow(loaded), expected, atol=1e-3, rtol=1e-4)
    # without the order of inputs it would be another flow
    network: Any = loaded
    first = network.update_block.motion_encoder.convcorr1[0].weight
    first.data = raft_weights._column_by_column(first.data)
    assert (flow(loaded) - expected).abs().max() > 0.05


@pytest.mark.parametrize(
    "wrapped", [lambda state: state, lambda state: {"model": {f"module.{n}": v for n, v in state.items()}}]
)
def test_torchvisions_weights_are_taken_as_they_are(wrapped: Callable[[Any], Any], tmp_path: Path) -> None:
    network = torchvisions()
    torch.save(wrapped(network.state_dict()), tmp_path / "raft.pth")
    assert torch.equal(flow(load_raft(tmp_path / "raft.pth").eval()), flow(network))


def test_files_of_another_network_are_refused_by_tensor(tmp_path: Path) -> None:
    state = torchvisions().state_dict()
    del state["mask_predictor.conv.bias"]
    state["update_block.flow_head.conv2.weight"] = torch.zeros(3, 256, 3, 3)
    state["fnet.conv1.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "raft.safetensors")
    message = (
        r"does not fit RAFT-large: 1 missing \(mask_predictor\.conv\.bias\); 1 not of the network "
        r"\(fnet\.conv1\.weight\); 1 of another shape \(update_block\.flow_head\.conv2\.weight\)"
    )
    with pytest.raises(WeightsError, match=message):
        load_raft(tmp_path / "raft.safetensors")
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"does not fit RAFT-large: .* missing .*encoder\.weight"):
        load_raft(tmp_path / "other.pth")


def test_a_named_file_gives_maps_and_a_fingerprint(smurf_file: Path) -> None:
    model = load_motion(f"raft={smurf_file}")
    assert (model.name, model.device) == (f"raft={smurf_file}", "cpu")
    assert model.fingerprint == load_motion(f"raft={smurf_file}").fingerprint
    fewer = RaftMotion(load_raft(smurf_file), config=RaftConfig(updates=1))
    assert fewer.fingerprint != model.fingerprint
    rng = np.random.default_rng(0)
    clip = ClipPictures(*(rng.integers(0, 256, (100, 130, 3)).astype(np.uint8) for _ in range(4)))
    (motion,) = fewer([clip], ["a"])
    assert motion.flow_HW2.shape == (100, 130, 2)
    assert (motion.disparity_HW >= 0).all()
    padded = torch.nn.functional.pad(
        torch.from_numpy(np.stack([clip.left, clip.left_next])).permute(0, 3, 1, 2).float() / 127.5 - 1,
        (3, 3, 14, 14),
        mode="replicate",
    )
    with torch.inference_mode():
        expected = load_raft(smurf_file).eval()(padded[:1], padded[1:], num_flow_updates=1)[-1]
    np.testing.assert_allclose(motion.flow_HW2, expected[0, :, 14:114, 3:133].permute(1, 2, 0), atol=1e-4)


def test_names_mean_one_thing_each(tmp_path: Path) -> None:
    assert motion_source("opencv") == ("opencv", "opencv")
    assert motion_source("raft-things") == ("published", "raft-things")
    assert motion_source("raft=a/b.pt") == ("file", "a/b.pt")
    assert motion_source("raft=hub:me/smurf/x/raft.pt") == ("hub", "me/smurf/x/raft.pt")
    assert motion_source("maps:here") == ("maps", "here")
    for spec in ("", "raft", "raft=", "maps:", "opencv=x", "dis"):
        with pytest.raises(ConfigError, match=r"no motion model .*: use opencv, raft-things, raft=FILE"):
            motion_source(spec)
    with pytest.raises(ConfigError, match="is named raft=hub:OWNER/NAME/FILE"):
        motion_source("raft=hub:smurf.pt")


def test_paths_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_motion("raft=b.pt") == f"raft={tmp_path}/b.pt"
    assert absolute_motion("maps:m") == f"maps:{tmp_path}/m"
    for name in ("opencv", "raft-things", "raft=hub:me/smurf/raft.pt"):
        assert absolute_motion(name) == name


def test_what_is_wrong_shows_before_anything_is_loaded(tmp_path: Path) -> None:
    check_motion("opencv")
    with pytest.raises(WeightsError, match=r"nowhere\.pt does not exist"):
        check_motion(f"raft={tmp_path}/nowhere.pt")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>")
    with pytest.raises(WeightsError, match="is a web page"):
        check_motion(f"raft={tmp_path}/page.pt")
    with pytest.raises(ConfigError, match="is not a folder"):
        check_motion(f"maps:{tmp_path}/nowhere")


def test_a_file_on_the_hub_comes_from_its_cache_or_says_what_to_do(
    smurf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = "raft=hub:me/smurf/raft.pt"
    monkeypatch.setattr(hub, "reachable", lambda: False)
    for ask in (check_motion, load_motion):
        with pytest.raises(
            WeightsError, match=r"--motion raft=hub:me/smurf/raft\.pt: .* give the file as --motion raft="
        ):
            ask(spec)
    asked = []

    def cached(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(smurf_file)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    check_motion(spec)
    assert load_motion(spec).fingerprint == load_motion(f"raft={smurf_file}").fingerprint
    assert set(asked) == {("me/smurf", "raft.pt")}


def test_the_published_file_is_the_one_that_its_name_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path))
    RAFT_THINGS.path.parent.mkdir(parents=True)
    RAFT_THINGS.path.write_bytes(b"cut short")
    with pytest.raises(WeightsError, match=r"is corrupt \(sha256 .*, published 1bb1363a\): delete it"):
        check_motion("raft-things")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    RAFT_THINGS.path.unlink()
    with pytest.raises(WeightsError, match=r"cannot be had from https://download\.pytorch\.org/.*--motion raft=FILE"):
        check_motion("raft-things")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_on_a_gpu(smurf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    rng = np.random.default_rng(0)
    clip = ClipPictures(*(rng.integers(0, 256, (100, 130, 3)).astype(np.uint8) for _ in range(4)))
    models = [RaftMotion(load_raft(smurf_file), device, config=RaftConfig(updates=2)) for device in ("cpu", "cuda")]
    (here,), (there,) = (model([clip], ["a"]) for model in models)
    assert models[0].fingerprint == models[1].fingerprint
    for name in MAPS:
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), atol=1e-2)
