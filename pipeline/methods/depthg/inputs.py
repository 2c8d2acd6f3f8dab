"""What semantic training reads: the features and the depth of every crop of a finished run of inputs.

N crops · B of a batch · D feature width · h, w patch grid of a crop
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.errors import ConfigError
from pipeline.methods.depthg.crops import PER_PHOTO
from pipeline.methods.depthg.neighbours import KEPT, find_neighbours
from pipeline.results.crop_features_file import DEPTH, FEATURES, MEAN, CropFeaturesFile
from pipeline.results.crop_features_kind import NAME as KIND
from pipeline.results.crop_features_kind import depth_faults
from pipeline.runs.ledger import Commit, by_try, is_retry
from pipeline.runs.needed_kind import need_kind
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.standing import Standing, standing_by
from pipeline.storage.array_file import damaged
from pipeline.storage.local_files import LocalFiles
from pipeline.storage.mapped_file import MappedFile, Place, places
from pipeline.wording import counted, part_of
from stages.fingerprint import text_digest

_MAPS, _PLACES = 16, 4096  # that are kept, of files mapped, and of where arrays lie in them
_Crops = Sequence[int] | np.ndarray


class TrainingInputs:
    """Crops 0..N-1 of a finished run of the recipe `semantic_inputs`, read memory-mapped: what is in memory does not
    grow with their number.

    The crops of one photo follow each other, photos are in the manifest's order, those that a retry has processed last;
    photos that are set aside are left out. Serves one thread.

    run: that they are of.
    photos: that have crops.
    left_out: photos that are set aside.
    flat_depth: photos whose depth is the same everywhere.
    crops_per_photo: 5 or 1.
    shape: (D, h, w) of the features of a crop.
    has_depth: whether there is a depth beside the features.
    config: of the run, with its "recipe", "features" and "depth" (None without), JSON-able.
    digest: of features, crops, size, depth, and of all that is kept: equal only where all values are.
    warnings: what training should record, a sentence each: photos left out, depth that tells nothing, few crops.
    """

    def __init__(self, run: RunFolder) -> None:
        """See `open`."""
        commits = _finished(run)
        counts = standing_by(run, {key: commit.counts for key, commit in commits.items()})
        used = [commit for commit in _in_order(commits) if commit.counts["crops"]]
        if not used:
            which = "the only image" if run.n_images == 1 else f"each of {run.n_images} images"
            raise ConfigError(f"{which} of {run.url} is set aside, so that there are no crops: give other images")
        self.run = run
        self.config: Mapping[str, Any] = run.config
        self.crops_per_photo: int = PER_PHOTO[run.config["recipe"]["crops"]["layout"]]
        self.has_depth = run.config["depth"] is not None
        self.left_out = counts.set_aside
        self.flat_depth: int = counts.counts.get("depth_flat", 0)
        self.digest = text_digest("training inputs", run.digest, *(commit.shard.sha256 for commit in used))
        self._files = [commit.shard.name for commit in used]
        self._crops_in = np.array([commit.counts["crops"] for commit in used])
        self._gaps = _rows_that_count(run, used)
        counted_in = self._crops_in.copy()
        for file, rows in self._gaps.items():
            counted_in[file] = len(rows)
        self._starts = np.concatenate([[0], np.cumsum(counted_in)])
        self._names = (FEATURES, MEAN, DEPTH) if self.has_depth else (FEATURES, MEAN)
        self._places_in = lru_cache(_PLACES)(self._find_places)
        self._map_of = lru_cache(_MAPS)(lambda file: MappedFile(self._path(file), self._places_in(file)))
        width, *grid = places(self._path(0), (FEATURES,))[FEATURES].shape[1:]
        self.shape: tuple[int, int, int] = (width, grid[0], grid[1])
        self.photos = len(self) // self.crops_per_photo
        self.warnings = tuple(_warnings(run, counts, len(self)))

    @classmethod
    def open(cls, url: str | Path) -> Self:
        """The inputs of a run folder on this machine.

        Raises ConfigError when it holds something else, is no local folder, or all photos are set aside; StoreError
        when it is not finished, or damaged.
        """
        run = RunFolder.open(url)
        need_kind(run, KIND)
        if not isinstance(run.files, LocalFiles):
            raise ConfigError(f"{run.url} is no local folder: training maps its inputs into memory; copy them here")
        return cls(run)

    def __len__(self) -> int:
        """N."""
        return int(self._starts[-1])

    def features(self, crops: _Crops) -> np.ndarray:
        """Features of these crops, in their order: float16 (B, D, h, w), neither normalised nor centred."""
        return self._gathered(FEATURES, crops, np.dtype(np.float16), self.shape)

    def depth(self, crops: _Crops) -> np.ndarray:
        """Depth of these crops: float32 (B, h, w), 0..1 over the whole *photo*, larger = farther. ConfigError where
        there is none.
        """
        if not self.has_depth:
            raise ConfigError(f"{self.run.url} has no depth: make the inputs with --depth, or take a recipe without")
        return self._gathered(DEPTH, crops, np.dtype(np.float32), self.shape[1:])

    def names(self, crops: _Crops) -> list[tuple[str, int]]:
        """Of each of these crops the id of its photo, and which of its crops it is, 0..4. Reads whole files: for people
        who look at some.
        """
        found = []
        for file, row in self._placed(crops):
            shard = CropFeaturesFile.open(self._path(file))
            done = [id_ for id_, is_done in zip(shard.ids, shard.done, strict=True) if is_done]
            found.append((done[row // self.crops_per_photo], row % self.crops_per_photo))
        return found

    def means(self) -> Iterator[np.ndarray]:
        """Of all crops the mean of the features over the grid: float32 (some, D), block after block."""
        for file in range(len(self._files)):
            rows = self._map_of(file).rows(MEAN)
            yield (rows[self._gaps[file]] if file in self._gaps else rows.copy()).view(np.float32)

    @cached_property
    def neighbours(self) -> np.ndarray:
        """The crops most like each crop: int32 (N, K), memory-mapped, K = 30 or N if there are fewer; the crop itself
        comes first, then falling cosines. Computed when first asked for, and kept in the run's folder; see
        `neighbours.find_neighbours`, also for its errors.
        """
        return find_neighbours(Path(self.run.url, "neighbours"), self.digest, len(self), self.means)

    def _placed(self, crops: _Crops) -> list[tuple[int, int]]:
        """Of each crop its file, and its row there."""
        wanted = np.asarray(crops, np.int64).reshape(-1)
        if ((wanted < 0) | (wanted >= len(self))).any():
            raise IndexError(f"crops are 0..{len(self) - 1}, not {wanted.min()}..{wanted.max()}")
        files = np.searchsorted(self._starts, wanted, side="right") - 1
        placed = zip(files.tolist(), (wanted - self._starts[files]).tolist(), strict=True)
        return [(file, int(self._gaps[file][i]) if file in self._gaps else i) for file, i in placed]

    def _path(self, file: int) -> Path:
        return Path(self.run.url, self._files[file])

    def _gathered(self, name: str, crops: _Crops, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        placed = self._placed(crops)
        # By file, so that each is mapped once however few maps are kept.
        order = sorted(range(len(placed)), key=placed.__getitem__)
        found = np.empty((len(placed), int(np.prod(shape)) * dtype.itemsize), np.uint8)
        for i in order:
            file, row = placed[i]
            self._map_of(file).announce(name, [row])
        for i in order:
            file, row = placed[i]
            found[i] = self._map_of(file).rows(name)[row]
        return found.view(dtype).reshape(len(placed), *shape)

    def _find_places(self, file: int) -> dict[str, Place]:
        found = places(self._path(file), self._names)
        crops, (width, *grid) = int(self._crops_in[file]), self.shape
        wanted = {FEATURES: (crops, *self.shape), MEAN: (crops, width), DEPTH: (crops, *grid)}
        for name, place in found.items():
            if place.shape != wanted[name]:
                raise damaged(str(self._path(file)), f"{name} has shape {place.shape}, not {wanted[name]}")
        return found


def _finished(run: RunFolder) -> dict[str, Commit]:
    """The commits of a run that lacks none; StoreError otherwise."""
    commits = run.ledger.committed(keep_copies=True)
    run.refuse_unfinished(commits)
    return commits


def _in_order(commits: Mapping[str, Commit]) -> list[Commit]:
    """Those of the manifest's shards first, then those of retries."""
    return [commits[key] for keys in by_try(commits) for key in keys]


def _rows_that_count(run: RunFolder, used: Sequence[Commit]) -> dict[int, np.ndarray]:
    """Of the files of retries the rows of the crops that count: where two have processed one photo, those of the first.
    Of other files all rows count.
    """
    rows: dict[int, np.ndarray] = {}
    seen: set[str] = set()
    for file, commit in enumerate(used):
        if not is_retry(commit.key):
            continue
        shard = CropFeaturesFile.open(run.ledger.contents(commit.shard), commit.shard.name)
        done = [id_ for id_, is_done in zip(shard.ids, shard.done, strict=True) if is_done]
        is_new = np.repeat([id_ not in seen for id_ in done], shard.per_photo)
        rows[file] = np.flatnonzero(is_new)
        seen.update(done)
    return rows


def _warnings(run: RunFolder, counts: Standing, crops: int) -> Iterator[str]:
    if counts.set_aside:
        yield f"{part_of(counts.set_aside, run.n_images, 'photo')} left out: `cuts3d info {run.url}` says why"
    if said := depth_faults(counts.counts):
        yield said
    if crops < KEPT:
        verb = "is" if crops == 1 else "are"
        yield f"there {verb} {counted(crops, 'crop')}: each has {counted(crops - 1, 'neighbour')}, not {KEPT - 1}"
