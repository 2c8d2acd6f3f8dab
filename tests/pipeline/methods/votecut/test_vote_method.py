"""VoteCut as a method: what its records say, networks that are read once, real photos against a transcription."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support import reference_votecut as reference
from support.method_samples import ODD
from support.tiny_votes import tiny_votes

from pipeline.images.photos import Photo, load_photo
from pipeline.images.sources import list_images
from pipeline.methods.protocol import Batch
from pipeline.methods.votecut import method as votecut
from pipeline.methods.votecut.load import load_votecut
from pipeline.methods.votecut.method import LoadedVoter, VoteMethod, VoteWork
from pipeline.runs.launch import Launch
from stages.features import FeatureExtractor


def photos() -> list[Photo]:
    rng = np.random.default_rng(0)
    drawn = np.full((64, 80, 3), 220, np.uint8)
    drawn[10:40, 12:38] = (120, 30, 30)
    drawn[30:60, 50:75] = (20, 20, 90)
    noisy = np.clip(drawn + rng.normal(0, 20, drawn.shape), 0, 255).astype(np.uint8)
    return [Photo("drawn.png", drawn), Photo("noisy.png", noisy), *(Photo(name, rgb) for name, rgb in ODD.items())]


def masks_of(method: VoteMethod) -> list[list[tuple[bytes, float]]]:
    records = method.outputs(Batch(None, range(5), photos()))
    return [[(instance.rle, instance.score) for instance in record.instances] for record in records]


def test_what_a_record_says() -> None:
    method = tiny_votes()
    records = method.outputs(Batch(None, range(5), photos()))
    assert sum(len(record.instances) for record in records) > 3
    for record, photo in zip(records, photos(), strict=True):
        assert (record.id, record.size, record.depth) == (photo.id, photo.rgb.shape[:2], None)
        votes = [instance.score for instance in record.instances]
        assert votes == sorted(votes, reverse=True)
        for place, instance in enumerate(record.instances):
            assert instance.score == int(instance.score) >= 1
            assert (instance.round, instance.proposal) == (place, None)
            assert set(np.unique(instance.confidence).tolist()) <= {0, 255}
            assert instance.confidence.shape == (8, 8)


def test_the_order_of_voters_and_the_batch_do_not_matter() -> None:
    method = tiny_votes()
    expected = masks_of(method)
    turned = VoteMethod(method.recipe, method.voters[::-1], method.device)
    assert masks_of(turned) == expected
    # not the last one, which is full of ties: there rounding decides, and that depends on the batch
    alone = [method.outputs(Batch(None, [0], [photo]))[0].instances for photo in photos()[:-1]]
    assert [[(one.rle, one.score) for one in own] for own in alone] == expected[:-1]


def test_each_network_sees_each_photo_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[int] = Counter()
    read = votecut.read_together

    def counting(extractors: Sequence[FeatureExtractor], images: Sequence[np.ndarray]) -> list[torch.Tensor]:
        seen[id(extractors[0].network)] += len(images)
        return read(extractors, images)

    monkeypatch.setattr(votecut, "read_together", counting)
    method = tiny_votes()
    method.outputs(Batch(None, range(5), photos()))
    assert len(method.voters) == 3
    assert sorted(seen.values()) == [5, 5]


def test_voters_of_one_network_give_what_they_give_alone() -> None:
    method = tiny_votes()
    together = VoteWork(method, Batch(None, range(5), photos())).eigenvectors
    for place, voter in enumerate(method.voters):
        alone = VoteWork(
            VoteMethod(method.recipe, [voter], method.device), Batch(None, range(5), photos())
        ).eigenvectors
        for own, others in zip(alone, together, strict=True):
            np.testing.assert_allclose(np.abs(own[0]), np.abs(others[place]), atol=2e-2)


def test_more_eigenvectors_are_more_candidates() -> None:
    method = tiny_votes(overrides=("candidates.eigenvectors=3",))
    vectors = VoteWork(method, Batch(None, [0], photos()[:1])).eigenvectors
    assert len(vectors[0]) == 9


@pytest.mark.slow(60)
def test_real_photos_are_as_the_transcription_has_them(assets: Path) -> None:
    """Before the CRF. Eigenvectors are found by two ways in two precisions, and nothing else differs: so nearly all
    masks are the same to the patch.
    """
    weights = assets / "weights" / "dinov2_vits14_fp16.safetensors"
    features = f"dinov2_vits14={weights}:476,dinov2_vits14={weights}:keys:centred:476:tau=0.2"
    real_photos = [load_photo(ref) for ref in list_images(str(assets / "coco" / "images")).refs[:8]]
    method = load_votecut(Launch(recipe="votecut", settings={"features": features}), "cpu")
    overlaps, same_votes = [], []
    for photo in real_photos:
        batch = Batch(None, [0], [photo])
        ours = [(one.mask, one.votes) for one in VoteWork(method, batch).voted[0]]
        made_by = [voter.extractor.fingerprint for voter in method.voters]
        both = batch.shared.once_each("features", made_by, [0], batch.seconds, lambda _: pytest.fail("read twice"))
        read = zip(method.voters, both, strict=True)
        theirs = reference.votes([mask for voter, features in read for mask in _transcribed(voter, features)])
        same_votes.append([votes for _, votes in ours] == [votes for _, votes in theirs])
        for some, others in ((ours, theirs), (theirs, ours)):
            for mask, _ in some:
                ious = [(mask & other).sum() / (mask | other).sum() for other, _ in others]
                overlaps.append(max(ious, default=0.0))
    assert len(real_photos) == 8
    assert np.mean(same_votes) >= 0.8
    assert np.mean(overlaps) >= 0.99


def _transcribed(voter: LoadedVoter, features_BND: torch.Tensor) -> list[np.ndarray]:
    features_ND = features_BND[0].float().numpy()
    (vector_N,) = reference.eigenvectors(features_ND, voter.tau, 1)
    labels = [reference.best_labels(vector_N, k).reshape(voter.extractor.grid) for k in (2, 3)]
    return [mask for own in labels for mask in reference.components(own)]
