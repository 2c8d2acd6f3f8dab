"""How much of the true classes a line can read out of a model's codes: a probe that learns from labels.

K width of the codes · C classes · h, w patch grid · H, W pixels
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError, SourceError
from pipeline.evaluation.beside_truth import ScoredImages
from pipeline.evaluation.semantic_report import ScoredRun, SemanticReport
from pipeline.evaluation.semantic_runs import RunLabels
from pipeline.evaluation.semantic_scores import Confusions, scored
from pipeline.evaluation.semantic_sizes import is_same_shape, resized
from pipeline.evaluation.semantic_truth.class_maps import IGNORED
from pipeline.evaluation.semantic_truth.truth import MapError, SemanticTruth
from pipeline.images.left_out import LeftOut
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import Photo, load_photos
from pipeline.methods.depthg.method import LabelMethod, LabelWork
from pipeline.methods.protocol import Batch
from pipeline.results.semantic_assignment import Assignment
from stages.late import torch
from stages.semantics.clusters import LinearProbe

ITERATIONS = 1000
_BATCH, _LEARNING_RATE = 16, 5e-3
_CLASSES_AT_ONCE = 16  # that are interpolated to the photo's size
_HOW = "a line through the codes, learnt from labels of the other half of these images,"


@dataclass(frozen=True)
class _Labelled:
    """A photo with a truth.

    number: in the truth.
    size: H, W.
    codes: float16 (K, h, w).
    classes: uint8 (h, w), the true ones at the middles of the patches.
    """

    ref: ImageRef
    number: int
    size: tuple[int, int]
    codes: np.ndarray
    classes: np.ndarray


def probe_model(
    method: LabelMethod,
    refs: Sequence[ImageRef],
    truth: SemanticTruth,
    *,
    model: str,
    iterations: int = ITERATIONS,
    bootstrap: int = 1000,
    seed: int = 0,
) -> SemanticReport:
    """Train a linear probe on the labels of one half of the images and score it on the other, and the other way round:
    each image is scored by a probe that has not seen it.

    method: whose codes are read; it sees each photo in one window.
    model: its name, for people.
    iterations: of each half, batches of 16 images.
    seed: of halves, batches and resamples.

    Raises ConfigError for a truth without a list of classes, SourceError where fewer than two images have a truth.
    """
    if truth.open_ended:
        raise ConfigError(f"{truth.name} does not say which classes there are: a probe needs a truth that does")
    found, by_id = truth.matched(refs), {ref.id: ref for ref in refs}
    wanted = [ref for ref in refs if found[ref.id] is not None]
    left_out, images = LeftOut(truth.name, "images"), list[_Labelled]()
    set_aside, odd = list[str](), list[str]()
    for loaded in load_photos(wanted):
        if isinstance(loaded, tuple):
            ref, fault = loaded
            set_aside.append(ref.id)
            left_out.add(fault.reason, fault.detail)
            continue
        number = found[loaded.id]
        assert number is not None  # it is wanted
        try:
            images.append(_labelled(method, loaded, by_id[loaded.id], number, truth))
        except MapError as error:
            odd.append(loaded.id)
            left_out.add(error.reason, error.detail)
    left_out.tell(len(wanted))
    if len(images) < 2:
        raise SourceError(f"{truth.name} has {len(images)} of {len(refs)} images: a probe needs two at least")
    classes, identity = truth.classes, tuple(range(len(truth.classes)))
    confusions = Confusions(len(classes))
    for labels_HW, truth_HW in _probed(images, truth, method.device, iterations, seed):
        confusions.add(labels_HW, truth_HW)
    (scores,), _ = scored([confusions.by_class(identity, len(classes))], bootstrap=bootstrap, seed=seed)
    labels = RunLabels(
        url=model,
        recipe="linear probe, with labels",
        clusters=classes,
        model=method.labeller.model.fingerprint,
        confusions=confusions,
        images=ScoredImages(
            tuple(image.number for image in images),
            unlabelled=tuple(ref.id for ref in refs if found[ref.id] is None),
            set_aside=tuple(set_aside),
            odd=tuple(odd),
        ),
    )
    own = ScoredRun(labels, Assignment(classes, classes, identity), scores, confusions.total(len(classes)))
    return SemanticReport(
        truth=truth.name,
        benchmark="",  # published figures are of probes that learnt from other images
        numbering=truth.numbering,
        classes=classes,
        runs=(own,),
        difference=None,
        images=len(images),
        missing=len(truth.paths) - len(images),
        given=_HOW,
        void="wrong",
        crop=None,
        bootstrap=bootstrap,
        seed=seed,
    )


def _labelled(method: LabelMethod, photo: Photo, ref: ImageRef, number: int, truth: SemanticTruth) -> _Labelled:
    size = photo.rgb.shape[0], photo.rgb.shape[1]
    truth_HW = truth.labels(number, ref, size).labels
    if not is_same_shape(size, (truth_HW.shape[0], truth_HW.shape[1])):
        raise MapError("of another shape", f"{ref.id}, whose truth has {truth_HW.shape[0]} × {truth_HW.shape[1]}")
    (seen,) = LabelWork(method.labeller, Batch(None, (0,), (photo,))).whole
    (codes_Khw,) = seen.codes_VKhw
    classes = resized(truth_HW, (codes_Khw.shape[1], codes_Khw.shape[2]))
    return _Labelled(ref, number, size, codes_Khw.half().cpu().numpy(), classes)


def _probed(
    images: Sequence[_Labelled], truth: SemanticTruth, device: "torch.device", iterations: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each image, half after half, the classes that the probe of the other half gives it, and the true ones."""
    order = np.random.default_rng(seed).permutation(len(images))
    halves = order[::2], order[1::2]
    for half, other in (halves, halves[::-1]):
        probe = _trained([images[i] for i in other], len(truth.classes), device, iterations, seed)
        for i in half:
            image = images[i]
            truth_HW = truth.labels(image.number, image.ref, image.size).labels
            yield _classes_of(probe, image, (truth_HW.shape[0], truth_HW.shape[1])), truth_HW


def _trained(
    images: Sequence[_Labelled], classes: int, device: "torch.device", iterations: int, seed: int
) -> LinearProbe:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = LinearProbe(images[0].codes.shape[0], classes).to(device)
    optimizer = torch.optim.Adam(probe.parameters(), lr=_LEARNING_RATE)
    rng = np.random.default_rng(seed)
    for _ in range(iterations):
        some = [images[i] for i in rng.integers(0, len(images), _BATCH)]
        codes_BKhw = torch.from_numpy(np.stack([image.codes for image in some])).to(device).float()
        labels_Bhw = torch.from_numpy(np.stack([image.classes for image in some])).to(device).long()
        loss = probe.loss(codes_BKhw, labels_Bhw.masked_fill(labels_Bhw == IGNORED, -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe


def _classes_of(probe: LinearProbe, image: _Labelled, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W) at this size: logits interpolated, a few classes at a time, and the largest of all."""
    with torch.no_grad():
        codes_1Khw = torch.from_numpy(image.codes)[None].to(probe.classifier.weight.device).float()
        logits_1Chw = probe.classifier(codes_1Khw)
        best_HW, labels_HW = torch.full(size, -torch.inf), torch.zeros(size, dtype=torch.uint8)
        for start in range(0, probe.classes, _CLASSES_AT_ONCE):
            some = logits_1Chw[:, start : start + _CLASSES_AT_ONCE]
            large = torch.nn.functional.interpolate(some, size, mode="bilinear", align_corners=False)
            values_HW, places_HW = large[0].cpu().max(dim=0)
            better_HW = values_HW > best_HW
            best_HW = torch.where(better_HW, values_HW, best_HW)
            labels_HW = torch.where(better_HW, (places_HW + start).to(torch.uint8), labels_HW)
    labels: np.ndarray = labels_HW.numpy()
    return labels
