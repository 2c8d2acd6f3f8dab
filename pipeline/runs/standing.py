"""What there is of a run and what it lacks, from its commits alone; the exit status of commands follows from it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.exit_status import exit_status
from pipeline.results.kinds import Counts, added
from pipeline.runs.ledger import Ledger, by_try, is_retry
from pipeline.runs.run_folder import RunFolder
from pipeline.wording import part_of


@dataclass(frozen=True)
class Standing:
    """What is there of a run, or of a stage that it keeps.

    shards, done: of the manifest, and of these committed.
    images, done_images: of the manifest, and of the committed shards.
    set_aside: images that could not be used, and that no later retry has processed.
    counts: of all commits, as the kind of result counts; an image that was tried again is one image.
    """

    shards: int
    images: int
    done: int = 0
    done_images: int = 0
    set_aside: int = 0
    counts: Counts = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """Shards without a commit."""
        return self.shards - self.done

    @property
    def exit_status(self) -> int:
        """See `pipeline.exit_status`."""
        return exit_status(self.missing, self.set_aside)

    def lacks(self) -> str:
        """What is not there, in a few words; "" where all is."""
        parts = [f"{part_of(self.missing, self.shards, 'shard')} missing"] if self.missing else []
        parts += [f"{part_of(self.set_aside, self.done_images, 'image')} set aside"] if self.set_aside else []
        return ", ".join(parts)


def standing_of(run: RunFolder, ledger: Ledger | None = None) -> Standing:
    """Read from the commits alone. ledger: of a kept stage; None: of the results. Raises as `Ledger.committed`."""
    commits = (ledger or run.ledger).committed()
    known = {key: commit.counts for key, commit in commits.items() if run.is_planned(key) or is_retry(key)}
    return standing_by(run, known)


def standing_by(run: RunFolder, counts: Mapping[str, Mapping[str, Any]]) -> Standing:
    """The same from the counts of commits, by key."""
    planned, retries = ([counts[key] for key in keys] for keys in by_try(counts))
    total: Counts = {}
    for own in counts.values():
        total = added(total, own)
    images = sum(own["images"] for own in planned)
    total |= {"images": images}
    processed_later = sum(own["images"] for own in retries) - _quarantined(retries)
    set_aside = max(0, _quarantined(planned) - processed_later)
    return Standing(run.n_shards, run.n_images, len(planned), images, set_aside, total)


def _quarantined(counts: Iterable[Mapping[str, Any]]) -> int:
    return sum(own.get("quarantined", 0) for own in counts)
