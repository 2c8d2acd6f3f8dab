#!/bin/sh
# A label map with a colour for each class, and 255 for "no class", saved as a PNG with a palette by Pillow.
#
# Expected: 255 is in the file, or saving ends with an error, as the palette has no colour for it. Pillow's manual says of
#   PNG that 8 bits per pixel are stored unless `bits` says otherwise.
# Seen: pixels are cut to as few bits as the palette's entries take, 1 for two colours, 2 for up to four, 4 for up to
#   sixteen, without a word: of four classes 255 becomes 3, which is the last class; of ten, 15. bits=8 is cut likewise.
#   From 17 colours on, and as TIFF, all values stay. Pillow 13.0.0, and 10.0.0 just so.
# Why it matters: the map in memory is right, and so it looks in a viewer; on disk "no class" has become a class, which
#   evaluation counts and training learns.
# Instead: give the palette 256 entries, colours that no class needs included.
set -eu
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3.11}" -m venv "$temp/venv" || exit 2
"$temp/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    numpy==2.4.6 pillow==13.0.0 opencv-python-headless==4.14.0.94 || {
    echo "pillow_short_palette: the packages could not be installed, so nothing was tried" >&2
    exit 2
}

cat >"$temp/show.py" <<'END'
import sys
from importlib.metadata import version

import cv2
import numpy as np
from PIL import Image

path = sys.argv[1] + "/map"


def tell(classes, entries, suffix, **options):
    labels = np.array([[*range(classes), 255]], np.uint8)
    image = Image.fromarray(labels)
    image.putpalette([level for colour in range(entries) for level in (colour, 0, 255 - colour)])
    assert image.mode == "P" and np.array_equal(np.asarray(image), labels)
    image.save(path + suffix, **options)
    read = np.asarray(Image.open(path + suffix))
    assert np.array_equal(read[0, :classes], labels[0, :classes])
    how = "".join(f", {name}={value}" for name, value in options.items())
    print(f"{classes} classes, {entries} colours, {suffix}{how}: 255 becomes {read[0, -1]}")
    return read


print(*(f"{name} {version(name)}" for name in ("pillow", "opencv-python-headless")))
tell(2, 2, ".png")
tell(4, 4, ".png")
bgr = cv2.imread(path + ".png")
print("OpenCV sees", "the colour of class 3" if (bgr[0, 4] == bgr[0, 3]).all() else "another colour", "where 255 was")
tell(4, 4, ".png", bits=8)
tell(10, 10, ".png")
tell(17, 17, ".png")
tell(4, 256, ".png")
tell(4, 4, ".tif")
END

expected='pillow 13.0.0 opencv-python-headless 4.14.0.94
2 classes, 2 colours, .png: 255 becomes 1
4 classes, 4 colours, .png: 255 becomes 3
OpenCV sees the colour of class 3 where 255 was
4 classes, 4 colours, .png, bits=8: 255 becomes 3
10 classes, 10 colours, .png: 255 becomes 15
17 classes, 17 colours, .png: 255 becomes 255
4 classes, 256 colours, .png: 255 becomes 255
4 classes, 4 colours, .tif: 255 becomes 255'
seen=$("$temp/venv/bin/python" -I "$temp/show.py" "$temp") || true
echo "A map of all its classes and 255, saved and read:"
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf 'pillow_short_palette: CHANGED. What was seen before:\n%s\n' "$expected" >&2
    exit 1
fi
echo "as before: a short palette cuts the labels of the pixels"
