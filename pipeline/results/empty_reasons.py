"""Why a whole run has no instance: the likely cause and the remedy, where all of its images have one reason."""

from collections.abc import Mapping

LIKELY = {
    "few_reliable": "left and right are swapped or no rectified pair, or the camera is not theirs: baseline in metres, "
    "fx in pixels of these pictures",
    "no_proposal": "the order of the pictures, which is left, right, left_next, right_next; or maps of other pictures",
    "all_background": "nothing moves but the camera; if something does: left_next is not the picture after left",
    "too_small": "things are smaller than movers.smallest or movers.surface, or seem so, as a baseline that is not in "
    "metres makes them",
    "no_agreement": "flow or disparity is poor (--motion raft=FILE is better), or movers.agreement is high",
    "at_border": "motion.border cuts off what was found",
    "no_class": "labels have no class where something moves: give others",
}


def likely_cause(empty: Mapping[str, int], done: int) -> list[tuple[str, str]]:
    """A line of a summary; none where images differ, or nothing is known of the reason.

    empty: images without an instance, by reason. done: images that have a result.
    """
    if len(empty) != 1:
        return []
    ((reason, count),) = empty.items()
    return [("likely", LIKELY[reason])] if count == done and reason in LIKELY else []
