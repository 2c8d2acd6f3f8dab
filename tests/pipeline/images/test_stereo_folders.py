"""Clips out of Cityscapes' and KITTI's own folders, local and remote; what they lack is said by name."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError, SourceError
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.images.sources import Listing, clip_prefix, list_images
from pipeline.images.stereo_clips import load_clip, scaled_to_fit
from stages.motion.camera import Camera

# As KITTI writes them for drive 2011_09_26: the grey pair is 0 and 1, that in colour 2 and 3.
P = {
    0: "7.215377e+02 0.000000e+00 6.095593e+02 0.000000e+00 0.000000e+00 7.215377e+02 1.728540e+02 0.000000e+00 "
    "0.000000e+00 0.000000e+00 1.000000e+00 0.000000e+00",
    1: "7.215377e+02 0.000000e+00 6.095593e+02 -3.875744e+02 0.000000e+00 7.215377e+02 1.728540e+02 0.000000e+00 "
    "0.000000e+00 0.000000e+00 1.000000e+00 0.000000e+00",
    2: "7.215377e+02 0.000000e+00 6.095593e+02 4.485728e+01 0.000000e+00 7.215377e+02 1.728540e+02 2.163791e-01 "
    "0.000000e+00 0.000000e+00 1.000000e+00 2.745884e-03",
    3: "7.215377e+02 0.000000e+00 6.095593e+02 -3.395242e+02 0.000000e+00 7.215377e+02 1.728540e+02 2.199936e+00 "
    "0.000000e+00 0.000000e+00 1.000000e+00 2.729905e-03",
}
COLOUR, GREY = 0.532725, 0.537151  # baselines
CITYSCAPES = {
    "extrinsic": {"baseline": 0.209313, "pitch": 0.038, "roll": 0.0, "x": 1.7, "y": 0.1, "yaw": -0.02, "z": 1.22},
    "intrinsic": {"fx": 2262.52, "fy": 2265.3017905988554, "u0": 1096.98, "v0": 513.137},
}


def picture(path: Path, size: tuple[int, int] = (400, 700)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path, compress_level=1)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def lines(prefix: str) -> str:
    return "calib_time: 09-Jan-2012 13:57:47\n" + "".join(f"{prefix}{lens}: {numbers}\n" for lens, numbers in P.items())


def cityscapes(root: Path) -> Path:
    """Two recordings of a city and one of another: 18 to 20, 21 alone after a gap at 20, and 4 and 5."""
    for video, numbers in (
        ("train/aachen/aachen_000000", (18, 19, 20)),
        ("train/aachen/aachen_000001", (18, 19, 21)),
        ("val/lindau/lindau_000007", (4, 5)),
    ):
        for number in numbers:
            for side in ("left", "right"):
                picture(root / f"{side}Img8bit_sequence/{video}_{number:06d}_{side}Img8bit.png", (16, 16))
        text(root / f"camera/{video}_000019_camera.json", json.dumps(CITYSCAPES))
    return root


def kitti_scenes(root: Path, folders: tuple[str, str], numbers: tuple[int, ...], camera: str, prefix: str) -> Path:
    for scene in ("000003", "000043"):
        for folder in folders:
            for number in numbers:
                picture(root / f"training/{folder}/{scene}_{number:02d}.png")
        text(root / f"training/{camera}/{scene}.txt", lines(prefix))
    return root


def kitti_drive(root: Path, name: str = "2011_09_26_drive_0001_sync", lenses: tuple[int, ...] = (0, 1, 2, 3)) -> Path:
    for lens in lenses:
        for number in (0, 1, 2, 4, 5):
            picture(root / f"2011_09_26/{name}/image_{lens:02d}/data/{number:010d}.png")
    text(root / "2011_09_26/calib_cam_to_cam.txt", lines("P_rect_0"))
    text(root / f"2011_09_26/{name}/oxts/data/0000000000.txt", "49.0 8.4")
    return root


def good(listing: Listing) -> list[ImageRef]:
    return [ref for ref in listing.refs if ref.trouble is None]


def troubles(listing: Listing) -> dict[str, str]:
    return {ref.id: ref.trouble for ref in listing.refs if ref.trouble is not None}


def only_trouble(listing: Listing) -> str:
    (trouble,) = troubles(listing).values()
    return trouble


def test_cityscapes_pairs_every_frame_with_its_successor(tmp_path: Path) -> None:
    listing = list_images(f"cityscapes:{cityscapes(tmp_path)}")
    assert listing.root == f"{tmp_path}/leftImg8bit_sequence"
    assert [ref.id for ref in good(listing)] == [
        "train/aachen/aachen_000000_000018_leftImg8bit.png",
        "train/aachen/aachen_000000_000019_leftImg8bit.png",
        "train/aachen/aachen_000001_000018_leftImg8bit.png",
        "val/lindau/lindau_000007_000004_leftImg8bit.png",
    ]
    assert not troubles(listing)
    assert listing.skipped == {"(last of its video)": 4}
    clip = listing.refs[1].clip
    assert clip is not None
    beside = f"{tmp_path}/rightImg8bit_sequence/train/aachen/aachen_000000_0000"
    assert (clip.right, clip.right_next) == (f"{beside}19_rightImg8bit.png", f"{beside}20_rightImg8bit.png")
    assert clip.left_next == f"{tmp_path}/leftImg8bit_sequence/train/aachen/aachen_000000_000020_leftImg8bit.png"
    assert clip.camera == Camera(2262.52, 2265.3017905988554, 1096.98, 513.137, 0.209313)
    assert Manifest(listing.refs, 2).has_clips


@pytest.mark.parametrize("part", ["train", "train/aachen"])
def test_a_part_of_cityscapes_has_the_same_ids(part: str, tmp_path: Path) -> None:
    whole = list_images(f"cityscapes:{cityscapes(tmp_path)}")
    some = list_images(f"cityscapes:{tmp_path}/leftImg8bit_sequence/{part}/")
    assert some.root == whole.root
    assert some.refs == whole.refs[:3]
    with pytest.raises(SourceError, match="no folder, or not one that you may read"):
        list_images(f"cityscapes:{tmp_path}/leftImg8bit_sequence/test")


def test_the_camera_is_the_nearest_of_the_recording(tmp_path: Path) -> None:
    root = cityscapes(tmp_path)
    other = {**CITYSCAPES, "intrinsic": {**CITYSCAPES["intrinsic"], "fx": 1000.0}}
    text(root / "camera/train/aachen/aachen_000000_000021_camera.json", json.dumps(other))
    text(root / "camera/train/aachen/aachen_000001_000007_camera.json", json.dumps(other))
    first = [ref.clip.camera.fx for ref in good(list_images(f"cityscapes:{root}")) if ref.clip]
    assert first == [2262.52, 2262.52, 2262.52, 2262.52]
    (root / "camera/train/aachen/aachen_000000_000019_camera.json").unlink()
    (root / "camera/train/aachen/aachen_000001_000019_camera.json").unlink()
    then = [ref.clip.camera.fx for ref in good(list_images(f"cityscapes:{root}")) if ref.clip]
    assert then == [1000, 1000, 1000, 2262.52]


def test_what_cityscapes_lacks_is_said_by_name(tmp_path: Path) -> None:
    root = cityscapes(tmp_path)
    (root / "rightImg8bit_sequence/train/aachen/aachen_000000_000019_rightImg8bit.png").unlink()
    (root / "camera/train/aachen/aachen_000001_000019_camera.json").unlink()
    found = troubles(list_images(f"cityscapes:{root}"))
    assert len(found) == 3
    aachen = "train/aachen/aachen_00000"
    for number in (18, 19):
        why = found[f"{aachen}0_0000{number}_leftImg8bit.png"]
        assert why == (
            f"{root}/rightImg8bit_sequence/{aachen}0_000019_rightImg8bit.png missing: a clip needs both pictures of "
            "both moments"
        )
    assert found[f"{aachen}1_000018_leftImg8bit.png"].startswith(
        f"{root}/camera has no camera of {aachen}1_*: unpack camera_trainvaltest.zip beside leftImg8bit_sequence"
    )
    lindau = "val/lindau/lindau_000007_000004_leftImg8bit.png"
    (root / "leftImg8bit_sequence" / lindau).unlink()
    with pytest.raises(SourceError, match="none of 4 images can be taken"):
        list_images(f"cityscapes:{root}")
    picture(root / f"rightImg8bit_sequence/{aachen}0_000019_rightImg8bit.png", (16, 16))
    found = troubles(list_images(f"cityscapes:{root}"))
    assert found[lindau].startswith(f"{root}/leftImg8bit_sequence/{lindau} missing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has no intrinsic and extrinsic, as a camera of Cityscapes has"),
        ('{"intrinsic": {}, "extrinsic": {"baseline": 0.2}}', "camera: fx is None, it must be a number"),
        (json.dumps({**CITYSCAPES, "extrinsic": {"baseline": 0}}), "camera: baseline is 0, it must be above 0"),
        (json.dumps({**CITYSCAPES, "intrinsic": {**CITYSCAPES["intrinsic"], "v0": "half"}}), "camera: cy is 'half'"),
    ],
)
def test_wrong_cameras_of_cityscapes_are_said_by_name(content: str, message: str, tmp_path: Path) -> None:
    root = cityscapes(tmp_path)
    file = root / "camera/val/lindau/lindau_000007_000019_camera.json"
    file.write_text(content)
    trouble = only_trouble(list_images(f"cityscapes:{root}"))
    assert trouble.startswith(f"{file}")
    assert message in trouble
    assert trouble.endswith("; a camera can be given in a row of clips:FILE, too")


def test_cityscapes_without_video_or_right_pictures_is_refused_with_the_reason(tmp_path: Path) -> None:
    root = cityscapes(tmp_path)
    shutil.rmtree(root / "rightImg8bit_sequence")
    with pytest.raises(
        SourceError, match=r"has no right pictures, for instance no .*_rightImg8bit\.png: one lens alone"
    ):
        list_images(f"cityscapes:{root}")
    (root / "leftImg8bit_sequence").rename(root / "leftImg8bit")
    with pytest.raises(
        SourceError, match=r"has no folder leftImg8bit_sequence.*leftImg8bit has single frames, no video"
    ):
        list_images(f"cityscapes:{root}")
    with pytest.raises(SourceError, match="--root here is for lists"):
        list_images(f"cityscapes:{root}", root="here")
    with pytest.raises(SourceError, match="nowhere is no folder"):
        list_images(f"cityscapes:{root}/nowhere")


@pytest.mark.parametrize(
    ("folders", "numbers", "camera", "prefix", "baseline", "clips"),
    [
        (("image_2", "image_3"), (10, 11), "calib_cam_to_cam", "P_rect_0", COLOUR, 2),  # scene flow 2015
        (("image_2", "image_3"), tuple(range(21)), "calib_cam_to_cam", "P_rect_0", COLOUR, 40),  # multi-view
        (("image_0", "image_1"), (10, 11), "calib", "P", GREY, 2),  # 2012
        (("colored_0", "colored_1"), (9, 10, 11), "calib", "P", COLOUR, 4),
    ],
)
def test_scenes_of_kitti(
    folders: tuple[str, str],
    numbers: tuple[int, ...],
    camera: str,
    prefix: str,
    baseline: float,
    clips: int,
    tmp_path: Path,
) -> None:
    root = kitti_scenes(tmp_path, folders, numbers, camera, prefix)
    listing = list_images(f"kitti:{root}")
    assert not troubles(listing)
    assert len(listing.refs) == clips
    left, right = folders
    first, following = numbers[:2]
    ref = listing.refs[0]
    assert ref.id == f"training/{left}/000003_{first:02d}.png"
    assert ref.clip is not None
    assert ref.clip.right == f"{root}/training/{right}/000003_{first:02d}.png"
    assert ref.clip.left_next == f"{root}/training/{left}/000003_{following:02d}.png"
    assert ref.clip.camera.baseline == pytest.approx(baseline, abs=1e-6)
    assert (ref.clip.camera.fx, ref.clip.camera.cx, ref.clip.camera.cy) == (721.5377, 609.5593, 172.854)
    assert listing.skipped == {"(last of its video)": 2, "(other file)": 2}


def test_single_frames_are_no_clips(tmp_path: Path) -> None:
    """As scene flow 2015 is without the pictures of time 11."""
    root = kitti_scenes(tmp_path, ("image_2", "image_3"), (10,), "calib_cam_to_cam", "P_rect_0")
    with pytest.raises(SourceError, match="has single frames alone: a clip needs two that follow each other"):
        list_images(f"kitti:{root}")


def test_drives_of_kitti(tmp_path: Path) -> None:
    root = kitti_drive(tmp_path)
    picture(root / "2011_09_26/2011_09_26_drive_0002_extract/image_02/data/0000000000.png", (16, 16))
    listing = list_images(f"kitti:{root}")
    numbers = [
        ref.id.removeprefix("2011_09_26/2011_09_26_drive_0001_sync/image_02/data/000000000") for ref in listing.refs
    ]
    assert numbers == ["0.png", "1.png", "4.png"]  # 3 was dropped by the recorder
    assert all(ref.clip is not None and "/image_03/" in ref.clip.right for ref in listing.refs)
    assert listing.skipped == {"(last of its video)": 2, "(not rectified)": 1, "(other file)": 2}
    drive = list_images(f"kitti:{root}/2011_09_26/2011_09_26_drive_0001_sync")
    assert [ref.clip for ref in drive.refs] == [ref.clip for ref in listing.refs]
    assert drive.refs[0].id == "image_02/data/0000000000.png"


def test_the_grey_pair_is_taken_where_that_in_colour_is_not_whole(tmp_path: Path) -> None:
    grey = list_images(f"kitti:{kitti_drive(tmp_path / 'a', lenses=(0, 1, 2))}")
    assert all(ref.clip and "/image_01/" in ref.clip.right for ref in grey.refs)
    assert grey.refs[0].clip is not None
    assert grey.refs[0].clip.camera.baseline == pytest.approx(GREY, abs=1e-6)
    both = kitti_scenes(tmp_path / "b", ("colored_0", "colored_1"), (10, 11), "calib", "P")
    listing = list_images(f"kitti:{kitti_scenes(both, ('image_0', 'image_1'), (10, 11), 'calib', 'P')}")
    assert [ref.id for ref in listing.refs] == ["training/colored_0/000003_10.png", "training/colored_0/000043_10.png"]


def test_what_kitti_lacks_is_said_by_name(tmp_path: Path) -> None:
    root = kitti_scenes(tmp_path, ("image_2", "image_3"), (9, 10, 11, 12), "calib_cam_to_cam", "P_rect_0")
    (root / "training/image_3/000003_12.png").unlink()
    (root / "training/image_2/000003_09.png").unlink()
    (root / "training/calib_cam_to_cam/000043.txt").unlink()
    listing = list_images(f"kitti:{root}")
    assert [ref.id for ref in good(listing)] == ["training/image_2/000003_10.png"]
    found = troubles(listing)
    assert found["training/image_2/000003_09.png"].startswith(f"{root}/training/image_2/000003_09.png missing")
    assert found["training/image_2/000003_11.png"].startswith(f"{root}/training/image_3/000003_12.png missing")
    for number in ("09", "10", "11"):
        assert found[f"training/image_2/000043_{number}.png"].startswith(
            f"{root}/training/calib_cam_to_cam/000043.txt cannot be read: No such file or directory; a camera can be"
        )
    shutil.rmtree(root / "training/image_3")
    with pytest.raises(
        SourceError, match=r"no right pictures, for instance no .*/image_3/000003_10\.png: one lens alone"
    ):
        list_images(f"kitti:{root}")
    shutil.rmtree(root / "training/image_2")
    with pytest.raises(SourceError, match="has no pictures of KITTI: drives of the raw recordings"):
        list_images(f"kitti:{root}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"P_rect_02: {P[2]}\n", "has no line P_rect_03 or P3: the camera of lens 3 is not in it"),
        (f"P2: {P[2]}\nP3: 1 2 3\n", "the matrix of lens 3 is not 12 numbers: 1 2 3"),
        (f"P2: {P[2]}\nP3: {P[3].replace('7.215377e+02', 'wide')}\n", "the matrix of lens 3 is not 12 numbers: wide"),
        (f"P2: {P[3]}\nP3: {P[2]}\n", "camera: baseline is -0.53"),
        (f"P2: {P[2]}\nP3: {P[3].replace('7.215377e+02', '7.1e+02')}\n", "the matrices of lenses 2 and 3 differ"),
        (f"P2: {P[2].replace('0.000000e+00', '1', 1)}\nP3: {P[3].replace('0.000000e+00', '1', 1)}\n", "no projection"),
    ],
)
def test_wrong_cameras_of_kitti_are_said_by_name(content: str, message: str, tmp_path: Path) -> None:
    root = kitti_scenes(tmp_path, ("image_2", "image_3"), (10, 11), "calib", "P")
    file = root / "training/calib/000043.txt"
    file.write_text(content)
    trouble = only_trouble(list_images(f"kitti:{root}"))
    assert trouble.startswith(str(file))
    assert message in trouble


@pytest.fixture
def remote() -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    yield "memory:///stereo"
    fs.rm("/stereo", recursive=True)


@pytest.mark.parametrize("make", [cityscapes, kitti_drive])
def test_the_same_at_a_url(make: object, remote: str, tmp_path: Path) -> None:
    root = make(tmp_path / "local")  # type: ignore[operator]
    fsspec.filesystem("memory").put(str(root), "/stereo", recursive=True)
    prefix = "cityscapes:" if make is cityscapes else "kitti:"
    here, there = list_images(f"{prefix}{root}"), list_images(f"{prefix}{remote}")
    assert Manifest(there.refs, 2).digest == Manifest(here.refs, 2).digest
    assert there.skipped == here.skipped
    assert there.root == remote + ("/leftImg8bit_sequence" if make is cityscapes else "")
    assert there.refs[0].clip is not None
    assert there.refs[0].clip.right == here.refs[0].clip.right.replace(str(root), remote)  # type: ignore[union-attr]
    if make is kitti_drive:
        assert load_clip(there.refs[0]).left.rgb.shape == (400, 700, 3)


def test_links_and_odd_names_cost_no_other(tmp_path: Path) -> None:
    """Folders of a cluster are often links into one that holds the data."""
    root = kitti_scenes(tmp_path / "store", ("image_2", "image_3"), (10, 11), "calib", "P")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/training").symlink_to(root / "training")
    for name in ("image_2/000043_10.txt", "image_2/notes.png", "image_2/43_10.png"):
        text(root / "training" / name, "")
    listing = list_images(f"kitti:{tmp_path / 'linked'}")
    assert [ref.id for ref in good(listing)] == ["training/image_2/000003_10.png", "training/image_2/000043_10.png"]
    assert listing.skipped["(other file)"] == 5


def test_an_axis_outside_of_the_pictures_is_that_of_another_size(tmp_path: Path) -> None:
    root = kitti_scenes(tmp_path, ("image_2", "image_3"), (10, 11), "calib", "P")
    for file in sorted((root / "training").glob("image_*/000043_*.png")):
        picture(file, (200, 350))
    small, fitting = (next(ref for ref in list_images(f"kitti:{root}").refs if s in ref.id) for s in ("0043", "0003"))
    assert load_clip(fitting).camera.cx == 609.5593
    with pytest.raises(
        ImageError, match=r"has 350×200 pixels, but the principal point of its camera is \(609\.559, 172"
    ) as e:
        load_clip(small)
    assert e.value.reason == "other_camera"


def test_scaling_to_fit_takes_the_camera_along(tmp_path: Path) -> None:
    listing = list_images(f"kitti:{kitti_scenes(tmp_path, ('image_2', 'image_3'), (10, 11), 'calib', 'P')}")
    clip = load_clip(listing.refs[0])
    assert scaled_to_fit(clip, 640, 1280) is clip
    smaller = scaled_to_fit(clip, 250, 1280)
    for photo in (smaller.left, smaller.right, smaller.left_next, smaller.right_next):
        assert photo.rgb.shape == (250, 438, 3)  # 437.5
    assert smaller.camera == clip.camera.scaled(250 / 400, 438 / 700)
    assert smaller.id == clip.id
    narrow = scaled_to_fit(clip, 640, 350)
    assert narrow.left.rgb.shape == (200, 350, 3)
    assert narrow.camera == clip.camera.scaled(0.5, 0.5)


def test_prefixes_are_known_wherever_paths_are_made_absolute() -> None:
    assert [clip_prefix(f"{name}x") for name in ("clips:", "cityscapes:", "kitti:", "photos/")] == [
        "clips:",
        "cityscapes:",
        "kitti:",
        "",
    ]


def test_the_real_folders(assets: Path) -> None:
    street = assets / "street"
    listing = list_images(f"kitti:{street / 'kitti2012'}")
    assert [ref.id for ref in listing.refs] == [f"image_0/000{scene}_10.png" for scene in ("027", "074", "138")]
    clip = load_clip(listing.refs[2])
    assert (clip.camera.fx, clip.camera.fy, clip.camera.cx, clip.camera.cy) == (721.5377, 721.5377, 609.5593, 172.854)
    assert clip.camera.baseline == pytest.approx(0.53715, abs=1e-5)
    assert clip.left_next.rgb.shape == (375, 1242, 3)
    with pytest.raises(SourceError, match=r"none of 9 images .*calib_cam_to_cam/000043\.txt cannot be read"):
        list_images(f"kitti:{street / 'kitti_mv_testing_000043'}")
    with pytest.raises(SourceError, match=r"kitti_semantics has no right pictures.* one lens alone is not enough"):
        list_images(f"kitti:{street / 'kitti_semantics'}")
