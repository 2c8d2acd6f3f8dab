"""The same results on a GPU as on the CPU. Skipped where there is none."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_method import draw_photos, tiny_method

from pipeline.engine.shard_worker import ShardWorker
from pipeline.images.manifest import Shard
from pipeline.images.sources import list_images
from pipeline.methods.cuts.method import CutsMethod
from pipeline.methods.cuts.recipes import get_recipe
from pipeline.models.load import load_depth, load_features
from pipeline.results.instance_file import ShardFile
from stages.affinity import AffinityConfig, affinity_edges, similarities
from stages.filters import mask_iou
from stages.mask_parts import mask_parts
from stages.ncut import NCutConfig, ncut
from stages.ncut_tree import TreeConfig, first_cuts, ncut_tree
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
    recipe = get_recipe("cuts3d_rounds", ["affinity.tau=0.3"])
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


def test_a_padded_batch() -> None:
    """Graphs of different sizes, solved together, whichever solver: on a GPU that is how a tree is searched."""
    edges = (torch.rand(3, 90, 90, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    edges = torch.maximum(edges, edges.transpose(1, 2))
    present = torch.arange(90) < torch.tensor([[90], [60], [31]])
    for config in (NCutConfig(1e-5), NCutConfig(1e-6, 8)):
        one = ncut(edges, present, 1e-5, config, present)
        other = ncut(edges.cuda(), present.cuda(), 1e-5, config, present.cuda())
        assert (other.eigenvector_BN.cpu()[~present] == 0).all()
        torch.testing.assert_close(one.eigenvalue_B, other.eigenvalue_B.cpu(), atol=1e-5, rtol=1e-4)
        assert ((one.eigenvector_BN * other.eigenvector_BN.cpu()).sum(dim=1).abs() > 0.9999).all()


def test_the_tree_of_cuts() -> None:
    """Parts of things that are well apart, level by level; a batch has graphs of many sizes at each."""
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(20, 20, dtype=torch.long)
    label[2:9, 2:12], label[5:9, 2:12], label[11:18, 6:16], label[11:18, 11:16] = 1, 2, 3, 4
    things = torch.randn(3, 5, 64, generator=generator)
    things[:, 2] = 0.6 * things[:, 1] + 0.6 * things[:, 2]  # two halves of one thing
    things[:, 4] = 0.6 * things[:, 3] + 0.6 * things[:, 4]
    features = things[:, label.flatten()] + 0.3 * torch.randn(3, 400, 64, generator=generator)
    affinity = AffinityConfig(tau=0.2, epsilon=0.01)
    config = TreeConfig(depth=3, min_area=0.05, max_area=0.95)
    found = {}
    for device in ("cpu", "cuda"):
        similarity = similarities(features.to(device))
        roots = first_cuts(similarity, affinity, NCutConfig())
        found[device] = ncut_tree(similarity, roots, (20, 20), config, affinity, NCutConfig())
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        masks = {(part.depth, part.mask.tobytes()) for part in one if part.depth <= 2}
        same = masks & {(part.depth, part.mask.tobytes()) for part in other}
        assert len(same) >= 0.9 * len(masks) > 2


def test_parts_of_the_score() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 32, generator=generator) + 0.3
    masks = torch.rand(6, 20, 20, generator=generator).numpy() < 0.5
    depth = torch.rand(20, 20, generator=generator).numpy()
    for one, other in zip(
        mask_parts(features, depth, masks, 0.1), mask_parts(features.cuda(), depth, masks, 0.1), strict=True
    ):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), abs=0.02)


@pytest.mark.parametrize("recipe", ["maskcut", "cuts3d_rounds", "cuts3d"])
def test_a_shard_of_photos(assets: Path, recipe: str) -> None:
    """Real weights on both devices: at most a few patches differ where a cosine lies at τ to rounding."""
    weights = assets / "weights"
    shard = Shard("00000", list_images(str(assets / "coco" / "images")).refs[:6])
    masks: dict[str, list[list[np.ndarray]]] = {}
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        chosen = get_recipe(recipe, ["affinity.tau=0.3"])
        extractor = load_features(f"dinov2_vits14={weights}/dinov2_vits14_fp16.safetensors", device, {"size": 420})
        depth = load_depth(str(weights / "fastdepth.onnx"), device) if chosen.needs_depth else None
        result = ShardWorker(CutsMethod(chosen, extractor, depth, device), 4).process(shard, None, {}, {})
        file = ShardFile.open(result.data)
        masks[name] = [[file.mask(m).astype(bool) for m in file.masks_of(i)] for i in range(len(file))]
    same = [len(a) == len(b) for a, b in zip(masks["cpu"], masks["cuda"], strict=True)]
    assert sum(same) >= 5
    # two of nearly one score may change places: each mask against the one of the other device that is most like it
    ious = [
        max((mask_iou(a, b) for b in other), default=0.0)
        for one, other in zip(masks["cpu"], masks["cuda"], strict=True)
        for a in one
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
    result = worker.process(Shard("00000", list_images(str(tmp_path)).refs), None, {}, {})
    assert worker.batch_size == 1
    assert result.quarantine == []
