"""What a way to results is: loaded, a `Method`; before anything is loaded, a `MethodEntry` of the registry.

A package that is installed with an entry point of the group `cuts3d.methods` adds a recipe name to `cuts3d run`:

    [options.entry_points]
    cuts3d.methods =
        detector = detector.prediction.method:load

`load(overrides, device)` is called with the launch's overrides ("detector.min_score=0.7", as texts) and the device, and
returns a `Method`. What it has besides is asked before anything is loaded, each if it is there:

    stages             names of the stages that can be kept, in order
    options            a dataclass of its options; its docstring has their words for `cuts3d recipes NAME`
    check(overrides)   raises ConfigError or WeightsError for what is wrong with a launch's overrides
    absolute(launch)   the launch with the paths in it absolute
    __doc__            whose first line says what the recipe does

Runs made by it have the same store, commits, leases, retries and clusters as all others.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pipeline.images.manifest import Manifest, Shard
from pipeline.images.photos import Photo
from pipeline.images.stereo_clips import Clip
from pipeline.methods.option_words import OptionLine
from pipeline.results.kinds import ResultFile
from pipeline.runs.launch import Launch, listed_manifest

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

Inputs = Literal["photos", "clips"]


class KeptStage(Protocol):
    """What an earlier launch kept of a stage for one shard, opened; what is in it is between the method and itself."""

    done: Any
    """bool (B,): the images of the shard that have it."""


class SharedOutputs:
    """What methods that work on the same inputs side by side leave for each other: features, depth. It lives as long as
    the batch, and is used by one thread.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[Any, float]] = {}

    def forget(self) -> None:
        """All of it: whoever asks next computes it again."""
        self._made.clear()

    def once(
        self,
        stage: str,
        made_by: str,
        positions: Sequence[int],
        seconds: defaultdict[str, float],
        compute: Callable[[], T],
    ) -> T:
        """`once_each` of one model."""
        return self.once_each(stage, [made_by], positions, seconds, lambda missing: [compute()])[0]

    def once_each(
        self,
        stage: str,
        made_by: Sequence[str],
        positions: Sequence[int],
        seconds: defaultdict[str, float],
        compute: Callable[[Sequence[int]], Sequence[T]],
    ) -> list[T]:
        """What a stage gives for images of the batch by each of several models, computed for the first that asks, and
        not to be changed.

        made_by: fingerprints of the models and their settings, by which they are known again.
        positions: of the images in their shard.
        seconds: to which `compute` adds its time. It is added for those that ask later, too: the seconds of a method
            are those that it takes alone.
        compute: gives, in one pass, what is missing: the models at these places of `made_by`.
        """
        keys = [(stage, one, tuple(positions)) for one in made_by]
        missing = [i for i, key in enumerate(keys) if key not in self._made]
        for key in set(keys) & self._made.keys():
            seconds[stage] += self._made[key][1]
        if missing:
            before = seconds[stage]
            values = compute(missing)
            spent = (seconds[stage] - before) / len(missing)
            self._made.update({keys[i]: (value, spent) for i, value in zip(missing, values, strict=True)})
        return [self._made[key][0] for key in keys]


@dataclass(frozen=True)
class Batch:
    """Images to work on together.

    shard: theirs; None for images of no run, by which a method is measured.
    positions: of the images in the shard.
    inputs: what is looked at, one an image, of the kind that `Method.takes`; empty when `Method.needs_inputs` says so.
    until: the stage whose output is wanted; None: the whole result.
    kept: outputs of earlier launches, by stage.
    seconds: gathers the time of each stage.
    pool: processes for what is the CPU's alone.
    shared: what other methods have computed of these very inputs, and need not be computed again.
    """

    shard: Shard | None
    positions: Sequence[int]
    inputs: Sequence[Any]
    until: str | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    pool: Executor | None = None
    shared: SharedOutputs = field(default_factory=SharedOutputs)

    @property
    def photos(self) -> Sequence[Photo]:
        """The inputs of a method that takes photos."""
        return self.inputs

    @property
    def clips(self) -> Sequence[Clip]:
        """The inputs of a method that takes clips."""
        return self.inputs


class Method(Protocol):
    """A loaded method on its device. One object serves several threads."""

    @property
    def name(self) -> str:
        """Of the method, as run.json has it and the registry knows it: "cuts"."""

    @property
    def device(self) -> torch.device: ...

    @property
    def takes(self) -> Inputs:
        """What it looks at: decoded photos, or clips, whose rows of the manifest name several pictures."""

    @property
    def stages(self) -> Sequence[str]:
        """Stages whose output can be kept, in order; () for a method in one piece."""

    @property
    def batch_size(self) -> int:
        """Images at a time where no GPU's memory decides."""

    def kind(self, until: str | None) -> ResultFile:
        """How what it gives is written: the whole results by a `ResultKind`, a stage's by a `ResultFile`, which has
        `open(source, name)`, too, and gives a `KeptStage`.
        """

    def config(self) -> dict[str, Any]:
        """What run.json freezes: all that decides results, JSON-able, with "recipe", a mapping that has a "name"."""

    def needs_inputs(self, until: str | None, kept: Mapping[str, Any]) -> bool:
        """Whether anything up to this stage that is not kept looks at the images."""

    def outputs(self, batch: Batch) -> Sequence[Any]:
        """For each image of the batch its result or, for a stage, what the stage keeps; `Failed` for an image that
        cannot be used.

        Raises whatever goes wrong: the batch is halved then, down to the image at fault, which is set aside.
        """


def earlier_values(method: Method) -> Mapping[str, Any]:
    """What settings of `method.config()` were called by earlier versions where they are the same as now, by dotted
    name: runs that have those resume. Of a method that has a property `earlier`; {} of others.
    """
    values: Mapping[str, Any] = getattr(method, "earlier", {})
    return values


def mended_values(method: Method, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of a run's configuration, by dotted name, that stand for what comes with each image and may be mended
    before an image that was set aside is tried again. Of a method that has `mended(config)`; {} of others.
    """
    mended: Callable[[Mapping[str, Any]], Mapping[str, Any]] = getattr(method, "mended", lambda _: {})
    return mended(config)


def mended_names(method: Method) -> tuple[str, ...]:
    """Names of the settings that `mended_values` has."""
    return tuple(mended_values(method, method.config()))


def works_in_processes(method: Method) -> bool:
    """Whether most of a method's work is done in `Batch.pool`, so that processes pay where there is no GPU, too: that
    of a method whose attribute `in_processes` says so.
    """
    return bool(getattr(method, "in_processes", False))


def plain_description(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All settings of a configuration, for `MethodEntry.describe`."""
    recipe = config["recipe"] if isinstance(config["recipe"], Mapping) else {"name": config["recipe"]}
    settings = {name: value for part in (recipe, config) for name, value in part.items()}
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in settings.items()
        if name not in ("name", "recipe")
    ]


@dataclass(frozen=True)
class MethodEntry:
    """A method before anything of it is loaded.

    name: of the method, as run.json has it.
    recipes: what can be typed for it, and stands in run.json's recipe.
    stages: that can be kept, in order.
    whole: what may be typed in place of a stage and means the whole result, "" for nothing.
    known: the part of `Method.config` that needs no model, for a launch, a stage, and whether models are loaded on this
        machine; raises ConfigError, WeightsError for what is wrong by then.
    load: gives the method for a launch, on a device of this name, up to a stage; raises ConfigError, WeightsError.
    manifest: the images of a launch; raises ConfigError, SourceError.
    describe: a configuration in words and values, for people.
    absolute: a launch with the paths in its settings and overrides absolute, so that they hold in any folder.
    about: what a recipe does, in a line.
    options: those that a launch's recipe reads, as `--set` takes them, and its models.
    reads: names of the `Launch.settings` that a launch's recipe reads, whether the launch has them or not; ConfigError.
    moved: the command that tells a run, {run}, where its photos have moved to, PLACE.
    result: name of the kind of its whole results; "" where the loaded method alone knows.
    """

    name: str
    recipes: tuple[str, ...]
    load: Callable[[Launch, str, str | None], Method]
    stages: tuple[str, ...] = ()
    whole: str = ""
    known: Callable[[Launch, str | None, bool], Mapping[str, Any]] = lambda *_: {}
    manifest: Callable[[Launch], Manifest] = listed_manifest
    describe: Callable[[Mapping[str, Any]], Sequence[tuple[str, str]]] = plain_description
    absolute: Callable[[Launch], Launch] = lambda launch: launch
    about: Callable[[str], str] = lambda recipe: ""
    options: Callable[[Launch], Sequence[OptionLine]] = lambda launch: ()
    reads: Callable[[Launch], Sequence[str]] = lambda launch: ()
    moved: str = "cuts3d run --out {run} --images PLACE"
    result: str = "instances"
