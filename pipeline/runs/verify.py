"""Check a run against everything that it says of itself: checksums, offsets, masks, ids, counts."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import CutsError, StoreError
from pipeline.results.kinds import ResultKind, quarantine_of
from pipeline.results.registry import kind_named
from pipeline.runs.ledger import Commit, Ledger, is_retry
from pipeline.runs.run_folder import MANIFEST_FILE, RunFolder
from pipeline.wording import counted, few_of, part_of


@dataclass(frozen=True)
class Problem:
    """Something to mend ("error") or to know of ("note").

    where: file or folder.
    message: what, and the remedy.
    """

    severity: Literal["error", "note"]
    where: str
    message: str


def verify_run(run: RunFolder, on_shard: Callable[[str], None] | None = None) -> list[Problem]:
    """Everything that is wrong with a run. Without an "error" among it all of the run is there and intact.

    on_shard: called with the key of each shard that has been checked, for progress.
    """
    commits, problems = _commits(run.ledger)
    kind = kind_named(run.result)
    try:
        shards = {shard.key: tuple(ref.id for ref in shard.refs) for shard in run.manifest.shards()}
    except StoreError as error:
        return [*problems, Problem("error", MANIFEST_FILE, str(error))]
    every_id = {image_id for ids in shards.values() for image_id in ids}
    for key, commit in commits.items():
        if is_retry(key):
            problems += verify_shard(
                run.ledger, commit, kind, lambda ids: every_id.issuperset(ids) and len(set(ids)) == len(ids)
            )
        else:
            problems += verify_shard(run.ledger, commit, kind, lambda ids, key=key: ids == shards.get(key))  # type: ignore[misc]
        if on_shard:
            on_shard(key)
    missing = sorted(shards.keys() - run.ledger.committed_keys())
    if missing:
        text = f"{part_of(len(missing), len(shards), 'shard')} not done: {few_of(missing)}; start the run again"
        problems.append(Problem("error", run.url, text))
    for stage in run.kept_stages():
        problems += _verify_stage(run.stage_ledger(stage))
    try:
        orphans = run.orphans()
    except CutsError:
        return problems  # a commit record cannot be read, which is among the problems; until then nobody can tell
    if orphans:
        text = f"{counted(len(orphans), 'file')} of no commit: {few_of(orphans)}; clean up with `cuts3d gc`"
        problems.append(Problem("note", run.url, text))
    return problems


# What commits of earlier versions do not count.
_COUNTED_LATER = frozenset({"depth_flat"})


def verify_shard(
    ledger: Ledger, commit: Commit, kind: ResultKind, ids_fit: Callable[[tuple[str, ...]], bool] = lambda ids: True
) -> list[Problem]:
    """What is wrong with one committed shard of results. ids_fit: says whether its images are the right ones."""
    return [_mend(ledger, commit, fault) for fault in _shard_faults(ledger, commit, kind, ids_fit)]


def _shard_faults(
    ledger: Ledger, commit: Commit, kind: ResultKind, ids_fit: Callable[[tuple[str, ...]], bool]
) -> Iterator[str]:
    try:
        shard = kind.open(ledger.contents(commit.shard), commit.shard.name)
        set_aside = json.loads(ledger.contents(commit.quarantine)) if commit.quarantine else []
        # Building the results checks what a single value can be, reading their maps that those can be decoded.
        results = [shard.result(image) for image in range(len(shard))]
    except (CutsError, ValueError) as error:
        yield _what(error)
        return
    if not ids_fit(shard.ids):
        yield f"it holds {counted(len(shard), 'image')}, not those that the manifest has for shard {commit.key}"
    for name, found in kind.counts(results).items():
        is_new = name in _COUNTED_LATER and name not in commit.counts
        if commit.counts.get(name) != found and not is_new:
            yield f"it holds {name} {found}, but its commit says {commit.counts.get(name)}"
    if quarantine_of(results) != set_aside:
        yield f"its quarantined images are not those of {commit.quarantine.name if commit.quarantine else 'its commit'}"
    yield from kind.check(shard)


def _verify_stage(ledger: Ledger) -> list[Problem]:
    """Kept output of a stage: its files are what was committed. It need not be there for every shard."""
    commits, problems = _commits(ledger)
    for commit in commits.values():
        try:
            ledger.contents(commit.shard)
        except CutsError as error:
            problems.append(_mend(ledger, commit, _what(error)))
    return problems


def _commits(ledger: Ledger) -> tuple[dict[str, Commit], list[Problem]]:
    commits, unreadable = ledger.survey(copies=False)
    return commits, [Problem("error", key, str(error)) for key, error in unreadable.items()]


def _what(error: Exception) -> str:
    """What is wrong, without the remedy: here it is another one than elsewhere."""
    return error.what if isinstance(error, StoreError) else str(error)


def _mend(ledger: Ledger, commit: Commit, fault: str) -> Problem:
    return Problem("error", commit.shard.name, f"{fault.removesuffix('.')}. {ledger.remedy([commit.key])}")
