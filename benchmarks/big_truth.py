"""Scores of boxes against a truth as large as that of Objects365, beside pycocotools and other evaluators.

    python benchmarks/big_truth.py [--images 2000 8000] [--alone 80000] [--out results/big_truth.csv]

Truths are drawn, seed 0: 15 objects an image and as many detections, half of them objects moved, 2 % crowds, sides of 8
to 400 pixels, all classes as one. Each evaluator reads the same two JSON files in a process of its own:

    pycocotools                COCO, loadRes, COCOeval: the twelve figures
    cuts3d                     Truth, evaluate: these and seven more, no intervals
    cuts3d, 1000 resamples     the same with the interval of each
    before                     the same two by the code of another checkout, `--before FOLDER`
    hotcoco, faster-coco-eval  the twelve figures, where they are installed (PYTHONPATH will do); and "matches", what
                               they have to tell of each image, which intervals need

Sizes of `--alone` are not given to what loops in Python. A line an evaluator and size: CPU seconds of reading JSON, of
indexing and checking, of scoring; ratio of pycocotools' indexing and scoring to its own; peak of memory; the largest
difference of the twelve figures to pycocotools'. On `--alone` sizes pycocotools' seconds are taken to grow with the
images from the largest it was given, and `ratio` is marked so.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gpu_record import commit, cpu_name
from gpu_usage import peak_memory

SIZE = np.array([1024, 768])
PER_IMAGE = 15
FIGURES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
LOOPING = ("pycocotools", "before", "before, 1000 resamples")
COLUMNS = (
    *("images", "objects", "detections", "evaluator", "read_cpu_s", "index_cpu_s", "score_cpu_s"),
    *("ratio", "ratio_is", "peak_mb", "difference", "machine", "commit"),
)

# Of the documents of truth and detections: indexing, which gives scoring, which gives the twelve figures.
Evaluator = Callable[[dict[str, Any], list[dict[str, Any]]], Callable[[], list[float]]]


def drawn(images: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO document without masks, and results."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for i in range(1, images + 1):
        boxes_G4 = boxes(rng, rng.poisson(PER_IMAGE))
        crowd_G = (rng.random(len(boxes_G4)) < 0.02).astype(int)
        for box, crowd in zip(boxes_G4.round(1).tolist(), crowd_G.tolist(), strict=True):
            fields = {"id": len(annotations) + 1, "image_id": i, "category_id": 1, "bbox": box, "iscrowd": crowd}
            annotations.append({**fields, "area": box[2] * box[3]})
        hits_D4 = boxes_G4[rng.random(len(boxes_G4)) < 0.5]
        hits_D4 += rng.normal(0, 0.08, hits_D4.shape) * hits_D4[:, [2, 3, 2, 3]]
        hits_D4[:, 2:] = np.maximum(hits_D4[:, 2:], 1)
        others_D4 = boxes(rng, rng.poisson(PER_IMAGE / 2))
        scores = np.concatenate([rng.beta(4, 2, len(hits_D4)), rng.beta(2, 4, len(others_D4))]).astype(np.float32)
        for box, score in zip(np.vstack([hits_D4, others_D4]).round(1).tolist(), scores.tolist(), strict=True):
            found.append({"image_id": i, "category_id": 1, "bbox": box, "score": score})
    width, height = SIZE.tolist()
    listed = [{"id": i, "file_name": f"{i}.jpg", "width": width, "height": height} for i in range(1, images + 1)]
    return {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}, found


def boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (number, 2)))
    return np.hstack([rng.uniform(0, 1, (number, 2)) * (SIZE - sides), sides])


def by_pycocotools(truth: dict[str, Any], found: list[dict[str, Any]]) -> Callable[[], list[float]]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    return lambda: _summarized(COCOeval(coco, coco.loadRes(found), "bbox"))


def by_hotcoco(truth: dict[str, Any], found: list[dict[str, Any]]) -> Callable[[], list[float]]:
    import hotcoco

    coco = hotcoco.COCO(truth)
    return lambda: _summarized(hotcoco.COCOeval(coco, coco.load_res(found), "bbox"))


def matches_of_hotcoco(truth: dict[str, Any], found: list[dict[str, Any]]) -> Callable[[], list[float]]:
    import hotcoco

    coco = hotcoco.COCO(truth)

    def score() -> list[float]:
        evaluation = hotcoco.COCOeval(coco, coco.load_res(found), "bbox")
        evaluation.evaluate()
        for image in evaluation.eval_imgs:
            if image is not None:
                np.array(image["dtMatched"]), np.array(image["dtIgnore"])
        return []

    return score


def by_faster_coco_eval(truth: dict[str, Any], found: list[dict[str, Any]]) -> Callable[[], list[float]]:
    from faster_coco_eval import COCO, COCOeval_faster

    coco = COCO(truth)
    return lambda: _summarized(COCOeval_faster(coco, coco.loadRes(found), "bbox"))


def matches_of_faster_coco_eval(truth: dict[str, Any], found: list[dict[str, Any]]) -> Callable[[], list[float]]:
    """Through what it writes into pickles: nothing else has them."""
    from faster_coco_eval import COCO, COCOeval_faster

    coco = COCO(truth)

    def score() -> list[float]:
        evaluation = COCOeval_faster(coco, coco.loadRes(found), "bbox", separate_eval=True)
        evaluation.evaluate()
        for image in evaluation._evalImgs_cpp:
            state = image.__getstate__()
            np.array(state[0]), np.array(state[4])
        return []

    return score


def by_cuts3d(truth: dict[str, Any], found: list[dict[str, Any]], bootstrap: int = 0) -> Callable[[], list[float]]:
    from pipeline.evaluation.scores import evaluate
    from pipeline.evaluation.truth.coco import Truth

    checked = Truth(truth, masks=False)

    def score() -> list[float]:
        result = evaluate(checked, found, list(checked.images), iou_types=["bbox"], bootstrap=bootstrap)
        return [result.metrics[f"box_{name}"].value for name in FIGURES]

    return score


def by_cuts3d_with_intervals(truth: dict[str, Any], found: list[dict[str, Any]]) -> Callable[[], list[float]]:
    return by_cuts3d(truth, found, bootstrap=1000)


EVALUATORS: dict[str, Evaluator] = {
    "pycocotools": by_pycocotools,
    "cuts3d": by_cuts3d,
    "cuts3d, 1000 resamples": by_cuts3d_with_intervals,
    "before": by_cuts3d,
    "before, 1000 resamples": by_cuts3d_with_intervals,
    "hotcoco": by_hotcoco,
    "hotcoco, matches": matches_of_hotcoco,
    "faster-coco-eval": by_faster_coco_eval,
    "faster-coco-eval, matches": matches_of_faster_coco_eval,
}


def _summarized(evaluation: Any) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:12]]


def cpu_seconds() -> float:
    """Of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(evaluator: str, folder: Path) -> dict[str, Any]:
    """In this process."""
    libraries_of(evaluator)
    times = [cpu_seconds()]
    truth, found = (json.loads((folder / name).read_text()) for name in ("truth.json", "found.json"))
    times.append(cpu_seconds())
    score = EVALUATORS[evaluator](truth, found)
    times.append(cpu_seconds())
    figures = score()
    times.append(cpu_seconds())
    read, index, scored = np.diff(times)
    return {"read": read, "index": index, "score": scored, "peak": peak_memory() / 1e6, "figures": figures}


def libraries_of(evaluator: str) -> None:
    """What an evaluator imports is loaded before its time is taken."""
    EVALUATORS[evaluator](*drawn(2))()


def of_process(evaluator: str, folder: Path, before: Path | None) -> dict[str, Any]:
    """The same in a process of its own. before: a checkout whose code "before" is."""
    environment = dict(os.environ)
    if evaluator.startswith("before"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(before), environment.get("PYTHONPATH")]))
    command = [sys.executable, __file__, "--measure", evaluator, str(folder)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows_of(images: int, evaluators: list[str], before: Path | None, known: float | None) -> list[dict[str, Any]]:
    """known: CPU seconds of pycocotools for each image, where it is not among the evaluators."""
    with tempfile.TemporaryDirectory() as folder:
        truth, found = drawn(images)
        for name, document in (("truth.json", truth), ("found.json", found)):
            Path(folder, name).write_text(json.dumps(document))
        facts = {"images": images, "objects": len(truth["annotations"]), "detections": len(found)}
        del truth, found
        results = {name: of_process(name, Path(folder), before) for name in evaluators}
    reference = results.get("pycocotools")
    seconds = reference["index"] + reference["score"] if reference else (known or 0) * images
    rows = []
    for name, result in results.items():
        figures = [np.nan if value < 0 else value for value in result["figures"]]
        theirs = reference["figures"] if reference and figures else figures
        rows.append(
            facts
            | {
                "evaluator": name,
                **{f"{step}_cpu_s": round(result[step], 2) for step in ("read", "index", "score")},
                "ratio": round(seconds / (result["index"] + result["score"]), 1),
                "ratio_is": "measured" if reference else "extrapolated",
                "peak_mb": round(result["peak"]),
                "difference": f"{np.nanmax(np.abs(np.subtract(figures, theirs))):.1e}" if reference and figures else "",
                "machine": cpu_name(),
                "commit": commit(),
            }
        )
    return rows


def installed(before: Path | None) -> list[str]:
    there = {"hotcoco": find_spec("hotcoco"), "faster-coco-eval": find_spec("faster_coco_eval"), "before": before}
    return [name for name in EVALUATORS if there.get(name.split(",")[0], True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 8000])
    parser.add_argument("--alone", type=int, nargs="*", default=[])
    parser.add_argument("--before", type=Path, help='a checkout of an earlier commit, "before" in the results')
    parser.add_argument("--evaluators", nargs="+", choices=EVALUATORS, help="these alone. [all that are there]")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "big_truth.csv")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(arguments.measure[0], Path(arguments.measure[1]))))
        return
    evaluators = arguments.evaluators or installed(arguments.before)
    known = None
    with arguments.out.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for images in [*sorted(arguments.images), *arguments.alone]:
            alone = images in arguments.alone
            rows = rows_of(
                images, [name for name in evaluators if not (alone and name in LOOPING)], arguments.before, known
            )
            table.writerows(rows)
            file.flush()
            for row in rows:
                print(*row.values(), sep="\t", flush=True)
                if row["evaluator"] == "pycocotools":
                    known = (row["index_cpu_s"] + row["score_cpu_s"]) / images


if __name__ == "__main__":
    main()
