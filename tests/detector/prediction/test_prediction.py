"""Predictions for people: what comes in, what comes out, and that it goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from support.tiny_detector import write_tiny
from support.tiny_method import draw_photos
from support.tiny_panoptic import THINGS, write_panoptic

from detector.prediction.options import DetectorOptions
from detector.prediction.predict import predict
from detector.prediction.videos import extract_frames, write_video
from pipeline.engine import run as runner
from pipeline.errors import ConfigError, RunMismatchError, SourceError, StoreError
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> DetectorOptions:
    path = write_tiny(tmp_path_factory.mktemp("tiny") / "detector.safetensors").path
    return DetectorOptions(str(path), min_score=0.7, max_per_image=3)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames of 64 × 80, ten a second; frame i is 25 i bright."""
    folder = tmp_path_factory.mktemp("video")
    pictures = [folder / f"{i}.png" for i in range(8)]
    for i, picture in enumerate(pictures):
        Image.fromarray(np.full((64, 80, 3), 25 * i, np.uint8)).save(picture)
    assert write_video(pictures, folder / "clip.mp4", 10.0) == 8
    return folder / "clip.mp4"


def test_frames_of_a_video(video: Path, tmp_path: Path) -> None:
    frames = extract_frames(video, tmp_path / "frames" / "clip", every=3)
    assert frames.rate == pytest.approx(10 / 3)
    files = sorted(frames.folder.iterdir())
    assert [file.name for file in files] == ["000000.jpg", "000003.jpg", "000006.jpg"]
    for file in files:
        assert np.asarray(Image.open(file)).mean() == pytest.approx(25 * int(file.stem), abs=6)
    before = files[0].stat().st_mtime_ns
    assert extract_frames(video, frames.folder, every=3) == frames
    assert files[0].stat().st_mtime_ns == before, "frames that are there are not made again"
    with pytest.raises(RunMismatchError, match=r"each 3. frame, each 2. is wanted"):
        extract_frames(video, frames.folder, every=2)


def test_half_extracted_frames_are_made_again(video: Path, tmp_path: Path) -> None:
    left = tmp_path / ".clip.node-7-00.tmp"
    left.mkdir()
    (left / "000777.jpg").write_bytes(b"of a process that was killed")
    frames = extract_frames(video, tmp_path / "clip")
    assert len(list(frames.folder.iterdir())) == 8
    assert not left.exists()


@pytest.mark.parametrize("content", [None, b"", b"not a video at all" * 100])
def test_what_is_no_video_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SourceError, match=r"clip.mp4"):
        extract_frames(file, tmp_path / "frames")
    assert not (tmp_path / "frames").exists()


def test_a_video_that_is_none_costs_no_photo(options: DetectorOptions, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    draw_photos(tmp_path / "photos", 2)
    sources = [str(tmp_path / "photos"), str(tmp_path / "broken.mp4")]
    found = predict(sources, tmp_path / "out", options, runner.run, device="cpu")
    assert (found.summary.images, found.set_aside, found.videos) == (3, 1, [])
    (odd,) = RunReader(RunFolder.open(tmp_path / "out" / "run")).quarantined()
    assert (odd.id, odd.reason) == ("broken", "odd_entry")
    assert "cannot be opened as a video" in odd.detail
    with pytest.raises(SourceError, match=r"none of 1 image can be taken: .*cannot be opened as a video"):
        predict(sources[1:], tmp_path / "alone", options, runner.run, device="cpu")


def test_photos_folders_and_videos(options: DetectorOptions, video: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "photos", tmp_path / "b" / "photos"
    draw_photos(first, 2)
    draw_photos(second, 2, seed=1)
    (second / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    (tmp_path / "some.txt").write_text(f"{first / '000.png'}\n")
    sources = [str(first), str(second), str(first / "001.png"), str(second / "001.png"), str(video)]
    sources.append(str(tmp_path / "some.txt"))
    out = tmp_path / "out"
    found = predict(sources, out, options, runner.run, every=2, device="cpu")
    ids = {ref.id for ref in RunFolder.open(out / "run").manifest.refs}
    frames = {f"clip/{i:06d}.jpg" for i in (0, 2, 4, 6)}
    photos = {"photos/000.png", "photos/001.png", "photos-2/000.png", "photos-2/001.png", "photos-2/broken.jpg"}
    assert ids == photos | frames | {"001.png", "001-2.png", "some/000.png"}
    assert found.summary.quarantined == found.set_aside == 1
    assert len(found.overlays) == len(ids) - 1
    for file in found.overlays:
        assert file.is_relative_to(out / "overlays")
        with Image.open(file) as overlay:
            assert overlay.size
    document = json.loads(found.coco.read_text())
    assert len(document["images"]) == len(ids) - 1
    assert len(document["annotations"]) == found.objects > 0
    assert all(annotation["score"] > 0.7 for annotation in document["annotations"])
    assert found.videos == [out / "videos" / "clip.mp4"]
    capture = cv2.VideoCapture(str(found.videos[0]))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(5.0)
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 4
    again = predict(sources, out, options, runner.run, every=2, device="cpu")
    assert again.summary.images == 0, "nothing was left to do"
    assert again.set_aside == 1
    assert (again.objects, again.overlays) == (found.objects, found.overlays)


def test_a_panoptic_detector_gives_maps(video: Path, tmp_path: Path) -> None:
    """PNGs as COCO has them, and frames of a video that stay where they are whatever is below them."""
    draw_photos(tmp_path / "photos", 2)
    options = DetectorOptions(str(write_panoptic(tmp_path / "panoptic.safetensors").path), min_score=0.6)
    sources, out = [str(tmp_path / "photos"), str(video)], tmp_path / "out"
    found = predict(sources, out, options, runner.run, every=4, device="cpu")
    assert (found.coco, found.maps) == (out / "panoptic.json", out / "panoptic")
    document = json.loads(found.coco.read_text())
    assert {c["id"] - 1 for c in document["categories"] if c["isthing"]} == set(THINGS)
    assert len(document["annotations"]) == 4
    for one in document["annotations"]:
        rgb = np.asarray(Image.open(out / "panoptic" / one["file_name"])).astype(int)
        ids = rgb @ (1, 256, 65536)
        assert {s["id"]: s["area"] for s in one["segments_info"]} == {
            i: int((ids == i).sum()) for i in np.unique(ids) if i
        }
    assert found.objects == sum(len(one["segments_info"]) for one in document["annotations"]) > 4
    heights = [len(np.asarray(Image.open(out / "overlays" / "clip" / f"{i:06d}.png"))) for i in (0, 4)]
    capture = cv2.VideoCapture(str(found.videos[0]))
    _, frame = capture.read()
    shown = np.asarray(Image.open(out / "overlays" / "clip" / "000000.png").convert("RGB")).astype(int)
    assert frame.shape[0] >= max(heights)
    assert np.abs(frame[: shown.shape[0], : shown.shape[1], ::-1] - shown).mean() < 12


def test_pictures_of_several_sizes_make_a_video(tmp_path: Path) -> None:
    """Each in the corner, as large as it is."""
    for number, size in enumerate(((81, 60), (64, 75))):
        Image.new("RGB", size, (200, 30, 30)).save(tmp_path / f"{number}.png")
    assert write_video([tmp_path / "0.png", tmp_path / "1.png"], tmp_path / "clip.mp4", 5.0) == 2
    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    for size in ((81, 60), (64, 75)):
        _, frame = capture.read()
        assert frame.shape == (76, 82, 3)
        red = frame[..., 2].astype(int) - frame[..., 0] > 80
        assert red[: size[1] - 4, : size[0] - 4].all()
        assert not red[size[1] + 4 :].any()
        assert not red[:, size[0] + 4 :].any()
    with pytest.raises(StoreError, match="no picture"):
        write_video([], tmp_path / "none.mp4", 5.0)


def test_videos_in_a_folder_are_taken(options: DetectorOptions, video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    draw_photos(folder / "photos", 1)
    for place in ("", "more/", ".hidden/"):
        (folder / place).mkdir(exist_ok=True)
        shutil.copy(video, folder / place / "clip.MP4")
    out = tmp_path / "out"
    found = predict([str(folder)], out, options, runner.run, every=4, device="cpu")
    ids = {ref.id for ref in RunFolder.open(out / "run").manifest.refs}
    frames = {f"{name}/{i:06d}.jpg" for name in ("clip", "clip-2") for i in (0, 4)}
    assert ids == {"mixed/photos/000.png"} | frames
    assert found.videos == [out / "videos" / f"{name}.mp4" for name in ("clip", "clip-2")]
    alone = predict([str(folder / "more")], tmp_path / "alone", options, runner.run, every=4, device="cpu")
    assert alone.videos == [tmp_path / "alone" / "videos" / "clip.mp4"]


def test_one_folder_keeps_its_names(options: DetectorOptions, tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 2)
    predict([str(tmp_path / "photos")], tmp_path / "out", options, runner.run)
    assert {record.id for record in RunReader(RunFolder.open(tmp_path / "out" / "run"))} == {"000.png", "001.png"}


def test_other_images_or_options_need_another_folder(options: DetectorOptions, tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 3)
    out = tmp_path / "out"
    predict([str(tmp_path / "photos" / "000.png")], out, options, runner.run)
    with pytest.raises(RunMismatchError, match=r"1 image added \(001.png\), 1 image removed"):
        predict([str(tmp_path / "photos" / "001.png")], out, options, runner.run)
    other = DetectorOptions(options.checkpoint, min_score=0.9)
    with pytest.raises(RunMismatchError, match="min_score"):
        predict([str(tmp_path / "photos" / "000.png")], out, other, runner.run)


@pytest.mark.parametrize(("sources", "error"), [([], ConfigError), (["nothing/here"], SourceError)])
def test_nothing_to_predict_on(sources: list[str], error: type, options: DetectorOptions, tmp_path: Path) -> None:
    def nobody(*arguments: Any, **given: Any) -> Any:
        raise AssertionError("nothing is to be run")

    with pytest.raises(error):
        predict(sources, tmp_path / "out", options, nobody)
