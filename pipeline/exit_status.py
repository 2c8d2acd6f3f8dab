"""What a command ends with: one rule for all of them.

0    every image of the run has its result
1    something is missing (shards that nobody committed) or set aside (images that could not be used), or damaged
2    refused: what was asked for cannot be done, see `pipeline.errors`
130  interrupted, by Ctrl-C or SIGTERM
"""

ALL_THERE, INCOMPLETE, REFUSED, INTERRUPTED = 0, 1, 2, 130


def exit_status(missing: int, set_aside: int) -> int:
    """0 or 1. missing: how many shards. set_aside: how many images."""
    return INCOMPLETE if missing or set_aside else ALL_THERE
