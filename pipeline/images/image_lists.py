"""Files that name images: text lists, parquet lists and COCO JSON."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import SourceError
from pipeline.images.beside import as_written_here, below, first_that_holds, folder_of_photos, none_is_there
from pipeline.images.coco import ID_RULE, CocoImage, listed_images, pixels_of, whole_number
from pipeline.images.manifest import ImageRef
from pipeline.images.oddities import named_ref, odd_ref
from pipeline.storage.locations import (
    check_protocol,
    contents_of,
    is_unicode,
    line_not_utf8,
    parent_of,
    refuse_secrets,
    resolve,
    text_of,
)

# What helps when the photos that a file names are not there; without the option, where a command has none.
ROOT_REMEDY = "say with --root what folder the names are relative to"
NO_ROOT_REMEDY = "move it into the folder that its names are relative to, or write full paths in it"

_INTEGERS = ("offset", "length", "height", "width", "coco_id")


def read_text_list(location: str, root: str | None, remedy: str = ROOT_REMEDY) -> tuple[str, list[ImageRef]]:
    """One path or URL per line, relative to the list's folder (or `root`). Blank lines and lines from "#" are comments.

    remedy: what to do when none of the images is there, for the message.

    Returns:
        The common root of the images, to which their ids are relative (or `root`), and the images; those that cannot
        be taken, as they are outside of `root` for instance, with their trouble.
    """
    lines = text_of(contents_of(location), location, "a text list").split("\n")
    names = {number: name for number, line in enumerate(lines, start=1) if (name := line.strip()) and name[0] != "#"}
    known = [name if is_unicode(name) else line_not_utf8(location, number) for number, name in names.items()]
    return placed_refs(location, known, root, rows=[f"line {number}" for number in names], remedy=remedy)


def read_parquet_list(location: str, root: str | None, remedy: str = ROOT_REMEDY) -> tuple[str, list[ImageRef]]:
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
    texts = [name for name in (column, "id", "trouble") if name in table.column_names]
    extra = {name: _integers(table[name], name, location) for name in _INTEGERS if name in table.column_names}
    columns = {name: table[name].to_pylist() for name in texts}
    root, refs = placed_refs(location, columns[column], root, columns.get("id"), columns.get("trouble"), remedy=remedy)
    for row, ref in enumerate(refs):
        fields: dict[str, Any] = {name: values[row] for name, values in extra.items()}
        if ref.trouble is None and fields:
            try:
                for value in fields.values():
                    if isinstance(value, SourceError):
                        raise value
                refs[row] = replace(ref, **fields)
            except SourceError as error:
                refs[row] = odd_ref(ref.id, ref.uri, str(error))
    return root, refs


def read_coco(location: str, root: str | None, remedy: str = ROOT_REMEDY) -> tuple[str, list[ImageRef]]:
    """The images of a COCO JSON file, in `root` or a folder beside it (`places_beside`). Ids are the file_name."""
    return coco_refs(location, listed_images(location), root, remedy)


def coco_refs(location: str, images: Sequence[CocoImage], root: str | None, remedy: str) -> tuple[str, list[ImageRef]]:
    """Where the photos of a COCO file are, and its images with their places below that folder.

    Raises SourceError, which ends with the remedy, when none is there, or none is below the folder.
    """
    sound = [image.file_name for image in images if image.trouble is None]
    if not sound:
        raise SourceError(str(images[0].trouble))
    names = dict(zip(sound, as_written_here(location, sound, root), strict=True))
    base = folder_of_photos(location, list(names.values()), root, remedy)
    refs = []
    for image in images:
        name = names.get(image.file_name, image.file_name)
        path = None if image.trouble else below(name, base)
        if path is None:
            refuse_secrets(name)
            outside = f'{location}: "file_name" {name!r:.200} is not below {base}; {remedy}, or rewrite it'
            refs.append(odd_ref(name, location, image.trouble or outside))
            continue
        facts = {"height": image.height, "width": image.width, "coco_id": image.id}
        refs.append(named_ref(path, resolve(path, base), **facts))
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


def placed_refs(
    location: str,
    names: Sequence[Any],
    root: str | None,
    ids: Sequence[Any] | None = None,
    troubles: Sequence[str | None] | None = None,
    rows: Sequence[str] | None = None,
    remedy: str = ROOT_REMEDY,
) -> tuple[str, list[ImageRef]]:
    """The rows of a list as images, in its order.

    names: paths or URLs, relative to `root`, or to the list's folder; a SourceError for one that cannot be read.
    ids: of the images, text or whole numbers; None: their paths below `root`, or below their common root, which is
        returned with them.
    troubles: of rows that were set aside before, in a manifest.
    rows: what messages call them; None: "row 1" and so on.
    remedy: see `read_text_list`.

    Raises SourceError when there are no rows, or none of the images is there.
    """
    if not names:
        raise SourceError(f"{location} lists no images")
    base = root if root is not None else parent_of(location)
    labels = rows or [f"row {row}" for row in range(1, len(names) + 1)]
    written = _as_written_here(location, names, base)
    places = [_place(name, base, f"{location}: {label}") for label, name in zip(labels, written, strict=True)]
    uris = [place for place in places if isinstance(place, str)]
    if not uris:
        raise next(place for place in places if isinstance(place, SourceError))
    if first_that_holds([""], uris) is None:
        raise none_is_there(location, uris, [""], remedy)
    paths: dict[str, str | None] = {}
    if ids is None and root is None:
        base, common = common_root(uris)
        paths = dict(zip(uris, common, strict=True))
    elif ids is None:
        paths = {uri: below(uri, base) for uri in uris}

    def ref_of(row: int) -> ImageRef:
        place, name, label = places[row], names[row], labels[row]
        id_ = None if ids is None else _id_text(ids[row])
        if isinstance(place, SourceError):
            return odd_ref(name if isinstance(name, str) and name else label, location, str(place))
        if ids is not None:
            if id_ is None:
                why = f"{location}: {label} has no text and no whole number in column id; mend it"
                return odd_ref(label, location, why)
            known = troubles[row] if troubles is not None else None
            return named_ref(id_, place, trouble=known)
        path = paths[place]
        if path is None:
            return odd_ref(name, location, f"{location}: {place} is not below --root {root}; give one that holds all")
        return named_ref(path, place)

    return base, [ref_of(row) for row in range(len(names))]


def _as_written_here(location: str, names: Sequence[Any], base: str) -> Sequence[Any]:
    """As `as_written_here`, of a column that may hold more than text."""
    texts = [name for name in names if isinstance(name, str)]
    turned = dict(zip(texts, as_written_here(location, texts, base), strict=True))
    return [turned[name] if isinstance(name, str) else name for name in names]


def _id_text(value: Any) -> str | None:
    """An id, as text or as a whole number; None for what is neither."""
    number = whole_number(value)
    return str(number) if number is not None else value if isinstance(value, str) else None


def _place(name: Any, base: str, row: str) -> str | SourceError:
    """Where a row's image is, or why that cannot be said."""
    if isinstance(name, SourceError):
        return name
    if not isinstance(name, str) or not name.strip():
        return SourceError(f"{row} is empty or not text: it must be a path or URL; drop or mend it")
    refuse_secrets(name)  # which is for the user to mend: nothing of it may be kept, in no record either
    try:
        place = resolve(name, base)
        check_protocol(place)
        return place
    except SourceError as error:
        return error


def _integers(column: pa.ChunkedArray, name: str, location: str) -> Sequence[int | SourceError | None]:
    """A column of whole numbers, as pandas writes it, too: floats, with NaN for none. What a row has instead is an
    error, to be recorded with the row.
    """
    if name in ("height", "width"):
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
            raise SourceError(f"{location}: column {name} is {column.type}, it must hold numbers of pixels")
        return [pixels_of(value) for value in column.to_pylist()]
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    if pa.types.is_string(column.type):
        raise SourceError(f"{location}: column {name} is {column.type}, it must hold whole numbers")
    try:
        found: list[int | None] = column.cast(pa.int64()).to_pylist()
        return found
    except pa.ArrowException:
        rule = f"column {name} must hold whole numbers, {ID_RULE}"
        rows = enumerate(column.to_pylist(), start=1)
        return [_integer(value, f"{location}: row {row}: {rule}") for row, value in rows]


def _integer(value: Any, rule: str) -> int | SourceError | None:
    if value is None:
        return None
    if isinstance(value, int | float) and math.isfinite(value) and value == int(value) and -(2**63) <= value < 2**63:
        return int(value)
    return SourceError(f"{rule}, not {value!r:.40}")


# By extension: location of a list, an optional root and the remedy in; the root of the ids and the images out.
LIST_READERS: dict[str, Callable[[str, str | None, str], tuple[str, list[ImageRef]]]] = {
    ".txt": read_text_list,
    ".lst": read_text_list,
    ".parquet": read_parquet_list,
    ".json": read_coco,
}
