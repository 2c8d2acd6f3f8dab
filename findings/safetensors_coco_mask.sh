#!/bin/sh
# A mask as pycocotools decodes it, saved by safetensors.numpy and loaded again.
#
# Expected: the same mask, as numpy.save, zarr, h5py and safetensors 0.7.0 give it back; or an error.
# Seen: the same shape, the same area, other pixels. pycocotools gives its masks column by column (Fortran order: contiguous
#   and dense, which is all that the help of `save` asks for), and safetensors 0.8.0 writes the bytes as they lie in memory
#   under a header that says row by row. 0.7.0 put them in order first.
# Why it matters: every mask that comes out of a COCO run-length code is of this order, and most of what is computed
#   from it (~mask, mask.astype(bool)) stays so. Shape, type and area still agree, so that no plain check sees it.
#   pycocotools 2.0.11, NumPy 2.4.6.
# Instead: numpy.ascontiguousarray(mask) before it is saved.
set -eu
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3.11}" -m venv "$temp/venv" || exit 2
install() {
    "$temp/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || {
        echo "safetensors_coco_mask: $* could not be installed, so nothing was tried" >&2
        exit 2
    }
}

cat >"$temp/show.py" <<'END'
from importlib.metadata import version

import numpy as np
from pycocotools import mask as coco
from safetensors.numpy import load, save

# A bar of 2 x 5 pixels in a picture of 4 x 6: run lengths, column by column, as COCO writes them.
code = coco.frPyObjects({"size": [4, 6], "counts": [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 5]}, 4, 6)
mask = coco.decode(code)
rows = ["".join(".#"[pixel] for pixel in row) for row in mask]
for name, given in (("as decoded", mask), ("row by row", np.ascontiguousarray(mask))):
    back = load(save({"mask": given}))["mask"]
    assert back.shape == mask.shape and back.sum() == mask.sum()
    after = ["".join(".#"[pixel] for pixel in row) for row in back]
    print(f"safetensors {version('safetensors')}, {name}:", " ".join(rows), "->", " ".join(after))
END

install numpy==2.4.6 pycocotools==2.0.11 safetensors==0.7.0
before=$("$temp/venv/bin/python" -I "$temp/show.py") || true
install safetensors==0.8.0
since=$("$temp/venv/bin/python" -I "$temp/show.py") || true

expected='safetensors 0.7.0, as decoded: ...... #####. #####. ...... -> ...... #####. #####. ......
safetensors 0.7.0, row by row: ...... #####. #####. ...... -> ...... #####. #####. ......
safetensors 0.8.0, as decoded: ...... #####. #####. ...... -> .##..# #..##. .##..# #.....
safetensors 0.8.0, row by row: ...... #####. #####. ...... -> ...... #####. #####. ......'
seen=$(printf '%s\n%s' "$before" "$since")
echo "A mask of pycocotools 2.0.11, saved and loaded:"
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf 'safetensors_coco_mask: CHANGED. What was seen before:\n%s\n' "$expected" >&2
    exit 1
fi
echo "as before: other pixels since 0.8.0, the same shape and area"
