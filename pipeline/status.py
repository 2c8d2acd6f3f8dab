"""What is done of a run, from its commit records alone: no shard is opened, and nothing needs to be running."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.ledger import Commit
from pipeline.run_folder import RETRY_PREFIX, RunFolder


@dataclass
class RunStatus:
    """shards, images: of the manifest. done_shards, done_images: committed. masks, drops, quarantined: of the commits;
    quarantined counts what no later retry has processed. seconds: by stage, summed. last: when the last shard was
    committed, ISO 8601. kept: shards committed by kept stage. damaged: commit records that cannot be read, with the
    reason.
    """

    run: str
    recipe: str
    shards: int
    images: int
    done_shards: int = 0
    done_images: int = 0
    masks: int = 0
    quarantined: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    last: str = ""
    kept: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every shard is committed, and legibly so."""
        return self.done_shards == self.shards and not self.damaged

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"run          {self.run} ({self.recipe})",
            f"shards       {self.done_shards} of {self.shards} done",
            f"images       {self.done_images} of {self.images} done",
        ]
        if self.done_images:
            lines.append(f"masks        {self.masks} ({self.masks / self.done_images:.2f} an image)")
            drops = ", ".join(f"{count} {reason}" for reason, count in sorted(self.drops.items()))
            lines.append(f"dropped      {drops or 'none'}")
            seconds = ", ".join(f"{stage} {value / self.done_images:.3f}" for stage, value in self.seconds.items())
            lines.append(f"s/image      {seconds}")
            lines.append(f"last commit  {self.last}")
        if self.quarantined:
            lines.append(f"set aside    {self.quarantined} images; `cuts3d retry-quarantined` tries them again")
        lines += [f"kept         {stage}: {done} of {self.shards} shards" for stage, done in self.kept.items()]
        lines += [f"damaged      {problem}" for problem in self.damaged]
        return lines


def status_of(url: str | Path) -> RunStatus:
    """The status of a run folder; StoreError when there is none."""
    run = RunFolder.open(url)
    commits, problems = run.ledger.survey()
    status = RunStatus(run.url, run.config["recipe"]["name"], run.n_shards, run.n_images)
    planned = [commit for key, commit in commits.items() if not key.startswith(RETRY_PREFIX)]
    retries = [commit for key, commit in commits.items() if key.startswith(RETRY_PREFIX)]
    status.done_shards = len(planned)
    status.done_images = sum(commit.counts["images"] for commit in planned)
    status.quarantined = sum(commit.counts["quarantined"] for commit in planned) - sum(
        commit.counts["images"] - commit.counts["quarantined"] for commit in retries
    )
    for commit in (*planned, *retries):
        status.masks += commit.counts["masks"]
        status.drops.update(commit.counts["drops"])
        status.seconds.update(commit.seconds)
    status.last = _last(commits.values())
    for stage in run.kept_stages():
        status.kept[stage] = len(run.stage_ledger(stage).committed_keys())
    status.damaged = [str(problem) for problem in problems.values()]
    return status


def _last(commits: Iterable[Commit]) -> str:
    return max((commit.finished for commit in commits), default="")
