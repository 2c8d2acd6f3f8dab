"""What the gallery's page holds of one image: JSON with two packed fields in base64, `photo`, a WebP file, and `maps`.

h, w pixels of the thumbnail · Gh, Gw patch grid

`maps` are deflated bytes: maps that follow each other without gaps, each of Gh·Gw cells unless said otherwise.

    depth                   levels, if the run has depth
    for each proposal:      eigenvector, levels; what it parts, bits; semantic group, bits; mask, bits
    for each instance:      confidence, bytes, 255 = 1
    for each instance:      mask, bits, of h·w pixels

Bytes: row by row. Levels: 0..127, each row minus the row above it, modulo 256 (smooth maps deflate well so). Bits:
eight in a byte, the first in the highest place, each map padded to whole bytes.
"""

import io
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images.photos import Photo
from pipeline.methods.cuts.proposals import Proposal
from pipeline.methods.cuts.stage_files import CutImage
from pipeline.results.instance_overlay import decode
from pipeline.results.instances import ImageRecord, mean_confidence
from pipeline.results.kinds import Failed
from pipeline.views.gallery.pages import WEBP_METHOD, base64_text
from stages.filters import DropReason

LEVELS = 127  # depth and eigenvectors are shown in this many steps above 0: more than an eye tells apart
WEBP_QUALITY = 60


def image_block(
    record: ImageRecord | Failed, cut: CutImage | None, photo: Photo | ImageError, thumbnail: int
) -> dict[str, Any]:
    """All that the page shows of one image.

    cut: its proposals, None where they are not kept.
    photo: or why there is none.
    thumbnail: longest side of photo and masks, pixels.
    """
    picture = picture_fields(record.size, photo, thumbnail)
    small = picture["small"]
    proposals = cut.found.proposals if cut else ()
    found = None if isinstance(record, Failed) else record
    return {
        **picture,
        "status": record.status,
        "detail": record.detail if isinstance(record, Failed) else "",
        "has_depth": found is not None and found.depth is not None,
        "instances": [
            {
                "score": round(instance.score, 4),
                "confidence": round(float(mean_confidence(instance.confidence[None])[0]), 4),
                "parts": {name: round(value, 4) for name, value in asdict(instance.parts).items()},
                "crf_iou": round(instance.crf_iou, 4),
                "area": instance.area,
                "round": instance.round,
                **({} if instance.level is None else {"level": instance.level}),
            }
            for instance in (found.instances if found else ())
        ],
        "proposals": _proposals(found, proposals) if cut and found else None,
        "stop": str(cut.found.stop) if cut else None,
        "maps": base64_text(zlib.compress(b"".join(_maps(found, proposals, small) if found else ()), 9)),
    }


def picture_fields(size: tuple[int, int], photo: Photo | ImageError, thumbnail: int) -> dict[str, Any]:
    """Of a block: `photo`, `problem`, why there is none, `size` and `small`, height and width of photo and thumbnail.

    size: of the image as the run saw it, (0, 0) where it is not known.
    """
    problem = None
    if isinstance(photo, ImageError):
        problem = {"reason": photo.reason, "detail": photo.detail}
    elif 0 not in size and photo.rgb.shape[:2] != size:
        (h, w), (height, width) = photo.rgb.shape[:2], size
        problem = {"reason": "changed", "detail": f"the photo is {w}×{h} pixels now, the run saw {width}×{height}"}
    height, width = photo.rgb.shape[:2] if isinstance(photo, Photo) and not problem else size
    scale = min(1.0, thumbnail / max(height, width, 1))
    small = max(1, round(height * scale)), max(1, round(width * scale))
    shown = _webp(photo.rgb, small) if isinstance(photo, Photo) and not problem else ""
    return {"photo": shown, "problem": problem, "size": [height, width], "small": small}


def mask_bits(record: ImageRecord, small: tuple[int, int]) -> Iterator[bytes]:
    """Of each instance the mask at the thumbnail's size, as bits."""
    for instance in record.instances:
        mask = Image.fromarray(decode(instance.rle, record.size).astype(np.uint8) * 255)
        share = np.asarray(mask.resize((small[1], small[0]), Image.Resampling.BOX))
        # A mask too small for any pixel of the thumbnail is to be seen all the same.
        yield np.packbits(share > 127 if (share > 127).any() else share > 0).tobytes()


def _proposals(record: ImageRecord, proposals: tuple[Proposal, ...]) -> list[dict[str, Any]]:
    """Each proposal with the index of the instance that it became, or why it was dropped.

    Some proposals left the patch grid as masks and were dropped later; for what reasons, the record counts.
    """
    # Shards of versions that did not keep the place have the round, of which there was one proposal each.
    places = [instance.round if instance.proposal is None else instance.proposal for instance in record.instances]
    instance_of = {place: k for k, place in enumerate(places)}
    later = Counter(record.drops) - Counter(str(p.dropped) for p in proposals if p.dropped)
    dropped_later = " or ".join(sorted(later)) or str(DropReason.CRF_DISAGREES)
    shown = []
    for place, proposal in enumerate(proposals):
        became = instance_of.get(place)
        dropped = None if became is not None else str(proposal.dropped or dropped_later)
        shown.append(_proposal(proposal, became, dropped))
    return shown


def _proposal(proposal: Proposal, instance: int | None, dropped: str | None) -> dict[str, Any]:
    return {
        "round": proposal.round,
        "level": proposal.level,
        "tau": _number(proposal.tau),
        "eigenvalue": _number(proposal.eigenvalue),
        "gap": _number(proposal.gap),
        "source": proposal.source,
        "sink": proposal.sink,
        "patches": int(proposal.mask.sum()),
        "instance": instance,
        "dropped": dropped,
    }


def _maps(record: ImageRecord, proposals: tuple[Proposal, ...], small: tuple[int, int]) -> Iterator[bytes]:
    if record.depth is not None:
        yield _levels(record.depth.astype(np.float32))
    for proposal in proposals:
        was_cut = proposal.was_cut
        low, high = (float(bound(proposal.eigenvector[was_cut])) for bound in (np.min, np.max))
        yield _levels(np.where(was_cut, (proposal.eigenvector - low) / (high - low or 1.0), 0.0))
        yield np.packbits(was_cut).tobytes()
        yield np.packbits(proposal.group).tobytes()
        yield np.packbits(proposal.mask).tobytes()
    for instance in record.instances:
        yield instance.confidence.tobytes()
    yield from mask_bits(record, small)


def _levels(map_0_to_1: np.ndarray) -> bytes:
    levels = np.rint(map_0_to_1.clip(0, 1) * LEVELS).astype(np.uint8)
    return np.diff(levels, axis=0, prepend=np.zeros((1, levels.shape[1]), np.uint8)).tobytes()


def _webp(rgb_HW3: np.ndarray, small: tuple[int, int]) -> str:
    image = Image.fromarray(rgb_HW3).resize((small[1], small[0]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    return base64_text(file.getvalue())


def _number(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
