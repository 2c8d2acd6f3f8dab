"""Panoptic quality by sets of pixels, from the published descriptions of its two rules: slow, plain, independent.

An image is two dicts, predicted and true: by name of a segment its class and its pixels, a set. What is in no segment
is void.
"""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

Pixels = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Segment:
    """One segment of an image."""

    label: int
    pixels: Pixels
    crowd: bool = False


@dataclass
class Tally:
    """Of each class: matches, false and missed segments, and the IoUs of the matches."""

    matched: Counter = field(default_factory=Counter)
    false: Counter = field(default_factory=Counter)
    missed: Counter = field(default_factory=Counter)
    ious: Counter = field(default_factory=Counter)

    def quality(self, label: int) -> tuple[float, float, float] | None:
        """PQ, SQ, RQ; None for a class without any segment."""
        segments = self.matched[label] + Fraction(self.false[label] + self.missed[label], 2)
        if not segments:
            return None
        sq = self.ious[label] / self.matched[label] if self.matched[label] else Fraction(0)
        rq = self.matched[label] / segments
        return float(sq * rq), float(sq), float(rq)


def panopticapi(images: list[tuple[list[Segment], list[Segment]]], everything: list[Pixels]) -> Tally:
    """The rule of COCO's and Cityscapes' evaluation. everything: of each image all its pixels."""
    tally = Tally()
    for (predicted, true), pixels in zip(images, everything, strict=True):
        unlabelled = pixels - frozenset().union(*(one.pixels for one in true))
        partners_of: dict[int, int] = {}
        for t, one in enumerate(true):
            for p, other in enumerate(predicted):
                if one.crowd or one.label != other.label:
                    continue
                iou = _iou(one.pixels, other.pixels - unlabelled)
                if iou > Fraction(1, 2):
                    assert t not in partners_of.values()
                    assert p not in partners_of
                    partners_of[p] = t
                    tally.matched[one.label] += 1
                    tally.ious[one.label] += iou
        for t, one in enumerate(true):
            if not one.crowd and t not in partners_of.values():
                tally.missed[one.label] += 1
        for p, other in enumerate(predicted):
            crowds = frozenset().union(*(one.pixels for one in true if one.crowd and one.label == other.label))
            if p not in partners_of and not _mostly(other.pixels, unlabelled | crowds):
                tally.false[other.label] += 1
    return tally


def forgiven(images: list[tuple[list[Segment], list[Segment]]], everything: list[Pixels]) -> Tally:
    """The rule of torchmetrics: what is void on either side is left out of unions, and excuses segments that lie mostly
    in it; there are no crowds.
    """
    tally = Tally()
    for (predicted, true), pixels in zip(images, everything, strict=True):
        void_true = pixels - frozenset().union(*(one.pixels for one in true))
        void_predicted = pixels - frozenset().union(*(one.pixels for one in predicted))
        matched_p, matched_t = set(), set()
        for t, one in enumerate(true):
            for p, other in enumerate(predicted):
                if one.label != other.label or not one.pixels & other.pixels:
                    continue
                iou = _iou(one.pixels - void_predicted, other.pixels - void_true)
                if iou > Fraction(1, 2):
                    assert t not in matched_t
                    assert p not in matched_p
                    matched_p.add(p)
                    matched_t.add(t)
                    tally.matched[one.label] += 1
                    tally.ious[one.label] += iou
        for t, one in enumerate(true):
            if t not in matched_t and not _mostly(one.pixels, void_predicted):
                tally.missed[one.label] += 1
        for p, other in enumerate(predicted):
            if p not in matched_p and not _mostly(other.pixels, void_true):
                tally.false[other.label] += 1
    return tally


RULES = {"panopticapi": panopticapi, "forgiven": forgiven}


def _iou(one: Pixels, other: Pixels) -> Fraction:
    return Fraction(len(one & other), len(one | other)) if one | other else Fraction(0)


def _mostly(pixels: Pixels, place: Pixels) -> bool:
    return 2 * len(pixels & place) > len(pixels)
