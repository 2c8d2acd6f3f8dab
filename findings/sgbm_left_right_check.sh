#!/bin/sh
# StereoSGBM's parameter disp12MaxDiff bounds the difference of a disparity from left to right and from right to left.
#
# Expected: 0, the default, or -1 switches the check off, as OpenCV's documentation of the parameter has it: a nearer
#   thing hides a strip of what lies behind, and pixels there get a disparity, if a wrong one.
# Seen: 0 and -1 give the map of 1, the strictest check, in the modes SGBM, HH and SGBM_3WAY; a bound above all
#   disparities switches it off. OpenCV 4.14.0.
# Why it matters: who leaves the parameter out to check left and right on their own gets maps in which a check was made,
#   and their own finds nothing; who counts how many pixels are answered counts those of another setting.
# Instead: always say the bound: 1 for the check, the number of disparities for none.
set -eu
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3.11}" -m venv "$temp/venv" || exit 2
"$temp/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    numpy==2.4.6 opencv-python-headless==4.14.0.94 || {
    echo "sgbm_left_right_check: the packages could not be installed, so nothing was tried" >&2
    exit 2
}

cat >"$temp/show.py" <<'END'
import cv2
import numpy as np

DISPARITIES = 32
random = np.random.default_rng(0)
wall = random.integers(0, 256, (120, 400), np.uint8)
left, right = wall[:, 32:352].copy(), wall[:, 36:356].copy()  # at a disparity of 4
box = random.integers(0, 256, (60, 80), np.uint8)
left[30:90, 140:220] = right[30:90, 120:200] = box  # at 20


def answered(mode, bound):
    bounds = {} if bound is None else {"disp12MaxDiff": bound}
    matcher = cv2.StereoSGBM.create(0, DISPARITIES, 3, P1=72, P2=288, mode=mode, **bounds)
    return matcher.compute(left, right)[:, DISPARITIES:]


print("OpenCV", cv2.__version__)
for name in ("SGBM", "HH", "SGBM_3WAY"):
    mode = getattr(cv2, f"STEREO_SGBM_MODE_{name}")
    strict, off = answered(mode, 1), answered(mode, DISPARITIES)
    hidden = (strict < 0) & (off >= 0)
    said = ["left out" if bound is None else bound for bound in (None, 0, -1) if (answered(mode, bound) == strict).all()]
    print(f"{name}: the same as 1:", *said, "; pixels that 1 leaves out, some:", bool(hidden.sum() > 100))
END
seen=$("$temp/venv/bin/python" -I "$temp/show.py")
expected='OpenCV 4.14.0
SGBM: the same as 1: left out 0 -1 ; pixels that 1 leaves out, some: True
HH: the same as 1: left out 0 -1 ; pixels that 1 leaves out, some: True
SGBM_3WAY: the same as 1: left out 0 -1 ; pixels that 1 leaves out, some: True'
echo "Disparity of a box before a wall, by the bound of the check:"
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf 'sgbm_left_right_check: CHANGED. What was seen before:\n%s\n' "$expected" >&2
    exit 1
fi
echo "as before: what should switch the check off makes it strict"
