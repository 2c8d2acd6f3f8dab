"""Bytes that semantic labels and their confidence take per image, stored in several ways.

Maps are those of an unsupervised method: k-means of a ViT's features in 27 clusters, cosines interpolated to half of
the photo's size, softmax at two temperatures: 2, as cluster probes have it, whose confidence is low and even, and 20;
the latter also refined by the dense CRF. Row by row: what is stored and how, bytes per image, and of confidence
the root mean square error of what is read back.

    python benchmarks/semantic_bytes.py PHOTOS [--features SPEC] [--count 24] [--out results/semantic_bytes.csv]
"""

import argparse
import csv
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numcodecs import Zstd
from PIL import Image

from pipeline.images.photos import load_photo
from pipeline.images.sources import list_images
from pipeline.models.load import load_features
from pipeline.results.semantic import Classes, SemanticRecord
from pipeline.results.semantic_codes import encoded
from pipeline.results.semantic_file import write_shard
from stages.crf import CrfConfig, label_crf

CLUSTERS = 27
MAPS = ("softmax of 2 cos", "softmax of 20 cos", "20 cos and CRF")
CELLS = (1, 2, 4, 8, 16, 32)

Map = tuple[np.ndarray, np.ndarray]
"""Labels uint8 (H, W) and confidence float32 (H, W)."""


def maps_of(photos: list[np.ndarray], features: str) -> Iterator[dict[str, Map]]:
    """The maps of each photo, by the names of MAPS."""
    extractor = load_features(features, overrides={"size": 392})
    rows, columns = extractor.grid
    found_BND = torch.cat([F.normalize(extractor([photo]).float(), dim=-1) for photo in photos])
    centres_KD = kmeans(found_BND.flatten(0, 1))
    for photo, found_ND in zip(photos, found_BND, strict=True):
        height, width = photo.shape[:2]
        half = height // 2, width // 2
        grid = found_ND.T.reshape(1, -1, rows, columns)
        dense = F.normalize(F.interpolate(grid, half, mode="bilinear", align_corners=False), dim=1)
        cosines = torch.einsum("kd,bdhw->bkhw", centres_KD, dense)
        shares = [(scale * cosines).softmax(dim=1) for scale in (2, 20)]
        small = np.asarray(Image.fromarray(photo).resize(half[::-1]))
        refined = next(label_crf(torch.from_numpy(small.copy())[None], [shares[1][0].contiguous()], CrfConfig()))
        yield dict(zip(MAPS, (as_map(s, height, width) for s in (*shares, refined[None])), strict=True))


def as_map(shares_1Khw: torch.Tensor, height: int, width: int) -> Map:
    confidence, labels = F.interpolate(shares_1Khw, (height, width), mode="bilinear")[0].max(dim=0)
    return labels.byte().numpy(), confidence.clamp(0, 1).numpy()


def kmeans(points_ND: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Centres on the unit sphere, (K, D)."""
    generator = torch.Generator().manual_seed(seed)
    centres = points_ND[torch.randperm(len(points_ND), generator=generator)[:CLUSTERS]]
    for _ in range(30):
        nearest = (points_ND @ centres.T).argmax(dim=1)
        groups = [points_ND[nearest == k] for k in range(CLUSTERS)]
        centres = torch.stack([g.mean(dim=0) if len(g) else old for g, old in zip(groups, centres, strict=True)])
        centres = F.normalize(centres, dim=1)
    return centres


def png(labels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "PNG")
    return file.getvalue()


CODES = {"ours": encoded, "png": png, "zlib": lambda a: zlib.compress(a), "zstd": lambda a: Zstd(level=5).encode(a)}


def lines(name: str, maps: list[Map]) -> Iterator[tuple[str, str, str, float, float | str]]:
    """Rows of the table for one kind of map."""
    for code, pack in CODES.items():
        yield name, "labels", code, float(np.mean([len(pack(np.ascontiguousarray(labels))) for labels, _ in maps])), ""
    for cell in CELLS:
        sizes, errors = zip(*(cells(confidence, cell) for _, confidence in maps), strict=True)
        yield name, "confidence", f"8 bits, cells of {cell} px", float(np.mean(sizes)), float(np.sqrt(np.mean(errors)))
    classes = Classes.clusters(CLUSTERS)
    records = [SemanticRecord.of(str(i), *map_, classes) for i, map_ in enumerate(maps)]
    yield name, "a shard's file", f"of {len(maps)} images", len(write_shard(records, classes, {})) / len(maps), ""


def cells(confidence: np.ndarray, cell: int) -> tuple[int, float]:
    """Bytes of a map kept in cells, and the mean square error of what is read back."""
    size = confidence.shape[1], confidence.shape[0]
    grid = -(-size[0] // cell), -(-size[1] // cell)
    kept = np.rint(np.asarray(Image.fromarray(confidence).resize(grid, Image.Resampling.BOX)) * 255).astype(np.uint8)
    back = np.asarray(Image.fromarray(kept.astype(np.float32) / 255).resize(size, Image.Resampling.BILINEAR))
    return len(Zstd(level=5).encode(kept)), float(((back - confidence) ** 2).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--features", default="dinov2_vits14")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "semantic_bytes.csv")
    arguments = parser.parse_args()
    photos = [load_photo(ref).rgb for ref in list_images(arguments.photos).refs[: arguments.count]]
    with torch.inference_mode():
        found = list(maps_of(photos, arguments.features))
    pixels = int(np.mean([photo.shape[0] * photo.shape[1] for photo in photos]))
    with arguments.out.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["images", "pixels", "map", "what", "how", "bytes", "rms_error"])
        for name in MAPS:
            for kind, what, how, size, error in lines(name, [maps[name] for maps in found]):
                row = [len(photos), pixels, kind, what, how, round(size), f"{error:.4f}" if error != "" else ""]
                out.writerow(row)
                print(*row, sep="\t")


if __name__ == "__main__":
    main()
