"""A finished run of semantic labels, asked for single pictures."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Self

from pipeline.errors import ImageError
from pipeline.results.kinds import Failed
from pipeline.results.semantic import Classes, SemanticRecord
from pipeline.results.semantic_kind import NAME as SEMANTIC
from pipeline.runs.ledger import is_retry
from pipeline.runs.needed_kind import need_kind
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import SemanticReader
from stages.fingerprint import text_digest


class LabelledRun:
    """Labels of pictures by their ids, whatever made them: a model, or a method of another package."""

    def __init__(self, run: RunFolder) -> None:
        """See `open`."""
        need_kind(run, SEMANTIC, "cups.semantic")
        self._reader = SemanticReader(run)
        run.refuse_unfinished(self._reader.commits)

    @classmethod
    def open(cls, place: str) -> Self:
        """The run at a folder or URL. Raises ConfigError when it holds something else, StoreError when there is none,
        or it is not finished, or damaged.
        """
        return cls(RunFolder.open(place))

    @cached_property
    def classes(self) -> Classes:
        """What the labels are."""
        return self._reader.clusters

    def facts(self) -> dict[str, Any]:
        """What run.json has of it: its recipe; what gave its clusters their numbers, by which an assignment that was
        saved for it is known to fit; and a fingerprint of the labels. Pictures that were set aside first and labelled
        later do not count, so that they can be tried again, too.
        """
        run, commits = self._reader.run, self._reader.commits
        contents = (commits[key].shard.sha256 for key in sorted(commits) if not is_retry(key))
        digest = text_digest("labelled run", run.digest, *contents)
        return {"recipe": run.recipe, "model": self._reader.model, "fingerprint": digest}

    def lacking(self, ids: Iterable[str]) -> list[str]:
        """Those of these pictures that the run does not have."""
        return [id_ for id_ in ids if id_ not in self._reader.places]

    def record(self, id_: str, size: tuple[int, int]) -> SemanticRecord:
        """The labels of a picture of this height and width; ImageError where there are none of it."""
        url = self._reader.run.url
        if id_ not in self._reader.places:
            raise ImageError("no_labels", f"{url} has no picture {id_}")
        result = self._reader.result_of(id_)
        if isinstance(result, Failed):
            raise ImageError(
                "no_labels",
                f"{url} has set {id_} aside, {result.reason}: `cuts3d retry-quarantined {url}` tries it again, and "
                "then the same of this run",
            )
        if result.size != size:
            (height, width), (own_height, own_width) = size, result.size
            raise ImageError(
                "other_size", f"labels of {id_} in {url} are {own_width}×{own_height}, the picture is {width}×{height}"
            )
        record: SemanticRecord = result
        return record
