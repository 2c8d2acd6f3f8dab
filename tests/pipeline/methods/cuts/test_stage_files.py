"""What stages keep comes back as it was: maps, eigenvectors, proposals with the parts of their scores, confidences."""

import dataclasses
import math

import numpy as np
import pytest

from pipeline.methods.cuts.proposals import ImageProposals, Proposal, StopReason
from pipeline.methods.cuts.stage_files import CutImage, KeptOutputs, write_outputs
from pipeline.storage.array_file import ArrayFile
from stages.filters import DropReason
from stages.score import PARTS, ScoreParts

GRID = (5, 4)


def proposal(seed: int, dropped: DropReason | None = None) -> Proposal:
    """Every field its own random value, as precise as the search has it."""
    rng = np.random.default_rng(seed)
    group = rng.random(GRID) < 0.7
    return Proposal(
        round=int(rng.integers(256)),
        level=int(rng.integers(1, 5)),
        eigenvector=rng.normal(size=GRID).astype(np.float32),
        eigenvalue=float(np.float32(rng.random())),
        gap=float(np.float32(rng.random())),
        parts=ScoreParts(*rng.random(len(PARTS)).tolist()),
        group=group,
        mask=group & (rng.random(GRID) < 0.7),
        settled=rng.random(GRID) < 0.5,
        tau=math.inf if seed % 2 else float(rng.random()),
        source=int(rng.integers(20)),
        sink=int(rng.integers(-1, 20)),
        dropped=dropped,
    )


def images() -> list[CutImage | None]:
    """Two of a tree, with and without proposals, one of rounds with drops of every reason, and one that failed."""
    dropped = tuple(proposal(10 + k, reason) for k, reason in enumerate((None, *DropReason, None)))
    found = [
        ImageProposals((proposal(0), proposal(1)), StopReason.TREE),
        None,
        ImageProposals((), StopReason.MERGED),
        ImageProposals(dropped, StopReason.REST),
    ]
    return [None if image is None else CutImage(image, (None,) * len(image.proposals)) for image in found]


def with_confidence(image: CutImage | None) -> CutImage | None:
    if image is None:
        return None
    maps = (
        None if p.dropped else np.random.default_rng(p.source).integers(0, 256, GRID).astype(np.uint8)
        for p in image.found.proposals
    )
    return CutImage(image.found, tuple(maps))


def same(one: CutImage, other: CutImage) -> None:
    assert one.found.stop is other.found.stop
    for a, b in zip(one.found.proposals, other.found.proposals, strict=True):
        for field in dataclasses.fields(Proposal):
            mine, theirs = getattr(a, field.name), getattr(b, field.name)
            np.testing.assert_array_equal(mine, theirs, err_msg=field.name)
            assert type(mine) is type(theirs), field.name
            if isinstance(mine, np.ndarray):
                assert mine.dtype == theirs.dtype, field.name
        assert a.parts == b.parts, "to the last bit: the score of a later launch must be that of a fused one"
    for a_map, b_map in zip(one.confidences, other.confidences, strict=True):
        assert (a_map is None) == (b_map is None)
        if a_map is not None:
            np.testing.assert_array_equal(a_map, b_map)


@pytest.mark.parametrize("stage", ["localcut", "confidence"])
def test_proposals_come_back_as_they_were(stage: str) -> None:
    written = [with_confidence(image) if stage == "confidence" else image for image in images()]
    kept = KeptOutputs.open(stage, write_outputs(stage, written, GRID, {"shard": "00000"}))
    assert kept.done.tolist() == [True, False, True, True]
    assert kept.covers([0, 2, 3])
    assert not kept.covers([0, 1])
    for positions in ([0, 2, 3], [3], [2, 0]):
        for position, image in zip(positions, kept.cut_images(positions), strict=True):
            expected = written[position]
            assert expected is not None
            same(image, expected)


def test_every_part_of_the_score_is_a_column() -> None:
    file = ArrayFile.open(write_outputs("localcut", images(), GRID, {}), "cut.zip")
    proposals = [p for image in images() if image is not None for p in image.found.proposals]
    for part in PARTS:
        assert file.read(f"proposals/{part}").tolist() == [getattr(p.parts, part) for p in proposals]
    assert file.read("images/offsets").tolist() == [0, 2, 2, 2, 4 + len(DropReason)]
    assert file.attributes["schema"] == "cuts3d-localcut/1"


def test_a_shard_without_proposals() -> None:
    nothing = CutImage(ImageProposals((), StopReason.TREE), ())
    for stage in ("localcut", "confidence"):
        kept = KeptOutputs.open(stage, write_outputs(stage, [nothing, None], GRID, {}))
        same(kept.cut_images([0])[0], nothing)


def test_maps_and_eigenvectors_come_back_as_they_were() -> None:
    rng = np.random.default_rng(0)
    near, far = rng.random((2, *GRID)).astype(np.float32)
    kept = KeptOutputs.open("depth", write_outputs("depth", [near, None, far], GRID, {}))
    np.testing.assert_array_equal(kept.maps([2, 0]), np.stack([far, near]))
    features = [None, rng.normal(size=(20, 6)).astype(np.float16)]
    kept = KeptOutputs.open("features", write_outputs("features", features, GRID, {}))
    np.testing.assert_array_equal(kept.maps([1])[0], features[1])
    assert kept.maps([1]).dtype == np.float16
    solved = [(rng.normal(size=20).astype(np.float32), float(np.float32(0.3)), 0.25), None]
    kept = KeptOutputs.open("ncut", write_outputs("ncut", solved, GRID, {}))
    first = kept.eigenvectors([0])
    np.testing.assert_array_equal(first.eigenvector_BN[0], solved[0][0])  # type: ignore[index]
    assert (float(first.eigenvalue_B[0]), float(first.gap_B[0])) == solved[0][1:]  # type: ignore[index]
