"""What the panel and the page of an inspection say in words, so that both say the same."""

from pipeline.inspection import InspectedProposal, Inspection
from pipeline.proposals import StopReason
from stages.filters import DropReason


def image_name(inspection: Inspection) -> str:
    """The image's name, fit for display: what cannot be printed (control and direction marks) is replaced by "·"."""
    return "".join(c if c.isprintable() else "·" for c in inspection.photo.id)


def label(inspected: InspectedProposal) -> str:
    """Which proposal it is: "Round 1", or "Round 1, piece 2" where a round may give several."""
    piece = f", piece {inspected.piece}" if inspected.pieces > 1 else ""
    return f"Round {inspected.proposal.round + 1}{piece}"


def stop_sentence(inspection: Inspection) -> str:
    """Why no more rounds were run."""
    n = len({inspected.proposal.round for inspected in inspection.proposals})
    after = f"Stopped after {n} round{'' if n == 1 else 's'}: "
    return (
        after
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
    return {
        DropReason.TOO_SMALL: f"too small: {area} of {patches} patches, more than {rules.min_area:.1%} are needed",
        DropReason.OVERLAPS_PREVIOUS: f"the mask of the round before again: IoU above {rules.max_iou:g}",
        DropReason.COVERED: "nothing is left of it outside earlier masks",
        DropReason.CRF_DISAGREES: f"the CRF makes something else of it: IoU {inspected.crf_iou or 0:.2f}, "
        f"at least {inspection.recipe.refine.min_crf_iou:g} is needed",
    }[inspected.dropped]
