"""A run on one machine: the pending shards of a run folder, one after the other, each committed as soon as it is
done.
"""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.batch_size import fitting_batch_size
from pipeline.batch_work import CutsMethod
from pipeline.cpu_pool import cpu_pool
from pipeline.errors import ConfigError, StoreError
from pipeline.lease import Lease
from pipeline.ledger import Ledger
from pipeline.locations import refuse_secrets
from pipeline.manifest import Manifest, Shard, default_shard_size
from pipeline.methods import Method, load_other, other_methods
from pipeline.models import feature_preset, load_depth, load_features
from pipeline.reader import RunReader
from pipeline.recipes import IMPORT, RECIPES, get_recipe, parse_overrides
from pipeline.records import ImageRecord
from pipeline.run_folder import RunFolder
from pipeline.shard_job import ShardJob, ledger_of
from pipeline.shard_work import ShardWorker
from pipeline.sources import list_images
from pipeline.stage_graph import STAGES
from stages.features import FeatureConfig

log = logging.getLogger(__name__)

LAUNCH_FILE = "launch.json"
LANES = 3  # batches under way together on a GPU: one in the networks, one in cuts, one being finished


@dataclass(frozen=True)
class Launch:
    """The settings of a run, as a user gives them. They are kept beside the run (launch.json), so that a later launch
    need not repeat them; what decides results is frozen in run.json.

    images: folder, list, tar or COCO file, see `list_images`; None goes on with the run's own manifest. root: what
    relative names in it are relative to.
    recipe: name of a recipe. features, depth: see `load_features`, `load_depth`. depth_kind: "depth" or
    "inverse_depth", overrides what is known of the model's output. overrides: "stage.option=value". shard_size: images
    a shard; None picks one from the number of images.
    """

    images: str | None = None
    root: str | None = None
    recipe: str = "cuts3d"
    features: str = "dinov2_vits14"
    depth: str = "fastdepth"
    depth_kind: str | None = None
    overrides: tuple[str, ...] = ()
    shard_size: int | None = None

    def __post_init__(self) -> None:
        if self.shard_size is not None and self.shard_size < 1:
            raise ConfigError(f"shard size must be at least 1, got {self.shard_size}")
        if self.depth_kind not in (None, "depth", "inverse_depth"):
            raise ConfigError(f"depth kind must be depth or inverse_depth, got {self.depth_kind!r}")
        for value in (self.images, self.root, self.features, self.depth, *self.overrides):
            refuse_secrets(value or "")


@dataclass
class RunSummary:
    """What a launch did and what the run is now.

    done, missing: shards of the run committed and not. images, masks, quarantined: of the shards of this launch.
    seconds: by stage; wall: of the whole launch, in seconds.
    """

    out: str
    until: str
    done: int = 0
    missing: int = 0
    images: int = 0
    masks: int = 0
    quarantined: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    wall: float = 0.0

    def add(self, counts: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """Take in a shard of this launch."""
        self.images += counts["images"]
        self.masks += counts.get("masks", 0)
        self.quarantined += counts["quarantined"]
        self.drops.update(counts.get("drops", {}))
        for stage, value in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + value

    def settle(self, folder: RunFolder, ledger: Ledger, started: float) -> None:
        """What the run is at the end of a launch that began at `started` by `time.perf_counter`."""
        self.missing = len(folder.pending(ledger))
        self.done = folder.n_shards - self.missing
        self.wall = time.perf_counter() - started

    @property
    def complete(self) -> bool:
        """Whether every shard of the run is committed."""
        return self.missing == 0


class Reporter(Protocol):
    """Whoever wants to see the progress, image by image or shard by shard: a bar on a terminal, or nobody."""

    def start(self, images_total: int, images_done: int) -> None: ...

    def image(self, record: ImageRecord | None) -> None: ...

    def shard(self, counts: Mapping[str, Any]) -> None: ...

    def stop(self) -> None: ...


class Silent:
    """A reporter that reports nothing."""

    def start(self, images_total: int, images_done: int) -> None:
        pass

    def image(self, record: ImageRecord | None) -> None:
        pass

    def shard(self, counts: Mapping[str, Any]) -> None:
        pass

    def stop(self) -> None:
        pass


def run(
    out: str | Path,
    launch: Launch | None = None,
    *,
    until: str = "refine",
    device: str = "auto",
    batch_size: int | None = None,
    reporter: Reporter | None = None,
) -> RunSummary:
    """Make pseudo-masks: start a run, or go on with it, until every shard is committed.

    out: run folder, path or fsspec URL. launch: the settings; None takes those of the last launch of this run.
    until: last stage; any but "refine" keeps that stage's output under `stages/` for later launches to reuse.
    device: "auto", "cpu", "cuda" or "cuda:N". batch_size: images at a time; None picks one.

    Raises ConfigError, SourceError, WeightsError for what is wrong with the settings, RunMismatchError when the folder
    holds another run, StoreError when it cannot be written.
    """
    if until not in STAGES:
        raise ConfigError(f"unknown stage {until!r}; known: {', '.join(STAGES)}")
    started = time.perf_counter()
    launch = launch or replace(last_launch(out), images=None)
    manifest = RunFolder.open(out).manifest if launch.images is None else listed_manifest(launch)
    method = load_method(launch, device, until)
    folder = RunFolder.create_or_open(out, method.config(), manifest)
    if launch.images is not None:
        keep_launch(folder, launch)
    ledger = ledger_of(folder, until)
    summary = RunSummary(folder.url, until)
    with Lease(folder.files) as lease:
        _work(folder, folder.pending(ledger), method, until, batch_size, reporter or Silent(), summary, lease)
    summary.settle(folder, ledger, started)
    return summary


def retry_quarantined(
    out: str | Path,
    launch: Launch | None = None,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    reporter: Reporter | None = None,
) -> RunSummary:
    """Process the images set aside once more, with the run's own method; what succeeds takes its place in the run."""
    started = time.perf_counter()
    folder = RunFolder.open(out)
    summary = RunSummary(folder.url, "refine", done=folder.n_shards)
    ids = [image.id for image in RunReader(folder).quarantined()]
    if ids:
        launch = launch or last_launch(out)
        method = load_method(launch, device, "refine")
        folder = RunFolder.create_or_open(out, method.config(), folder.manifest)
        with Lease(folder.files) as lease:
            shards = folder.retry_shards(ids)
            _work(folder, shards, method, "refine", batch_size, reporter or Silent(), summary, lease)
    summary.wall = time.perf_counter() - started
    return summary


def keep_launch(folder: RunFolder, launch: Launch) -> None:
    """Remember the settings for `last_launch`."""
    folder.files.write_atomic(LAUNCH_FILE, json.dumps(asdict(launch), indent=1, ensure_ascii=False).encode())


def last_launch(out: str | Path) -> Launch:
    """The settings of the last launch of a run, StoreError when there is none, ConfigError when it is an import."""
    folder = RunFolder.open(out)
    if folder.config["recipe"]["name"] == IMPORT:
        raise ConfigError(
            f"{folder.url} holds masks that were imported, there is no method to make them: the same `cuts3d "
            "import-coco` goes on with it, and tries again what was set aside"
        )
    files = folder.files
    try:
        settings = json.loads(files.read_bytes(LAUNCH_FILE))
        known = {f.name for f in fields(Launch)}
        settings = {name: value for name, value in settings.items() if name in known}
        return Launch(**{**settings, "overrides": tuple(settings.get("overrides", ()))})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"{LAUNCH_FILE} of {files.url} cannot be read ({error}): give the settings again") from error


def load_method(launch: Launch, device: str, until: str = "refine") -> Method:
    """The method that a launch's recipe names, on a device: a recipe of cuts, or what another package brings."""
    if launch.recipe in RECIPES:
        return load_cuts(launch, device, until)
    if launch.recipe not in other_methods():
        raise ConfigError(f"unknown recipe {launch.recipe!r}; known: {', '.join((*RECIPES, *other_methods()))}")
    if until != "refine":
        raise ConfigError(f"recipe {launch.recipe} has no stage {until}: leave --until out")
    return load_other(launch.recipe, launch.overrides, pick_device(device))


def load_cuts(launch: Launch, device: str, until: str = "refine") -> CutsMethod:
    """Recipe and models of a launch, on a device; only the models that the stages up to `until` need."""
    torch_device = pick_device(device)
    ours = [o for o in launch.overrides if not o.startswith("features.")]
    theirs = [o.removeprefix("features.") for o in launch.overrides if o.startswith("features.")]
    recipe = get_recipe(launch.recipe, ours)
    if recipe.affinity.tau is None:
        tau = feature_preset(launch.features)[0].tau
        recipe = replace(recipe, affinity=replace(recipe.affinity, tau=tau))
    if until == "depth" and not recipe.needs_depth:
        raise ConfigError(f"recipe {recipe.name} does not look at depth: there is no depth stage to run")
    depth = None
    if recipe.needs_depth:
        depth = load_depth(launch.depth, torch_device, launch.depth_kind)  # type: ignore[arg-type]
    extractor = load_features(launch.features, torch_device, parse_overrides(FeatureConfig, theirs))
    return CutsMethod(recipe, extractor, depth, torch_device)


def pick_device(device: str) -> torch.device:
    """The device of this name; "auto" is the GPU where there is one. ConfigError when it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"device {device} is not there: {torch.cuda.device_count()} GPUs visible, use cpu or auto")
    return chosen


def listed_manifest(launch: Launch) -> Manifest:
    """The manifest of the launch's images; ConfigError or SourceError when they cannot be listed."""
    if launch.images is None:
        raise ConfigError("there are no images to list: give a folder, list, tar or COCO file")
    listing = list_images(launch.images, launch.root)
    skipped = ", ".join(f"{count} {name}" for name, count in sorted(listing.skipped.items()))
    log.info("%d images in %s%s", len(listing.refs), launch.images, f" (passed over: {skipped})" if skipped else "")
    return Manifest(listing.refs, launch.shard_size or default_shard_size(len(listing.refs)))


def start_reporting(reporter: Reporter, folder: RunFolder, pending: Sequence[Shard]) -> None:
    """Tell how many images there are, and how many are done."""
    waiting = sum(len(shard.refs) for shard in pending)
    reporter.start(folder.n_images, max(0, folder.n_images - waiting))


def local_worker(method: Method, batch_size: int | None, cores: int) -> ShardWorker:
    """Who takes shards through a method on this machine, with that many cores: on a GPU batches overlap and processes
    share the CPU's part; without one, torch's own threads have the cores.
    """
    if method.device.type != "cuda":
        return ShardWorker(method, batch_size or 2)
    pool = cpu_pool(cores - 1) if cores > 1 else None
    return ShardWorker(method, batch_size or fitting_batch_size(method, LANES), max(2, cores // 4), LANES, pool)


def _work(
    folder: RunFolder,
    shards: Sequence[Shard],
    method: Method,
    until: str,
    batch_size: int | None,
    reporter: Reporter,
    summary: RunSummary,
    lease: Lease,
) -> None:
    if not shards:
        return
    start_reporting(reporter, folder, shards)
    worker = local_worker(method, batch_size, len(os.sched_getaffinity(0)))
    job = ShardJob(folder, until, worker)
    try:
        for shard in shards:
            lease.check()
            result = job.compute(shard, reporter.image)
            job.commit(shard, result)
            summary.add(result.counts, result.seconds)
    finally:
        worker.close()
        reporter.stop()
