"""The same on a GPU as on the CPU. Skipped where there is none."""

import copy

import pytest
import torch

from stages.semantics.clusters import ClusterProbe, cosine_kmeans
from stages.semantics.farthest_points import farthest_coordinates, farthest_points
from stages.semantics.head import Projection, SemanticHead
from stages.semantics.objective import Crops, Objective, ObjectiveConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _full_precision() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_farthest_points_are_chosen_on_the_device_of_the_depth_ties_included() -> None:
    coarse = (3 * drawn(4, 200, 3)).floor()
    chosen = farthest_points(coarse.cuda(), 60)
    assert chosen.is_cuda
    assert torch.equal(chosen.cpu(), farthest_points(coarse, 60))
    depth = drawn(4, 28, 28).double()
    for reading in ("paper", "released"):
        points = farthest_coordinates(depth.cuda(), 11, (28, 28), reading)
        torch.testing.assert_close(points.cpu(), farthest_coordinates(depth, 11, (28, 28), reading))


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_losses_and_gradients_of_a_step(reading: str) -> None:
    config = ObjectiveConfig(reading=reading, lhp_weight=0.2)  # type: ignore[arg-type]
    torch.manual_seed(0)
    head, projection = SemanticHead(48, 16).double().eval(), Projection(16, 16).double()
    maps, depths = drawn(2, 6, 48, 14, 14).double() - 0.5, drawn(2, 6, 14, 14, seed=1).double()
    seen = {}
    for device in ("cpu", "cuda"):
        moved, turned = copy.deepcopy(head).to(device), copy.deepcopy(projection).to(device)
        own, near = (Crops(maps[i].to(device), depths[i].to(device)) for i in range(2))
        losses = Objective(config)(moved, own, near, 0, torch.Generator(device).manual_seed(0), turned)
        losses.total.backward()
        terms = {name: loss.item() for name, loss in losses.terms.items() if "random" not in name}
        seen[device] = terms, [parameter.grad for parameter in moved.parameters()]
    assert seen["cuda"][0] == pytest.approx(seen["cpu"][0], abs=1e-6)  # random pairs are others: another generator
    assert all(torch.isfinite(gradient).all() for gradient in seen["cuda"][1])


def test_a_step_in_float16_changes_the_head() -> None:
    torch.manual_seed(0)
    head = SemanticHead(48, 16).cuda()
    before = copy.deepcopy(head.state_dict())
    own, near = (Crops(drawn(4, 48, 14, 14, seed=i).half().cuda(), drawn(4, 14, 14, seed=i).cuda()) for i in range(2))
    optimizer, scaler = torch.optim.Adam(head.parameters()), torch.amp.GradScaler("cuda")
    with torch.autocast("cuda", torch.float16):
        losses = Objective(ObjectiveConfig())(head, own, near, 0, torch.Generator("cuda").manual_seed(0))
    assert losses.total.dtype == torch.float32
    scaler.scale(losses.total).backward()
    scaler.step(optimizer)
    assert all(torch.isfinite(value).all() for value in head.state_dict().values())
    assert not torch.equal(head.linear.weight, before["linear.weight"])


def test_kmeans_and_the_probe() -> None:
    vectors = drawn(3000, 32)
    once, again = (cosine_kmeans(vectors.cuda(), 12, 3) for _ in range(2))
    assert torch.equal(once.centroids, again.centroids)
    assert once.mean_cosine == pytest.approx(cosine_kmeans(vectors, 12, 3).mean_cosine, abs=0.01)
    probe, codes = ClusterProbe(32, 12), drawn(2, 32, 5, 5, seed=2)
    on_cpu = probe.log_probabilities(codes)
    torch.testing.assert_close(probe.cuda().log_probabilities(codes.cuda()).cpu(), on_cpu)
