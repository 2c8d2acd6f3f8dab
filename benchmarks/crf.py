"""Our dense CRF beside pydensecrf: seconds per photo and agreement, both in one process, as CSV on stdout.

    python benchmarks/crf.py PHOTOS --count 10 > crf.csv

Masks: the photo on a 60×60 grid is split among `--masks` seed patches by colour. Every time is the best of
`--repeats`; pydensecrf treats one mask after the other on one core, as MaskCut does. Needs `pip install pydensecrf2`.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.reference_crf import crf_of_an_image

from stages.crf import CrfConfig, dense_crf

GRID = 60
COLUMNS = ("photo", "size", "masks", "torch_s", "pydensecrf_s", "mean_iou", "pixels_that_differ")


def load(path: Path, size: int, n_masks: int) -> tuple[Tensor, Tensor]:
    """The photo (S, S, 3) uint8 and masks (M, S, S) bool."""
    photo = Image.open(path).convert("RGB")
    grid_N3 = np.asarray(photo.resize((GRID, GRID), Image.Resampling.BOX)).reshape(-1, 3).astype(float)
    seeds = np.random.default_rng(0).choice(GRID * GRID, n_masks, replace=False)
    nearest_N = np.argmin(np.linalg.norm(grid_N3[:, None] - grid_N3[seeds], axis=2), axis=1)
    masks_MGG = (nearest_N == np.arange(n_masks)[:, None]).reshape(n_masks, GRID, GRID)
    rows = np.arange(size) * GRID // size
    rgb = np.array(photo.resize((size, size), Image.Resampling.LANCZOS))
    return torch.from_numpy(rgb), torch.from_numpy(masks_MGG[:, rows[:, None], rows])


def run_crf(image_HW3: Tensor, masks_MHW: Tensor) -> Tensor:
    # Copying back waits for a GPU.
    return dense_crf(image_HW3[None], [masks_MHW], CrfConfig())[0].cpu()


def best(run: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of JPEG or PNG files")
    parser.add_argument("--count", type=int, default=10, help="photos, the first by name")
    parser.add_argument("--size", type=int, default=480, help="side of the square in pixels")
    parser.add_argument("--masks", type=int, default=3, help="masks per photo")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, on CPU")
    parser.add_argument("--device", default="cpu", help="of the torch CRF")
    args = parser.parse_args()
    paths = sorted(p for p in args.photos.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})[: args.count]
    if not paths:
        parser.error(f"no JPEG or PNG files in {args.photos}")
    torch.set_num_threads(args.threads)

    writer = csv.writer(sys.stdout)
    writer.writerow(COLUMNS)
    rows = []
    for path in paths:
        image_HW3, masks_MHW = load(path, args.size, args.masks)
        ours_s, ours = best(partial(run_crf, image_HW3.to(args.device), masks_MHW.to(args.device)), args.repeats)
        theirs_s, theirs = best(partial(crf_of_an_image, image_HW3, masks_MHW, CrfConfig()), args.repeats)
        union = (ours | theirs).flatten(1).sum(1)
        iou = torch.where(union > 0, (ours & theirs).flatten(1).sum(1) / union, 1.0).mean().item()
        rows.append((ours_s, theirs_s, iou, int((ours != theirs).sum())))
        writer.writerow([path.name, args.size, args.masks, *(f"{x:.4f}" for x in rows[-1][:3]), rows[-1][3]])
        sys.stdout.flush()
    middle = np.median(rows, axis=0)
    writer.writerow(["median", args.size, args.masks, *(f"{x:.4f}" for x in middle[:3]), f"{middle[3]:g}"])


if __name__ == "__main__":
    main()
