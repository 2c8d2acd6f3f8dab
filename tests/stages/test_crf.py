"""The torch CRF against what pydensecrf made of photos, against the general softmax form, and by property."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.recorded_crf import DRAWN, PHOTOS, SETTINGS, Recording, drawn, photos, random_image, random_masks

import stages.crf
from stages.crf import CrfConfig, dense_crf, label_crf
from stages.permutohedral import PermutohedralLattice


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording()


def ious(a_MHW: torch.Tensor, b_MHW: torch.Tensor) -> list[float]:
    return [
        1.0 if torch.equal(a, b) else ((a & b).sum() / (a | b).sum()).item() for a, b in zip(a_MHW, b_MHW, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "count"), PHOTOS)
def test_agrees_with_pydensecrf_on_photos(assets: Path, recording: Recording, size: int, count: int) -> None:
    cases = photos(assets / "coco", size, count)
    masks = [own for _, _, own in cases]
    ours = torch.cat(dense_crf(torch.stack([image for _, image, _ in cases]), masks, CrfConfig()))
    theirs = torch.cat([recording.masks(case) for case in cases])
    agreement = ious(ours, theirs)
    assert np.mean(agreement) >= 0.999
    assert min(agreement) >= 0.99
    # The comparison means something: masks are changed, and most of them survive.
    assert np.mean(ious(ours, torch.cat(masks))) < 0.95
    assert ours.flatten(1).any(1).float().mean() > 0.6


@pytest.mark.parametrize(("height", "width"), DRAWN)
def test_agrees_with_pydensecrf_at_odd_sizes(height: int, width: int, recording: Recording) -> None:
    for setting, options in enumerate(SETTINGS):
        case = drawn(height, width, setting)
        _, image, masks = case
        ours = dense_crf(image[None], [masks], CrfConfig(**options))[0]
        # pydensecrf pads the points to a multiple of four with zeros, which adds a few vertices: not bit for bit.
        assert (ours != recording.masks(case)).float().mean() <= 0.002


def test_a_changed_input_is_not_compared_with_what_was_recorded(recording: Recording) -> None:
    key, image, masks = drawn(*DRAWN[0], 0)
    with pytest.raises(ValueError, match="record again"):
        recording.masks((key, image, ~masks))


def test_two_label_form_equals_general_softmax() -> None:
    """Both labels written out as in the paper: Q ∝ exp(-U + Σ w K Q), one softmax per pixel."""
    height, width, config = 40, 56, CrfConfig(bilateral_sxy=20.0, bilateral_srgb=15.0)
    image = random_image(height, width, seed=1)
    masks_MHW = random_masks(2, height, width, seed=2)
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    xy = torch.stack([x, y], dim=-1)
    features = [
        (xy / config.gaussian_sxy, config.gaussian_compat),
        (
            torch.cat([xy / config.bilateral_sxy, image.float() / config.bilateral_srgb], dim=-1),
            config.bilateral_compat,
        ),
    ]
    kernels = [(PermutohedralLattice.build(f.reshape(1, height * width, -1)), w) for f, w in features]
    expected = []
    for mask in masks_MHW:
        one_hot = torch.stack([~mask, mask], dim=-1).view(1, -1, 2).float()
        unary = -one_hot.softmax(dim=2).log()
        assert unary.exp().reciprocal().unique().tolist() == pytest.approx([0.2689, 0.7311], abs=1e-4)
        q = (-unary).softmax(dim=2)
        for _ in range(config.iterations):
            logits = -unary
            for lattice, weight in kernels:
                root = lattice.filter(torch.ones(1, height * width, 1)).rsqrt()
                logits = logits + weight * root * lattice.filter(root * q)
            q = logits.softmax(dim=2)
        expected.append(q.argmax(dim=2).view(height, width) == 1)
    refined = dense_crf(image[None], [masks_MHW], config)[0]
    assert (refined != torch.stack(expected)).sum() <= 2
    assert 0.05 < refined.float().mean() < 0.95


def test_snaps_to_the_edge_of_the_photo() -> None:
    true = torch.zeros(96, 96, dtype=torch.bool)
    true[24:72, 30:66] = True
    image = torch.where(true[..., None], torch.tensor([200, 60, 40]), torch.tensor([40, 90, 160]))
    noise = torch.randint(-4, 5, image.shape, generator=torch.Generator().manual_seed(0))
    coarse = torch.roll(true, (4, -4), (0, 1))
    refined = dense_crf((image + noise).to(torch.uint8)[None], [coarse[None]], CrfConfig())[0]
    assert ious(coarse[None], true[None])[0] < 0.75
    assert ious(refined, true[None])[0] > 0.98


@pytest.mark.parametrize("fill", [False, True])
def test_empty_and_full_masks_stay(fill: bool) -> None:
    masks = torch.full((1, 32, 32), fill)
    assert torch.equal(dense_crf(random_image(32, 32, seed=3)[None], [masks], CrfConfig())[0], masks)


@pytest.mark.parametrize("images_per_chunk", [1, 2, 4])
def test_batch_equals_single(images_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.stack([random_image(40, 30, seed) for seed in range(4)])
    masks = [random_masks(count, 40, 30, seed=count) for count in (2, 0, 3, 1)]
    config = CrfConfig(bilateral_srgb=20.0)
    single = [dense_crf(images[b : b + 1], masks[b : b + 1], config)[0] for b in range(4)]
    monkeypatch.setitem(stages.crf._PIXELS_PER_CHUNK, "cpu", images_per_chunk * 40 * 30)
    batched = dense_crf(images, masks, config)
    assert [m.shape for m in batched] == [m.shape for m in masks]
    assert all(torch.equal(a, b) for a, b in zip(batched, single, strict=True))
    assert not torch.equal(batched[2], masks[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    images = torch.stack([random_image(120, 90, seed) for seed in range(3)])
    masks = [random_masks(count, 120, 90, seed=count) for count in (2, 0, 3)]
    config = CrfConfig(bilateral_srgb=20.0)
    on_gpu = dense_crf(images.cuda(), [m.cuda() for m in masks], config)
    assert all(m.is_cuda for m in on_gpu)
    differing = torch.cat(dense_crf(images, masks, config)) != torch.cat(on_gpu).cpu()
    assert differing.float().mean() < 1e-3


def test_input_is_left_alone() -> None:
    images, masks = random_image(20, 20, seed=0)[None], random_masks(1, 20, 20, seed=0)
    before = images.clone(), masks.clone()
    dense_crf(images, [masks], CrfConfig())
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])


def test_no_images() -> None:
    assert dense_crf(torch.zeros(0, 8, 8, 3, dtype=torch.uint8), [], CrfConfig()) == []


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (torch.zeros(1, 4, 4, 3), [torch.zeros(1, 4, 4, dtype=torch.bool)], "images_BHW3 must be a uint8"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [torch.zeros(1, 4, 4, dtype=torch.bool)], "images_BHW3"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), [torch.zeros(1, 4, 4, dtype=torch.bool)], "one entry per image"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), [torch.zeros(1, 4, 5, dtype=torch.bool)], r"masks\[0\]"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), [torch.zeros(1, 4, 4)], r"masks\[0\] must be a bool"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), [torch.zeros(4, 4, dtype=torch.bool)], r"masks\[0\]"),
    ],
)
def test_refuses_bad_input(images: torch.Tensor, masks: list[torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_crf(images, masks, CrfConfig())


def shares_of(labels_HW: torch.Tensor, sure: float) -> torch.Tensor:
    """(K, H, W): `sure` for a pixel's own label, the others share the rest."""
    one_hot = torch.nn.functional.one_hot(labels_HW).permute(2, 0, 1).float()
    return one_hot * sure + (1 - one_hot) * (1 - sure) / max(len(one_hot) - 1, 1)


def test_two_competing_labels_are_a_mask_and_its_background() -> None:
    """With shares of 0.73 and 0.27, whose logarithms differ by 1, as the unaries of a mask do."""
    config = CrfConfig(bilateral_sxy=20.0, bilateral_srgb=15.0)
    image, (mask,) = random_image(40, 56, seed=1), random_masks(1, 40, 56, seed=2)
    sure = float(torch.sigmoid(torch.tensor(1.0)))
    (after,) = label_crf(image[None], [shares_of(mask.long(), sure)], config)
    (refined,) = dense_crf(image[None], [mask[None]], config)[0]
    assert ((after[1] > after[0]) != refined).sum() <= 2
    assert 0.05 < refined.float().mean() < 0.95
    torch.testing.assert_close(after.sum(dim=0), torch.ones(40, 56))


def mean_field(shares_KHW: np.ndarray, kernel_PP: np.ndarray, iterations: int) -> np.ndarray:
    """Q ∝ exp(-U + K Q), one pixel and label after the other. kernel_PP: weighted and normalised, of all kernels."""
    unary_KP = -np.log(np.maximum(shares_KHW.reshape(len(shares_KHW), -1), 1e-5))
    q_KP = np.exp(-unary_KP) / np.exp(-unary_KP).sum(axis=0)
    for _ in range(iterations):
        logit_KP = -unary_KP + np.stack([kernel_PP @ q_P for q_P in q_KP])
        q_KP = np.exp(logit_KP - logit_KP.max(axis=0))
        q_KP /= q_KP.sum(axis=0)
    return q_KP.reshape(shares_KHW.shape)


@pytest.mark.parametrize("labels", [1, 3, 20])
def test_many_labels_are_the_mean_field_by_brute_force(labels: int) -> None:
    """On the lattice's own kernel, to rounding; on the exact Gaussians, nearly: the lattice is an approximation."""
    height, width = 12, 15
    config = CrfConfig(iterations=6, gaussian_sxy=2.0, bilateral_sxy=6.0, bilateral_srgb=60.0)
    rng = np.random.default_rng(labels)
    image = torch.from_numpy(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
    before = rng.dirichlet(np.full(labels, 0.3), (height, width)).transpose(2, 0, 1).astype(np.float32)
    y, x = np.mgrid[:height, :width]
    xy = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    features = [
        (xy / 2.0, config.gaussian_compat),
        (np.concatenate([xy / 6.0, image.numpy().reshape(-1, 3) / np.float32(60.0)], axis=1), config.bilateral_compat),
    ]
    on_lattice = exact = 0.0
    for points, weight in features:
        lattice = PermutohedralLattice.build(torch.from_numpy(points)[None])
        gaussian = np.exp(-0.5 * ((points[:, None] - points) ** 2).sum(axis=2))
        for name, kernel in (("lattice", lattice.filter(torch.eye(len(points))[None])[0].numpy()), ("exact", gaussian)):
            scale = 1 / np.sqrt(kernel.sum(axis=1))
            kernel = weight * scale[:, None] * kernel * scale
            on_lattice, exact = (on_lattice + kernel, exact) if name == "lattice" else (on_lattice, exact + kernel)
    (after,) = label_crf(image[None], [torch.from_numpy(before)], config)
    np.testing.assert_allclose(after.numpy(), mean_field(before, np.asarray(on_lattice), 6), atol=2e-3)
    agree = after.numpy().argmax(axis=0) == mean_field(before, np.asarray(exact), 6).argmax(axis=0)
    assert agree.mean() > 0.85


def test_images_do_not_compete_with_each_other() -> None:
    images = torch.stack([random_image(24, 20, seed) for seed in range(2)])
    shares = [shares_of(torch.arange(20).expand(24, 20) // width, 0.9) for width in (4, 7)]
    together = list(label_crf(images, shares, CrfConfig(bilateral_srgb=20.0)))
    for one, own, after in zip(images, shares, together, strict=True):
        assert torch.equal(after, next(label_crf(one[None], [own], CrfConfig(bilateral_srgb=20.0))))
    with pytest.raises(ValueError, match="at least one label"):
        list(label_crf(images[:1], [shares[0][:0]], CrfConfig()))
    with pytest.raises(ValueError, match=r"masks\[0\] must be a float32"):
        list(label_crf(images[:1], [shares[0].double()], CrfConfig()))


@pytest.mark.parametrize(
    "settings",
    [
        {"iterations": 0},
        {"gaussian_sxy": 0.0},
        {"gaussian_compat": -1.0},
        {"bilateral_sxy": float("inf")},
        {"bilateral_srgb": -5.0},
        {"bilateral_compat": float("nan")},
    ],
)
def test_config_names_the_bad_field(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        CrfConfig(**settings)
