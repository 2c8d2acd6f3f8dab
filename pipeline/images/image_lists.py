"""Files that name images: text lists, parquet lists and COCO JSON."""

import io
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import SourceError
from pipeline.images.beside import first_that_holds, folder_of_photos, none_is_there
from pipeline.images.coco import listed_images
from pipeline.images.manifest import ImageRef, safe_id
from pipeline.storage.locations import contents_of, parent_of, resolve

ROOT_REMEDY = "tell where the images are with root="


def read_text_list(location: str, root: str | None) -> tuple[str, list[ImageRef]]:
    """One path or URL per line, relative to the list's folder (or `root`). Blank lines and lines from "#" are comments.

    Returns:
        The common root of the images, to which their ids are relative (or `root`), and the images.
    """
    try:
        lines = contents_of(location).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{location} is not a text list in UTF-8 ({error}); convert it with iconv") from error
    names = [name for line in lines if (name := line.strip()) and not name.startswith("#")]
    return _from_names(location, names, root)


def read_parquet_list(location: str, root: str | None) -> tuple[str, list[ImageRef]]:
    """Columns uri or path and, where present, id, height, width, offset, length, coco_id: a manifest is such a list.

    Returns:
        As `read_text_list`; ids are taken from the column id where there is one.
    """
    try:
        table = pq.read_table(io.BytesIO(contents_of(location)))
    except pa.ArrowException as error:
        raise SourceError(f"{location} is not a parquet file that can be read: {error}") from error
    column = next((name for name in ("uri", "path") if name in table.column_names), None)
    if column is None:
        raise SourceError(f"{location} has columns {table.column_names}: one must be called uri or path")
    names = table[column].to_pylist()
    if not all(isinstance(name, str) and name for name in names):
        raise SourceError(f"{location}: column {column} has rows that are empty or not text; drop or mend them")
    root, refs = _from_names(location, names, root, ids=table["id"].to_pylist() if "id" in table.column_names else None)
    extra = [name for name in ("offset", "length", "height", "width", "coco_id") if name in table.column_names]
    for name in extra:
        if not pa.types.is_integer(table[name].type) and not pa.types.is_null(table[name].type):
            raise SourceError(f"{location}: column {name} is {table[name].type}, it must hold integers")
    if extra:
        rows = zip(*(table[name].to_pylist() for name in extra), strict=True)
        refs = [
            ImageRef(ref.id, ref.uri, **dict(zip(extra, row, strict=True))) for ref, row in zip(refs, rows, strict=True)
        ]
    return root, refs


def read_coco(location: str, root: str | None) -> tuple[str, list[ImageRef]]:
    """The images of a COCO JSON file, in `root` or a folder beside it (`places_beside`). Ids are the file_name."""
    images = listed_images(location)
    ids = [safe_id(image.file_name) for image in images]
    base = folder_of_photos(location, ids, root, ROOT_REMEDY)
    refs = [
        ImageRef(id_, resolve(image.file_name, base), height=image.height, width=image.width, coco_id=image.id)
        for id_, image in zip(ids, images, strict=True)
    ]
    return base, refs


def common_root(uris: Sequence[str]) -> tuple[str, list[str]]:
    """The deepest folder that holds all of `uris` ("" when they share none) and their paths relative to it."""
    # "s3://bucket/a" reads as the parts s3, bucket, a: URLs of several servers have distinct relative paths too.
    parts = [uri.replace("://", "/", 1).lstrip("/").split("/") for uri in uris]
    first, last = min(parts), max(parts)
    depth = 0
    while depth < min(len(first), len(last)) - 1 and first[depth] == last[depth]:
        depth += 1
    relative = ["/".join(p[depth:]) for p in parts]
    root = uris[0].removesuffix(relative[0]) if depth else ""
    return (root.rstrip("/") or "/") if depth else "", relative


def _from_names(
    location: str, names: list[str], root: str | None, ids: list[str] | None = None
) -> tuple[str, list[ImageRef]]:
    if not names:
        raise SourceError(f"{location} lists no images")
    base = root if root is not None else parent_of(location)
    uris = [resolve(name, base) for name in names]
    if first_that_holds([""], uris) is None:
        raise none_is_there(location, uris, [""], ROOT_REMEDY)
    if ids is not None:
        if not all(isinstance(name, str) for name in ids):
            raise SourceError(f"{location}: column id has rows that are empty or not text; drop or mend them")
        return base, [ImageRef(safe_id(name), uri) for name, uri in zip(ids, uris, strict=True)]
    if root is None:
        base, relative = common_root(uris)
    else:
        prefix = root.rstrip("/") + "/"
        outside = next((uri for uri in uris if not uri.startswith(prefix)), None)
        if outside is not None:
            raise SourceError(
                f"{location}: {outside} is not below the root {root}; choose a root that holds all images"
            )
        relative = [uri.removeprefix(prefix) for uri in uris]
    return base, [ImageRef(safe_id(name), uri) for name, uri in zip(relative, uris, strict=True)]


# By extension: location of a list and an optional root in; the root of the ids and the images out.
LIST_READERS: dict[str, Callable[[str, str | None], tuple[str, list[ImageRef]]]] = {
    ".txt": read_text_list,
    ".lst": read_text_list,
    ".parquet": read_parquet_list,
    ".json": read_coco,
}
