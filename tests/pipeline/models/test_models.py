"""Models by name or path: the order in which weights are looked for, checkpoints that fit and those that do not."""

import argparse
import http.server
import json
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from support.tiny_depth import dpt

from pipeline.errors import ConfigError, WeightsError
from pipeline.models import hub, weights
from pipeline.models import load as models
from pipeline.models.load import feature_preset, load_depth, load_features
from pipeline.models.specs import check_features
from pipeline.models.vit_checkpoints import build_vit, read_checkpoint
from stages.feature_presets import PRESETS
from stages.features import FeatureExtractor

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
# The probe itself, uncached: the fixture `offline` puts a constant in its place.
PROBE = hub.reachable.__wrapped__
SMALL = {"size": 32, "precision": "float32"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, an empty cache."""
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny_state() -> dict[str, torch.Tensor]:
    """Random weights of timm's smallest ViT (patch 16, width 64)."""
    torch.manual_seed(0)
    return dict(timm.create_model("test_vit", num_classes=0).state_dict())


@pytest.fixture(scope="module")
def dino_state() -> dict[str, torch.Tensor]:
    """Random weights of DINO ViT-S/8 under its official names."""
    torch.manual_seed(0)
    return dict(timm.create_model("vit_small_patch8_224.dino", num_classes=0).state_dict())


@pytest.fixture(scope="module")
def registers_state() -> dict[str, torch.Tensor]:
    """Random weights of DINOv2 ViT-S/14 with registers, named and laid out as the official checkpoint's."""
    torch.manual_seed(0)
    state = dict(timm.create_model("vit_small_patch14_reg4_dinov2.lvd142m", num_classes=0).state_dict())
    state["register_tokens"] = state.pop("reg_token")
    class_row = torch.randn(1, 1, 384)
    state["pos_embed"] = torch.cat([class_row, state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - class_row
    return {"mask_token": torch.zeros(1, 384), **state}


@pytest.fixture(scope="module")
def dinov3_state() -> dict[str, torch.Tensor]:
    """Random weights of DINOv3 ViT-S/16, named and laid out as the official checkpoint's."""
    torch.manual_seed(0)
    state = timm.create_model("vit_small_patch16_dinov3", num_classes=0).state_dict()
    names = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens"}
    official: dict[str, torch.Tensor] = {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}
    for name, tensor in state.items():
        last = name.rpartition(".")[2]
        official[name.removesuffix(last) + names.get(last, last)] = tensor + 0.01 * torch.randn_like(tensor)
        if name.endswith("attn.qkv.weight"):
            official[name.replace("weight", "bias")] = torch.zeros(3 * 384)
            official[name.replace("weight", "bias_mask")] = torch.full((3 * 384,), torch.nan)
    return official


class TestCheckpoints:
    def test_official_and_training_checkpoints_hold_the_same_network(
        self, tmp_path: Path, dino_state: dict[str, torch.Tensor]
    ) -> None:
        save_file(dino_state, tmp_path / "a.safetensors")
        torch.save(dino_state, tmp_path / "b.pth")
        teacher = {f"backbone.{name}": value for name, value in dino_state.items()} | {"head.mlp.0.bias": torch.ones(2)}
        student = {f"module.{name}": value for name, value in teacher.items()}
        torch.save({"teacher": teacher, "epoch": 3, "student": student}, tmp_path / "c.pth")
        torch.save({"state_dict": student}, tmp_path / "d.pt")
        for file in ("a.safetensors", "b.pth", "c.pth", "d.pt"):
            state = read_checkpoint(tmp_path / file)
            assert set(state) == set(dino_state)
            assert all(torch.equal(state[name], value) for name, value in dino_state.items())
        vit = build_vit("vit_small_patch8_224.dino", state, file)
        assert all(torch.equal(value, dino_state[name]) for name, value in vit.state_dict().items())

    def test_what_dinos_training_script_writes_is_its_teacher(
        self, tmp_path: Path, dino_state: dict[str, torch.Tensor]
    ) -> None:
        teacher = {f"backbone.{name}": value for name, value in dino_state.items()} | {"head.mlp.0.bias": torch.ones(2)}
        beside = {"args": argparse.Namespace(arch="vit_small", patch_size=8), "lr": np.float64(0.1), "epoch": 100}
        torch.save({"student": {}, "teacher": teacher, "optimizer": {}, **beside}, tmp_path / "checkpoint.pth")
        state = read_checkpoint(tmp_path / "checkpoint.pth")
        assert all(torch.equal(state[name], value) for name, value in dino_state.items())
        torch.save({"teacher": teacher, "root": Path("/data")}, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match=r"other\.pth .*\(pathlib\.\w+\).*save the weights alone: torch\.save\("):
            read_checkpoint(tmp_path / "other.pth")

    def test_official_dinov3_is_translated_and_biases_are_not_lost(self, dinov3_state: dict[str, torch.Tensor]) -> None:
        name = "vit_small_patch16_dinov3.lvd1689m"
        vit: Any = build_vit(name, dinov3_state, "file")
        assert torch.equal(vit.reg_token, dinov3_state["storage_tokens"])
        assert torch.equal(vit.blocks[3].gamma_1, dinov3_state["blocks.3.ls1.gamma"])
        assert torch.equal(vit.blocks[3].attn.qkv.weight, dinov3_state["blocks.3.attn.qkv.weight"])
        biased = {**dinov3_state, "blocks.3.attn.qkv.bias": torch.ones(3 * 384)}
        with pytest.raises(
            WeightsError, match=r"blocks\.3\.attn\.qkv\.bias is not 0; give it as vit_small_.*_qkvb=file"
        ):
            build_vit(name, biased, "file")
        with_bias: Any = build_vit("vit_small_patch16_dinov3_qkvb.lvd1689m", biased, "file")
        assert torch.equal(with_bias.blocks[3].attn.v_bias, torch.ones(384))

    @pytest.mark.parametrize("mask_token", [True, False])
    def test_official_registers_are_translated(
        self, registers_state: dict[str, torch.Tensor], mask_token: bool
    ) -> None:
        state = {name: value for name, value in registers_state.items() if mask_token or name != "mask_token"}
        vit: Any = build_vit("vit_small_patch14_reg4_dinov2.lvd142m", state, "file")
        assert torch.equal(vit.reg_token, registers_state["register_tokens"])
        assert torch.equal(vit.pos_embed, registers_state["pos_embed"][:, 1:])
        torch.testing.assert_close(vit.cls_token, registers_state["cls_token"] + registers_state["pos_embed"][:, :1])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"norm.weight": None}, 'Missing key.*"norm.weight"'),
            ({"extra.bias": torch.ones(3)}, 'Unexpected key.*"extra.bias"'),
            ({"norm.weight": torch.ones(3)}, "size mismatch for norm.weight"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, tiny_state: dict[str, torch.Tensor], change: Mapping[str, torch.Tensor | None], message: str
    ) -> None:
        state = {name: value for name, value in {**tiny_state, **change}.items() if value is not None}
        with pytest.raises(WeightsError, match=f"my.pth does not fit test_vit: .*{message}"):
            build_vit("test_vit", state, "my.pth")

    def test_classifier_is_left_out(self, tiny_state: dict[str, torch.Tensor]) -> None:
        whole = {**tiny_state, "head.weight": torch.ones(1000, 64), "head.bias": torch.ones(1000)}
        assert set(build_vit("test_vit", whole, "a.pth").state_dict()) == set(tiny_state)

    def test_unreadable_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"none.pth does not exist"):
            read_checkpoint(tmp_path / "none.pth")
        for name in ("a.safetensors", "a.pth"):
            (tmp_path / name).write_bytes(b"nothing of use")
            with pytest.raises(WeightsError, match=f"{name} cannot be read as weights"):
                read_checkpoint(tmp_path / name)
        torch.save({"epoch": 3}, tmp_path / "b.pth")
        with pytest.raises(WeightsError, match=r"b\.pth holds no state dict"):
            read_checkpoint(tmp_path / "b.pth")

    def test_code_in_a_checkpoint_is_not_run(self, tmp_path: Path) -> None:
        torch.save({"state_dict": Path}, tmp_path / "evil.pth")
        with pytest.raises(WeightsError, match=r"evil\.pth cannot be read"):
            read_checkpoint(tmp_path / "evil.pth")


class TestLoadFeatures:
    def test_explicit_file_by_preset_and_alone(self, tmp_path: Path, dino_state: dict[str, torch.Tensor]) -> None:
        path = tmp_path / "mine.pth"
        torch.save(dino_state, path)
        named, alone = load_features(f"dino_vits8={path}", overrides=SMALL), load_features(str(path), overrides=SMALL)
        assert named.config == alone.config
        assert named.config.kind == "keys"
        assert named.fingerprint == alone.fingerprint
        assert named.grid == (4, 4)
        assert torch.equal(named([PHOTO]), alone([PHOTO]))

    def test_preset_is_told_by_shapes(
        self, tmp_path: Path, registers_state: dict[str, torch.Tensor], assets: Path
    ) -> None:
        torch.save(registers_state, tmp_path / "a.pth")
        assert feature_preset(str(tmp_path / "a.pth"))[0] is PRESETS["dinov2_vits14_reg"]
        shared = assets / "weights" / "dinov2_vits14_fp16.safetensors"
        assert feature_preset(str(shared)) == (PRESETS["dinov2_vits14"], shared)
        save_file({"patch_embed.proj.weight": torch.zeros(64, 3, 8, 8)}, tmp_path / "b.safetensors")
        save_file(
            {"patch_embed.proj.weight": torch.zeros(384, 3, 16, 16), "storage_tokens": torch.zeros(1, 4, 384)},
            tmp_path / "c.safetensors",
        )
        assert feature_preset(str(tmp_path / "c.safetensors"))[0] is PRESETS["dinov3_vits16"]
        with pytest.raises(ConfigError, match=r"b.safetensors is none of dino_vits8, .* as in NAME="):
            feature_preset(str(tmp_path / "b.safetensors"))

    def test_any_vit_of_timm(self, tmp_path: Path, tiny_state: dict[str, torch.Tensor]) -> None:
        save_file(tiny_state, tmp_path / "a.safetensors")
        extractor = load_features(f"test_vit={tmp_path / 'a.safetensors'}", overrides={"size": 64})
        assert (extractor.config.kind, extractor.config.centred, extractor.config.patch_size) == ("tokens", True, 16)
        assert extractor([PHOTO]).shape == (1, 16, 64)
        assert feature_preset("test_vit")[0].config.size == 480
        for name in ("resnet50", "xcit_nano_12_p8_224", "hiera_tiny_224", "vit_tiny_r_s16_p8_224"):
            with pytest.raises(ConfigError, match=f"{name} is not a ViT"):
                feature_preset(name)

    def test_overrides_change_the_configuration_and_are_checked(
        self, tmp_path: Path, tiny_state: dict[str, torch.Tensor]
    ) -> None:
        path = tmp_path / "mine.pth"
        torch.save(tiny_state, path)
        changed = load_features(f"test_vit={path}", overrides={"size": 128, "kind": "keys"})
        assert changed.grid == (8, 8)
        for overrides, message in (({"size": 33}, "size is 33"), ({"sise": 32}, "sise"), ({"patch_size": 8}, "has")):
            with pytest.raises(ConfigError, match=f"features test_vit=.*{message}"):
                load_features(f"test_vit={path}", overrides=overrides)

    def test_unknown_name_lists_the_known(self) -> None:
        with pytest.raises(ConfigError, match=r"no features 'dinov9': use dino_vits8, .*any ViT of timm"):
            load_features("dinov9")

    def test_missing_file_and_unreachable_hub_name_the_remedy(self) -> None:
        with pytest.raises(WeightsError, match=r"none\.pth does not exist"):
            load_features("dino_vits8=/none.pth")
        with pytest.raises(WeightsError, match=r"hub only \(timm/vit_small_patch8.*give --features dino_vits8=FILE"):
            load_features("dino_vits8")

    def test_cache_then_hub_then_package(self, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shared = assets / "weights" / "dinov2_vits14_fp16.safetensors"
        used: list[str] = []

        def source(name: str, found: bool) -> Any:
            def look(*_: Any) -> Path | None:
                used.append(name)
                return shared if found else None

            return look

        def sources(cached: bool, on_hub: bool) -> list[str]:
            used.clear()
            monkeypatch.setattr(weights, "find", source("cache", cached))
            monkeypatch.setattr(hub, "file", source("hub", on_hub))
            monkeypatch.setattr(weights, "fetch", lambda names: [source("package", True)()])
            assert isinstance(load_features("dinov2_vits14", overrides={"size": 28}), FeatureExtractor)
            to_load = list(dict.fromkeys(used))
            used.clear()
            check_features("dinov2_vits14", PRESETS["dinov2_vits14"])
            assert list(dict.fromkeys(used)) == to_load  # and so before images are listed
            return to_load

        assert sources(cached=True, on_hub=True) == ["cache"]
        assert sources(cached=False, on_hub=True) == ["cache", "hub"]
        assert sources(cached=False, on_hub=False) == ["cache", "hub", "package"]

    def test_fingerprint_is_of_the_content_not_of_the_file(
        self, tmp_path: Path, tiny_state: dict[str, torch.Tensor]
    ) -> None:
        torch.save(tiny_state, tmp_path / "a.pth")
        save_file(tiny_state, tmp_path / "b.safetensors")
        torch.save({**tiny_state, "norm.bias": tiny_state["norm.bias"] + 1}, tmp_path / "c.pth")
        same, again, other = (
            load_features(f"test_vit={tmp_path / name}").fingerprint for name in ("a.pth", "b.safetensors", "c.pth")
        )
        assert same == again != other


class TestLoadDepth:
    def test_onnx_beside_its_sidecar(self, assets: Path, tmp_path: Path) -> None:
        depth = load_depth(str(assets / "weights" / "fastdepth.onnx"))
        assert depth.name == "FastDepth"
        (found,) = depth.predict([PHOTO], ["a.jpg"])
        assert found.shape == (224, 224)
        turned = load_depth(str(assets / "weights" / "fastdepth.onnx"), kind="inverse_depth")
        np.testing.assert_allclose(turned.predict([PHOTO], ["a.jpg"])[0], 1 - found, atol=1e-6)
        shutil.copy(assets / "weights" / "fastdepth.onnx", tmp_path / "a.onnx")
        with pytest.raises(WeightsError, match=r"a\.json does not exist"):
            load_depth(str(tmp_path / "a.onnx"))
        (tmp_path / "a.json").write_text(json.dumps({"model": "x"}))
        with pytest.raises(ConfigError, match=r"a\.json: the sidecar lacks input"):
            load_depth(str(tmp_path / "a.onnx"))
        (tmp_path / "a.json").write_text("{")
        with pytest.raises(ConfigError, match=r"a\.json: "):
            load_depth(str(tmp_path / "a.onnx"))

    def test_fastdepth_comes_from_the_cache(self, assets: Path, tmp_path: Path) -> None:
        folder = tmp_path / "cache" / "fastdepth"
        folder.mkdir(parents=True)
        for name in ("fastdepth.onnx", "fastdepth.json", "fastdepth.LICENSE.txt"):
            shutil.copy(assets / "weights" / name, folder)
        assert load_depth("fastdepth").name == "FastDepth"
        (folder / "fastdepth.onnx").write_bytes(b"torn")
        with pytest.raises(WeightsError, match=r"fastdepth\.onnx is corrupt .*cuts3d weights fetch fastdepth --force"):
            load_depth("fastdepth")

    def test_transformers_folder(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        for part in dpt():
            part.save_pretrained(tmp_path)
        depth = load_depth(str(tmp_path))
        assert depth.predict([PHOTO], ["a.jpg"])[0].shape == (64, 64)
        state = load_file(tmp_path / "model.safetensors")
        # The unit that published DPT checkpoints lack must not make the fingerprint change from load to load.
        unused = {name for name in state if models._UNUSED_IN_DPT in name}
        assert unused
        metadata = {"format": "pt"}
        save_file({k: v for k, v in state.items() if k not in unused}, tmp_path / "model.safetensors", metadata)
        assert load_depth(str(tmp_path)).fingerprint == load_depth(str(tmp_path)).fingerprint
        save_file({k: v for k, v in state.items() if "head" not in k}, tmp_path / "model.safetensors", metadata)
        with pytest.raises(WeightsError, match=r"lacks weights: head\..*in all"):
            load_depth(str(tmp_path))

    def test_maps_by_prefix_or_folder(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.arange(12.0).reshape(3, 4))
        for spec in (str(tmp_path), f"maps:{tmp_path}"):
            (depth,) = load_depth(spec).predict([PHOTO], ["a.jpg"])
            np.testing.assert_allclose(depth, np.arange(12).reshape(3, 4) / 11, atol=1e-6)

    def test_unknown_name_lists_the_known_and_the_unreachable_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigError, match=r"no depth model 'midas': use fastdepth, zoedepth, .*maps:FOLDER"):
            load_depth("midas")
        with pytest.raises(WeightsError, match=r"hub only .*Intel/zoedepth.*give its folder as --depth FOLDER"):
            load_depth("zoedepth")


class TestHub:
    def test_probe_is_true_only_for_a_hub_that_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Hub(http.server.BaseHTTPRequestHandler):
            status = 200

            def do_HEAD(self) -> None:
                self.send_response(self.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with http.server.HTTPServer(("127.0.0.1", 0), Hub) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            assert PROBE()
            Hub.status = 403
            assert not PROBE()
            Hub.status = 200
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
            assert not PROBE()
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            server.shutdown()
        assert not PROBE()

    def test_local_cache_counts_without_a_hub(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        cached = {"model.safetensors": str(tmp_path / "model.safetensors")}
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, name: cached.get(name))
        assert hub.file("timm/x", "model.safetensors") == tmp_path / "model.safetensors"
        assert hub.file("timm/x", "other") is None

    def test_refusing_hub_is_an_error_and_an_embedded_default_goes_on(
        self, monkeypatch: pytest.MonkeyPatch, assets: Path
    ) -> None:
        def refuse(*_: Any) -> str:
            raise OSError("gated")

        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
        monkeypatch.setattr(hub, "reachable", lambda: True)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
        with pytest.raises(WeightsError, match=r"does not give model\.safetensors of timm/.*gated"):
            load_features("dino_vits8")
        shared = assets / "weights" / "dinov2_vits14_fp16.safetensors"
        monkeypatch.setattr(weights, "fetch", lambda names: [shared])
        assert load_features("dinov2_vits14", overrides={"size": 28}).grid == (2, 2)
