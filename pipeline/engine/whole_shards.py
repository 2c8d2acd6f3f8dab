"""A shard in which every image is set aside commits nothing: what is wrong then is hardly the images.

Depth maps under other names, a folder that is not mounted, a broken driver: all of them look like bad images, one by
one. A launch that took them for such would end with not one mask, and be done.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.errors import CutsError
from pipeline.results.kinds import Failed


class WholeShardError(CutsError, RuntimeError):
    """No image of a shard could be used."""


def refuse_whole_shard(key: str, results: Sequence[Any], faults: Sequence[Exception]) -> None:
    """WholeShardError when two images or more were looked at, and all were set aside for one reason, or by errors.

    key: of the shard.
    results: of the images that were looked at, in order; those that killed a worker before are not among them.
    faults: what was raised for some of them that is no ImageError.
    """
    failed = [result for result in results if isinstance(result, Failed)]
    if len(results) < 2 or len(failed) < len(results):
        return
    if len(faults) > 1:
        first = faults[0]
        raise WholeShardError(
            f"every image of shard {key} failed, the first with {type(first).__name__}: {first}. "
            "Nothing of this shard was committed; this is not the images' fault"
        ) from first
    if len({result.reason for result in failed}) == 1:
        raise WholeShardError(
            f"every image of shard {key} was set aside as {failed[0].reason}, the first with: {failed[0].detail}. "
            f"Nothing of this shard was committed: mend that and give the same command again. To set all {len(failed)} "
            "aside: `cuts3d run --out RUN --accept-set-aside`"
        )
