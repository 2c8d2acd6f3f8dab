"""What travels to a machine with a GPU for `benchmarks/gpu.py`, into a folder that git ignores: `make gpu-bundle`.

    .gpu/site-cpython-312.tar.xz   PACKAGES, unpacked wheels for Python 3.12 on x86-64, without debug symbols
    .gpu/assets/weights/           DINOv2 ViT-S/14 (44 MB in float16), FastDepth
    .gpu/assets/coco/images/       40 photos
    .gpu/commit                    of this checkout

    .venv/bin/python benchmarks/gpu_bundle.py [--assets FOLDER] [--out .gpu] [--limit 64]

Stops with an error when the folder and the checkout are together larger than --limit MiB. With `strip` (of binutils)
the packages are 4 MB, without it 11: numcodecs comes with its debug symbols, and then all is too large.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gpu_record import BUNDLE, ROOT, commit

# What cuts3d needs and the machine lacks; their needs are among them, or there. Versions: constraints.txt.
PACKAGES = (
    *("zarr", "numcodecs", "donfig", "google-crc32c"),
    *("pycocotools", "PyMaxflow"),
    *(
        "mmdet",
        "mmengine",
        "mmcv-lite==2.1.0",
        "addict",
        "shapely",
        "termcolor",
        "terminaltables",
        "yapf",
        "platformdirs",
    ),
)
PYTHON = "3.12"
# pip takes exactly those that it is told.
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
WEIGHTS = ("dinov2_vits14_fp16.safetensors", "fastdepth.onnx", "fastdepth.json", "fastdepth.LICENSE.txt")
PHOTOS = 40
LIMIT = 64
# Of no use there: tests, and the programs and manuals of wheels.
_LEFT_OUT = ("__pycache__", "tests", "bin", "share")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = ROOT.parent / "shared" / "assets"
    parser.add_argument(
        "--assets", type=Path, default=shared, help="folder with weights/ and coco/images/ [%(default)s]"
    )
    parser.add_argument("--out", type=Path, default=BUNDLE, help="[.gpu]")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"MiB that may travel [{LIMIT}]")
    options = parser.parse_args(words)
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    (options.out / "commit").write_text(commit() + "\n", encoding="utf-8")
    copy_assets(options.assets, options.out / "assets")
    with tempfile.TemporaryDirectory() as temporary:
        pack(unpacked(Path(temporary)), options.out / f"site-cpython-{PYTHON.replace('.', '')}.tar.xz")
    return judge(
        {"checkout": size_of(checkout())}
        | {f".gpu/{path.name}": size_of(files_in(path)) for path in sorted(options.out.iterdir())},
        options.limit,
    )


def copy_assets(source: Path, target: Path) -> None:
    """Weights, and photos evenly out of all there are. SystemExit names what is missing."""
    photos = sorted((source / "coco" / "images").glob("*.jpg"))
    chosen = [photos[i * len(photos) // PHOTOS] for i in range(PHOTOS)] if len(photos) >= PHOTOS else []
    files = [source / "weights" / name for name in WEIGHTS]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not chosen:
        raise SystemExit(f"missing: {', '.join(missing) or f'{PHOTOS} photos in {source}/coco/images'}; give --assets")
    for file in [*files, *chosen]:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def unpacked(folder: Path) -> Path:
    """PACKAGES in a folder, as pip installs them for the other machine's Python."""
    words = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--target", str(folder)]
    words += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON]
    words += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([sys.executable, "-m", "pip", *words, *pinned(PACKAGES)], check=True)
    libraries = [str(path) for path in folder.rglob("*.so*")]
    if strip := shutil.which("strip"):
        subprocess.run([strip, "--strip-unneeded", *libraries], check=True)
    return folder


def pinned(packages: Sequence[str]) -> list[str]:
    """NAME==VERSION, as constraints.txt has it. (pip's own --constraint would refuse a torch that is not for here.)"""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions = {line.partition("==")[0].lower(): line for line in lines if "==" in line and not line.startswith("#")}
    return [package if "==" in package else versions[package.lower()] for package in packages]


def pack(folder: Path, target: Path) -> None:
    """The folder as one .tar.xz: a third smaller than the wheels."""

    def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if any(part in _LEFT_OUT for part in Path(member.name).parts) else member

    with tarfile.open(target, "w:xz") as archive:
        archive.add(folder, ".", filter=wanted)


def checkout() -> list[Path]:
    """Files that git knows of or does not ignore."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def files_in(path: Path) -> list[Path]:
    """The file, or all files below the folder."""
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def size_of(files: Sequence[Path]) -> int:
    """Bytes together."""
    return sum(file.stat().st_size for file in files)


def judge(sizes: dict[str, int], limit: float) -> int:
    """Print what is how large; 1 when all together is more than `limit` MiB."""
    total = sum(sizes.values())
    for name, size in {**sizes, "together": total}.items():
        print(f"{size / 2**20:7.2f} MiB  {name}")
    if total <= limit * 2**20:
        return 0
    without = "" if shutil.which("strip") else "; install binutils, whose `strip` takes 7 MB off the packages"
    print(f"that is more than the {limit:g} MiB that may travel{without}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
