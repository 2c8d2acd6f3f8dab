"""Listing the images of a data set: a folder, an image, a list, a COCO file or WebDataset tars; local or fsspec URL."""

import logging
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from pipeline.errors import SourceError
from pipeline.images.image_lists import LIST_READERS, ROOT_REMEDY, common_root
from pipeline.images.manifest import ImageRef, sort_refs
from pipeline.images.oddities import (
    NOT_UNICODE,
    as_id,
    causes,
    named_ref,
    odd_ref,
    refuse_if_all_are_odd,
    without_repeats,
)
from pipeline.images.stereo_clips import PREFIX, read_clips
from pipeline.images.stereo_folders import CITYSCAPES, KITTI, read_stereo_folder
from pipeline.images.walking import walk
from pipeline.storage.locations import absolute, asking, filesystem, is_local, is_unicode, location_of, parent_of
from pipeline.wording import counted, few_of

log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2")
)
COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
MAX_BRACE_NAMES = 1_000_000

_ZEROS = 1 << 20  # bytes that are read at a time after a tar's end mark

_BRACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Listing:
    """The images of a source.

    root: folder or URL that the ids are relative to; "" when a list mixes servers.
    refs: sorted by id, at least one without trouble; those with one are set aside when their turn comes.
    skipped: what was passed over, as extension -> count, with "(hidden)", "(broken link)" and their like.
    """

    root: str
    refs: tuple[ImageRef, ...]
    skipped: dict[str, int]


def listing_of(root: str, refs: Sequence[ImageRef], source: str, skipped: Mapping[str, int] | None = None) -> Listing:
    """What a source came to, said in the log; the other arguments as in `Listing`.

    Raises SourceError when there is no image, or none that can be taken.
    """
    found, repeats = without_repeats(refs)
    refuse_if_all_are_odd(found, source)
    counts = dict(sorted({**(skipped or {}), **({"(listed again)": repeats} if repeats else {})}.items()))
    listing = Listing(root, sort_refs(found), counts)
    passed = ", ".join(f"{count} {what}" for what, count in counts.items())
    log.info("%s in %s%s", counted(len(found), "image"), source, f" (passed over: {passed})" if passed else "")
    odd = [ref for ref in listing.refs if ref.trouble is not None]
    if odd:
        names = few_of([ref.id for ref in odd])
        log.warning("%d of them cannot be used and will be set aside, %s: %s", len(odd), names, causes(odd))
    return listing


def list_images(source: str, root: str | None = None, remedy: str = ROOT_REMEDY) -> Listing:
    """Lists the images of `source`.

    Args:
        source: a folder (searched through; a folder of tars if it holds tars and no images), one image, a .txt/.lst or
            .parquet list, a COCO .json, a .tar, a glob or brace pattern like shard-{000000..000012}.tar; or clips:
            clips:FILE, see `stereo_clips.read_clips`, cityscapes:ROOT or kitti:ROOT, see
            `stereo_folders.read_stereo_folder`.
        root: for lists and COCO files only: the folder that relative names are in, where it is not the list's own.
        remedy: what to do when none of the images that a list names is there, for the message.

    Raises:
        SourceError: not found, not readable, empty, no images that can be taken, a missing fsspec package.
    """
    if source.startswith(PREFIX):
        return listing_of(*read_clips(source, root, remedy), source)
    if source.startswith((CITYSCAPES, KITTI)):
        found, refs, skipped = read_stereo_folder(source, root)
        return listing_of(found, refs, source, skipped)
    with asking(source):
        return _listed(source, root, remedy)


def _listed(source: str, root: str | None, remedy: str) -> Listing:
    """The same of anything but clips."""
    fs, path = filesystem(source)
    location = location_of(fs, path)
    read_list = LIST_READERS.get(_extension(path))
    if root is not None:
        if read_list is None:
            raise SourceError(f"--root {root} is for lists and COCO files, not for {source}: leave it out")
        root = absolute(root)
    skipped: Counter[str] = Counter()
    # A known extension settles it for remote sources: asking a web server for a folder can mean to download the file.
    known = (
        read_list is not None
        or _extension(path) in IMAGE_EXTENSIONS
        or path.lower().endswith((".tar", *COMPRESSED_TAR))
    )
    if (is_local(fs) or not known) and fs.isdir(path):
        files = walk(fs, path, skipped)
        return _from_files(fs, location, sorted(files), skipped, source)
    if not fs.exists(path):
        if re.search(r"[*?\[{]", path):
            return _from_pattern(fs, path, source)
        raise SourceError(f"{source}: no such file or folder, or not one that you may read")
    if path.lower().endswith(COMPRESSED_TAR):
        raise SourceError(
            f"{source}: images inside a compressed tar cannot be read one by one; decompress it to a plain .tar "
            "(JPEGs gain nothing from gzip) or unpack it to a folder"
        )
    if read_list is not None:
        return listing_of(*read_list(location, root, remedy), source)
    return _from_files(fs, parent_of(location), [path], skipped, source)


def clip_prefix(source: str) -> str:
    """How a source of clips begins, before the place that it names; "" for other sources."""
    return next((prefix for prefix in (PREFIX, CITYSCAPES, KITTI) if source.startswith(prefix)), "")


def is_image(name: str) -> bool:
    """Whether a file is an image, by its name."""
    return _extension(name) in IMAGE_EXTENSIONS


def files_below(source: str) -> list[str]:
    """All files of a local folder and the folders in it, but hidden ones, sorted; [] where there is no such folder."""
    fs, path = filesystem(source)
    return sorted(walk(fs, path, Counter())) if is_local(fs) and fs.isdir(path) else []


def expand_braces(pattern: str) -> list[str]:
    """Shell-like expansion of {a,b} and zero-padded {000..012}, the notation of WebDataset.

    Raises:
        SourceError: more than a million names.
    """
    choices: list[list[str]] = []
    end = total = 0
    for match in _BRACE.finditer(pattern):
        span = _RANGE.fullmatch(match[1])
        if span:
            first, last = int(span[1]), int(span[2])
            width = len(span[1]) if span[1].startswith("0") or len(span[1]) == len(span[2]) else 0
            if last - first >= MAX_BRACE_NAMES:
                raise SourceError(f"{pattern} stands for more than {MAX_BRACE_NAMES} files")
            options = [f"{i:0{width}d}" for i in range(first, last + 1)]
        else:
            options = match[1].split(",")
        choices += [[pattern[end : match.start()]], options]
        end = match.end()
        total = max(total, 1) * len(options)
        if total > MAX_BRACE_NAMES:
            raise SourceError(f"{pattern} stands for more than {MAX_BRACE_NAMES} files")
    return ["".join(parts) for parts in product(*choices, [pattern[end:]])]


def _from_pattern(fs: Any, pattern: str, source: str) -> Listing:
    files: list[str] = []
    missing: list[str] = []
    for name in expand_braces(pattern):
        if re.search(r"[*?\[]", name):
            found = [file for file, info in fs.glob(name, detail=True).items() if info["type"] == "file"]
        else:
            found = [name] if fs.exists(name) else []
        files += found
        missing += [] if found else [name]
    if missing:
        raise SourceError(f"{source}: {counted(len(missing), 'name')} without a file, the first is {missing[0]}")
    files = sorted(set(files))
    root, _ = common_root([location_of(fs, file) for file in files])
    return _from_files(fs, root, files, Counter(), source)


def _from_files(fs: Any, root: str, files: list[str], skipped: Counter[str], source: str) -> Listing:
    """Images among `files`, or else members of the tars among them."""
    by_extension: dict[str, list[str]] = {}
    for file in files:
        by_extension.setdefault(_extension(file), []).append(file)
    images = [file for ext in IMAGE_EXTENSIONS for file in by_extension.get(ext, ())]
    tars = [] if images else by_extension.get(".tar", [])
    used = IMAGE_EXTENSIONS if images else {".tar"}
    skipped.update({ext or "(no extension)": len(found) for ext, found in by_extension.items() if ext not in used})
    refs: list[ImageRef] = []
    prefix = root.rstrip("/") + "/"
    for file in sorted(images or tars, key=lambda name: "//" in name):  # of equal ids the plain name comes first
        uri = location_of(fs, file)
        # Keys of a store may have "//", which is an empty name of a folder there, and no root of anything.
        name = uri.removeprefix(prefix) if is_local(fs) else uri.removeprefix(prefix).lstrip("/")
        if not images:
            refs += _tar_members(fs, file, uri, as_id(name), skipped)
        else:
            refs.append(named_ref(name, uri) if is_unicode(uri) else odd_ref(name, root, NOT_UNICODE))
    if not refs:
        seen = ", ".join(f"{count} {what}" for what, count in skipped.most_common(5)) or "it is empty"
        raise SourceError(
            f"{source}: no images found ({seen}); images are known by extension: {' '.join(sorted(IMAGE_EXTENSIONS))}"
        )
    return listing_of(root, refs, source, skipped)


def _tar_members(fs: Any, path: str, uri: str, name: str, skipped: Counter[str]) -> Iterator[ImageRef]:
    """The image members of one tar, or of several that were joined, with the byte ranges of their data."""
    try:
        with fs.open(path, "rb") as stream:
            for member in _members(stream):
                if member.isdir():
                    continue
                what = _why_not(member.name) if member.isreg() and not member.issparse() else "(not a regular file)"
                if what:
                    skipped[what] += 1
                else:
                    ref = named_ref(member.name, uri, offset=member.offset_data, length=member.size)
                    yield replace(ref, id=f"{name}/{ref.id}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SourceError(f"{uri} cannot be read as a plain tar ({error}); fetch or pack it again") from error


def _members(stream: Any) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, and of those that come after its end mark; TarError where something else comes there, or
    within it (which tarfile by itself takes for the end).
    """
    start: int | None = 0
    while start is not None:
        stream.seek(start)
        found = False
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                found = True
                yield member
            end = tar.offset
        if start and not found:
            raise tarfile.ReadError(f"at byte {start} there is no header of a member")
        start = _first_after_zeros(stream, end)


def _first_after_zeros(stream: Any, position: int) -> int | None:
    """The first block from a position on that is not zero; None at the end."""
    stream.seek(position)
    while chunk := stream.read(_ZEROS):
        if rest := chunk.lstrip(b"\0"):
            return int(position + (len(chunk) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE)
        position += len(chunk)
    return None


def _why_not(name: str) -> str:
    """Under which word a member of a tar is counted as skipped; "" when it is an image."""
    if name.rpartition("/")[2].startswith("."):
        return "(hidden)"
    ext = _extension(name)
    return "" if ext in IMAGE_EXTENSIONS else ext or "(no extension)"


def _extension(path: str) -> str:
    stem, dot, ext = path.rpartition("/")[2].rpartition(".")
    return f".{ext.lower()}" if dot and stem else ""
