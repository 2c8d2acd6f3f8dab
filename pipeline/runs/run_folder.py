"""A run: one configuration applied to one manifest, in one folder that any number of processes may work on.

run.json          method, kind of result, configuration and its fingerprint, digest of the manifest, library versions;
                  created once, never changed
manifest.parquet  every image, where it is, and its shard; written again when the same images are somewhere else
shards/, commits/, quarantine/         see `pipeline.runs.ledger`
stages/<stage>/   the same three folders again, for what a stage target keeps
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pipeline.errors import ConfigError, RunMismatchError, StoreAccessError, StoreError
from pipeline.faults import crash_point
from pipeline.images.manifest import Manifest, Shard, shard_key
from pipeline.runs.changed_settings import ABSENT, differences, in_lines, without_noise
from pipeline.runs.commit_record import Commit
from pipeline.runs.ledger import Ledger, is_retry, retry_key, retry_number
from pipeline.runs.provenance import library_versions, utc_now
from pipeline.storage.files import RunFiles, is_temporary
from pipeline.storage.files_at import files_at
from pipeline.wording import counted

log = logging.getLogger(__name__)

SCHEMA = "cuts3d-run/1"
WHOLE = "refine"  # what files say of whole results, of any method: a shard's file has had the word from the beginning
RUN_FILE, MANIFEST_FILE = "run.json", "manifest.parquet"
PREDICTED = "run"  # where `cuts3d predict` has its run, below its folder
OWN = "own"

# Options of earlier versions that had one value only: a run that names it is the same run without.
RETIRED = {"recipe.refine.crf.backend": "torch"}

# Settings that are names for people: what they name decides, by the fingerprint beside them.
FOR_PEOPLE = {"depth.name": "depth.fingerprint", "motion.name": "motion.fingerprint"}

_STAGE = re.compile(r"[a-z][a-z0-9_]*")


class RunFolder:
    """An existing run; `create_or_open` or `open` makes one.

    Attributes: `files`, `method` and `result` (names of the method and of its kind of result), `config` (as JSON gives
    it back), `fingerprint` (of the configuration), `digest` (of the manifest), `n_images`, `n_shards`, `created`,
    `versions`, and `ledger`, the commits of the results. Opening reads run.json alone: a worker need not load the
    manifest of a million images.
    """

    def __init__(self, files: RunFiles, record: Mapping[str, Any], manifest: Manifest | None = None) -> None:
        self.files = files
        self.config: dict[str, Any] = record["config"]
        self.method: str = record.get("method") or _method_before_it_was_said(self.config)
        self.result: str = record.get("result", "instances")
        self.fingerprint: str = record["fingerprint"]
        self.digest: str = record["digest"]
        self.n_images: int = record["images"]
        self.n_shards: int = record["shards"]
        self.created: str = record["created"]
        self.versions: dict[str, str] = record["versions"]
        self.ledger = Ledger(files, self.fingerprint, self.digest)
        if manifest is not None:
            self.manifest = manifest

    @property
    def url(self) -> str:
        return self.files.url

    @property
    def recipe(self) -> str:
        """Name of the recipe, "" where the configuration has none."""
        recipe = self.config.get("recipe", "")
        return str(recipe.get("name", "") if isinstance(recipe, Mapping) else recipe)

    @classmethod
    def create_or_open(
        cls,
        url: str | Path,
        config: Mapping[str, Any],
        manifest: Manifest,
        *,
        method: str = OWN,
        result: str = "instances",
        earlier: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make the run, or resume it: the first to come makes it, and all others must mean the same run.

        config: JSON-able.
        manifest: becomes `manifest` of what is returned, and its URIs those of the run: the photos may have moved.
        method, result: names of the method ("own": nobody's but the caller's) and of its kind of result.
        earlier: see `refuse_other_config`.

        Raises:
            ConfigError: config is not JSON-able.
            RunMismatchError: the folder holds a run with another configuration or manifest, or of another schema; the
                message names each difference.
            StoreError: the folder cannot be written, or run.json is damaged.
        """
        files = files_at(url)
        canonical = _canonical(config)
        record = {
            "schema": SCHEMA,
            "method": method,
            "result": result,
            "config": json.loads(canonical),
            "fingerprint": hashlib.sha256(canonical.encode()).hexdigest(),
            "digest": manifest.digest,
            "images": len(manifest),
            "shards": manifest.n_shards,
            "created": utc_now(),
            "versions": dict(library_versions()),
        }
        # run.json decides, and comes first: of two creators with different manifests one is refused here, before it
        # writes any. If the manifest is missing then (its maker crashed), any process writes the one run.json names.
        files.create_exclusive(RUN_FILE, json.dumps(record, ensure_ascii=False, indent=1).encode())
        crash_point("after_run_json")
        run = cls(files, _read_record(files), manifest)
        run._refuse_differences(record["config"], manifest, earlier, method=method, result=result)
        run._keep_places(manifest)
        return run

    @classmethod
    def open(cls, url: str | Path) -> Self:
        """Open an existing run.

        Raises:
            StoreError: there is no run at `url`, or its run.json is damaged.
            RunMismatchError: it is of another schema.
        """
        files = files_at(url)
        return cls(files, _read_record(files))

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, read when first asked for; StoreError when it is missing, damaged or not the run's own."""
        remedy = "start the run again with the same images to restore the manifest"
        try:
            manifest = Manifest.from_parquet_bytes(self.files.read_bytes(MANIFEST_FILE))
        except FileNotFoundError as error:
            raise StoreError(f"{self.url} has no {MANIFEST_FILE}: {remedy}") from error
        except StoreAccessError:
            raise  # it may be well
        except StoreError as error:
            raise StoreError(f"{MANIFEST_FILE} in {self.url} is damaged ({error}): delete it, then {remedy}") from error
        if manifest.digest != self.digest:
            raise StoreError(f"{MANIFEST_FILE} in {self.url} is not the one of this run: delete it, then {remedy}")
        return manifest

    def _keep_places(self, manifest: Manifest) -> None:
        """Write the manifest where it is missing, damaged or names other places for the same images."""
        content = manifest.to_parquet_bytes()
        try:
            before = self.files.read_bytes(MANIFEST_FILE)
        except FileNotFoundError:
            self.files.write_atomic(MANIFEST_FILE, content)
            return
        if before == content:
            return
        try:
            stored = Manifest.from_parquet_bytes(before)
        except StoreError:
            stored = None
        if stored is None or stored.refs != manifest.refs:
            log.info("%s: its images are looked for in other places now, such as %s", self.url, manifest.refs[0].uri)
            self.files.write_atomic(MANIFEST_FILE, content)

    def stage_ledger(self, stage: str) -> Ledger:
        """Commits of the kept output of one stage, e.g. "depth"."""
        if not _STAGE.fullmatch(stage):
            raise ValueError(f"stage {stage!r} must match {_STAGE.pattern}")
        return Ledger(self.files, self.fingerprint, self.digest, f"stages/{stage}")

    def kept_stages(self) -> list[str]:
        """Stages that have kept output."""
        return [name.removeprefix("stages/") for name in self.files.list_folders("stages")]

    def pending(self, ledger: Ledger | None = None) -> list[Shard]:
        """Shards of the manifest without a commit in `ledger` (default: that of the results), in order.

        Reads every commit, so that one of another run or schema is refused here and not counted as done; StoreError,
        too, when what they name is missing or cut, see `Ledger.cut_files`.
        """
        ledger = ledger or self.ledger
        committed = ledger.committed(keep_copies=True)
        ledger.refuse_cut_files(committed)
        return [shard for shard in self.manifest.shards() if shard.key not in committed]

    def refuse_unfinished(self, commits: Mapping[str, Commit]) -> None:
        """StoreError, with the command that resumes the run, where these commits lack a shard of the manifest, or what
        they name is missing or cut. The manifest is not read.
        """
        self.ledger.refuse_cut_files(commits)
        if missing := self.n_shards - sum(map(self.is_planned, commits)):
            raise StoreError(
                f"{self.url} is not finished, {missing} of {counted(self.n_shards, 'shard')} missing",
                f"`cuts3d run --out {self.url}` resumes it.",
            )

    def is_planned(self, key: str) -> bool:
        """Whether the manifest has a shard of this key; told without reading it."""
        return key.isdecimal() and int(key) < self.n_shards and key == shard_key(int(key), self.n_shards)

    def is_complete(self, ledger: Ledger | None = None) -> bool:
        """Whether every shard of the manifest is committed."""
        return not self.pending(ledger)

    def retry_shards(self, ids: Iterable[str]) -> list[Shard]:
        """Shards, under fresh "retry-" keys, that process these images of the manifest again.

        Once committed, the images that they hold supersede the quarantined ones. Nothing has to be remembered between
        launches: what is quarantined still when this is asked next goes into the next fresh keys.
        """
        wanted = set(ids)
        refs = [ref for ref in self.manifest.refs if ref.id in wanted]
        if len(refs) != len(wanted):
            unknown = sorted(wanted - {ref.id for ref in refs})
            raise ValueError(
                f"{counted(len(unknown), 'image')} not in the manifest of {self.url}: {', '.join(unknown[:5])}"
            )
        committed = self.ledger.committed_keys()
        done = map(retry_number, filter(is_retry, committed))
        first, size = max(done, default=-1) + 1, self.manifest.shard_size
        return [
            Shard(retry_key(first + i), tuple(refs[start : start + size]))
            for i, start in enumerate(range(0, len(refs), size))
        ]

    def shard_attributes(self, stage: str | None) -> dict[str, Any]:
        """What a shard's file says of itself, to people who find it alone. stage: that is kept; None: it is whole."""
        return {
            "recipe": self.config["recipe"],
            "stage": stage or WHOLE,
            "fingerprint": self.fingerprint,
            "manifest_digest": self.digest,
        }

    def orphans(self) -> list[str]:
        """Files that no commit names, of the run and its kept stages: garbage, or work in flight."""
        found = [name for name in self.files.list_files() if is_temporary(name)]
        for ledger in (self.ledger, *map(self.stage_ledger, self.kept_stages())):
            found += ledger.orphans()
        return found

    def gc(self, min_age_s: float = 3600.0) -> dict[str, int]:
        """Delete orphans that are older than `min_age_s` seconds; returns their bytes by name.

        The age protects attempts that are being written at this moment: choose it above the time from the first byte of
        a shard to its commit, usually seconds.
        """
        if min_age_s < 0:
            raise ValueError(f"min_age_s is {min_age_s}: it must be at least 0 seconds")
        orphans = self.orphans()
        now = self.files.now() if orphans else 0.0
        deleted = {}
        for name in orphans:
            try:
                facts = self.files.facts(name)
            except FileNotFoundError:
                continue  # its owner tidied up meanwhile
            # 0 means all of them, those that a wrong clock dated into the future, too.
            if min_age_s == 0 or now - facts.modified >= min_age_s:
                self.files.delete(name)
                deleted[name] = facts.bytes
        return deleted

    def refuse_other_config(self, config: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> None:
        """RunMismatchError, naming each difference, unless `config` is the run's own.

        earlier: by dotted name, what a setting was called by earlier versions where it is the same as now.
        """
        self._refuse_differences(json.loads(_canonical(config)), earlier=earlier)

    @classmethod
    def refuse_another(cls, url: str | Path, known: Mapping[str, Any], manifest: Manifest | None) -> None:
        """What `create_or_open` raises for a run that is there already, as far as a part of the configuration tells.

        known: sections of it, which may lack settings.
        manifest: None is the run's own.

        Nothing is done where there is no run.
        """
        files = files_at(url)
        if not files.exists(RUN_FILE):
            return
        run = cls(files, _read_record(files))
        now = json.loads(_canonical(known))
        for name, section in now.items():
            before = run.config.get(name)
            now[name] = {**before, **section} if isinstance(before, dict) else section
        run._refuse_differences({**run.config, **now}, manifest)

    def _refuse_differences(
        self,
        config: Mapping[str, Any],
        manifest: Manifest | None = None,
        earlier: Mapping[str, Any] | None = None,
        **names: str,
    ) -> None:
        found = differences(self.config, config)
        found = {name: pair for name, pair in found.items() if pair != (RETIRED.get(name), ABSENT)}
        found = {name: pair for name, pair in found.items() if (name, pair[0]) not in (earlier or {}).items()}
        found = without_noise({name: pair for name, pair in found.items() if FOR_PEOPLE.get(name, name) in found})
        own = {"method": self.method, "result": self.result}
        found |= {name: (own[name], now) for name, now in names.items() if now != own[name]}
        if "recipe.name" in found:  # which says it all: two recipes differ in dozens of options, and one needs depth
            found = {
                n: pair
                for n, pair in found.items()
                if n == "recipe.name" or not (n.startswith("recipe.") or (n == "depth" and None in pair))
            }
        lines = in_lines(found, "run has")
        if manifest is not None and manifest.digest != self.digest:
            lines.append(f"  images: {self._manifest_difference(manifest)}")
        if lines:
            listed = "\n".join(lines)
            raise RunMismatchError(
                f"{self.url} holds a run that was started differently:\n{listed}\n"
                "To resume it, start it with the settings it has; or make a new run in another folder."
            )

    def _manifest_difference(self, manifest: Manifest) -> str:
        counts = (
            f"run has {self.n_images} in {counted(self.n_shards, 'shard')}, now {len(manifest)} in {manifest.n_shards}"
        )
        try:
            stored = Manifest.from_parquet_bytes(self.files.read_bytes(MANIFEST_FILE))
        except (FileNotFoundError, StoreError):
            return counts  # the names are lost, and naming them is all that the stored manifest is for here
        return f"{counts}; {stored.explain_difference(manifest)}"


def _method_before_it_was_said(config: Mapping[str, Any]) -> str:
    """The method of a run whose run.json does not name it yet: told by what only its configurations have."""
    if "features" in config and "depth" in config:
        return "cuts"
    recipe = config.get("recipe")
    name = recipe.get("name") if isinstance(recipe, Mapping) else recipe
    return {"import": "coco_import", "detector": "detector"}.get(str(name), OWN)


def _canonical(config: Mapping[str, Any]) -> str:
    try:
        return json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the configuration cannot be written to {RUN_FILE}: {error}") from error


def _read_record(files: RunFiles) -> dict[str, Any]:
    try:
        data = files.read_bytes(RUN_FILE)
    except FileNotFoundError as error:
        below = f"{files.url.rstrip('/')}/{PREDICTED}"
        remedy = f"Give {below}" if files.exists(f"{PREDICTED}/{RUN_FILE}") else "`cuts3d run` makes one"
        raise StoreError(f"{files.url} is not a run: it has no {RUN_FILE}. {remedy}") from error
    except StoreAccessError as error:
        if isinstance(error.__cause__, NotADirectoryError):
            raise StoreError(f"{files.url} is a file, and a run is a folder: give that") from error
        raise
    try:
        record = json.loads(data)
        schema = record["schema"]
        if schema == SCHEMA:
            if hashlib.sha256(_canonical(record["config"]).encode()).hexdigest() != record["fingerprint"]:
                raise ValueError("its configuration does not match its fingerprint, it was edited")
            missing = {"digest", "images", "shards", "created", "versions"} - record.keys()
            if missing:
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            for name, kind in {"digest": str, "images": int, "shards": int, "created": str, "versions": dict}.items():
                if not isinstance(record[name], kind):
                    raise TypeError(f"its {name} is {record[name]!r:.80}")
            return record
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{RUN_FILE} in {files.url} is damaged ({error}): delete it and start the run again with the settings that "
            "it had (finished shards of other settings are refused), or make the run in another folder"
        ) from error
    raise RunMismatchError(
        f"{files.url} was made with schema {schema}, this cuts3d reads {SCHEMA}: use the cuts3d that made it, or "
        "another folder"
    )
