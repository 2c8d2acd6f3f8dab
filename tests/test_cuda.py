"""The same results on a GPU as on the CPU. Skipped where there is none."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_method import draw_photos, tiny_method

from pipeline.batch_work import Method
from pipeline.manifest import Shard
from pipeline.models import load_depth, load_features
from pipeline.recipes import get_recipe
from pipeline.shard_file import ShardFile
from pipeline.shard_work import ShardWorker
from pipeline.sources import list_images
from stages.affinity import affinity_edges
from stages.filters import mask_iou
from stages.ncut import NCutConfig, ncut
from stages.spatial_importance import SpatialImportanceConfig, spatial_importance

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _full_precision() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


def test_ncut_and_edges() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 64, generator=generator)
    features = centres[torch.randint(4, (3, 400), generator=generator)] + torch.randn(3, 400, 64, generator=generator)
    depth = torch.rand(3, 20, 20, generator=generator)
    recipe = get_recipe("cuts3d", ["affinity.tau=0.3"])
    results = {}
    for device in ("cpu", "cuda"):
        importance = spatial_importance(depth.to(device), SpatialImportanceConfig()).flatten(1)
        edges = affinity_edges(features.to(device), recipe.affinity, importance, recipe.sharpen)
        alive = torch.ones(3, 400, dtype=torch.bool, device=device)
        alive[:, :25] = False
        results[device] = edges.cpu(), ncut(edges, alive, 1e-5, NCutConfig())
    assert (results["cpu"][0] != results["cuda"][0]).float().mean() < 1e-4
    one, other = results["cpu"][1], results["cuda"][1]
    torch.testing.assert_close(one.eigenvalue_B, other.eigenvalue_B.cpu(), atol=1e-4, rtol=1e-3)
    cosine = (one.eigenvector_BN * other.eigenvector_BN.cpu()).sum(dim=1).abs()
    assert (cosine > 0.999).all()


def test_the_dense_fallback_runs_on_the_gpu() -> None:
    edges = (torch.rand(2, 90, 90, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    edges = torch.maximum(edges, edges.transpose(1, 2)).cuda()
    result = ncut(edges, torch.ones(2, 90, dtype=torch.bool, device="cuda"), 1e-5, NCutConfig(1e-6, 8))
    assert result.dense_B.all()
    assert (result.residual_B < 1e-5).all()


@pytest.mark.parametrize("recipe", ["maskcut", "cuts3d"])
def test_a_shard_of_photos(assets: Path, recipe: str) -> None:
    """Real weights on both devices: at most a few patches differ where a cosine lies at τ to rounding."""
    weights = assets / "weights"
    shard = Shard("00000", list_images(str(assets / "coco" / "images")).refs[:6])
    masks: dict[str, list[list[np.ndarray]]] = {}
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        chosen = get_recipe(recipe, ["affinity.tau=0.3"])
        extractor = load_features(f"dinov2_vits14={weights}/dinov2_vits14_fp16.safetensors", device, {"size": 420})
        depth = load_depth(str(weights / "pydnet_v2.onnx"), device) if chosen.needs_depth else None
        result = ShardWorker(Method(chosen, extractor, depth, device), 4).process(shard, "refine", {}, {})
        file = ShardFile.open(result.data)
        masks[name] = [[file.mask(m).astype(bool) for m in file.masks_of(i)] for i in range(len(file))]
    same = [len(a) == len(b) for a, b in zip(masks["cpu"], masks["cuda"], strict=True)]
    assert sum(same) >= 5
    ious = [
        mask_iou(a, b)
        for one, other in zip(masks["cpu"], masks["cuda"], strict=True)
        for a, b in zip(one, other, strict=False)
    ]
    assert np.median(ious) > 0.99


def test_a_batch_too_large_for_the_gpu_finds_its_size(tmp_path: Path) -> None:
    draw_photos(tmp_path, 6)
    method = tiny_method(device="cuda")
    hungry = 0.9 * torch.cuda.get_device_properties(0).total_memory

    class Hungry:
        name, fingerprint = "hungry", "hungry/1"

        def predict(self, images: list[np.ndarray], ids: list[str]) -> list[np.ndarray]:
            if len(ids) > 1:
                torch.empty(int(hungry * len(ids)), dtype=torch.uint8, device="cuda")
            return [image.mean(axis=2).astype(np.float32) / 255 for image in images]

    worker = ShardWorker(dataclasses.replace(method, depth=Hungry()), 4)
    result = worker.process(Shard("00000", list_images(str(tmp_path)).refs), "refine", {}, {})
    assert worker.batch_size == 1
    assert result.quarantine == []
