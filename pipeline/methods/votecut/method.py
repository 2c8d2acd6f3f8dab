"""One batch of images through VoteCut: features of all voters, their eigenvectors, the masks that win.

B images of the batch · N = Gh·Gw patches · D feature width · E eigenvectors of a voter · Gh, Gw patch grid
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from pipeline.methods.protocol import Batch, Inputs
from pipeline.methods.shared.batch_inputs import BatchInputs, once
from pipeline.methods.shared.instances import encoded_instance, finished_record, touched_patches
from pipeline.methods.votecut.recipe import NAME, VoteRecipe
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import ImageRecord, Instance
from stages.affinity import AffinityConfig, affinity_edges
from stages.box_refine import refine_in_boxes
from stages.features import FeatureExtractor, read_together
from stages.late import torch
from stages.mask_votes import VotedMask, candidate_masks, vote
from stages.ncut import symmetric_eigenvectors
from stages.refine import RefinedMasks


@dataclass(frozen=True)
class LoadedVoter:
    """tau: threshold on the cosines of its features."""

    extractor: FeatureExtractor
    tau: float


class VoteMethod:
    """A `pipeline.methods.protocol.Method`: a recipe of VoteCut and its voters.

    voters: those that read one network, `FeatureExtractor.reading`, share its pass over a photo.
    """

    name = NAME
    takes: ClassVar[Inputs] = "photos"
    stages: ClassVar[Sequence[str]] = ()
    batch_size = 2

    def __init__(self, recipe: VoteRecipe, voters: Sequence[LoadedVoter], device: torch.device) -> None:
        self.recipe = recipe
        self.voters = tuple(voters)
        self.device = device

    def kind(self, until: str | None) -> InstanceKind:
        """Instances, on the grid of the vote."""
        return InstanceKind((self.recipe.votes.grid, self.recipe.votes.grid))

    def config(self) -> dict[str, Any]:
        """What run.json freezes. Device and batch size are not in it: they do not decide results."""
        return {
            "recipe": self.recipe.as_dict(),
            "voters": [{**asdict(voter.extractor.config), "tau": voter.tau} for voter in self.voters],
            "fingerprints": [voter.extractor.fingerprint for voter in self.voters],
        }

    def needs_inputs(self, until: str | None, kept: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def outputs(self, batch: Batch) -> Sequence[ImageRecord]:
        """See `pipeline.methods.protocol.Method`."""
        return VoteWork(self, batch).records


class VoteWork(BatchInputs):
    """The stages of one batch, each a lazily computed attribute."""

    def __init__(self, method: VoteMethod, batch: Batch) -> None:
        super().__init__(method.device, batch.photos, batch.seconds, batch.pool)
        self.method = method
        self._positions, self._shared = batch.positions, batch.shared

    @once
    def eigenvectors(self) -> list[list[np.ndarray]]:
        """Of each image those of all voters, one after the other: float32 (Gh, Gw), each on its voter's grid."""
        voters: dict[int, list[LoadedVoter]] = {}
        for voter in self.method.voters:
            voters.setdefault(id(voter.extractor.network), []).append(voter)
        found: list[list[np.ndarray]] = [[] for _ in self.photos]
        for group in voters.values():
            for voter, features_BND in zip(group, self._features_of(group), strict=True):
                vectors_BEGG = self._eigenvectors_of(voter, features_BND)
                for own, vectors_EGG in zip(found, vectors_BEGG, strict=True):
                    own.extend(vectors_EGG)
        return found

    def _features_of(self, group: Sequence[LoadedVoter]) -> Sequence[torch.Tensor]:
        """Of each voter of one network (B, N, D) float16."""
        extractors = [voter.extractor for voter in group]

        def read(missing: Sequence[int]) -> Sequence[torch.Tensor]:
            with self._clock("features"):
                return read_together([extractors[i] for i in missing], [photo.rgb for photo in self.photos])

        made_by = [extractor.fingerprint for extractor in extractors]
        return self._shared.once_each("features", made_by, self._positions, self._seconds, read)

    def _eigenvectors_of(self, voter: LoadedVoter, features_BND: torch.Tensor) -> np.ndarray:
        recipe = self.method.recipe
        affinity = AffinityConfig(voter.tau, recipe.affinity.weights, recipe.affinity.epsilon)
        with self._clock("affinity"):
            edges_BNN = affinity_edges(features_BND, affinity)
        with self._clock("ncut"):
            vectors_BEN = symmetric_eigenvectors(
                edges_BNN, affinity.epsilon, recipe.ncut, recipe.candidates.eigenvectors
            )
            vectors: np.ndarray = vectors_BEN.cpu().numpy().reshape(*vectors_BEN.shape[:2], *voter.extractor.grid)
            return vectors

    @once
    def voted(self) -> list[list[VotedMask]]:
        """Of each image its masks before the CRF, those with most votes first."""
        vectors = self.eigenvectors
        with self._clock("vote"):
            return list(self._each(partial(_voted, recipe=self.method.recipe), vectors))

    @once
    def refined(self) -> list[RefinedMasks]:
        """Of each image its masks at its own size."""
        side = self.method.recipe.votes.grid
        masks = [np.array([one.mask for one in own], bool).reshape(-1, side, side) for own in self.voted]
        with self._clock("refine"):
            return [
                refine_in_boxes(photo.rgb, own, self.method.recipe.refine, self.method.device)
                for photo, own in zip(self.photos, masks, strict=True)
            ]

    @once
    def records(self) -> list[ImageRecord]:
        """The finished images."""
        voted, refined = self.voted, self.refined
        with self._clock("encode"):
            return list(self._each(_record, self.names, voted, refined))


def _voted(vectors: Sequence[np.ndarray], recipe: VoteRecipe) -> list[VotedMask]:
    return vote([candidate_masks(vector_GG, recipe.candidates) for vector_GG in vectors], recipe.votes)


def _record(photo: tuple[str, tuple[int, int]], voted: Sequence[VotedMask], refined: RefinedMasks) -> ImageRecord:
    """The finished image. photo: its id, height and width."""
    instances: list[Instance] = []
    for one, mask_HW, crf_iou, dropped in zip(voted, refined.masks, refined.crf_iou, refined.dropped, strict=True):
        if dropped is None:
            confidence = np.where(touched_patches(mask_HW, one.mask.shape), 255, 0).astype(np.uint8)
            known = {"score": float(one.votes), "round": len(instances), "crf_iou": float(crf_iou)}
            instances.append(encoded_instance(mask_HW, confidence, **known))
    return finished_record(photo, instances, Counter(str(reason) for reason in refined.dropped if reason))
