#!/bin/sh
# A bool mask written as a TIFF by tifffile, read by Pillow and OpenCV.
#
# Expected: True where it was True, as with a uint8 mask, or with a bool mask that Pillow wrote.
# Seen: object and background change places. tifffile writes one bit a pixel with "0 is white" (MINISWHITE), keeps its 1 for
#   True, and reads its own file without regard to that tag; who heeds the tag inverts. The same from imageio's imwrite,
#   which hands TIFFs to tifffile; an unsigned mask of 0 and 1 is not touched. tifffile 2026.3.3, imageio 2.38.1,
#   Pillow 13.0.0, OpenCV 4.14.0.
# Why it matters: the mask is valid, of the right size and type, and its complement: as a truth it turns
#   every score round, as training data it teaches the background. The library that wrote it shows it right.
# Instead: write mask.astype("uint8"), or say photometric="minisblack".
set -eu
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3.11}" -m venv "$temp/venv" || exit 2
"$temp/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    numpy==2.4.6 tifffile==2026.3.3 imageio==2.38.1 pillow==13.0.0 opencv-python-headless==4.14.0.94 || {
    echo "tifffile_bool_mask: the packages could not be installed, so nothing was tried" >&2
    exit 2
}

cat >"$temp/show.py" <<'END'
import sys
from importlib.metadata import version

import cv2
import imageio.v3 as imageio
import numpy as np
import tifffile
from PIL import Image

mask = np.zeros((6, 10), bool)
mask[1:4, 2:7] = True  # 15 of 60 pixels
path = sys.argv[1] + "/mask.tif"


def tell(written):
    pillow, opencv = np.asarray(Image.open(path)) > 0, cv2.imread(path, cv2.IMREAD_UNCHANGED) > 0
    seen = {"tifffile": tifffile.imread(path) > 0, "Pillow": pillow, "OpenCV": opencv}
    how = {True: "the mask", False: "its complement"}
    assert all(np.array_equal(m, mask) or np.array_equal(m, ~mask) for m in seen.values())
    print(f"{written}:", ", ".join(f"{name} reads {how[bool(np.array_equal(m, mask))]}" for name, m in seen.items()))


print(*(f"{name} {version(name)}" for name in ("tifffile", "imageio", "pillow", "opencv-python-headless")))
tifffile.imwrite(path, mask)
tell("tifffile, bool")
imageio.imwrite(path, mask)
tell("imageio, bool")
tifffile.imwrite(path, mask, photometric="minisblack")
tell("tifffile, bool, minisblack")
tifffile.imwrite(path, mask.astype(np.uint8))
tell("tifffile, uint8")
Image.fromarray(mask).save(path)
tell("Pillow, bool")
END

expected='tifffile 2026.3.3 imageio 2.38.1 pillow 13.0.0 opencv-python-headless 4.14.0.94
tifffile, bool: tifffile reads the mask, Pillow reads its complement, OpenCV reads its complement
imageio, bool: tifffile reads the mask, Pillow reads its complement, OpenCV reads its complement
tifffile, bool, minisblack: tifffile reads the mask, Pillow reads the mask, OpenCV reads the mask
tifffile, uint8: tifffile reads the mask, Pillow reads the mask, OpenCV reads the mask
Pillow, bool: tifffile reads the mask, Pillow reads the mask, OpenCV reads the mask'
seen=$("$temp/venv/bin/python" -I "$temp/show.py" "$temp") || true
echo "A mask of 15 of 60 pixels, written and read:"
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf 'tifffile_bool_mask: CHANGED. What was seen before:\n%s\n' "$expected" >&2
    exit 1
fi
echo "as before: a bool mask changes places with its background"
