"""A COCO file of a run, written image by image."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from pipeline.errors import StoreError
from pipeline.images.manifest import ImageRef
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.files import VERIFY_HINT
from pipeline.storage.outputs import output_file


class _OfImage(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_OfImage)


class CocoFile:
    """A file that takes image after image. Attributes: `images`, `annotations`, how many it has so far."""

    def __init__(self, out: IO[str], body: IO[str], numbered: bool) -> None:
        self.images = self.annotations = 0
        self._out, self._body, self._numbered = out, body, numbered

    def add(self, image: Mapping[str, Any], annotations: Iterable[Mapping[str, Any]]) -> None:
        """Take in an image and its annotations; if these are numbered they get ids that count from 1."""
        self._out.write(("\n" if self.images == 0 else ",\n") + json.dumps(image, ensure_ascii=False))
        self.images += 1
        for annotation in annotations:
            self.annotations += 1
            line = json.dumps({"id": self.annotations, **annotation} if self._numbered else annotation)
            self._body.write(("\n" if self.annotations == 1 else ",\n") + line)


@contextmanager
def coco_file(
    file: str | Path,
    run: RunFolder,
    description: str,
    categories: Sequence[Mapping[str, Any]],
    *,
    numbered: bool = True,
) -> Iterator[CocoFile]:
    """A COCO file to add images to; it appears whole or not at all. Annotations wait on the disk meanwhile.

    numbered: whether annotations have ids, as all but panoptic ones do.
    """
    with output_file(file) as out, tempfile.TemporaryFile("w+", encoding="utf-8") as body:
        info = {"description": description, "run": run.fingerprint, "recipe": run.recipe}
        out.write(f'{{"info": {json.dumps(info)}, "licenses": [],\n')
        out.write(f'"categories": {json.dumps(categories, ensure_ascii=False)},\n"images": [')
        yield CocoFile(out, body, numbered)
        out.write('],\n"annotations": [')
        body.seek(0)
        while chunk := body.read(1 << 20):
            out.write(chunk)
        out.write("]}\n")


def with_coco_ids(run: RunFolder, records: Iterable[T]) -> Iterator[tuple[int, T]]:
    """Records with their COCO image ids: the given ones when every image has its own, else their rank in the manifest.

    Both run in the manifest's order, so the two are merged and no table of a million ids is built.
    """
    refs: tuple[ImageRef, ...] = run.manifest.refs
    sound = [ref.coco_id for ref in refs if ref.trouble is None]  # the others have no result
    given = None not in sound and len(set(sound)) == len(sound)
    ranked = enumerate(refs, start=1)
    for record in records:
        rank, ref = next(((rank, ref) for rank, ref in ranked if ref.id == record.id), (0, None))
        if ref is None:
            raise StoreError(f"a shard holds image {record.id!r}, the manifest does not, or elsewhere", VERIFY_HINT)
        yield (ref.coco_id if given and ref.coco_id is not None else rank), record
