"""Labels of a photo against the formula written out at its own size, without bands."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from stages.crf import CrfConfig, label_crf
from stages.semantics import labelling
from stages.semantics.clusters import ClusterProbe
from stages.semantics.labelling import LabelRefineConfig, Near, Seen, label_photo, published_crf, working_size
from stages.semantics.windows import Window, WindowConfig, centres, covering_windows, log_shares, near_windows

SIZE = (40, 52)


@pytest.fixture
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)[: SIZE[0], : SIZE[1]]
    return np.ascontiguousarray(blocks)


@pytest.fixture
def probe() -> ClusterProbe:
    return ClusterProbe(6, 5, torch.Generator().manual_seed(1)).requires_grad_(False)


@pytest.fixture
def whole() -> Seen:
    return Seen([Window(0, 0, *SIZE)], torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0)))


def logs_of(whole: Seen, probe: ClusterProbe) -> torch.Tensor:
    codes = functional.interpolate(whole.codes_VKhw, SIZE, mode="bilinear", align_corners=False)
    return probe.log_probabilities(codes)[0]


@pytest.fixture(params=[1 << 22, 600], ids=["one band", "many bands"])
def _bands(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "_BAND", request.param)


@pytest.mark.usefixtures("_bands")
def test_without_a_crf_they_are_those_of_the_codes(image: np.ndarray, probe: ClusterProbe, whole: Seen) -> None:
    labels, confidence = label_photo(image, whole, None, probe, LabelRefineConfig(crf=None))
    expected = logs_of(whole, probe).exp()
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, expected.argmax(dim=0).numpy())
    assert np.allclose(confidence, expected.amax(dim=0).numpy(), atol=1e-6)


@pytest.mark.usefixtures("_bands")
def test_at_the_photos_size_the_crf_is_that_of_all_clusters(
    image: np.ndarray, probe: ClusterProbe, whole: Seen
) -> None:
    for side in (None, 40, 500):
        labels, confidence = label_photo(image, whole, None, probe, LabelRefineConfig(side=side))
        before = logs_of(whole, probe).softmax(dim=0)
        (after,) = label_crf(torch.from_numpy(image)[None], [before], published_crf())
        assert np.array_equal(labels, after.argmax(dim=0).numpy())
        assert np.allclose(confidence, after.amax(dim=0).numpy(), atol=1e-5)
        assert (labels != before.argmax(dim=0).numpy()).any()


@pytest.mark.usefixtures("_bands")
def test_a_smaller_crf_gives_labels_at_the_photos_size(image: np.ndarray, probe: ClusterProbe, whole: Seen) -> None:
    labels, confidence = label_photo(image, whole, None, probe, LabelRefineConfig(side=20))
    assert labels.shape == confidence.shape == SIZE
    full, _ = label_photo(image, whole, None, probe, LabelRefineConfig())
    assert (labels == full).mean() > 0.7
    assert confidence.min() >= 1 / 5
    assert confidence.max() <= 1


@pytest.mark.usefixtures("_bands")
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_near_and_whole_are_mixed_as_logarithms(
    image: np.ndarray, probe: ClusterProbe, whole: Seen, share: float
) -> None:
    windows = near_windows(*SIZE, WindowConfig())
    codes = torch.randn(len(windows), 6, 3, 3, generator=torch.Generator().manual_seed(2))
    seen, config = Seen(windows, codes), LabelRefineConfig(crf=None)
    labels, confidence = label_photo(image, whole, Near(seen, share), probe, config)
    # the windows alone, whose logarithms are known up to a constant per pixel, which the softmax takes out
    logs = {1.0: logs_of(whole, probe)}
    logs[0.0] = log_shares(windows, codes, probe, centres(SIZE[0], SIZE[0]), centres(SIZE[1], SIZE[1]))
    expected = (share * logs[1.0] + (1 - share) * logs[0.0]).softmax(dim=0)
    assert np.array_equal(labels, expected.argmax(dim=0).numpy())
    assert np.allclose(confidence, expected.amax(dim=0).numpy(), atol=1e-5)
    as_map = np.full((3, 4), share, np.float32)
    again = label_photo(image, whole, Near(seen, as_map), probe, config)
    assert np.array_equal(again[0], labels)
    assert np.allclose(again[1], confidence, atol=1e-6)


def test_a_map_of_shares_chooses_pixel_by_pixel(image: np.ndarray, probe: ClusterProbe, whole: Seen) -> None:
    other = Seen(covering_windows(*SIZE), torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(3)))
    config = LabelRefineConfig(crf=None)
    left = np.zeros(SIZE, np.float32)
    left[:, :26] = 1
    labels, _ = label_photo(image, whole, Near(other, left), probe, config)
    assert np.array_equal(labels[:, :26], label_photo(image, whole, None, probe, config)[0][:, :26])
    assert np.array_equal(labels[:, 26:], label_photo(image, other, None, probe, config)[0][:, 26:])


def test_the_size_at_which_the_crf_works() -> None:
    assert working_size((3000, 4000), 320) == (320, 427)
    assert working_size((4000, 3000), 320) == (427, 320)
    assert working_size((200, 900), 320) == (200, 900)
    assert working_size((3000, 4000), None) == (3000, 4000)


def test_the_constants_are_the_published_ones() -> None:
    assert published_crf() == CrfConfig(10, 1, 3, 67, 3, 4)


def test_a_side_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"refine\.side must be at least 16 or none"):
        LabelRefineConfig(side=15)
