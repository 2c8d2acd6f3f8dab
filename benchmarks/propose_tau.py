"""Does a threshold τ that unlabelled photos propose come near the best one? For features whose best τ can be measured.

Six readings of one backbone (tokens, keys, values of the last block, each as they are and mean-centred) stand for six
backbones: their cosines have nothing in common. Candidates of τ are quantiles of the cosines of UNLABELLED photos, so
that all readings are tried at the same shares of joined pairs. On photos with instance masks every candidate is scored
by the mask AR100 and AP of `maskcut` and of the tree of `cuts3d`, both without depth and CRF; even ranks are for
choosing a rule, odd ones for reporting. A rule sees the unlabelled photos alone.

    python benchmarks/propose_tau.py UNLABELLED PHOTOS TRUTH CACHE --features dinov2_vits14=FILE --out FOLDER

Writes propose_tau.csv, a line a reading and candidate, and propose_tau_rules.csv, a line a recipe, rule and reading:
scores at the candidate next to the rule's τ over those at the best candidate, on the photos for reporting, with an
interval of 95 % over photos. CACHE keeps features and masks.
"""

import argparse
import csv
import json
import multiprocessing
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from settle_constants import Kept

from pipeline.evaluation.scores import Comparison, compare, score_detections
from pipeline.evaluation.truth.coco import Truth
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import load_photo
from pipeline.images.sources import list_images
from pipeline.methods.cuts.method import BatchWork, CutsMethod
from pipeline.methods.cuts.recipes import get_recipe
from pipeline.models.load import load_features
from stages.affinity import joined, similarities
from stages.features import FeatureExtractor
from stages.ncut import NCutConfig, ncut

KINDS = ("tokens", "keys", "values")
Reading = tuple[str, bool]  # kind, and whether mean-centred
READINGS: tuple[Reading, ...] = tuple((kind, centred) for kind in KINDS for centred in (False, True))
SHARES = (0.02, 0.04, 0.07, 0.1, 0.15, 0.22, 0.32, 0.45)  # of pairs joined
OF_TREE = SHARES[1::2]
SCORED = {"maskcut": 72, "cuts3d": 48}
T = TypeVar("T")
METRICS = ("mask_AR100", "mask_AP")
HALVES = {"choosing": 0, "reporting": 1}
RECIPES = {"maskcut": SHARES, "cuts3d": OF_TREE}
WITHOUT = ("refine.crf=none",)
WITHOUT_DEPTH = {"maskcut": WITHOUT, "cuts3d": (*WITHOUT, "local_cut=none", "spatial_confidence=none")}


@cache
def extractor_of(features: str, size: int) -> FeatureExtractor:
    torch.set_num_threads(1)
    return load_features(features, "cpu", {"size": size, "kind": "tokens", "centred": False})


def kept_features(task: tuple[str, int, ImageRef, Path]) -> None:
    """Tokens, keys and values of a photo out of one pass, (3, N, D) float16, into the cache."""
    features, size, ref, file = task
    if file.is_file():
        return
    extractor = extractor_of(features, size)
    seen: list[torch.Tensor] = []
    vit: Any = extractor._vit
    hook = vit.blocks[-1].attn.qkv.register_forward_hook(lambda _m, _i, out: seen.append(out))
    tokens_ND = extractor([load_photo(ref).rgb])[0]
    hook.remove()
    _, keys, values = seen[0][0, -len(tokens_ND) :].half().chunk(3, dim=-1)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, torch.stack([tokens_ND, keys, values]).numpy())


def reading_of(file: Path, kind: str, centred: bool) -> np.ndarray:
    """(N, D) float16, as `FeatureExtractor` gives it."""
    features_ND = np.load(file, mmap_mode="r")[KINDS.index(kind)].astype(np.float32)
    return (features_ND - features_ND.mean(axis=0) if centred else features_ND).astype(np.float16)


def cosines(file: Path, kind: str, centred: bool) -> torch.Tensor:
    """(N, N) float32."""
    return similarities(torch.from_numpy(reading_of(file, kind, centred))[None])[0]


def pairs_of(similarity_NN: torch.Tensor) -> np.ndarray:
    """Of different patches, each pair once, every 37th of them."""
    n = len(similarity_NN)
    above = torch.triu_indices(n, n, offset=1)[:, ::37]
    return similarity_NN[above[0], above[1]].numpy()


def otsu(values: np.ndarray) -> float:
    """The threshold with the largest variance between what lies above and what lies below."""
    ordered = np.sort(values.astype(np.float64))
    below = np.arange(1, len(ordered))
    sums = ordered.cumsum()[:-1]
    between = (sums / below - (ordered.sum() - sums) / (len(ordered) - below)) ** 2 * below * (len(ordered) - below)
    return float(ordered[between.argmax()])


def gaps_of(task: tuple[list[Path], str, bool, tuple[float, ...]]) -> list[float]:
    """Mean over photos of λ₃ - λ₂ of the whole image at each τ."""
    files, kind, centred, taus = task
    torch.set_num_threads(1)
    found = []
    for file in files:
        similarity_NN = cosines(file, kind, centred)
        edges = torch.stack([joined(similarity_NN, tau, "binary") for tau in taus])
        alive = torch.ones(edges.shape[:2], dtype=torch.bool)
        found.append(ncut(edges, alive, 1e-5, NCutConfig()).gap_B.numpy())
    return [float(gap) for gap in np.mean(found, axis=0)]


def masks_of(task: tuple[str, str, int, ImageRef, int, Path, dict[Reading, list[float]], Path]) -> None:
    """COCO results of a photo by one recipe, by reading and share, into the cache."""
    recipe, features, size, ref, coco_id, file, taus, out = task
    if out.is_file():
        return
    extractor, photo = extractor_of(features, size), load_photo(ref)
    lines = []
    for (kind, centred), of_shares in taus.items():
        kept = {"features": Kept(reading_of(file, kind, centred))}
        for share in RECIPES[recipe]:
            tau = of_shares[SHARES.index(share)]
            chosen = get_recipe(recipe, [f"affinity.tau={tau}", *WITHOUT_DEPTH[recipe]])
            method = CutsMethod(chosen, extractor, None, torch.device("cpu"))
            work = BatchWork(method, [photo], [0], kept, defaultdict(float))  # type: ignore[arg-type]
            with torch.inference_mode():
                record = work.records[0]
            found = [
                {
                    "image_id": coco_id,
                    "category_id": 1,
                    "segmentation": {"size": list(record.size), "counts": instance.rle.decode()},
                    "score": instance.score,
                }
                for instance in record.instances
            ]
            lines.append({"kind": kind, "centred": centred, "share": share, "found": found})
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    partial.rename(out)


def proposals(pairs: np.ndarray, taus: Sequence[float], gaps: Sequence[float]) -> dict[str, float]:
    """τ by every rule that needs no label."""
    by_share = {f"share {share:g}": tau for share, tau in zip(SHARES, taus, strict=True)}
    return {
        **by_share,
        "mean": float(pairs.mean()),
        "mean + deviation": float(pairs.mean() + pairs.std()),
        "otsu": otsu(pairs),
        "gap": taus[int(np.argmax(gaps))],
    }


def found_by(
    arguments: argparse.Namespace, recipe: str, labelled: Sequence[ImageRef]
) -> dict[tuple[Reading, float], list[dict[str, Any]]]:
    """COCO results of all photos, by reading and share."""
    found: dict[tuple[Reading, float], list[dict[str, Any]]] = defaultdict(list)
    for ref in labelled:
        for line in masks_file(arguments, recipe, ref).read_text().splitlines():
            content = json.loads(line)
            found[(content["kind"], content["centred"]), content["share"]] += content["found"]
    return found


@dataclass(eq=False)
class Measured:
    """How good the masks of a recipe are, by reading and share."""

    recipe: str
    truth: Truth
    image_ids: Sequence[int]
    bootstrap: int
    seed: int
    found: dict[tuple[Reading, float], list[dict[str, Any]]]

    @cache  # noqa: B019  there is one for each recipe
    def score(self, reading: Reading, share: float, half: str) -> dict[str, float]:
        return score_detections(self.truth, self.found[reading, share], self.image_ids[HALVES[half] :: 2])

    @cache  # noqa: B019
    def ratios(self, reading: Reading, share: float) -> list[float]:
        """On the photos for reporting, of each metric: value at this share over that at the best one, and interval."""
        ratios: list[float] = []
        for metric in METRICS:
            best = max(RECIPES[self.recipe], key=lambda share: self.score(reading, share, "reporting")[metric])
            ratio = self.compared(reading, share, best).ratio[metric]
            ratios += [ratio.value, ratio.low, ratio.high]
        return ratios

    @cache  # noqa: B019
    def compared(self, reading: Reading, share: float, other: float) -> Comparison:
        return compare(
            *(self.truth, self.found[reading, share], self.found[reading, other], self.image_ids[1::2]),
            iou_types=["segm"],
            bootstrap=self.bootstrap,
            seed=self.seed,
        )

    def relative(self, readings: Sequence[Reading], share: float) -> float:
        """Mean over readings of the recall at a share over the best one's, on the photos for choosing."""
        recalls = [
            {s: self.score(reading, s, "choosing")["mask_AR100"] for s in RECIPES[self.recipe]} for reading in readings
        ]
        return float(np.mean([of[share] / max(of.values()) for of in recalls]))


def ruled(
    measured: Measured,
    pairs: dict[Reading, np.ndarray],
    taus: dict[Reading, list[float]],
    gaps: dict[Reading, list[float]],
) -> Iterator[tuple[str, Reading, float]]:
    """Every rule, reading and the τ that it proposes. The share "of the others" is the one that is best, on the photos
    for choosing, for the five other readings together.
    """
    for reading in READINGS:
        for rule, tau in proposals(pairs[reading], taus[reading], gaps[reading]).items():
            yield rule, reading, tau
        others = [other for other in READINGS if other != reading]
        share = max(RECIPES[measured.recipe], key=lambda share: measured.relative(others, share))
        yield "share of the others", reading, taus[reading][SHARES.index(share)]


def named(reading: Reading) -> str:
    kind, centred = reading
    return f"{kind}, centred" if centred else kind


def photos_of(recipe: str, drawn: Sequence[T]) -> Sequence[T]:
    """Those of the photos drawn that a recipe is scored on: the tree takes three times as long."""
    return drawn[: SCORED[recipe]]


def masks_file(arguments: argparse.Namespace, recipe: str, ref: ImageRef) -> Path:
    return Path(arguments.cache) / f"masks-{recipe}-{arguments.size}" / f"{ref.id}.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unlabelled")
    parser.add_argument("photos")
    parser.add_argument("truth")
    parser.add_argument("cache", type=Path)
    parser.add_argument("--features", default="dinov2_vits14")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--size", type=int, default=420)
    parser.add_argument("--count", type=int, default=96, help="photos with masks to draw")
    parser.add_argument("--seen", type=int, default=32, help="unlabelled photos")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()

    truth = Truth.read(arguments.truth)
    ids = {Path(image["file_name"]).name: image["id"] for image in truth.images.values()}
    rng = np.random.default_rng(arguments.seed)
    labelled = [ref for ref in list_images(arguments.photos).refs if Path(ref.id).name in ids]
    labelled = [labelled[k] for k in sorted(rng.choice(len(labelled), arguments.count, replace=False))]
    listed = list_images(arguments.unlabelled).refs
    unlabelled = [listed[k] for k in sorted(rng.choice(len(listed), arguments.seen, replace=False))]
    files = {ref.id: arguments.cache / f"features-{arguments.size}" / f"{ref.id}.npy" for ref in labelled + unlabelled}
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        wanted = [(arguments.features, arguments.size, ref, files[ref.id]) for ref in unlabelled + labelled]
        list(pool.imap_unordered(kept_features, wanted))
        pairs = {
            reading: np.concatenate([pairs_of(cosines(files[ref.id], *reading)) for ref in unlabelled])
            for reading in READINGS
        }
        taus = {r: [float(np.quantile(pairs[r], 1 - share)) for share in SHARES] for r in READINGS}
        image_ids = [ids[Path(ref.id).name] for ref in labelled]
        settings = (arguments.features, arguments.size)
        tasks = [
            (recipe, *settings, ref, image_id, files[ref.id], taus, masks_file(arguments, recipe, ref))
            for recipe in arguments.recipes
            for ref, image_id in photos_of(recipe, list(zip(labelled, image_ids, strict=True)))
        ]
        list(pool.imap_unordered(masks_of, tasks))
        seen = [files[ref.id] for ref in unlabelled[:: len(unlabelled) // 4]]  # eigenvalues without a gap take long
        gaps = dict(zip(READINGS, pool.map(gaps_of, [(seen, *r, tuple(taus[r])) for r in READINGS]), strict=True))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (
        (arguments.out / "propose_tau.csv").open("w", newline="") as curve_file,
        (arguments.out / "propose_tau_rules.csv").open("w", newline="") as rule_file,
    ):
        curve, rules = csv.writer(curve_file), csv.writer(rule_file)
        curve.writerow(["recipe", "reading", "share", "tau", "gap", *(f"{h}_{m}" for h in HALVES for m in METRICS)])
        ratios = [f"{metric}_ratio{end}" for metric in METRICS for end in ("", "_low", "_high")]
        rules.writerow(["recipe", "rule", "reading", "tau", "nearest_share", *ratios])
        for recipe in arguments.recipes:
            measured = Measured(
                *(recipe, truth, photos_of(recipe, image_ids), arguments.bootstrap, arguments.seed),
                found_by(arguments, recipe, photos_of(recipe, labelled)),
            )
            for reading, share in measured.found:
                at = SHARES.index(share)
                values = [measured.score(reading, share, half)[metric] for half in HALVES for metric in METRICS]
                row = [recipe, named(reading), share, f"{taus[reading][at]:.4f}", f"{gaps[reading][at]:.5f}"]
                curve.writerow([*row, *(f"{value:.5f}" for value in values)])
            for rule, reading, tau in ruled(measured, pairs, taus, gaps):
                joins = max(float(np.mean(pairs[reading] > tau)), 1e-4)
                nearest = min(RECIPES[recipe], key=lambda share: abs(np.log(share / joins)))
                row = [recipe, rule, named(reading), f"{tau:.4f}", nearest]
                rules.writerow([*row, *(f"{ratio:.4f}" for ratio in measured.ratios(reading, nearest))])
                rule_file.flush()


if __name__ == "__main__":
    main()
