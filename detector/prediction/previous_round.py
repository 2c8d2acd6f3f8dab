"""The masks of the round before, as a run over the same images has them."""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

from pipeline.errors import ConfigError
from pipeline.images.manifest import Shard, shard_key
from pipeline.results.instances import ImageRecord
from pipeline.results.kinds import Failed
from pipeline.runs.instance_reader import InstanceReader
from pipeline.runs.ledger import is_retry
from pipeline.runs.run_folder import RunFolder
from pipeline.wording import counted


class PreviousRound:
    """A complete run, to look up what it found in the images of shards of another run. Safe for several threads.

    Raises ConfigError when the run has no shard or lacks some: which masks are carried over must not depend on when
    somebody looked. Raises what `InstanceReader` raises.
    """

    def __init__(self, url: str) -> None:
        self.run = RunFolder.open(url)
        self._reader = InstanceReader(self.run)
        self._keys = {key for key in self._reader.commits if not is_retry(key)}
        missing = self.run.n_shards - len(self._keys)
        if missing:
            raise ConfigError(
                f"{self.run.url} lacks {missing} of {counted(self.run.n_shards, 'shard')}: finish it first, "
                f"`cuts3d run --out {self.run.url}` resumes it"
            )
        # Batches of a shard come one after the other, and of several lanes at a time.
        self._shard = lru_cache(maxsize=4)(self._read)

    def identity(self) -> dict[str, str]:
        """What run.json keeps of it: which run it is, and what exactly was in it."""
        shards = sorted((key, commit.shard.sha256) for key, commit in self._reader.commits.items())
        content = hashlib.sha256("\n".join(map(" ".join, shards)).encode()).hexdigest()
        return {"fingerprint": self.run.fingerprint, "digest": self.run.digest, "content": content}

    @property
    def grid(self) -> tuple[int, int]:
        """(Gh, Gw) of its confidences."""
        return self._reader.open_shard(min(self._keys)).grid

    def records(self, shard: Shard, positions: Sequence[int]) -> list[ImageRecord | Failed | None]:
        """What it has of these images of a shard; None for an image that it does not know."""
        ids = [shard.refs[position].id for position in positions]
        return [self._shard(self._key_of(shard.key, id_)).get(id_) for id_ in ids]

    def _key_of(self, key: str, id_: str) -> str:
        """The shard that has an image. Of a run over the same manifest it is that of the same key."""
        if key in self._keys and id_ in self._shard(key):
            return key
        place = max(bisect_right(self._first_ids, id_) - 1, 0)
        return shard_key(place, self.run.n_shards)

    @cached_property
    def _first_ids(self) -> list[str]:
        """Of each shard; the manifest is in the order of ids. Read for shards of retries, and of other manifests."""
        manifest = self.run.manifest
        return [ref.id for ref in manifest.refs[:: manifest.shard_size]]

    def _read(self, key: str) -> Mapping[str, ImageRecord | Failed]:
        return {record.id: record for record in self._reader.results(key)}
