"""Names and rows of a source that cannot be taken: each becomes an image that is set aside, with the reason, and the
others are taken.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.errors import SourceError
from pipeline.images.manifest import ImageRef, safe_id
from pipeline.wording import FEW, counted

REASON = "odd_entry"
NOT_UNICODE = "its name is not UTF-8, which names of images must be: rename it, with convmv for instance"

# What sentences of one cause differ in: paths, numbers, what stands between quotes.
_OWN_WORDS = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[\d/\\]\S*")
_UNSAFE = re.compile(r"[\0\\:%\ud800-\udfff]|^/|(?<=/)/|(?:^|(?<=/))\.\.?(?=/|$)")


def named_ref(name: str, uri: str, **fields: Any) -> ImageRef:
    """The image of this name, or where its name cannot be an id one that is set aside. fields: of the ImageRef."""
    try:
        return ImageRef(safe_id(name), uri, **fields)
    except SourceError as error:
        return odd_ref(name, uri, str(error))


def odd_ref(name: str, uri: str, why: str) -> ImageRef:
    """An image that is set aside without being looked at.

    name: what the source calls it; the id is made of it.
    uri: of the file that names it.
    """
    return ImageRef(_id_of(name), _unicode(uri), trouble=_unicode(why))


def _unicode(text: str) -> str:
    """Text that can be stored: what is no Unicode, as names in JSON may have it, is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def without_repeats(refs: Sequence[ImageRef]) -> tuple[list[ImageRef], int]:
    """The images with an id each. What is listed again just as before is left out, and counted; of different images
    with one name the first that can be taken is, the others are set aside.
    """
    first: dict[str, ImageRef] = {}
    repeats = 0
    for ref in sorted(refs, key=lambda ref: ref.trouble is not None):
        before = first.setdefault(ref.id, ref)
        if before is ref:
            continue
        if before == ref:
            repeats += 1
            continue
        name, number = ref.id, 2
        while (id_ := f"{name}%{number}") in first:
            number += 1
        why = ref.trouble or f"{name} is the name of an image that comes before it, too; give each a name of its own"
        first[id_] = ImageRef(id_, ref.uri, trouble=why)
    return list(first.values()), repeats


def refuse_if_all_are_odd(refs: Sequence[ImageRef], location: str) -> None:
    """SourceError, with the reasons, when not one image can be taken."""
    if refs and all(ref.trouble is not None for ref in refs):
        raise SourceError(f"{location}: none of {counted(len(refs), 'image')} can be taken: {causes(refs)}")


def causes(refs: Sequence[ImageRef]) -> str:
    """Why images in trouble are set aside: of each cause how many, and the first of them; most often first."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for ref in refs:
        trouble = ref.trouble or ""
        cause = _OWN_WORDS.sub("", trouble.replace(ref.uri, "").replace(ref.id, ""))
        counts[cause] += 1
        first.setdefault(cause, trouble)
    if len(counts) == 1:
        return next(iter(first.values()))
    said = [f"{n} as {first[cause]}" for cause, n in counts.most_common(FEW)]
    more = counts.total() - sum(n for _, n in counts.most_common(FEW))
    return "; ".join([*said, *([f"{more} for other reasons"] if more else [])])


def as_id(name: str) -> str:
    """The name as an id, where it can be none what it is written as; see `named_ref`."""
    return named_ref(name, "").id


def _id_of(name: str) -> str:
    """An id for a name that cannot be one, with what is unsafe as URLs have it: "%2E%2E/a.jpg" for "../a.jpg"."""
    return safe_id(_UNSAFE.sub(_escaped, name) or "%")


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))
