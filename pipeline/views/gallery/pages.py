"""What pages of a run have in common: which images they show, and how one file is put together that asks nothing of the
network.
"""

import base64
import html
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.errors import ImageError
from pipeline.images.manifest import Shard
from pipeline.images.photos import Photo, load_photos
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.outputs import need_file, output_file, writing
from pipeline.views.page_policy import content_policy

WEBP_METHOD = 5  # 6, the most there is, takes twice the time to make files smaller by a thirtieth


@dataclass(frozen=True)
class Gallery:
    """A page that was written: images on it, how many of them without a photo, and the file's size in bytes."""

    file: Path
    images: int
    without_photo: int
    bytes: int


@dataclass(frozen=True)
class Page:
    """The files of `page_files/` that a page is made of: what follows head.html, the parts of its one style and of its
    one script. kind: what its title calls it.
    """

    body: str
    style: tuple[str, ...]
    program: tuple[str, ...]
    kind: str = "gallery"


def shown_images(
    run: RunFolder, reader: RunReader, limit: int | None
) -> Iterator[tuple[Shard, list[int], Iterator[tuple[Any, Photo | ImageError]]]]:
    """The images to show, shard by shard: the shard, their places in it, and of each its result and its photo, or why
    there is none. limit: at most this many, evenly spread over the run. Raises StoreError when none is finished.
    """
    reader.need_any()
    shards = [shard for shard in run.manifest.shards() if shard.key in reader.commits]
    total = sum(len(shard.refs) for shard in shards)
    shown = None if limit is None or limit >= total else {i * total // limit for i in range(limit)}
    results = iter(reader)
    first = 0
    for shard in shards:
        of_shard = [next(results) for _ in shard.refs]
        places = [i for i in range(len(shard.refs)) if shown is None or first + i in shown]
        first += len(shard.refs)
        if places:
            yield shard, places, _with_photos(shard, places, of_shard)


def _with_photos(shard: Shard, places: list[int], results: list[Any]) -> Iterator[tuple[Any, Photo | ImageError]]:
    for place, loaded in zip(places, load_photos([shard.refs[i] for i in places]), strict=True):
        yield results[place], loaded if isinstance(loaded, Photo) else loaded[1]


@contextmanager
def begun_page(run: RunFolder, path: Path, page: Page) -> Iterator["PageWriter"]:
    """A page of a run to put images on. Their blocks wait on the disk, since the index comes first."""
    need_file(path)
    with writing(path), tempfile.TemporaryFile("w+", encoding="ascii") as blocks:
        yield PageWriter(run, path, page, blocks)


class PageWriter:
    """A page that takes image after image. Attributes: `lines`, of the index, one per image so far."""

    def __init__(self, run: RunFolder, path: Path, page: Page, blocks: IO[str]) -> None:
        self.lines: list[dict[str, Any]] = []
        self._run, self._path, self._page, self._blocks = run, path, page, blocks
        self._without_photo = 0

    def add(self, line: dict[str, Any], block: Mapping[str, Any], *, has_photo: bool) -> None:
        """Take in an image. block: what is decoded when it comes into view."""
        self._blocks.write(data_block(f"image-{len(self.lines)}", block))
        self.lines.append(line)
        self._without_photo += not has_photo

    def write(self, index: Callable[[], dict[str, Any]]) -> Gallery:
        """Write the file. index: gives what images are sorted and filtered by."""
        self._blocks.seek(0)
        write_page(self._path, PurePosixPath(self._run.url).name, self._page, index(), self._blocks)
        return Gallery(self._path, len(self.lines), self._without_photo, self._path.stat().st_size)


def write_page(path: Path, name: str, page: Page, index: dict[str, Any], blocks: IO[str]) -> None:
    """The template with everything put in its place, to a file beside `path` that takes its name when it is whole.

    name: of the run, or what else is shown.
    blocks: a `data_block` an image.
    """
    style, program = ("\n".join(map(_part, parts)) for parts in (page.style, page.program))
    head, foot = (_part("head.html") + _part(page.body)).split("{{DATA}}")
    texts = {
        "{{POLICY}}": content_policy(style, program),
        "{{NAME}}": html.escape(name),
        "{{KIND}}": page.kind,
        "{{STYLE}}": style,
    }
    head = re.sub("|".join(texts), lambda mark: texts[mark[0]], head)
    with output_file(path) as out:
        out.write(head)
        out.write(data_block("index", index))
        out.write(f"<script>{program}</script>\n")
        shutil.copyfileobj(blocks, out, 1 << 20)
        out.write(foot)


def data_block(id_: str, value: object) -> str:
    """A script element that holds JSON in ASCII: without "<" nothing can end the element or open a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{id_}">{text}</script>\n'


def base64_text(data: bytes) -> str:
    """For pages, which are text."""
    return base64.b64encode(data).decode("ascii")


@cache
def _part(name: str) -> str:
    return Path(__file__).with_name("page_files").joinpath(name).read_text("utf-8")
