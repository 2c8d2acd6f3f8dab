"""Reading a run: every image once, in the manifest's order, one shard in memory at a time.

Images that were quarantined at first and processed by a retry shard later are read from there.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from pipeline.results.instance_file import SCHEMA, VERSION, ShardFile
from pipeline.results.instances import QUARANTINED, STATUSES, ImageRecord, QuarantineRecord, mean_confidence
from pipeline.runs.ledger import RETRY_PREFIX, Commit
from pipeline.runs.run_folder import RunFolder

_QUARANTINED = STATUSES.index(QUARANTINED)


@dataclass(frozen=True)
class Histogram:
    """counts[i] values lie in [edges[i], edges[i+1]), the last bin includes its upper edge."""

    edges: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Summary:
    """A run in figures. Per-image and per-mask figures are of the committed shards, each image once.

    schema: of the shard files. bytes: of all committed files.
    images, shards: of the manifest. committed_images, committed_shards: done so far, retry shards not counted.
    log10_area_share: decimal logarithm of a mask's share of its image.
    """

    schema: str
    images: int
    shards: int
    committed_images: int
    committed_shards: int
    bytes: int
    masks: int
    statuses: dict[str, int]
    masks_per_image: dict[int, int]
    score: Histogram
    mean_confidence: Histogram
    log10_area_share: Histogram
    drops: dict[str, int]
    quarantine: dict[str, int]


class RunReader:
    """Committed shards of a run as they are at this moment; iterate for one ImageRecord per image.

    min_score: iterating leaves out the instances with lower scores; the rest of the reader shows what is stored.

    Raises (when made, and when reading):
        StoreError: a commit record or a shard file is damaged or missing.
        RunMismatchError: a commit record or a shard file is of another run or schema.
    """

    def __init__(self, run: RunFolder, min_score: float = 0.0) -> None:
        self.run = run
        self.min_score = min_score
        self.commits: dict[str, Commit] = run.ledger.committed()
        retries = [key for key in self.commits if key.startswith(RETRY_PREFIX)]
        self._retry_keys = sorted(retries, key=lambda key: int(key.removeprefix(RETRY_PREFIX)))
        self._keys = [key for key in self.commits if not key.startswith(RETRY_PREFIX)]
        # Neighbouring images are retried together, so few retry shards are needed at a time.
        self._open_retry = lru_cache(maxsize=2)(self.open_shard)

    def open_shard(self, key: str) -> ShardFile:
        """One committed shard, by its key; its bytes are checked against the commit."""
        file = self.commits[key].shard
        return ShardFile.open(self.run.ledger.contents(file), file.name)

    def __iter__(self) -> Iterator[ImageRecord]:
        for key in self._keys:
            yield from self.records(key)

    def records(self, key: str) -> Iterator[ImageRecord]:
        """The images of one committed shard of the manifest, those that were processed again later as they are now."""
        shard = self.open_shard(key)
        for i, image_id in enumerate(shard.ids):
            retried = self._superseded.get(image_id)
            record = shard.record(i) if retried is None else self._open_retry(retried[0]).record(retried[1])
            yield _without_low_scores(record, self.min_score)

    def parts(self) -> Iterator[tuple[ShardFile, np.ndarray]]:
        """All committed shards, those of retries last, each with bool (B,): the images that count.

        For readers who work on whole arrays; together the parts hold every image once.
        """
        for key in self._keys:
            shard = self.open_shard(key)
            yield shard, np.array([image_id not in self._superseded for image_id in shard.ids], bool)
        for key in self._retry_keys:
            shard = self._open_retry(key)
            yield shard, np.array([self._superseded.get(id_) == (key, i) for i, id_ in enumerate(shard.ids)], bool)

    def quarantined(self) -> list[QuarantineRecord]:
        """Images that no shard has processed so far, in the manifest's order, with the latest reason."""
        return [record for record in self._set_aside.values() if not self._is_processed(record.id)]

    def summary(self) -> Summary:
        """Counts and histograms; reads every shard."""
        statuses, drops, masks_per_image = Counter[str](), Counter[str](), Counter[int]()
        scores, confidences, shares = [np.empty(0)], [np.empty(0)], [np.empty(0)]
        for shard, counts_B in self.parts():
            masks_B = np.diff(shard.image_offsets)
            counts_M = np.repeat(counts_B, masks_B)
            pixels_M = np.repeat(shard.size.astype(np.int64).prod(axis=1), masks_B)
            scores.append(shard.score[counts_M])
            confidences.append(mean_confidence(shard.confidence[counts_M]))
            shares.append(np.log10(shard.area[counts_M] / pixels_M[counts_M]))
            statuses.update(STATUSES[status] for status in shard.status[counts_B])
            masks_per_image.update(masks_B[counts_B].tolist())
            drops.update(dict(zip(shard.drop_reasons, shard.drops[counts_B].sum(axis=0).tolist(), strict=True)))
        committed = self.commits.values()
        return Summary(
            schema=f"{SCHEMA} {VERSION}",
            images=self.run.n_images,
            shards=self.run.n_shards,
            committed_images=sum(statuses.values()),
            committed_shards=len(self._keys),
            bytes=sum(file.bytes for commit in committed for file in (commit.shard, commit.quarantine) if file),
            masks=sum(map(len, scores)),
            statuses={status: statuses[status] for status in STATUSES},
            masks_per_image=dict(sorted(masks_per_image.items())),
            score=_histogram(np.concatenate(scores)),
            mean_confidence=_histogram(np.concatenate(confidences), (0.0, 1.0)),
            log10_area_share=_histogram(np.concatenate(shares), (-4.0, 0.0)),
            drops={reason: count for reason, count in sorted(drops.items()) if count},
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
            shard = self._open_retry(key)
            for i, image_id in enumerate(shard.ids):
                if image_id in self._set_aside and not self._succeeded(latest.get(image_id)):
                    latest[image_id] = key, i
        return latest

    def _succeeded(self, place: tuple[str, int] | None) -> bool:
        return place is not None and bool(self._open_retry(place[0]).status[place[1]] != _QUARANTINED)

    def _is_processed(self, image_id: str) -> bool:
        return self._succeeded(self._superseded.get(image_id))


def _without_low_scores(record: ImageRecord, min_score: float) -> ImageRecord:
    kept = tuple(instance for instance in record.instances if instance.score >= min_score)
    if len(kept) == len(record.instances):
        return record
    return dataclasses.replace(record, instances=kept, status=record.status if kept else "no_masks")


def _histogram(values: np.ndarray, bounds: tuple[float, float] | None = None, bins: int = 20) -> Histogram:
    if bounds is None:
        bounds = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    counts, edges = np.histogram(np.clip(values, *bounds), bins=bins, range=bounds)
    return Histogram(edges, counts)
