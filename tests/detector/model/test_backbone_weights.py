"""DINO's ResNet-50: official names into MMDetection's ResNet, all or nothing, and a clear word when there is none."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from torchvision.models import resnet50

from detector.model.backbone_weights import cached_backbone, find_backbone, load_backbone
from detector.model.weight_files import BACKBONE as NAME
from pipeline.errors import WeightsError
from pipeline.models import published_file


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    """A ResNet-50 under the names of the official file, which has no classifier."""
    torch.manual_seed(0)
    network = resnet50(weights=None)
    network.fc = torch.nn.Identity()
    state = network.state_dict()
    for name in state:
        if "running" in name or "bn" in name:
            state[name] = torch.rand_like(state[name].float()).to(state[name].dtype)
    return state


@pytest.fixture
def file(tmp_path: Path, official: dict[str, torch.Tensor]) -> Path:
    torch.save(official, tmp_path / "dino.pth")
    return tmp_path / "dino.pth"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def resnet(checkpoint: Path | None = None, depth: int = 50) -> torch.nn.Module:
    import mmdet.models  # noqa: F401

    init = {"type": "DinoResNet", "checkpoint": None if checkpoint is None else str(checkpoint)}
    return MODELS.build({"type": "ResNet", "depth": depth, "norm_cfg": {"type": "SyncBN"}, "init_cfg": init})


def test_every_tensor_arrives(file: Path, official: dict[str, torch.Tensor]) -> None:
    network = resnet(file)
    network.init_weights()
    state = network.state_dict()
    assert state.keys() == official.keys()
    assert all(torch.equal(state[name], official[name]) for name in official)


def test_the_network_computes_what_torchvisions_does(file: Path, official: dict[str, torch.Tensor]) -> None:
    network = MODELS.build({"type": "ResNet", "depth": 50, "norm_cfg": {"type": "BN"}})
    network.eval()
    load_backbone(network, file)
    theirs = resnet50(weights=None).eval()
    theirs.load_state_dict(official, strict=False)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.layer4(
            theirs.layer3(theirs.layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))))
        )
        torch.testing.assert_close(network(x)[-1], expected)


def test_training_checkpoints_and_classifiers(tmp_path: Path, official: dict[str, torch.Tensor]) -> None:
    full = {f"module.backbone.{name}": value for name, value in official.items() if "num_batches" not in name}
    full |= {"module.backbone.fc.weight": torch.zeros(1000, 2048), "module.head.last": torch.zeros(3)}
    torch.save({"teacher": full, "epoch": 3}, tmp_path / "full.pth")
    network = resnet(tmp_path / "full.pth")
    network.init_weights()
    assert torch.equal(network.state_dict()["layer4.2.conv3.weight"], official["layer4.2.conv3.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer1.0.conv1.weight"), r"1 missing \(layer1.0.conv1.weight\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 not of the network \(extra\)"),
        (lambda s: s.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}), r"1 of another shape \(conv1.weight\)"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, official: dict[str, torch.Tensor], change, message) -> None:  # type: ignore[no-untyped-def]
    state = dict(official)
    change(state)
    torch.save(state, tmp_path / "odd.pth")
    network = resnet(tmp_path / "odd.pth")
    before = network.state_dict()["layer2.0.conv1.weight"].clone()
    with pytest.raises(WeightsError, match=message):
        network.init_weights()
    assert torch.equal(network.state_dict()["layer2.0.conv1.weight"], before)  # nothing was half done


def test_another_depth_is_refused(file: Path) -> None:
    with pytest.raises(WeightsError, match="of the same depth"):
        resnet(file, depth=101).init_weights()


def test_pickles_of_detectron2_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "dino_RN50_pretrain_d2_format.pkl").write_bytes(b"")
    with pytest.raises(WeightsError, match="converted from"):
        find_backbone(tmp_path / "dino_RN50_pretrain_d2_format.pkl")


def test_files_that_are_absent_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there are no backbone weights"):
        find_backbone(tmp_path / "none.pth")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        resnet(tmp_path / "torn.pth").init_weights()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_it_is_fetched_once(
    tmp_path: Path, cache: Path, server: str, official: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(official, tmp_path / "served" / NAME)
    path = find_backbone(url=f"{server}/{NAME}")
    assert path == cached_backbone()
    assert path.read_bytes() == (tmp_path / "served" / NAME).read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.sha256"]
    monkeypatch.setattr(published_file, "_download", pytest.fail)
    assert find_backbone(url=f"http://not.asked/{NAME}") == path


def test_no_way_to_get_it(tmp_path: Path, cache: Path, server: str) -> None:
    with pytest.raises(WeightsError, match=r"--backbone FILE.*--backbone random"):
        find_backbone(url=f"{server}/absent/{NAME}")
    with pytest.raises(WeightsError, match=f"put it at {cached_backbone()}"):
        find_backbone(url=f"http://127.0.0.1:9/{NAME}")  # nobody listens there
    assert not cached_backbone().exists()


def test_an_error_page_does_not_enter_the_cache(tmp_path: Path, cache: Path, server: str) -> None:
    (tmp_path / "served" / NAME).write_text("<html>Not today</html>")
    with pytest.raises(WeightsError, match="cannot be had"):
        find_backbone(url=f"{server}/{NAME}")
    assert list(cached_backbone().parent.iterdir()) == []
