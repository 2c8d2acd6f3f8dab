#!/bin/sh
# The third line of a PFM file is a number: its sign is the byte order, its size the scale, the unit of the samples.
#
# Expected: readers either leave the scale to the caller or multiply by it, and a library that hands a file on to others
#   gives float32, whatever else is installed.
# Seen: Pillow leaves it out; OpenCV divides by it; imageio (and scikit-image's imread with it) gives Pillow's float32
#   until OpenCV is installed, then OpenCV's numbers cast to uint8. Pillow 13.0.0, imageio 2.38.1, OpenCV 4.14.0 and 5.0.0.
# Why it matters: disparity and depth maps come as PFM. What OpenCV reads is off by the square of the scale from what the
#   file says, and where OpenCV comes in as somebody's dependency, imageio keeps 8 bits; neither says a word.
# Instead: read with Pillow, multiply by the third line if its author meant it, and store as .npy.
set -eu
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3.11}" -m venv "$temp/venv" || exit 2
install() {
    "$temp/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || {
        echo "pfm_scale: $* could not be installed, so nothing was tried" >&2
        exit 2
    }
}

cat >"$temp/show.py" <<'END'
import sys
from importlib.metadata import PackageNotFoundError, version

import imageio.v3 as imageio
import numpy as np
from PIL import Image


def tell(reader, pixels):
    print(f"{reader}: {pixels.dtype}", *pixels.ravel().tolist())


stored = np.array([[10, 20], [30, 40.5]], "<f4")  # the bottom row is the first in the file
path = sys.argv[1] + "/depth.pfm"
with open(path, "wb") as file:
    file.write(b"Pf\n2 2\n-0.5\n" + stored[::-1].tobytes())
tell(f"Pillow {version('pillow')}", np.asarray(Image.open(path)))
try:
    opencv = version("opencv-python-headless")
except PackageNotFoundError:
    tell(f"imageio {version('imageio')}, no OpenCV", imageio.imread(path))
else:
    import cv2

    tell(f"OpenCV {opencv}", cv2.imread(path, cv2.IMREAD_UNCHANGED))
    tell(f"imageio {version('imageio')}, OpenCV installed", imageio.imread(path))
END

install numpy==2.4.6 pillow==13.0.0 imageio==2.38.1
alone=$("$temp/venv/bin/python" -I "$temp/show.py" "$temp") || true
install opencv-python-headless==4.14.0.94
beside=$("$temp/venv/bin/python" -I "$temp/show.py" "$temp") || true

expected='Pillow 13.0.0: float32 10.0 20.0 30.0 40.5
imageio 2.38.1, no OpenCV: float32 10.0 20.0 30.0 40.5
Pillow 13.0.0: float32 10.0 20.0 30.0 40.5
OpenCV 4.14.0.94: float32 20.0 40.0 60.0 81.0
imageio 2.38.1, OpenCV installed: uint8 20 40 60 81'
seen=$(printf '%s\n%s' "$alone" "$beside")
echo "A PFM that stores 10 20 30 40.5 with the scale 0.5, as it is read:"
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf 'pfm_scale: CHANGED. What was seen before:\n%s\n' "$expected" >&2
    exit 1
fi
echo "as before: left out, divided by, and cast to 8 bits once OpenCV is there"
