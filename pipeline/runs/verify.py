"""Check a run against everything that it says of itself: checksums, offsets, masks, ids, counts."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.errors import CutsError, StoreError
from pipeline.results.instance_file import ShardFile
from pipeline.results.instances import counts_of, quarantine_of
from pipeline.runs.ledger import RETRY_PREFIX, Commit, Ledger
from pipeline.runs.run_folder import MANIFEST_FILE, RunFolder
from pipeline.storage.array_file import ArrayFile
from pipeline.storage.files import VERIFY_HINT

# Boxes are kept in float32; half a pixel off is another box.
BOX_TOLERANCE = 0.5
# Beyond this many of a kind a message says how many more there are.
SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """Something to mend ("error") or to know of ("note"). where: file or folder; message: what, and the remedy."""

    severity: Literal["error", "note"]
    where: str
    message: str


def verify_run(run: RunFolder, on_shard: Callable[[str], None] | None = None) -> list[Problem]:
    """Everything that is wrong with a run. Without an "error" among it all of the run is there and intact.

    on_shard: called with the key of each shard that has been checked, for progress.
    """
    commits, problems = _commits(run.ledger)
    try:
        shards = {shard.key: tuple(ref.id for ref in shard.refs) for shard in run.manifest.shards()}
    except StoreError as error:
        return [*problems, Problem("error", MANIFEST_FILE, str(error))]
    every_id = {image_id for ids in shards.values() for image_id in ids}
    for key, commit in commits.items():
        if key.startswith(RETRY_PREFIX):
            problems += verify_shard(
                run.ledger, commit, lambda ids: every_id.issuperset(ids) and len(set(ids)) == len(ids)
            )
        else:
            problems += verify_shard(run.ledger, commit, lambda ids, key=key: ids == shards.get(key))  # type: ignore[misc]
        if on_shard:
            on_shard(key)
    missing = sorted(shards.keys() - run.ledger.committed_keys())
    if missing:
        text = f"{len(missing)} of {len(shards)} shards are not done: {_some(missing)}; start the run again to do them"
        problems.append(Problem("error", run.url, text))
    for stage in run.kept_stages():
        problems += _verify_stage(run.stage_ledger(stage))
    try:
        orphans = run.orphans()
    except CutsError:
        return problems  # a commit record cannot be read, which is among the problems; until then nobody can tell
    if orphans:
        text = f"{len(orphans)} files belong to no commit: {_some(orphans)}; `cuts3d gc` removes them"
        problems.append(Problem("note", run.url, text))
    return problems


def verify_shard(
    ledger: Ledger, commit: Commit, ids_fit: Callable[[tuple[str, ...]], bool] = lambda ids: True
) -> list[Problem]:
    """What is wrong with one committed shard of pseudo-masks. ids_fit: says whether its images are the right ones."""
    return [_mend(commit, fault) for fault in _shard_faults(ledger, commit, ids_fit)]


def _shard_faults(ledger: Ledger, commit: Commit, ids_fit: Callable[[tuple[str, ...]], bool]) -> Iterator[str]:
    try:
        shard = ShardFile.open(ledger.contents(commit.shard), commit.shard.name)
        set_aside = json.loads(ledger.contents(commit.quarantine)) if commit.quarantine else []
        # Building the records checks what a single value can be, reading their maps that those can be decoded.
        records = list(shard.records())
    except (CutsError, ValueError) as error:
        yield str(error)
        return
    if not ids_fit(shard.ids):
        yield f"its {len(shard)} images are not those that the manifest has for shard {commit.key}"
    for name, found in counts_of(records).items():
        if commit.counts.get(name) != found:
            yield f"it holds {name} {found}, but its commit says {commit.counts.get(name)}"
    if quarantine_of(records) != set_aside:
        yield f"its quarantined images are not those of {commit.quarantine.name if commit.quarantine else 'its commit'}"
    faults = [fault for mask in range(shard.n_masks) if (fault := _mask_fault(shard, mask))]
    if faults:
        yield f"{len(faults)} of {shard.n_masks} masks are wrong: {_some(faults)}"


def _mask_fault(shard: ShardFile, mask: int) -> str:
    rle = shard.coco_rle(mask)
    try:
        pixels = shard.mask(mask)
    except StoreError as error:
        return str(error)
    # Encoding it again finds what decoding lets pass: codes that are short of the image, or not in canonical form.
    if coco_mask.encode(pixels)["counts"] != rle["counts"]:
        return f"mask {mask}: its code does not cover the {rle['size'][0]} x {rle['size'][1]} pixels of the image"
    area = int(np.count_nonzero(pixels))
    if area != shard.area[mask]:
        return f"mask {mask}: area is {area}, recorded {shard.area[mask]}"
    box, recorded = coco_mask.toBbox(rle), shard.box[mask]
    if _has_detectors_boxes(shard):
        if _overhang(box, recorded) > 1:  # a pixel, of which the box cuts off a part
            return f"mask {mask}: box is {box.tolist()}, that of its detection {recorded.tolist()} does not hold it"
    elif np.abs(box - recorded).max() > BOX_TOLERANCE:
        return f"mask {mask}: box is {box.tolist()}, recorded {recorded.tolist()}"
    return ""


def _has_detectors_boxes(shard: ShardFile) -> bool:
    """Whether boxes are those that a detector gave, not those of the masks: see `shard_file`."""
    recipe = shard.attributes.get("recipe")
    return isinstance(recipe, dict) and recipe.get("boxes") == "detector"


def _overhang(inner: np.ndarray, outer: np.ndarray) -> float:
    """Pixels by which a box x, y, width, height stands out of another, at the side where it does so most."""
    before, after = outer[:2] - inner[:2], (inner[:2] + inner[2:]) - (outer[:2] + outer[2:])
    return float(max(before.max(), after.max()))


def _verify_stage(ledger: Ledger) -> list[Problem]:
    """Kept output of a stage: its files are what the commits say, and open. It need not be there for every shard."""
    commits, problems = _commits(ledger)
    for commit in commits.values():
        try:
            with ArrayFile.open(ledger.contents(commit.shard), commit.shard.name) as arrays:
                arrays.names()
        except CutsError as error:
            problems.append(_mend(commit, str(error)))
    return problems


def _commits(ledger: Ledger) -> tuple[dict[str, Commit], list[Problem]]:
    commits, unreadable = ledger.survey(copies=False)
    return commits, [Problem("error", key, str(error)) for key, error in unreadable.items()]


def _mend(commit: Commit, fault: str) -> Problem:
    said = f"{fault}.".replace(f" {VERIFY_HINT}", "").replace("..", ".")
    name = commit.shard.name
    record = f"{name[: name.rindex('shards/')]}commits/{commit.key}.json"
    again = "run `cuts3d retry-quarantined`" if commit.key.startswith(RETRY_PREFIX) else "start the run again"
    return Problem("error", name, f"{said} To do the shard anew, delete {record} and {again}")


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
