"""Whether the compiled libraries load on this machine, and what to install when they do not."""

import importlib
import sys

# Debian's names of what open3d's and opencv's wheels expect from the system.
SYSTEM_PACKAGES = "libgl1 libx11-6 libgomp1 libudev1 libglib2.0-0"
LIBRARIES = ("torch", "torchvision", "cv2", "open3d", "maxflow", "onnxruntime", "pycocotools.mask")


def missing_libraries() -> dict[str, str]:
    """Libraries that cannot be imported, with the loader's own words."""
    problems = {}
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            problems[name] = str(error)
    return problems


def main() -> None:
    """Exit with what to do when a library does not load."""
    problems = missing_libraries()
    for name, message in problems.items():
        print(f"{name} does not load: {message}", file=sys.stderr)
    if problems:
        sys.exit(f"system libraries are missing; on Debian and Ubuntu: apt-get install {SYSTEM_PACKAGES}")
