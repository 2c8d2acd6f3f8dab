"""Reading a run: every image once, in the manifest's order, one shard in memory at a time.

Images that were quarantined at first and processed by a retry shard later are read from there.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.results.kinds import ResultShard
from pipeline.results.registry import kind_named
from pipeline.runs.ledger import Commit, by_try
from pipeline.runs.run_folder import RunFolder


@dataclass(frozen=True)
class QuarantineRecord:
    """An image that could not be processed; `shard` is the key of the shard that says so."""

    id: str
    reason: str
    detail: str
    shard: str


@dataclass(frozen=True)
class Summary:
    """A run in figures.

    schema: of the shard files.
    images, shards: of the manifest.
    committed_images, committed_shards: done so far, retry shards not counted.
    bytes: of all committed files.
    survey: what the kind of result has to say of the committed shards, each image once.
    quarantine: images that no shard has processed, by reason.
    """

    schema: str
    images: int
    shards: int
    committed_images: int
    committed_shards: int
    bytes: int
    survey: dict[str, Any]
    quarantine: dict[str, int]


class RunReader:
    """Committed shards of a run as they are at this moment; iterate for one result, or `Failed`, an image.

    Attributes: `run`, `kind` (of its results), `commits` (by key).

    Raises (when made, and when reading):
        StoreError: a commit record or a shard file is damaged or missing.
        RunMismatchError: a commit record or a shard file is of another run or schema.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.kind = kind_named(run.result)
        self.commits: dict[str, Commit] = run.ledger.committed()
        self._keys, self._retry_keys = by_try(self.commits)
        # Neighbouring images are retried together, so few retry shards are needed at a time.
        self.kept_open = lru_cache(maxsize=2)(self.open_shard)

    def need_any(self) -> None:
        """For those who show or write what the run holds: StoreError while none of its shards is done."""
        if not self._keys:
            url = self.run.url
            raise StoreError(f"no image of {url} is finished: `cuts3d run --out {url}` resumes it")

    def open_shard(self, key: str) -> Any:
        """One committed shard, by its key, as the kind opens it; its bytes are checked against the commit."""
        file = self.commits[key].shard
        return self.kind.open(self.run.ledger.contents(file), file.name)

    def draw(self, rgb_HW3: np.ndarray, result: Any) -> Any:
        """The photo with a result that iterating gave on it; see `ResultKind.draw`."""
        return self.kind.draw(rgb_HW3, result)

    def __iter__(self) -> Iterator[Any]:
        for key in self._keys:
            yield from self.results(key)

    def results(self, key: str) -> Iterator[Any]:
        """The images of one committed shard of the manifest, those that were processed again later as they are now."""
        shard = self.open_shard(key)
        for i, image_id in enumerate(shard.ids):
            retried = self._superseded.get(image_id)
            yield shard.result(i) if retried is None else self.kept_open(retried[0]).result(retried[1])

    @cached_property
    def places(self) -> dict[str, tuple[str, int]]:
        """By id, every image of the manifest: the key of its shard, and its place in it, whether that is done or not.
        Reads the manifest.
        """
        shards = self.run.manifest.shards()
        return {ref.id: (shard.key, i) for shard in shards for i, ref in enumerate(shard.refs)}

    def result_of(self, image_id: str) -> Any:
        """One image by its id, as it is now; KeyError when it is none of the run's, or its shard is not done. Best
        asked for in the manifest's order.
        """
        retried = self._superseded.get(image_id)
        if retried is not None:
            return self.kept_open(retried[0]).result(retried[1])
        key, place = self.places[image_id]
        return self.kept_open(key).result(place)

    def parts(self) -> Iterator[tuple[Any, np.ndarray]]:
        """All committed shards, those of retries last, each with bool (B,): the images that count.

        For readers who work on whole arrays; together the parts hold every image once.
        """
        for key in self._keys:
            shard = self.open_shard(key)
            yield shard, np.array([image_id not in self._superseded for image_id in shard.ids], bool)
        for key in self._retry_keys:
            shard = self.kept_open(key)
            yield shard, np.array([self._superseded.get(id_) == (key, i) for i, id_ in enumerate(shard.ids)], bool)

    def quarantined(self) -> list[QuarantineRecord]:
        """Images that no shard has processed so far, in the manifest's order, with the latest reason."""
        return [record for record in self._set_aside.values() if not self._is_processed(record.id)]

    def summary(self) -> Summary:
        """Counts, and what the kind surveys; reads every shard."""
        committed = self.commits.values()
        return Summary(
            schema=self.kind.schema,
            images=self.run.n_images,
            shards=self.run.n_shards,
            committed_images=sum(self.commits[key].counts["images"] for key in self._keys),
            committed_shards=len(self._keys),
            bytes=sum(file.bytes for commit in committed for file in commit.files),
            survey=self.kind.survey(self.parts()),
            quarantine=dict(sorted(Counter(record.reason for record in self.quarantined()).items())),
        )

    @cached_property
    def _set_aside(self) -> dict[str, QuarantineRecord]:
        """By id, every image that was quarantined at first, with the reason of the last attempt that quarantined it."""
        records: dict[str, QuarantineRecord] = {}
        for key in (*self._keys, *self._retry_keys):
            file = self.commits[key].quarantine
            for image in json.loads(self.run.ledger.contents(file)) if file else ():
                records[image["id"]] = QuarantineRecord(**image, shard=key)
        return records

    @cached_property
    def _superseded(self) -> dict[str, tuple[str, int]]:
        """Of images quarantined at first and tried again: retry shard, and place in it, of the try that counts.

        The first try that succeeded, else the last.
        """
        latest: dict[str, tuple[str, int]] = {}
        for key in self._retry_keys:
            shard: ResultShard = self.kept_open(key)
            for i, image_id in enumerate(shard.ids):
                if image_id in self._set_aside and not self._succeeded(latest.get(image_id)):
                    latest[image_id] = key, i
        return latest

    def _succeeded(self, place: tuple[str, int] | None) -> bool:
        return place is not None and bool(self.kept_open(place[0]).done[place[1]])

    def _is_processed(self, image_id: str) -> bool:
        return self._succeeded(self._superseded.get(image_id))
