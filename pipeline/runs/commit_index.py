"""Copies of commit records, a thousand in one file, for stores where each record read is a request.

A start that asks an object store for ten thousand records spends half a minute on requests. Nothing rests on the
copies: one counts only while the record itself is listed with the length, time and tag that it was copied with; others
are read from the record, and a file of copies that is lost or damaged is as good as none.
"""

import gzip
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from typing import Any

from pipeline.storage.files import FileFacts, RunFiles

log = logging.getLogger(__name__)

SCHEMA = "cuts3d-commit-index/1"
_BLOCK_DIGITS = 3  # keys that differ in so many last digits share a file
_DUE = ("249", "499", "749", "999")  # keys whose commit brings the copies up to date


class CommitIndex:
    """The copies below `folder` of a run. Safe for any number of processes: the last one to write a file wins, and what
    it left out is read from the records.
    """

    def __init__(self, files: RunFiles, folder: str) -> None:
        self._files = files
        self._folder = folder

    @property
    def is_of_use(self) -> bool:
        """Whether reading many records is slow here."""
        return self._files.each_read_is_a_request

    def is_due(self, key: str) -> bool:
        """Whether the commit of this key is one after which the copies should be brought up to date."""
        return self.is_of_use and key.endswith(_DUE)

    def read(self, facts: Mapping[str, FileFacts]) -> dict[str, bytes]:
        """Copies of records, by key: of those that still are what they were when they were copied."""
        if not self.is_of_use:
            return {}
        found = {}
        for copies in self._load({_block(key) for key in facts}).values():
            for key, (copied, data) in copies.items():
                if facts.get(key) == copied:
                    found[key] = data
        return found

    def add(self, records: Mapping[str, tuple[FileFacts, bytes]]) -> None:
        """Copy these records, by key."""
        blocks = defaultdict[str, dict[str, tuple[FileFacts, bytes]]](dict)
        for key, record in records.items():
            blocks[_block(key)][key] = record
        for block, known in self._load(blocks).items():
            blocks[block] = known | blocks[block]
        for block, copies in blocks.items():
            rows = {key: [*astuple(facts), data.decode()] for key, (facts, data) in sorted(copies.items())}
            text = json.dumps({"schema": SCHEMA, "records": rows}, ensure_ascii=False)
            self._files.write_atomic(self._name(block), gzip.compress(text.encode(), mtime=0))

    def _load(self, blocks: Iterable[str]) -> dict[str, dict[str, tuple[FileFacts, bytes]]]:
        names = {self._name(block): block for block in blocks}
        found = {}
        for name, data in self._files.read_many(names).items():
            try:
                found[names[name]] = _parse(json.loads(gzip.decompress(data)))
            except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                log.info("%s is of no use (%s): the records themselves are read", name, error)
        return found

    def _name(self, block: str) -> str:
        return f"{self._folder}/{block}.json.gz"


def _parse(content: Any) -> dict[str, tuple[FileFacts, bytes]]:
    if content["schema"] != SCHEMA:
        raise ValueError(f"its schema is {content['schema']}")
    return {
        key: (FileFacts(length, modified, tag), text.encode())
        for key, (length, modified, tag, text) in content["records"].items()
    }


def _block(key: str) -> str:
    return key[:-_BLOCK_DIGITS]
