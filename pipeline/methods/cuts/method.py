"""One batch of images through the stages, each computed once or taken from what an earlier launch kept.

B images of the batch · N = Gh·Gw patches · D feature width · Gh, Gw patch grid
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from pipeline.images.photos import Photo
from pipeline.methods.cuts.hierarchy_search import partitions, search_hierarchy, with_levels
from pipeline.methods.cuts.merge_search import search_merge
from pipeline.methods.cuts.proposals import Eigenvectors, ImageProposals, Proposal, confidence_of
from pipeline.methods.cuts.recipes import Recipe
from pipeline.methods.cuts.search import first_ncut, propose, semantic_graph
from pipeline.methods.cuts.stage_files import CutImage, KeptOutputs, Output, StageFile
from pipeline.methods.cuts.stage_graph import INPUTS, LAST, NAME, STAGES
from pipeline.methods.protocol import Batch, Inputs, SharedOutputs
from pipeline.methods.shared.batch_inputs import BatchInputs, once
from pipeline.methods.shared.instances import encoded_instance, finished_record, touched_patches
from pipeline.models.depth_maps import DepthMaps
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import ImageRecord, Instance
from stages.depth import DepthModel, to_grid
from stages.features import FeatureExtractor
from stages.filters import DropReason
from stages.hierarchy import HierarchyConfig
from stages.late import torch
from stages.patch_merging import MergeConfig
from stages.refine import RefinedMasks, refine_masks
from stages.refine_regions import judged, refine_regions
from stages.score import score_of
from stages.spatial_importance import spatial_importance


@dataclass(frozen=True)
class CutsMethod:
    """A `pipeline.methods.protocol.Method`: a recipe of cuts (with τ settled) and its loaded models."""

    recipe: Recipe
    features: FeatureExtractor
    depth: DepthModel | None
    device: torch.device

    def __post_init__(self) -> None:
        if self.recipe.needs_depth and self.depth is None:
            raise ValueError(f"recipe {self.recipe.name} needs a depth model")
        if not self.recipe.is_settled:
            raise ValueError("the thresholds of the features must be settled when the method is put together")

    name = NAME
    takes: ClassVar[Inputs] = "photos"
    stages = STAGES
    batch_size = 2  # more do not make a CPU faster

    @property
    def grid(self) -> tuple[int, int]:
        """(Gh, Gw) of the feature extractor."""
        return self.features.grid

    def kind(self, until: str | None) -> InstanceKind | StageFile:
        """Instances; of a stage its own file."""
        return InstanceKind(self.grid) if until is None else StageFile(until, self.grid)

    def config(self) -> dict[str, Any]:
        """What run.json freezes. Device and batch size are not in it: they do not decide results."""
        return {
            "recipe": self.recipe.as_dict(),
            "features": {**dataclasses.asdict(self.features.config), "fingerprint": self.features.fingerprint},
            "depth": {"name": self.depth.name, "fingerprint": self.depth.fingerprint} if self.depth else None,
        }

    @property
    def earlier(self) -> dict[str, str]:
        """See `pipeline.methods.protocol.earlier_values`."""
        return {"depth.fingerprint": self.depth.earlier_fingerprint} if isinstance(self.depth, DepthMaps) else {}

    def mended(self, config: Mapping[str, Any]) -> dict[str, str]:
        """See `pipeline.methods.protocol.mended_values`: a map that was missing is there now, a bad one is good."""
        if not isinstance(self.depth, DepthMaps) or not config.get("depth"):
            return {}
        return {"depth.fingerprint": config["depth"]["fingerprint"]}

    def needs_inputs(self, until: str | None, kept: Mapping[str, KeptOutputs]) -> bool:
        """Whether anything up to this stage that is not kept looks at the decoded images."""
        for needed in INPUTS[until or LAST]:
            if needed == "photos":
                return True
            if needed == "depth" and not self.recipe.needs_depth:
                continue
            if needed == "ncut" and not self.recipe.has_ncut:
                if self.recipe.needs_attention:  # which is not kept
                    return True
                continue
            is_kept = needed in kept and bool(kept[needed].done.all())
            if not is_kept and self.needs_inputs(needed, kept):
                return True
        return False

    def outputs(self, batch: Batch) -> Sequence[Output | ImageRecord]:
        """See `pipeline.methods.protocol.Method`."""
        work = BatchWork(self, batch.photos, batch.positions, batch.kept, batch.seconds, batch.pool, batch.shared)
        return work.outputs(batch.until)


class BatchWork(BatchInputs):
    """The stages of one batch, each a lazily computed attribute; asking for one runs just what it needs.

    photos: of these images; empty when all that is asked for can be had from `kept`.
    positions: of the images in their shard.
    kept: outputs of earlier launches by stage.
    seconds: gathers the time of each stage, without that of others.
    pool: processes for the work on single images that is the CPU's alone.
    shared: with other methods.
    """

    def __init__(
        self,
        method: CutsMethod,
        photos: Sequence[Photo],
        positions: Sequence[int],
        kept: Mapping[str, KeptOutputs],
        seconds: defaultdict[str, float],
        pool: Executor | None = None,
        shared: SharedOutputs | None = None,
    ) -> None:
        super().__init__(method.device, photos, seconds, pool)
        self.method = method
        self._positions = positions
        self._kept = {stage: outputs for stage, outputs in kept.items() if outputs.covers(positions)}
        self._shared = shared or SharedOutputs()

    def outputs(self, stage: str | None) -> Sequence[Output | ImageRecord]:
        """For each image of the batch its record or, for a stage, what the stage keeps."""
        if stage == "depth":
            pairs = zip(self._depth_to_keep, self.depth_filled_B, strict=True)
            return [(depth, filled) if filled else depth for depth, filled in pairs]
        if stage == "features":
            return list(self.features_BND.cpu().numpy())
        if stage == "ncut":
            first = self.first_ncut
            values = zip(first.eigenvector_BN, first.eigenvalue_B, first.gap_B, strict=True)
            return [(vector_N, float(eigenvalue), float(gap)) for vector_N, eigenvalue, gap in values]
        if stage == "localcut":
            return list(self.cut_images)
        if stage == "confidence":
            return list(self.confident_images)
        return self.records

    @once
    def depth_BGhGw(self) -> np.ndarray | None:
        """(B, Gh, Gw) float32 relative depth on the patch grid; None for recipes that do not look at depth."""
        return self._depth_to_keep if self.method.recipe.needs_depth else None

    @once
    def _depth_to_keep(self) -> np.ndarray:
        if "depth" in self._kept:
            return self._kept["depth"].maps(self._positions)
        predicted = self._predicted_depths
        with self._clock("depth"):
            return to_grid(predicted, *self.method.grid).numpy()

    @once
    def depth_filled_B(self) -> list[float]:
        """Of each image the share of its depth map that was filled; zeros for recipes that do not look at depth."""
        if "depth" in self._kept:
            return self._kept["depth"].depth_filled(self._positions)
        if not self.method.recipe.needs_depth:
            return [0.0] * len(self.photos)
        return [float(np.float32(np.ma.getmaskarray(depth).mean())) for depth in self._predicted_depths]

    @once
    def _predicted_depths(self) -> list[np.ndarray]:
        model = self.method.depth
        if model is None:
            raise ValueError(f"recipe {self.method.recipe.name} has no depth stage")

        def predict() -> list[np.ndarray]:
            with self._clock("depth"):
                return model.predict([p.rgb for p in self.photos], [p.id for p in self.photos])

        return self._shared.once("depth", model.fingerprint, self._positions, self._seconds, predict)

    @once
    def features_BND(self) -> torch.Tensor:
        """(B, N, D) float16 on the method's device."""
        if "features" in self._kept:
            return torch.from_numpy(self._kept["features"].maps(self._positions)).to(self.method.device)
        extractor = self.method.features
        if self.method.recipe.needs_attention:
            with self._clock("features"):
                features_BND, self.attention_BN = extractor.with_attention([photo.rgb for photo in self.photos])
            return features_BND

        def extract() -> torch.Tensor:
            with self._clock("features"):
                return extractor([photo.rgb for photo in self.photos])

        return self._shared.once("features", extractor.fingerprint, self._positions, self._seconds, extract)

    @once
    def attention_BN(self) -> torch.Tensor | None:
        """(B, N) float32, the class token's attention to the patches; None for recipes that do not look at it."""
        if not self.method.recipe.needs_attention:
            return None
        if "features" not in self._kept:
            _ = self.features_BND  # both come out of one pass
            return self.attention_BN
        with self._clock("features"):
            return self.method.features.with_attention([photo.rgb for photo in self.photos])[1]

    @once
    def importance_BN(self) -> torch.Tensor | None:
        """(B, N) float32, Spatial Importance; None for recipes without it."""
        importance, depth = self.method.recipe.spatial_importance, self.depth_BGhGw
        if importance is None or depth is None:
            return None
        with self._clock("affinity"):
            return spatial_importance(torch.from_numpy(depth).to(self.method.device), importance).flatten(1)

    @once
    def graph_BNN(self) -> torch.Tensor:
        """(B, N, N) float32, the semantic graph: see `search.semantic_graph`."""
        importance_BN, features_BND = self.importance_BN, self.features_BND
        with self._clock("affinity"):
            return semantic_graph(features_BND, importance_BN, self.method.recipe)

    @once
    def first_ncut(self) -> Eigenvectors:
        if "ncut" in self._kept:
            return self._kept["ncut"].eigenvectors(self._positions)
        if not self.method.recipe.has_ncut:
            raise ValueError(f"recipe {self.method.recipe.name} has no ncut stage")
        graph_BNN = self.graph_BNN
        with self._clock("ncut"):
            return first_ncut(graph_BNN, self.method.recipe)

    @once
    def cut_images(self) -> list[CutImage]:
        """Proposals of each image, without confidences."""
        for stage in ("confidence", "localcut"):
            if stage in self._kept:
                return self._kept[stage].cut_images(self._positions)
        recipe = self.method.recipe
        if isinstance(recipe.search, HierarchyConfig):
            found = self._regions(recipe.search)
        elif isinstance(recipe.search, MergeConfig):
            found = self._merged(recipe.search)
        else:
            found = self._cut()
        return [CutImage(image, (None,) * len(image.proposals)) for image in found]

    def _cut(self) -> list[ImageProposals]:
        graph_BNN, features_BND = self.graph_BNN, self.features_BND
        depth, first = self.depth_BGhGw, self.first_ncut
        with self._clock("localcut"):
            found = propose(graph_BNN, features_BND, depth, self.method.grid, self.method.recipe, first, self._each)
        del self.graph_BNN  # N² numbers an image that nobody needs any more
        return found

    def _merged(self, rules: MergeConfig) -> list[ImageProposals]:
        importance_BN, attention_BN = self.importance_BN, self.attention_BN
        features_BND, depth = self.features_BND, self.depth_BGhGw
        method = self.method
        with self._clock("localcut"):
            return search_merge(
                features_BND, importance_BN, attention_BN, depth, method.grid, method.recipe, rules, self._each
            )

    def _regions(self, rules: HierarchyConfig) -> list[ImageProposals]:
        features_BND = self.features_BND
        with self._clock("localcut"):
            return search_hierarchy(features_BND, self.method.grid, self.method.recipe, rules, self._each)

    @once
    def confident_images(self) -> list[CutImage]:
        """Proposals of each image with the confidences of those kept."""
        cut, depth = self.cut_images, self.depth_BGhGw
        if "confidence" in self._kept:
            return cut
        depths = [None] * len(cut) if depth is None else list(depth)
        with self._clock("confidence"):
            return list(self._each(partial(_with_confidences, recipe=self.method.recipe), cut, depths))

    @once
    def refined(self) -> list[RefinedMasks]:
        """Of each image the proposals kept before, refined, in their order."""
        rules = self.method.recipe.search
        if not isinstance(rules, HierarchyConfig):
            return self._refined_alone()
        refined = self._refined_together() if rules.compete else self._refined_alone()
        return [judged(own, rules) for own in refined]

    def _refined_together(self) -> list[RefinedMasks]:
        found = [partitions(image.found.proposals) for image in self.cut_images]
        photos = [photo.rgb for photo in self.photos]
        with self._clock("refine"):
            return refine_regions(photos, found, self.method.recipe.refine, self.method.device, self._each)

    def _refined_alone(self) -> list[RefinedMasks]:
        grid_masks = [
            np.array([p.settled for p in image.found.proposals if p.dropped is None], bool).reshape(
                -1, *self.method.grid
            )
            for image in self.cut_images
        ]
        photos = [photo.rgb for photo in self.photos]
        with self._clock("refine"):
            return refine_masks(photos, grid_masks, self.method.recipe.refine, self.method.device, self._each)

    @once
    def records(self) -> list[ImageRecord]:
        """The finished images."""
        depth, images, refined = self.depth_BGhGw, self.confident_images, self.refined
        depths = [None] * len(images) if depth is None else list(depth)
        with self._clock("encode"):
            made = self._each(partial(_record, recipe=self.method.recipe), self.names, images, refined, depths)
            return [
                dataclasses.replace(record, depth_filled=filled) if filled else record
                for record, filled in zip(made, self.depth_filled_B, strict=True)
            ]


def _with_confidences(image: CutImage, depth_GhGw: np.ndarray | None, recipe: Recipe) -> CutImage:
    """With Spatial Confidence of the proposals kept, before its floor, (Gh, Gw) uint8, 255 = 1."""
    confidences = tuple(
        None if proposal.dropped else np.rint(255 * confidence_of(proposal, depth_GhGw, recipe)).astype(np.uint8)
        for proposal in image.found.proposals
    )
    return CutImage(image.found, confidences)


def _record(
    photo: tuple[str, tuple[int, int]],
    image: CutImage,
    refined: RefinedMasks,
    depth_GhGw: np.ndarray | None,
    recipe: Recipe,
) -> ImageRecord:
    """The finished image. photo: its id, height and width."""
    proposals = image.found.proposals
    drops = Counter(str(proposal.dropped) for proposal in proposals if proposal.dropped)
    kept = [k for k, proposal in enumerate(proposals) if proposal.dropped is None]
    instances = []
    for mask, crf_iou, dropped, k in zip(refined.masks, refined.crf_iou, refined.dropped, kept, strict=True):
        confidence = image.confidences[k]
        if dropped is None and confidence is not None:
            instance = _instance(mask, confidence, proposals[k], float(crf_iou), recipe)
            instances.append(dataclasses.replace(instance, proposal=k))
        else:
            drops[str(dropped or DropReason.CRF_DISAGREES)] += 1
    if isinstance(recipe.search, HierarchyConfig):
        instances = with_levels(instances, photo[1], recipe.search)
    return finished_record(photo, instances, drops, None if depth_GhGw is None else depth_GhGw.astype(np.float16))


def _instance(
    mask_HW: np.ndarray, confidence: np.ndarray, proposal: Proposal, crf_iou: float, recipe: Recipe
) -> Instance:
    """An instance from its mask at the original size and its confidence on the patch grid.

    The CRF moves the outline: patches that it added get the floor, patches that it emptied get 0.
    """
    floor = recipe.spatial_confidence.floor if recipe.spatial_confidence else 1.0
    parts = dataclasses.replace(proposal.parts, stability=float(confidence[proposal.mask].mean() / 255))
    touched = touched_patches(mask_HW, confidence.shape)
    confidence = np.where(touched, np.maximum(confidence, np.uint8(round(255 * floor))), 0).astype(np.uint8)
    return encoded_instance(
        mask_HW, confidence, score=score_of(parts, recipe.score), round=proposal.round, parts=parts, crf_iou=crf_iou
    )
