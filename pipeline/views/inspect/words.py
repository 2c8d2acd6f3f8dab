"""What the panel and the page of an inspection say in words, so that both say the same."""

import math

from pipeline.methods.cuts.proposals import StopReason
from pipeline.methods.cuts.recipes import RoundsConfig
from pipeline.views.inspect.inspection import InspectedProposal, Inspection
from pipeline.wording import counted
from stages.filters import DropReason
from stages.hierarchy import HierarchyConfig
from stages.ncut_tree import TreeConfig
from stages.patch_merging import LEAST_BACKGROUND, MergeConfig
from stages.score import CONSTANT

# Why an image has no masks, rather than a mask no instance.
NO_MASKS = (DropReason.NO_BACKGROUND, DropReason.LITTLE_BACKGROUND, DropReason.NOTHING_IN_FRONT)


def image_name(inspection: Inspection) -> str:
    """The image's name, fit for display: what cannot be printed (control and direction marks) is replaced by "·"."""
    return "".join(c if c.isprintable() else "·" for c in inspection.photo.id)


def label(inspected: InspectedProposal, inspection: Inspection) -> str:
    """Which proposal it is: "Mask 1" of a tree or of merging, or what is dropped instead; "Region 2, τ 0.4" of a
    hierarchy; "Round 1", or "Round 1, piece 2" where a round may give several.
    """
    if isinstance(inspection.recipe.search, HierarchyConfig):
        return f"Region {inspected.piece}, τ {inspected.proposal.tau:g}"
    place = inspected.proposal.round + 1
    if inspected.proposal.dropped in NO_MASKS:
        return "Background"
    if inspected.proposal.dropped is DropReason.UNATTENDED:
        return "Mask"
    if not isinstance(inspection.recipe.search, RoundsConfig):
        return f"Mask {place}"
    return f"Round {place}, piece {inspected.piece}" if inspected.pieces > 1 else f"Round {place}"


def story(inspection: Inspection) -> str:
    """How this recipe comes from an image to masks, in two sentences."""
    recipe = inspection.recipe
    if isinstance(recipe.search, TreeConfig):
        cut = "" if recipe.local_cut is None else " In 3D each part falls into pieces where depth jumps."
        return (
            "Similarity of features cuts the image in two, and each part in two again, "
            f"{counted(recipe.search.depth, 'cut')} deep.{cut} Of all these the best by score are the rows below, "
            "overlapping ones ranked down."
        )
    if isinstance(recipe.search, HierarchyConfig):
        taus = ", ".join(f"{tau:g}" for tau in recipe.search.taus)
        return (
            "The two most similar neighbouring regions merge, again and again. Those that there are at "
            f"τ = {taus} are the masks."
        )
    if isinstance(recipe.search, MergeConfig):
        return _merge_story(recipe.search) + (
            "" if recipe.local_cut is None else " In 3D each falls into pieces where depth jumps."
        )
    if recipe.local_cut is None:
        return (
            "Each row below is a round: similarity of features finds a group of one kind; the connected piece "
            "with the strongest patch is the mask. What a round took is out of the next round's graph."
        )
    return (
        "Each row below is a proposal: similarity of features finds a group of one kind, and its depth tells the "
        "instances in it apart. What a round took is out of the next round's graph."
    )


def _merge_story(rules: MergeConfig) -> str:
    """Short: a panel of merging has few columns."""
    if rules.grouping == "adjacent":
        return "Adjacent patches that are alike form groups; the most similar adjacent groups merge, again and again."
    return "Patches on a grid prompt masks of what is like them; those in front are merged where they overlap."


def group_words(inspection: Inspection) -> str:
    """What LocalCut cuts instances out of."""
    return {"tree": "part of the tree", "merge": "merged mask"}.get(inspection.recipe.searched, "semantic group")


def terminal_words(inspection: Inspection) -> tuple[str, str]:
    """What source and sink are."""
    if isinstance(inspection.recipe.search, TreeConfig):
        return "source: strongest of the mask's core", "sink: strongest of the other side"
    if isinstance(inspection.recipe.search, MergeConfig):
        return "source: most like the mask", "sink: least like the mask"
    return "source: strongest foreground", "sink: strongest background"


def side_words(inspection: Inspection) -> tuple[str, str]:
    """What low and high entries of the eigenvector mean."""
    if isinstance(inspection.recipe.search, TreeConfig):
        return "other side", "this side"
    if isinstance(inspection.recipe.search, MergeConfig):
        return "unlike", "like the mask"
    return "background", "foreground"


def cut_sentence(inspected: InspectedProposal, inspection: Inspection) -> str:
    """How LocalCut made the mask of its group; empty for recipes without LocalCut."""
    proposal, cut = inspected.proposal, inspection.recipe.local_cut
    if cut is None:
        return ""
    if math.isinf(proposal.tau):
        return f"the {'mask' if isinstance(inspection.recipe.search, MergeConfig) else 'part'} as it is"
    return f"piece at τ = {proposal.tau:.3g}"


def score_sentence(inspection: Inspection) -> str:
    """What the score is made of."""
    score = inspection.recipe.score
    return "1 for every mask" if score == CONSTANT else score.replace("*", " × ")


def stop_sentence(inspection: Inspection) -> str:
    """Why there are no more proposals."""
    if inspection.stop is StopReason.REGIONS:
        shown, found = len(inspection.rows), len(inspection.record.instances)
        rest = f"; the best {shown} are shown" if shown < found else ""
        return f"{counted(len(inspection.proposals), 'region')}, {counted(found, 'mask')} kept{rest}."
    n = len({inspected.proposal.round for inspected in inspection.proposals})
    if inspection.stop is StopReason.TREE:
        most = inspection.recipe.select.masks
        end = f"more are not asked for (select.masks = {most})." if n == most else "no other scored above 0."
        return f"{counted(len(inspection.tree), 'part')} in the tree, {counted(n, 'mask')} chosen: {end}"
    if inspection.stop is StopReason.MERGED:
        kept = sum(inspected.proposal.dropped is None for inspected in inspection.proposals)
        most = inspection.recipe.select.masks
        more = f": more are not asked for (select.masks = {most})." if kept == most else " are left after merging."
        return counted(kept, "mask") + more
    return (
        f"Stopped after {counted(n, 'round')}: "
        + {
            StopReason.ROUNDS: "the recipe runs no more (rounds.n).",
            StopReason.NOTHING_LEFT: "the next group held no patch that was not taken before.",
            StopReason.REST: "the next group was just what the earlier rounds had left over.",
        }[inspection.stop]
    )


def drop_sentence(inspected: InspectedProposal, inspection: Inspection) -> str:
    """Why this proposal became no instance; empty when it did."""
    rules, patches = inspection.recipe.filters, inspection.grid[0] * inspection.grid[1]
    area = int(inspected.proposal.mask.sum())
    if inspected.dropped is None:
        return ""
    if isinstance(inspection.recipe.search, HierarchyConfig):
        search, select = inspection.recipe.search, inspection.recipe.select
        of_regions = {
            DropReason.TOO_SMALL: f"too small: at least {search.min_pixels} pixels are needed",
            DropReason.CORNERS: f"background: more than {counted(search.max_corners, 'corner')}",
            DropReason.OVERLAPS_PREVIOUS: f"a larger mask again: IoU above {select.same_iou:g}",
            DropReason.UNSELECTED: f"not among the best {select.masks}",
        }
        if inspected.dropped in of_regions:
            return of_regions[inspected.dropped]
    return {
        DropReason.TOO_SMALL: f"too small: {area} of {patches} patches, more than {rules.min_area:.1%} are needed",
        DropReason.OVERLAPS_PREVIOUS: f"the mask of the round before again: IoU above {rules.max_iou:g}",
        DropReason.COVERED: "nothing is left of it outside earlier masks",
        DropReason.NO_BACKGROUND: "no prompt holds more than half of two sides of the image: there is no background",
        DropReason.LITTLE_BACKGROUND: f"the background is on {area} of {patches} patches, {LEAST_BACKGROUND:.0%} are "
        "needed",
        DropReason.NOTHING_IN_FRONT: "no mask stands out from the background",
        DropReason.UNATTENDED: "the class token looks at it too little (merge.min_attention)",
        DropReason.CRF_DISAGREES: f"the CRF makes something else of it: IoU {inspected.crf_iou or 0:.2f}, "
        f"at least {inspection.recipe.refine.min_crf_iou:g} is needed",
    }[inspected.dropped]
