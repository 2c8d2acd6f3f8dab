"""The tiny recipe of CUPS on drawn streets: a detector that learns stuff and things, and labels that it can learn from
itself.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from support.drawn_streets import PERSON, ROAD, SKY, predicted, street, street_training, write_start, write_streets

from detector.model.build import build_model
from detector.model.checkpoints import read_detector
from detector.training.pseudo_labels import Labeller, LabelRule
from detector.training.train import train
from pipeline.results.panoptic import PanopticRecord

pytestmark = [pytest.mark.slow(60), pytest.mark.usefixtures("module_cache")]

# Bounds, chosen before these streets were looked at: at this size the two kinds of stuff are told apart in every
# picture, and of the things the people, which differ from all else by colour and shape, are found.
TESTED = range(200, 212)
STEPS = 90


def stuff_ious(records: Sequence[PanopticRecord]) -> list[float]:
    """Mean IoU over the streets of sky, and of road."""
    pairs = [(record.labels, street(seed)[1]) for record, seed in zip(records, TESTED, strict=True)]
    return [
        float(np.mean([((a == c) & (b == c)).sum() / ((a == c) | (b == c)).sum() for a, b in pairs]))
        for c in (SKY, ROAD)
    ]


def people(seed: int) -> list[np.ndarray]:
    _, labels, ids = street(seed)
    return [ids == k for k in range(1, int(ids.max()) + 1) if labels[ids == k][0] == PERSON]


def matched(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> int:
    return sum(any((a & b).sum() / (a | b).sum() > 0.5 for a in found) for b in wanted)


def people_found(records: Sequence[PanopticRecord]) -> float:
    """Share of all people of whom an instance has an IoU above 0.5."""
    hits = total = 0
    for record, seed in zip(records, TESTED, strict=True):
        found = [record.instance_ids == k + 1 for k, one in enumerate(record.instances) if one.class_ == PERSON]
        hits += matched(found, people(seed))
        total += len(people(seed))
    assert total > 10
    return hits / total


def test_the_tiny_recipe_learns_streets_it_has_not_seen(tmp_path: Path) -> None:
    run = write_streets(tmp_path / "streets", range(32))
    untrained = predicted(write_start(tmp_path / "start.safetensors", run), TESTED)
    how = ("optim_wrapper.optimizer.lr=0.002", "custom_hooks.2.batches=10", "default_hooks.logger.interval=10")
    path = train(street_training(run.url, tmp_path / "work", *how, iterations=STEPS, batch_size=4))
    (log,) = (tmp_path / "work").glob("*/vis_data/scalars.json")
    course = [json.loads(line)["loss_seg"] for line in log.read_text().splitlines()]
    assert fmean(course[-3:]) < 0.6 * fmean(course[:3]), course

    records = predicted(path, TESTED)
    print(stuff_ious(untrained), stuff_ious(records), people_found(untrained), people_found(records))
    assert max(stuff_ious(untrained)) < 0.5
    assert min(stuff_ious(records)) > 0.6
    assert people_found(untrained) < 0.2
    assert people_found(records) > 0.5

    # What it would teach itself: where a pixel is not left out it has the right class, and sure people are people.
    detector = read_detector(path)
    assert detector.panoptic is not None
    label = detector.panoptic.things.index(PERSON)
    labeller = Labeller(build_model(detector), LabelRule())
    right, sure, hits = [], 0, 0
    for seed in TESTED:
        rgb, labels, _ = street(seed)
        image = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1)))
        taught = labeller(image)
        wanted = np.where(labels > ROAD, 0, labels + 1)  # sky and road are the stuff classes 1 and 2
        known = taught.seg_HW != 255
        right.append((taught.seg_HW == wanted)[known].mean())
        found = [mask > 0 for mask, own in zip(taught.values_MHW, taught.labels_M, strict=True) if own == label]
        sure, hits = sure + len(found), hits + matched(people(seed), found)
    print(right, hits, sure)
    assert np.mean(right) > 0.75
    assert sure >= 5
    assert hits / sure > 0.7
