"""What libraries make of random segments, recorded once: recorded_panoptic.npz.

hotcoco 1.3.0 for COCO's rule, which it holds against panopticapi, and torchmetrics 1.3.1 for the rule that forgives
void. Where both are installed, this records again:

    PYTHONPATH=.:tests python tests/support/recorded_panoptic.py
"""

import json
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from pipeline.evaluation.panoptic_quality import PredictedSegments, TrueSegments
from support.panoptic_scenes import LABELS, THINGS, Scene, scene

RECORDING = Path(__file__).with_suffix(".npz")
VERSIONS = {"hotcoco": "1.3.0", "torchmetrics": "1.3.1"}
SCENES = 200
NAMES = ("ids", "labels", "marks")  # the fields of segments


def recorded() -> tuple[list[Scene], dict[str, np.ndarray]]:
    """The images; and by rule the IoUs of matches added up, TP, FP and FN, (4, labels)."""
    with np.load(RECORDING) as arrays:
        stored = dict(arrays)
    scenes = []
    for place, size in enumerate(stored["size"]):
        own, true = (
            (ids.reshape(size).astype(np.int32), labels, marks)
            for ids, labels, marks in (
                [np.split(stored[f"{side}_{name}"], stored[f"{side}_{name}_ends"])[place] for name in NAMES]
                for side in ("predicted", "true")
            )
        )
        scenes.append((PredictedSegments(*own), TrueSegments(*true)))
    return scenes, {rule: stored[rule] for rule in ("panopticapi", "forgiven")}


def by_hotcoco(scenes: list[Scene]) -> np.ndarray:
    """(4, labels), as in `recorded`."""
    from hotcoco.panoptic import pq_compute

    with TemporaryDirectory() as folder:
        for name in ("true", "predicted"):
            _write(Path(folder), name, scenes)
        files = [f"{folder}/{name}{ending}" for ending in (".json", "") for name in ("true", "predicted")]
        found = pq_compute(*files)["per_class"]
    return np.array([[found[label + 1][key] for label in range(LABELS)] for key in ("iou", "tp", "fp", "fn")])


def by_torchmetrics(scenes: list[Scene]) -> np.ndarray:
    """(4, labels), as in `recorded`."""
    import torch
    from torchmetrics.detection import PanopticQuality

    metric = PanopticQuality(set(range(THINGS)), set(range(THINGS, LABELS)), allow_unknown_preds_category=True)
    for predicted, true in scenes:
        pair = (predicted.ids, predicted.clusters, predicted.instances), (true.ids, true.classes, ~true.crowd)
        metric.update(*(torch.from_numpy(_colours(*one))[None] for one in pair))
    sums = metric.iou_sum, metric.true_positives, metric.false_positives, metric.false_negatives
    return np.array([one.numpy() for one in sums])


def _write(folder: Path, name: str, scenes: list[Scene]) -> None:
    (folder / name).mkdir()
    images, annotations = [], []
    for number, (predicted, true) in enumerate(scenes, start=1):
        ids, labels = (predicted.ids, predicted.clusters) if name == "predicted" else (true.ids, true.classes)
        crowd = true.crowd if name == "true" else np.zeros(len(labels), bool)
        Image.fromarray(np.stack([ids, ids * 0, ids * 0], axis=-1).astype(np.uint8)).save(
            folder / name / f"{number}.png"
        )
        segments = [
            {"id": s, "category_id": int(labels[s - 1]) + 1, "iscrowd": int(crowd[s - 1]), "bbox": [0, 0, 1, 1]}
            | {"area": int((ids == s).sum())}
            for s in np.unique(ids[ids > 0]).tolist()
        ]
        images.append({"id": number, "file_name": f"{number}.jpg", "height": ids.shape[0], "width": ids.shape[1]})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    categories = [{"id": label + 1, "name": str(label), "isthing": int(label < THINGS)} for label in range(LABELS)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(document))


def _colours(ids: np.ndarray, labels: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Label and number of an instance per pixel; 255 is a label that torchmetrics does not know: void."""
    label_HW = np.append(255, labels)[ids]
    return np.stack([label_HW, np.where(np.append(False, apart)[ids], ids, 0)], axis=-1).astype(np.int64)


def main() -> None:
    if (found := {name: version(name) for name in VERSIONS}) != VERSIONS:
        raise SystemExit(f"these are {found}, not {VERSIONS}")
    scenes = [scene(seed) for seed in range(SCENES)]
    arrays = {"panopticapi": by_hotcoco(scenes), "forgiven": by_torchmetrics(scenes)}
    arrays["size"] = np.array([true.size for _, true in scenes])
    for side, images in zip(("predicted", "true"), zip(*scenes, strict=True), strict=True):
        for place, name in enumerate(NAMES):
            values = [one[place].ravel() for one in images]
            arrays[f"{side}_{name}"] = np.concatenate(values).astype(np.uint8 if place < 2 else bool)
            arrays[f"{side}_{name}_ends"] = np.cumsum([len(one) for one in values])[:-1]
    np.savez_compressed(RECORDING, **arrays)
    print(f"{SCENES} images: {RECORDING.stat().st_size / 1e3:.0f} kB in {RECORDING}")


if __name__ == "__main__":
    main()
