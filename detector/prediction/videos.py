"""Frames out of a video, as photos that a run can take; and a video out of pictures.

H, W pixels
"""

import logging
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipeline.errors import ConfigError, RunMismatchError, SourceError, StoreError
from pipeline.storage.atomic import folder_made_whole, leftovers, path_written_whole
from pipeline.storage.outputs import writing
from pipeline.wording import counted

logger = logging.getLogger(__name__)

EXTENSIONS = frozenset((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"))
JPEG_QUALITY = 95
FALLBACK_RATE = 25.0  # frames a second, of a video that does not say
_PAPER = (250, 250, 250)  # where a picture is smaller than others: its legend is shorter
CODEC = "mp4v"  # MPEG-4 part 2. OpenCV's wheels have VP9, too, which takes fifty times as long, but no H.264


@dataclass(frozen=True)
class Frames:
    """folder: of the frames, named by their number, 000123.jpg.
    rate: of these frames, a second.
    """

    folder: Path
    rate: float


def is_video(source: str) -> bool:
    """Whether a file is a video, by its name."""
    return Path(source).suffix.lower() in EXTENSIONS


def need_video(file: Path) -> Path:
    """The file of a video; SourceError when it is not there."""
    if not file.is_file():
        raise SourceError(f"there is no file {file}")
    return file


def extract_frames(video: Path, folder: Path, every: int = 1) -> Frames:
    """Write each `every`-th frame of a video as JPEG, from number 0; nothing is done when the folder is there.

    The folder appears whole or not at all.

    Raises SourceError when the video cannot be opened or has no frame, RunMismatchError when the folder holds others of
    its frames.
    """
    if every < 1:
        raise ConfigError(f"every is {every}: it must be at least 1")
    capture = cv2.VideoCapture(str(need_video(video)))
    try:
        if not capture.isOpened():
            raise SourceError(f"{video} cannot be opened as a video: give a file that OpenCV reads, such as .mp4")
        rate = capture.get(cv2.CAP_PROP_FPS) / every
        if folder.is_dir():
            _refuse_others(folder, every)
        else:
            _extract(capture, video, folder, every)
        return Frames(folder, rate if 0 < rate < 1000 else FALLBACK_RATE / every)
    finally:
        capture.release()


def _refuse_others(folder: Path, every: int) -> None:
    numbers = [int(file.stem) for file in folder.glob("*.jpg")]
    if len(numbers) > 1 and math.gcd(*numbers) != every:
        raise RunMismatchError(
            f"{folder} holds each {math.gcd(*numbers)}. frame, each {every}. is wanted: give another --out"
        )


def _extract(capture: cv2.VideoCapture, video: Path, folder: Path, every: int) -> None:
    _sweep(folder)
    with writing(folder), folder_made_whole(folder) as partial:
        _write_frames(capture, video, partial, every)


def _write_frames(capture: cv2.VideoCapture, video: Path, folder: Path, every: int) -> None:
    number = 0
    # Skipped frames are passed over, not decoded.
    while capture.grab():
        if number % every == 0:
            decoded, frame_HW3 = capture.retrieve()
            name = folder / f"{number:06d}.jpg"
            if decoded and not cv2.imwrite(str(name), frame_HW3, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
                raise StoreError(f"cannot write {name}: make room, or give another --out")
        number += 1
    if not any(folder.iterdir()):
        raise SourceError(f"{video} has no frame that can be decoded: encode it again")
    said = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if number < said:
        logger.warning("%s ends after %s, its header says %d", video, counted(number, "frame"), said)


def write_video(pictures: Iterable[Path], file: Path, rate: float) -> int:
    """A video of pictures, in their upper left corner where they are of several sizes, whole or not at all; how many
    there are.

    Raises StoreError when there is none, or OpenCV cannot write videos here.
    """
    _sweep(file)
    with writing(file), path_written_whole(file) as partial:
        return _write_pictures(pictures, partial, file, rate)


def _write_pictures(pictures: Iterable[Path], partial: Path, file: Path, rate: float) -> int:
    paths = list(pictures)
    if not paths:
        raise StoreError(f"there is no picture to make {file} of")
    width, height = (max(sides) for sides in zip(*map(_size, paths), strict=True))
    writer = _writer(partial, (width + width % 2, height + height % 2), rate)  # codecs halve the sides of colour
    frame = Image.new("RGB", (width + width % 2, height + height % 2))
    for path in paths:
        with Image.open(path) as picture:
            frame.paste(_PAPER, (0, 0, *frame.size))
            frame.paste(picture.convert("RGB"))
        writer.write(np.ascontiguousarray(np.asarray(frame)[..., ::-1]))
    writer.release()
    return len(paths)


def _size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def _sweep(path: Path) -> None:
    for left in leftovers(path):
        shutil.rmtree(left)  # of a process that was killed


def _writer(file: Path, size: tuple[int, int], rate: float) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*CODEC), rate, size)
    if not writer.isOpened():
        raise StoreError(f"{file} cannot be written: make room, or install an OpenCV that has a video encoder")
    return writer
