"""Maps of flow and disparity on disk: every format, every place, what is missing computed or refused."""

import logging
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import ConfigError, ImageError
from pipeline.images.sources import list_images
from pipeline.models.load import load_motion
from pipeline.models.motion_files import read_disparity, read_flow
from pipeline.models.motion_maps import FOLDERS
from stages.motion.clip_motion import MAPS, ClipMotion, ClipPictures
from stages.motion.opencv_motion import OpencvMotion

H, W = 20, 32
ROWS, COLUMNS = np.mgrid[:H, :W].astype(np.float32)
# In steps of 1/64 and 1/256 pixel, which KITTI's files hold.
FLOW = np.stack([COLUMNS / 4 - 3, 2 - ROWS / 8], axis=-1)
DISPARITY = COLUMNS / 8 + ROWS / 256 + 1
HOLES = (ROWS + COLUMNS) % 7 == 0
ID = "drive/a_10.png"


def with_holes(map_: np.ndarray) -> np.ndarray:
    return np.where(HOLES[..., None] if map_.ndim == 3 else HOLES, np.float32(np.nan), map_)


def save_flow(path: Path, flow: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    known = np.isfinite(flow).all(axis=2)
    filled = np.where(known[..., None], flow, 0)
    if path.suffix == ".png":
        values = np.round(filled * 64 + 2**15).astype(np.uint16)
        cv2.imwrite(str(path), np.dstack([known.astype(np.uint16), values[..., 1], values[..., 0]]))
    elif path.suffix == ".flo":
        numbers = np.where(known[..., None], flow, 1.7e9).astype("<f4")
        path.write_bytes(b"PIEH" + struct.pack("<ii", flow.shape[1], flow.shape[0]) + numbers.tobytes())
    elif path.suffix == ".pfm":
        cv2.imwrite(str(path), np.dstack([flow, np.zeros(flow.shape[:2])]).astype(np.float32)[..., ::-1])
    elif path.suffix == ".npz":
        np.savez(path, flow=flow, occluded=~known)
    else:
        np.save(path, flow)


def save_disparity(path: Path, disparity: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        cv2.imwrite(str(path), np.round(np.nan_to_num(disparity) * 256).astype(np.uint16))
    elif path.suffix == ".pfm":
        cv2.imwrite(str(path), np.where(np.isnan(disparity), np.inf, disparity).astype(np.float32))
    elif path.suffix == ".npz":
        np.savez(path, disparity)
    else:
        np.save(path, disparity)


def pictures(size: tuple[int, int] = (H, W), seed: int = 0) -> ClipPictures:
    rng = np.random.default_rng(seed)
    return ClipPictures(*(rng.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(4)))


def motion_of(folder: Path, size: tuple[int, int] = (H, W)) -> ClipMotion:
    (motion,) = load_motion(f"maps:{folder}")([pictures(size)], [ID])
    return motion


def save_all(folder: Path, but: tuple[str, ...] = ()) -> None:
    for number, name in enumerate(MAPS):
        if name in but:
            continue
        if name.startswith("flow"):
            save_flow(folder / FOLDERS[name] / "drive/a_10.flo", with_holes(FLOW + number))
        else:
            save_disparity(folder / FOLDERS[name] / "drive/a_10.npy", with_holes(DISPARITY + number))


@pytest.mark.parametrize("suffix", [".png", ".flo", ".pfm", ".npy", ".npz"])
def test_flow_in_every_format(suffix: str, tmp_path: Path) -> None:
    save_flow(tmp_path / f"a{suffix}", with_holes(FLOW))
    found = read_flow(tmp_path / f"a{suffix}")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, with_holes(FLOW), atol=1e-6)


@pytest.mark.parametrize("suffix", [".png", ".pfm", ".npy", ".npz"])
def test_disparity_in_every_format(suffix: str, tmp_path: Path) -> None:
    save_disparity(tmp_path / f"a{suffix}", with_holes(DISPARITY))
    found = read_disparity(tmp_path / f"a{suffix}")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, with_holes(DISPARITY), atol=1e-6)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (DISPARITY[None], DISPARITY),
        (DISPARITY[..., None], DISPARITY),
        (DISPARITY.astype(">f8"), DISPARITY),
        (np.round(DISPARITY).astype(np.int32), np.round(DISPARITY)),
        (-DISPARITY, DISPARITY),  # horizontal flow to the right picture
        (-with_holes(DISPARITY), with_holes(DISPARITY)),
        (np.where(HOLES, -0.01, DISPARITY), np.where(HOLES, 0, DISPARITY)),  # a network's noise at infinity
        (np.where(HOLES, 0.01, -DISPARITY), np.where(HOLES, 0, DISPARITY)),
        (np.where(HOLES, -np.inf, DISPARITY), with_holes(DISPARITY)),
        (np.full((H, W), np.nan), np.full((H, W), np.nan)),
        (np.zeros((H, W)), np.zeros((H, W))),
    ],
)
def test_arrays_of_disparity(array: np.ndarray, expected: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_allclose(read_disparity(tmp_path / "a.npy"), expected, atol=1e-6)


def test_arrays_of_flow_with_channels_first(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FLOW.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_flow(tmp_path / "a.npy"), FLOW)
    half_known = FLOW.copy()
    half_known[3, 4, 1] = np.nan
    np.save(tmp_path / "b.npy", half_known)
    assert np.isnan(read_flow(tmp_path / "b.npy")[3, 4]).all()


@pytest.mark.parametrize("scene", [0, 2])
def test_kittis_truth_and_camera_agree_on_one_motion(scene: int, assets: Path) -> None:
    """Nothing moves there but the car with the camera: one pose explains the flow of what the disparity places, which
    it would not if either were read wrongly, or the camera.
    """
    folder = assets / "street/kitti2012"
    ref = list_images(f"kitti:{folder}").refs[scene]
    name = Path(ref.id).name
    disparity, flow = read_disparity(folder / "disp_occ" / name), read_flow(folder / "flow_occ" / name)
    for map_ in (disparity, flow[..., 0]):
        assert 0.25 < np.isfinite(map_).mean() < 0.32
    y, x = np.nonzero(np.isfinite(disparity) & np.isfinite(flow[..., 0]))
    assert ref.clip is not None
    camera = ref.clip.camera
    z = camera.fx * camera.baseline / disparity[y, x]
    points = np.stack([(x - camera.cx) / camera.fx * z, (y - camera.cy) / camera.fy * z, z], axis=1).astype(np.float64)
    pixels = np.stack([x, y], axis=1) + flow[y, x].astype(np.float64)
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    cv2.setRNGSeed(0)
    some = slice(None, None, 50)
    _, rotation, translation, _ = cv2.solvePnPRansac(points[some], pixels[some], matrix, np.zeros(4))
    seen, _ = cv2.projectPoints(points, rotation, translation, matrix, np.zeros(4))
    errors = np.linalg.norm(seen[:, 0] - pixels, axis=1)
    assert np.median(errors) < 0.45
    assert (errors < 3).mean() > 0.86
    assert 0.4 < np.linalg.norm(translation) < 1.4  # metres in a tenth of a second


def test_flyingthings_stores_its_disparity_negated(assets: Path) -> None:
    disparity = read_disparity(assets / "street/flyingthings3d/disp_1.pfm")
    assert disparity.shape == (540, 960)
    assert np.isfinite(disparity).all()
    assert 0 < disparity.min() < disparity.max() < 300
    stored = (assets / "street/flyingthings3d/disp_1.pfm").read_bytes()
    lowest = np.frombuffer(stored[-960 * 540 * 4 :], "<f4")[:960]
    np.testing.assert_array_equal(disparity[-1], -lowest)  # the lowest row comes first


def test_all_six_maps_of_a_clip(tmp_path: Path) -> None:
    save_all(tmp_path)
    motion = motion_of(tmp_path)
    for number, name in enumerate(MAPS):
        expected = with_holes((FLOW if name.startswith("flow") else DISPARITY) + number)
        np.testing.assert_allclose(getattr(motion, name), expected, atol=1e-6)


def test_folders_that_are_not_there_are_computed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = ("flow_back_HW2", "disparity_right_next_HW")
    save_all(tmp_path, but=missing)
    with caplog.at_level(logging.INFO):
        motion = motion_of(tmp_path)
    assert "; flow_back, disparity_right_next by opencv" in caplog.text
    (computed,) = OpencvMotion()([pictures()], [ID])
    for name in MAPS:
        same = np.array_equal(getattr(motion, name), getattr(computed, name), equal_nan=True)
        assert same == (name in missing)


def test_a_clip_without_its_map_is_refused_by_name(tmp_path: Path) -> None:
    save_all(tmp_path)
    (tmp_path / "flow_back/drive/a_10.flo").unlink()
    with pytest.raises(
        ImageError, match=r"drive/a_10\.png: none of .*flow_back/drive/a_10\.png\.png, .*a_10\.npz exists"
    ) as e:
        motion_of(tmp_path)
    assert e.value.reason == "no_motion_map"
    save_flow(tmp_path / "flow_back/drive/a_10.png.png", FLOW)  # its whole name
    assert np.array_equal(motion_of(tmp_path).flow_back_HW2, FLOW)


def test_maps_of_another_size_are_scaled_with_their_lengths(tmp_path: Path) -> None:
    """To half the height and a quarter of the width, about as far as flow and disparity of the same scene would be."""
    save_all(tmp_path)
    motion = motion_of(tmp_path, (2 * H, 2 * W))
    np.testing.assert_allclose(motion.flow_HW2[::2, ::2], with_holes(FLOW) * 2, atol=1e-5)
    np.testing.assert_allclose(motion.flow_HW2[1::2, 1::2], with_holes(FLOW) * 2, atol=1e-5)
    assert motion.disparity_HW.shape == (2 * H, 2 * W)
    smaller = motion_of(tmp_path, (H // 2, W // 2 + 0))
    np.testing.assert_allclose(smaller.disparity_HW, with_holes(DISPARITY + 2)[1::2, 1::2] / 2, atol=1e-5)
    # 640x1280 of 1024x2048 is no whole factor, and 5 of 8 pixels are taken
    save_flow(tmp_path / "flow/drive/a_10.flo", np.tile(FLOW, (2, 2, 1)))
    odd = motion_of(tmp_path, (25, 40)).flow_HW2
    rows, columns = ((np.arange(n) + 0.5) * m // n for n, m in ((25, 2 * H), (40, 2 * W)))
    expected = np.tile(FLOW, (2, 2, 1))[rows.astype(int)[:, None], columns.astype(int)] * 0.625
    np.testing.assert_allclose(odd, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("flow/drive/a_10.flo", b"PIEX" + bytes(8), "it is no FLO file"),
        (
            "flow/drive/a_10.flo",
            b"PIEH" + struct.pack("<ii", W, H) + bytes(80),
            "it says 32x20 pixels, and has 92 bytes",
        ),
        ("flow/drive/a_10.flo", b"PIEH" + struct.pack("<ii", -1, 1) + bytes(80), "it says -1x1 pixels"),
        (
            "flow/drive/a_10.pfm",
            b"Pf\n32 20\n-1\n" + bytes(4 * H * W),
            "it has one channel: flow in a PFM file has three",
        ),
        ("flow/drive/a_10.npy", DISPARITY, r"its shape is \(20, 32\), flow has"),
        ("flow/drive/a_10.npy", np.zeros((H, W, 3)), r"its shape is \(20, 32, 3\), flow has"),
        ("flow/drive/a_10.png", DISPARITY.astype(np.uint16), "it has one channel: flow in PNG has three"),
        ("flow/drive/a_10.png", np.zeros((H, W, 3), np.uint8), "it has 8 bits a channel"),
        ("flow/drive/a_10.png", b"\x89PNG\r\n", "it is damaged or cut short, copy it again"),
        ("disparity/drive/a_10.pfm", b"Pg\n32 20\n-1\n", "it is no PFM file"),
        ("disparity/drive/a_10.pfm", b"Pf\n32 20\n-1\n" + bytes(9), "it says 32x20 pixels of 1 channels"),
        (
            "disparity/drive/a_10.pfm",
            b"PF\n32 20\n-1\n" + bytes(12 * H * W),
            r"its shape is \(20, 32, 3\), a disparity",
        ),
        ("disparity/drive/a_10.png", np.zeros((H, W, 3), np.uint16), "it has several channels"),
        ("disparity/drive/a_10.npy", FLOW, r"its shape is \(20, 32, 2\), a disparity has"),
        ("disparity/drive/a_10.npy", np.zeros((H, W), bool), "it holds bool"),
        ("disparity/drive/a_10.npy", DISPARITY[:, :24], r"it is 24x20 \(width x height\) for pictures of 32x20: cut"),
    ],
)
def test_maps_that_are_of_no_use_are_refused_by_name(name: str, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".png":
        cv2.imwrite(str(path), content)
    else:
        np.save(path, content)
    with pytest.raises(
        ImageError, match=rf"a_10\.png: {name.partition('/')[0]} {path} is of no use: {message}"
    ) as caught:
        motion_of(tmp_path)
    assert caught.value.reason == "bad_motion_map"


@pytest.mark.parametrize("suffix", [".png", ".pfm", ".npy", ".npz"])
def test_files_that_were_cut_short_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"disparity/drive/a_10{suffix}"
    save_disparity(path, DISPARITY)
    whole = path.read_bytes()
    for kept in (len(whole) - 1, len(whole) // 2, 10, 0):
        path.write_bytes(whole[:kept])
        with pytest.raises(ImageError, match=rf"{path} is of no use: it .*copy it again"):
            motion_of(tmp_path)


def test_the_fingerprint_is_of_contents_and_of_what_is_computed(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        save_all(folder)

    def fingerprint(folder: Path) -> str:
        return load_motion(f"maps:{folder}").fingerprint

    known = fingerprint(one)
    assert fingerprint(other) == known
    save_flow(other / "flow/drive/a_10.flo", FLOW * 2)
    assert fingerprint(other) != known
    save_all(other)
    assert fingerprint(other) == known
    (other / "flow_back").rename(other / "backwards")
    assert fingerprint(other) != known


def test_a_folder_without_maps_is_refused(tmp_path: Path) -> None:
    for make in (lambda: None, lambda: (tmp_path / "flow").mkdir()):
        make()
        with pytest.raises(ConfigError, match="holds no maps: it needs one of the folders flow, flow_back, disparity,"):
            load_motion(f"maps:{tmp_path}")
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        load_motion(f"maps:{tmp_path}/nowhere")
