"""Data sets of stereo video as they are unpacked: every frame whose successor is there becomes a clip.

A *lens* is one of the cameras, a *video* what two lenses saw on one drive or in one scene.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from pipeline.errors import SourceError
from pipeline.images.camera_files import cityscapes_camera, kitti_camera
from pipeline.images.clip_files import NO_RIGHT, ClipFiles
from pipeline.images.manifest import ImageRef
from pipeline.images.oddities import NOT_UNICODE, named_ref, odd_ref
from pipeline.images.walking import walk
from pipeline.storage.locations import absolute, asking, filesystem, is_unicode, is_url, location_of
from stages.motion.camera import Camera

CITYSCAPES, KITTI = "cityscapes:", "kitti:"

_LEFT, _RIGHT, _CAMERA = "leftImg8bit_sequence", "rightImg8bit_sequence", "camera"
_ENDING = r"\.(?:png|jpe?g|ppm|pgm|tiff?|webp|bmp)"
_OF_CITYSCAPES = re.compile(rf"(.+_\d{{6}}_)(\d{{6}})(_(?:left|right)Img8bit{_ENDING}|_camera\.json)")
# Of KITTI a picture of a drive, and one of a scene; in `colored_0` and `colored_1` the lenses 2 and 3 of KITTI 2012.
_DRIVE = re.compile(rf"((.*/)[^/]+_drive_\d+_sync/image_0([0-3])/data/)(\d+)({_ENDING})")
_SCENE = re.compile(rf"((.*/)(?:image_([0-3])|colored_([01]))/(\d{{6}})_)(\d\d)({_ENDING})")
_NUMBER_OF_LENS = re.compile(r"(.*)([0-3])(/data/|/\d{6}_)")
_EXTRACT = re.compile(r".*_drive_\d+_extract/image_0[0-3]/data/\d+\.\w+")
_PAIRS = ((2, 3), (0, 1))  # of KITTI's lenses, left and right: in colour and in grey
_READERS_LOCAL, _READERS_REMOTE = 4, 32  # cameras that are read at a time


@dataclass
class Lens:
    """Pictures of one lens in one video.

    start, end: what their locations have before and after the number of the frame, which has so many digits.
    pictures: locations of those that are there, by number.
    """

    start: str
    end: str
    digits: int
    pictures: dict[int, str] = field(default_factory=dict)

    def place(self, number: int) -> str:
        """Where the picture of a frame is, or would be."""
        return self.pictures.get(number) or f"{self.start}{number:0{self.digits}d}{self.end}"


class CameraFile(NamedTuple):
    """A file with a camera; lenses: of KITTI the numbers of left and right."""

    location: str
    lenses: tuple[int, int] | None = None

    def read(self) -> Camera | SourceError:
        """The camera, or why it cannot be had."""
        try:
            return kitti_camera(self.location, *self.lenses) if self.lenses else cityscapes_camera(self.location)
        except SourceError as error:
            return error


class Video(NamedTuple):
    """What two lenses saw; camera: where that of a frame is, or why it is nowhere."""

    left: Lens
    right: Lens
    camera: Callable[[int], CameraFile | SourceError]

    @property
    def numbers(self) -> list[int]:
        """Frames of which there is a picture."""
        return sorted(self.left.pictures.keys() | self.right.pictures.keys())


def read_stereo_folder(source: str, root: str | None) -> tuple[str, list[ImageRef], Counter[str]]:
    """The clips of `cityscapes:ROOT` or `kitti:ROOT`, and what was passed over.

    Cityscapes: ROOT holds leftImg8bit_sequence, rightImg8bit_sequence and camera; or it is a folder in the first one,
        of which alone the clips are taken. The camera of a frame is that of the same recording nearest in number.
    KITTI: below ROOT are drives of the raw recordings (*_sync with image_02 and image_03, or the grey image_00 and
        image_01, calib_cam_to_cam.txt beside them), or scenes: of scene flow 2015 (image_2, image_3, calib_cam_to_cam),
        of 2012 (colored_0 and colored_1, or image_0 and image_1, calib), or of their multi-view extensions.

    Returns the folder that ids are relative to, and the clips, named by their left pictures; one with its trouble where
    a picture is missing, or the camera is missing or wrong. Frames without a successor are counted with what is passed
    over.

    Raises SourceError when there is no such folder, it has no stereo video, no right picture at all, or no two frames
    in a row.
    """
    if root is not None:
        raise SourceError(f"--root {root} is for lists, not for {source}: leave it out")
    list_videos = _of_cityscapes if source.startswith(CITYSCAPES) else _of_kitti
    place = absolute(source.partition(":")[2])
    skipped: Counter[str] = Counter()
    with asking(place):
        if not _is_folder(place):
            raise SourceError(f"{source}: {place} is no folder, or not one that you may read")
        base, videos = list_videos(place, skipped)
        if not any(video.right.pictures for video in videos):
            example = videos[0].right.place(videos[0].numbers[0])
            raise SourceError(f"{source} has no right pictures, for instance no {example}: {NO_RIGHT}")
        refs = list(_clips(videos, base, skipped))
        if not refs:
            raise SourceError(f"{source} has single frames alone: a clip needs two that follow each other in number")
        return base, refs, skipped


def _clips(videos: Iterable[Video], base: str, skipped: Counter[str]) -> Iterator[ImageRef]:
    frames = []
    for video in videos:
        followed = [n for n, following in pairwise(video.numbers) if following == n + 1]
        frames += [(video, number) for number in followed]
        skipped["(last of its video)"] += len(video.numbers) - len(followed)
    files = [video.camera(number) for video, number in frames]
    wanted = list({file for file in files if isinstance(file, CameraFile)})
    workers = _READERS_REMOTE if wanted and is_url(wanted[0].location) else _READERS_LOCAL
    with ThreadPoolExecutor(workers, thread_name_prefix="cameras") as pool:
        cameras: dict[Any, Camera | SourceError] = dict(zip(wanted, pool.map(CameraFile.read, wanted), strict=True))
    for (video, number), file in zip(frames, files, strict=True):
        yield _clip(video, number, cameras[file] if isinstance(file, CameraFile) else file, base)


def _clip(video: Video, number: int, camera: Camera | SourceError, base: str) -> ImageRef:
    """A clip, or what keeps the frame from being one."""
    lenses = [(lens, n) for n in (number, number + 1) for lens in (video.left, video.right)]
    left, right, left_next, right_next = places = [lens.place(n) for lens, n in lenses]
    name = left.removeprefix(f"{base.rstrip('/')}/")
    if not all(map(is_unicode, places)):
        return odd_ref(name, base, NOT_UNICODE)
    if missing := [place for (lens, n), place in zip(lenses, places, strict=True) if n not in lens.pictures]:
        return odd_ref(name, left, f"{' and '.join(missing)} missing: a clip needs both pictures of both moments")
    if isinstance(camera, SourceError):
        return odd_ref(name, left, f"{camera}; a camera can be given in a row of clips:FILE, too")
    ref = named_ref(name, left)
    return ref if ref.trouble else replace(ref, clip=ClipFiles(right, left_next, right_next, camera))


def _of_cityscapes(place: str, skipped: Counter[str]) -> tuple[str, list[Video]]:
    """The folder of the left pictures, and the videos below `place`."""
    root, is_part, part = f"{place}/".partition(f"/{_LEFT}/")
    root = root.rstrip("/")
    if not is_part and not _is_folder(f"{root}/{_LEFT}"):
        single = "; leftImg8bit has single frames, no video" if _is_folder(f"{root}/leftImg8bit") else ""
        raise SourceError(f"{place} has no folder {_LEFT}, with {_RIGHT} and {_CAMERA} beside it{single}")
    folders = {name: f"{root}/{name}/{part}".rstrip("/") for name in (_LEFT, _RIGHT, _CAMERA)}
    lefts, rights, cameras = (_recordings(folder, skipped) for folder in folders.values())
    if not lefts and not rights:
        raise SourceError(f"{folders[_LEFT]} holds no pictures named like aachen_000000_000019_leftImg8bit.png")

    def video(name: str) -> Video:
        left = lefts.get(name) or Lens(f"{folders[_LEFT]}/{name}", "_leftImg8bit.png", 6)
        right = rights.get(name) or Lens(f"{folders[_RIGHT]}/{name}", "_rightImg8bit.png", 6)
        known = cameras.get(name)
        if known is None:
            error = SourceError(
                f"{folders[_CAMERA]} has no camera of {name}*: unpack camera_trainvaltest.zip beside {_LEFT}"
            )
            return Video(left, right, lambda _: error)
        numbers = sorted(known.pictures)
        return Video(left, right, lambda number: CameraFile(known.pictures[_nearest(numbers, number)]))

    return f"{root}/{_LEFT}", [video(name) for name in sorted({*lefts, *rights})]


def _recordings(folder: str, skipped: Counter[str]) -> dict[str, Lens]:
    """Files of Cityscapes by what their names have before the number; {} where there is no such folder."""
    if not _is_folder(folder):
        return {}
    found: dict[str, Lens] = {}
    for location in _files(folder, skipped):
        match = _OF_CITYSCAPES.fullmatch(location.removeprefix(f"{folder}/"))
        if match is None:
            skipped["(other file)"] += 1
            continue
        start, number, end = match.groups()
        found.setdefault(start, Lens(f"{folder}/{start}", end, 6)).pictures[int(number)] = location
    return found


def _nearest(numbers: list[int], number: int) -> int:
    """The number in a sorted list that is nearest; the lower of two."""
    place = bisect_left(numbers, number)
    return min(numbers[max(place - 1, 0) : place + 1], key=lambda other: abs(other - number))


def _of_kitti(place: str, skipped: Counter[str]) -> tuple[str, list[Video]]:
    """The folder itself, and the videos below it."""
    folder = place.rstrip("/")
    files = set(_files(folder, skipped))
    videos: dict[_Scene, dict[int, Lens]] = {}
    for location in sorted(files):
        found = _kitti_picture(location)
        if found is None:
            skipped["(not rectified)" if _EXTRACT.fullmatch(location) else "(other file)"] += 1
            continue
        scene, lens, start, number, end = found
        lenses = videos.setdefault(scene, {})
        lenses.setdefault(lens, Lens(start, end, len(number))).pictures[int(number)] = location
    if not videos:
        raise SourceError(
            f"{place} has no pictures of KITTI: drives of the raw recordings (…_sync/image_02/data/0000000000.png) or "
            "scenes (training/image_2/000000_10.png)"
        )
    return folder, [_kitti_video(scene, lenses, files) for scene, lenses in videos.items()]


class _Scene(NamedTuple):
    """A drive, or a scene.

    name: tells it from all others.
    cameras: where its camera may be.
    """

    name: str
    cameras: tuple[str, ...]


def _kitti_picture(location: str) -> tuple[_Scene, int, str, str, str] | None:
    """Scene and lens of a picture, and of its location what comes before the frame's number, the number and the rest;
    None for another file.
    """
    if match := _DRIVE.fullmatch(location):
        start, day, lens, number, end = match.groups()
        return _Scene(start.rpartition("/image_")[0], (f"{day}calib_cam_to_cam.txt",)), int(lens), start, number, end
    if match := _SCENE.fullmatch(location):
        start, split, grey_or_colour, colour, scene, number, end = match.groups()
        lens = int(grey_or_colour) if colour is None else int(colour) + 2
        cameras = tuple(f"{split}{folder}/{scene}.txt" for folder in ("calib_cam_to_cam", "calib"))
        return _Scene(f"{split}{scene}", cameras), lens, start, number, end
    return None


def _kitti_video(scene: _Scene, lenses: dict[int, Lens], files: Container[str]) -> Video:
    """Of the pair of lenses that has more pictures of its two, in colour where both have as many."""
    pair = max(_PAIRS, key=lambda pair: sum(lens in lenses for lens in pair))
    left, right = map(lenses.get, pair)
    if left is None:
        assert right is not None  # a scene has one lens at least, of one of the pairs
        left = _mate(right, -1)
    right = right or _mate(left, +1)
    camera = CameraFile(next((place for place in scene.cameras if place in files), scene.cameras[0]), pair)
    return Video(left, right, lambda _: camera)


def _mate(lens: Lens, step: int) -> Lens:
    """The lens with the next number, or the one before, without pictures: image_3 of image_2."""
    match = _NUMBER_OF_LENS.fullmatch(lens.start)
    assert match is not None
    return Lens(f"{match[1]}{int(match[2]) + step}{match[3]}", lens.end, lens.digits)


def _files(folder: str, skipped: Counter[str]) -> Iterator[str]:
    """Locations of the files below a folder."""
    fs, path = filesystem(folder)
    return (location_of(fs, file) for file in walk(fs, path, skipped))


def _is_folder(location: str) -> bool:
    fs, path = filesystem(location)
    return bool(fs.isdir(path))
