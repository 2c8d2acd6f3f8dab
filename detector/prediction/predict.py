"""Predictions for people: photos, folders, lists and videos in; overlays, COCO JSON and videos out.

All of it goes through a run, so a broken photo is a record with a reason, and what was killed resumes:

    OUT/images.parquet    what is to be predicted on
    OUT/frames/NAME/      frames of the video NAME
    OUT/run/              a run like any other
    OUT/predictions.json  COCO JSON; of a panoptic detector
    OUT/panoptic.json     COCO panoptic JSON, and
    OUT/panoptic/         its PNGs
    OUT/overlays/         a picture per image
    OUT/videos/NAME.mp4   the overlays of a video's frames
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from detector.model.checkpoints import read_detector
from detector.model.weight_files import need_checkpoint
from detector.prediction.options import NAME, DetectorOptions, overrides_of
from detector.prediction.videos import Frames, extract_frames, is_video, need_video, write_video
from pipeline.commands.executing import RunExecutor
from pipeline.errors import ConfigError, RunMismatchError, SourceError
from pipeline.images.image_lists import NO_ROOT_REMEDY
from pipeline.images.manifest import ImageRef, Manifest, default_shard_size
from pipeline.images.oddities import odd_ref, refuse_if_all_are_odd
from pipeline.images.sources import files_below, is_image, list_images
from pipeline.runs.launch import Launch
from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.summary import RunSummary
from pipeline.storage.files_at import files_at
from pipeline.storage.outputs import need_folder
from pipeline.views.export import export_coco, export_overlays
from pipeline.views.panoptic_export import PANOPTIC, export_panoptic
from pipeline.views.picture_files import picture_names

_LISTS = (".txt", ".lst", ".parquet", ".json", ".tar")

IMAGES_FILE, COCO_FILE = "images.parquet", "predictions.json"


@dataclass(frozen=True)
class Predicted:
    """What came out.

    summary: of the run.
    set_aside: photos that could not be used, whenever that was found.
    coco: COCO JSON file.
    objects: in it; of a panoptic detector segments of things and stuff.
    maps: folder of the panoptic PNGs; None of other detectors.
    overlays, videos: files.
    """

    summary: RunSummary
    set_aside: int
    coco: Path
    objects: int
    maps: Path | None
    overlays: list[Path]
    videos: list[Path] = field(default_factory=list)


def predict(
    sources: Sequence[str],
    out: str | Path,
    options: DetectorOptions,
    execute: RunExecutor,
    every: int = 1,
    **execution: Any,
) -> Predicted:
    """Predict on photos, folders, lists, tars and videos, and draw what was found.

    every: of a video's frames each `every`-th one.
    execute, execution: see `self_training.self_train`.

    Raises SourceError for sources without images, WeightsError for a detector that cannot be read, RunMismatchError
    when `out` holds predictions on other images or of another detector or other options, and whatever the run raises.
    """
    if not sources:
        raise ConfigError("there is nothing to predict on: give photos, folders, lists or videos")
    need_checkpoint(Path(options.checkpoint))
    need_folder(Path(out))
    photos, films = _found(sources)
    panoptic = read_detector(options.checkpoint).panoptic is not None  # before anything is written
    root = Path(out).absolute()
    refs = list(photos)
    videos: dict[str, Frames] = {}
    for name, film in films.items():
        try:
            videos[name] = extract_frames(film, root / "frames" / name, every)
        except SourceError as error:  # a video that is none costs no other
            refs.append(odd_ref(name, str(film), str(error)))
            continue
        refs += _refs(str(videos[name].folder), name, alone=False)
    refuse_if_all_are_odd(refs, ", ".join(sources))
    _write_list(root, refs)
    launch = Launch(str(root / IMAGES_FILE), recipe=NAME, overrides=overrides_of(options))
    summary = execute(str(root / "run"), launch, **execution)
    run = RunFolder.open(root / "run")
    if panoptic:
        coco, maps = root / PANOPTIC, root / Path(PANOPTIC).stem
        objects = export_panoptic(PanopticReader(run), root).segments
    else:
        coco, maps = root / COCO_FILE, None
        objects = export_coco(run, coco)
    overlays = export_overlays(run, root / "overlays")
    set_aside = len(RunReader(run).quarantined())
    made = list(_videos(run, root, videos, overlays))
    return Predicted(summary, set_aside, coco, objects, maps, overlays, made)


def _found(sources: Sequence[str]) -> tuple[list[ImageRef], dict[str, Path]]:
    """The photos among the sources, listed, and the files of videos by their names; those in folders, too."""
    photos: list[ImageRef] = []
    films: dict[str, Path] = {}
    taken: set[str] = set()
    for source in sources:
        name = _unique(*_stem_and_suffix(source), taken)
        if is_video(source):
            films[name] = need_video(Path(source))
            continue
        files = files_below(source)
        inside = [file for file in files if is_video(file)]
        films |= {_unique(Path(file).stem, "", taken): Path(file) for file in inside}
        if not inside or any(is_image(file) or file.lower().endswith(".tar") for file in files):
            photos += _refs(source, name, alone=len(sources) == 1 and not inside)
    return photos, films


def _stem_and_suffix(source: str) -> tuple[str, str]:
    """What a source is called: its file's or folder's name, and the ending of a photo."""
    path = PurePosixPath(source.rstrip("/"))
    suffix = path.suffix if is_image(source) else ""
    is_file = suffix or is_video(source) or path.suffix.lower() in _LISTS
    return path.stem if is_file else path.name, suffix


def _unique(stem: str, suffix: str, taken: set[str]) -> str:
    """A name of its own, numbered where two are the same; it is taken then."""
    name, number = f"{stem}{suffix}", 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name)
    return name


def _refs(source: str, name: str, alone: bool) -> list[ImageRef]:
    """The images of a source; their ids begin with its name where there are several sources."""
    refs = list_images(source, remedy=NO_ROOT_REMEDY).refs
    if is_image(source) and len(refs) == 1:
        return [replace(refs[0], id=name)]
    # COCO ids of two files may be the same.
    return list(refs) if alone else [replace(ref, id=f"{name}/{ref.id}", coco_id=None) for ref in refs]


def _write_list(root: Path, refs: Sequence[ImageRef]) -> None:
    """The list that the run is made from; RunMismatchError when there is one of other images."""
    files = files_at(root)
    manifest = Manifest(refs, default_shard_size(len(refs)))
    if files.exists(IMAGES_FILE):
        before = Manifest.from_parquet_bytes(files.read_bytes(IMAGES_FILE))
        manifest = Manifest(refs, before.shard_size)
        if before.digest != manifest.digest:
            raise RunMismatchError(
                f"{root} holds predictions on other images: {before.explain_difference(manifest)}. Give another --out"
            )
    files.write_atomic(IMAGES_FILE, manifest.to_parquet_bytes())


def _videos(run: RunFolder, root: Path, videos: Mapping[str, Frames], overlays: Sequence[Path]) -> Iterator[Path]:
    names = picture_names(run)
    drawn = set(overlays)
    for name, frames in videos.items():
        own = {ref.id for ref in run.manifest.refs if Path(ref.uri).parent == frames.folder}
        pictures = (root / "overlays" / names[ref.id] for ref in run.manifest.refs if ref.id in own)
        file = root / "videos" / f"{name}.mp4"
        write_video((picture for picture in pictures if picture in drawn), file, frames.rate)
        yield file
