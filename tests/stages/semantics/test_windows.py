"""Windows of a photo and what is put together from them, against torch's fold and interpolate, and pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from stages.semantics.clusters import ClusterProbe
from stages.semantics.windows import (
    Window,
    WindowConfig,
    at_points,
    centres,
    covering_windows,
    cut_out,
    log_shares,
    near_windows,
    resampled,
    whole_shares,
)

SIZES = [(64, 64), (64, 128), (60, 97), (97, 60), (640, 1280), (375, 1242), (16, 16), (5, 3), (1, 1), (1, 40), (3, 500)]
CONFIGS = [WindowConfig(), WindowConfig(side=1, overlap=1), WindowConfig(side=0.25, overlap=4), WindowConfig(side=0.3)]


def drawn_probe(codes: int, clusters: int) -> ClusterProbe:
    return ClusterProbe(codes, clusters, torch.Generator().manual_seed(1)).requires_grad_(False)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def covered(size: tuple[int, int], windows: list[Window]) -> np.ndarray:
    count_HW = np.zeros(size, int)
    for top, left, height, width in windows:
        count_HW[max(top, 0) : top + height, max(left, 0) : left + width] += 1
    return count_HW


@pytest.mark.parametrize("size", SIZES)
def test_squares_cover_the_photo(size: tuple[int, int]) -> None:
    windows = covering_windows(*size)
    assert covered(size, windows).min() == 1
    assert len(windows) <= 16
    if max(size) <= 16 * min(size):
        assert len(windows) == math.ceil(max(size) / min(size))
        assert all(window.height == window.width == min(size) for window in windows)


@pytest.mark.parametrize("overlap", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("size", [(60, 80), (90, 160), (512, 1024), (375, 1242), (1242, 375), (90, 900), (90, 1600)])
def test_squares_overlap_at_least_as_much_as_asked_and_are_as_few_as_do(size: tuple[int, int], overlap: float) -> None:
    windows = covering_windows(*size, overlap)
    axis = size.index(max(size))
    side, starts = windows[0][2 + axis], [window[axis] for window in windows]
    steps = np.diff(starts)
    assert starts[0] == 0
    assert starts[-1] + side == max(size)
    assert steps.max() <= side * (1 - overlap)
    assert steps.max() - steps.min() <= 1
    assert (max(size) - side) / (len(windows) - 2 or 1) > side * (1 - overlap) - 1 or len(windows) == 2


def test_where_squares_overlap_one_fades_into_the_other() -> None:
    """In a photo whose squares have one code each, the weight of the second rises from 0 where it begins to 1 where the
    first ends, and never jumps; without, it does.
    """
    probe, size = drawn_probe(6, 4), (90, 160)
    windows = covering_windows(*size, 0.2)
    codes = drawn(2, 6, 1, 1).expand(2, 6, 3, 3)
    first, second = (probe.log_probabilities(code[None])[0, :, 0, 0].double() for code in codes)
    y, x = centres(90, 90), centres(160, 160)
    logs = log_shares(windows, codes, probe, y, x, blended=True).double()
    along = second - first
    weight = torch.einsum("crt,c->rt", logs - first[:, None, None], along) / (along @ along)
    expected = np.clip((x - 70) / 20, 0, 1)  # squares of 90 pixels, from 0 and from 70
    assert np.allclose(weight, expected[None], atol=1e-5)
    plain = log_shares(windows, codes, probe, y, x).double()
    jumps = [(one[:, :, 1:] - one[:, :, :-1]).abs().max() for one in (logs, plain)]
    assert jumps[0] < jumps[1] / 5


def test_a_point_on_the_border_of_its_only_window_has_shares() -> None:
    probe, codes = drawn_probe(5, 3), drawn(1, 5, 2, 2)
    at = np.array([0.0, 3.0])
    shares = log_shares([Window(0, 0, 4, 4)], codes, probe, at, at, blended=True)
    assert torch.allclose(shares, log_shares([Window(0, 0, 4, 4)], codes, probe, at, at), atol=1e-5)


@pytest.mark.parametrize("reading", ["paper", "released"])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", SIZES)
def test_windows_cover_the_photo(size: tuple[int, int], config: WindowConfig, reading: str) -> None:
    windows = near_windows(*size, WindowConfig(config.side, config.overlap, reading=reading))
    assert covered(size, windows).min() >= 1
    assert len(set(windows)) == len(windows) <= 14 * 14 * 16
    for top, left, height, width in windows:
        assert max(size) > 16 * min(size) or height == width or min(size) < 4  # pixels, fewer than windows overlap
        assert top + height <= size[0]
        assert left + width <= size[1]
        assert reading == "released" or min(top, left) >= 0


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_on_cityscapes_both_readings_have_the_published_21_windows(reading: str) -> None:
    windows = near_windows(640, 1280, WindowConfig(reading=reading))
    assert windows == [Window(top, left, 320, 320) for top in (0, 160, 320) for left in range(0, 1000, 160)]


def test_the_border_of_the_released_reading_is_that_of_unfold() -> None:
    """CUPS unfolds a photo with zeros around it, where the photo's sides are no multiples of the step."""
    height, width = 50, 78
    windows = near_windows(height, width, WindowConfig(reading="released"))
    step, side = 12, 24
    pads = (-height % step, -width % step)
    image_1HW = drawn(1, 1, height, width)
    unfolded = functional.unfold(image_1HW, (side, side), stride=(step, step), padding=pads)
    theirs = unfolded[0].T.reshape(-1, side, side)
    padded = functional.pad(image_1HW[0, 0], (pads[1], pads[1], pads[0], pads[0]))
    ours = [padded[t + pads[0] : t + pads[0] + h, x + pads[1] : x + pads[1] + w] for t, x, h, w in windows]
    assert torch.equal(torch.stack(ours), theirs)


def test_what_lies_beyond_the_photo_has_its_colour() -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(cut_out(image, Window(1, 2, 3, 3), (9, 8, 7)), image[1:4, 2:5])
    beyond = cut_out(image, Window(-1, -2, 3, 4), (9, 8, 7))
    assert (beyond[0] == (9, 8, 7)).all()
    assert (beyond[:, :2] == (9, 8, 7)).all()
    assert np.array_equal(beyond[1:, 2:], image[:2, :2])


@pytest.mark.parametrize("size", [(7, 11), (3, 4), (1, 1), (40, 9)])
def test_resampled_is_interpolate(size: tuple[int, int]) -> None:
    maps = drawn(5, 3, 4)
    ours = resampled(maps, centres(1, size[0]), centres(1, size[1]))
    theirs = functional.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_shares_of_one_window_are_those_of_interpolated_codes() -> None:
    """STEGO's order: codes are interpolated, and compared then."""
    codes, probe = drawn(1, 6, 4, 4), drawn_probe(6, 3)
    ours = log_shares([Window(0, 0, 20, 30)], codes, probe, centres(20, 20), centres(30, 30))
    whole = functional.interpolate(codes, (20, 30), mode="bilinear", align_corners=False)
    cosines = functional.cosine_similarity(whole[0][None], probe.centroids[:, :, None, None], dim=1)
    assert torch.allclose(ours, (2 * cosines).log_softmax(dim=0), atol=1e-6)
    assert torch.allclose(ours.exp().sum(dim=0), torch.ones(20, 30))


@pytest.mark.parametrize("size", [(48, 72), (50, 78)])
def test_windows_are_averaged_as_folding_does(size: tuple[int, int]) -> None:
    """CUPS's sliding window: fold of the windows' log-softmax, divided by the fold of ones."""
    height, width = size
    step, side, probe = 12, 24, drawn_probe(6, 3)
    windows = near_windows(height, width, WindowConfig(reading="released"))
    codes = drawn(len(windows), 6, 3, 3)
    ours = log_shares(windows, codes, probe, centres(height, height), centres(width, width))
    logs = probe.log_probabilities(functional.interpolate(codes, (side, side), mode="bilinear", align_corners=False))
    columns = logs.reshape(len(windows), -1).T[None]
    fold = {"kernel_size": side, "stride": step, "padding": (-height % step, -width % step)}
    ones = functional.fold(torch.ones(1, side**2, len(windows)), size, **fold)
    theirs = functional.fold(columns, size, **fold) / ones
    assert torch.allclose(ours, theirs[0], atol=1e-5)


def test_shares_at_any_points_are_those_of_a_loop() -> None:
    """A smaller map of the photo: at each of its points the windows that hold it, one by one."""
    size, out, probe = (30, 44), (7, 9), drawn_probe(5, 4)
    windows = near_windows(*size, WindowConfig(side=0.5))
    codes = drawn(len(windows), 5, 3, 3)
    y, x = centres(size[0], out[0]), centres(size[1], out[1])
    ours = log_shares(windows, codes, probe, y, x)
    for row in range(out[0]):
        for column in range(out[1]):
            logs = []
            for window, code in zip(windows, codes, strict=True):
                v, u = (y[row] - window.top) / window.height, (x[column] - window.left) / window.width
                if 0 <= v < 1 and 0 <= u < 1:
                    point = torch.tensor([[[[2 * u - 1, 2 * v - 1]]]], dtype=torch.float32)
                    at = functional.grid_sample(code[None], point, padding_mode="border", align_corners=False)
                    logs.append(probe.log_probabilities(at)[0, :, 0, 0])
            assert torch.allclose(ours[:, row, column], torch.stack(logs).mean(dim=0), atol=1e-5)


def test_a_band_of_rows_is_that_of_the_whole() -> None:
    size, probe = (40, 60), drawn_probe(5, 3)
    windows = near_windows(*size, WindowConfig())
    codes = drawn(len(windows), 5, 4, 4)
    y, x = centres(40, 40), centres(60, 60)
    whole = log_shares(windows, codes, probe, y, x)
    bands = [log_shares(windows, codes, probe, y[start : start + 7], x) for start in range(0, 40, 7)]
    assert torch.allclose(torch.cat(bands, dim=1), whole, atol=1e-6)


def test_the_whole_photo_counts_where_things_are_near() -> None:
    """The figures of CUPS: 15 % at 5.5 m, 1.4 % at 70 m."""
    shares = whole_shares(np.array([[5.5, 70.0]]), "depth", WindowConfig())
    assert shares[0] == pytest.approx([0.15, 0.014], abs=0.005)
    assert shares.dtype == np.float32
    in_millimetres = np.array([[5500, 70000]], np.int32)
    assert np.allclose(whole_shares(in_millimetres, "depth", WindowConfig(metres=0.001)), shares)
    focal_times_baseline = 2262 * 0.21
    disparities = focal_times_baseline / np.array([[5.5, 70.0]])
    assert np.allclose(whole_shares(disparities, "inverse_depth", WindowConfig(metres=focal_times_baseline)), shares)


@pytest.mark.parametrize(
    ("kind", "value", "paper", "released"),
    [
        ("inverse_depth", 0.0, 0, 1),  # infinitely far, or failed
        ("inverse_depth", math.inf, 0, 0),
        ("inverse_depth", 1e-320, 0, 0),  # so far that its distance is infinite
        ("inverse_depth", -1.0, 0, 1),
        ("inverse_depth", math.nan, 0, 1),
        ("depth", 0.0, 0, 1),
        ("depth", math.inf, 0, 0),
        ("depth", math.nan, 0, 1),
    ],
)
def test_depth_that_is_infinite_or_missing(kind: str, value: float, paper: float, released: float) -> None:
    depth = np.array([[value, 1.0]])
    for reading, share in (("paper", paper), ("released", released)):
        assert whole_shares(depth, kind, WindowConfig(reading=reading)).tolist() == [[share, 0.5]]  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, 0, -1])
def test_where_nothing_was_measured_the_windows_count_alone(value: float) -> None:
    assert not whole_shares(np.full((3, 4), value), "depth", WindowConfig()).any()


def test_a_map_of_another_size_is_read_at_the_nearest_pixel() -> None:
    map_ = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(at_points(map_, centres(1, 4), centres(1, 3)), map_.repeat(2, axis=0))
    assert at_points(map_, centres(1, 1), centres(1, 1)).tolist() == [[4]]


@pytest.mark.parametrize(
    "options",
    [
        {"side": 0.2},
        {"side": 1.1},
        {"side": math.nan},
        {"overlap": 0},
        {"overlap": 5},
        {"whole_share": -0.1},
        {"whole_share": 2},
        {"metres": 0},
        {"metres": math.inf},
        {"reading": "code"},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"windows.{name} must be"):
        WindowConfig(**options)  # type: ignore[arg-type]
