"""Which kind of result a caller needs, where it can use no other."""

from collections.abc import Collection

from pipeline.errors import ConfigError
from pipeline.results.registry import KINDS
from pipeline.runs.run_folder import RunFolder


def words_for(kind: str) -> str:
    """What results of a kind are called in messages."""
    return KINDS[kind].words if kind in KINDS else f"results of kind {kind!r}"


def need_kind(run: RunFolder, kind: str, option: str = "", also: Collection[str] = ()) -> None:
    """ConfigError, with the commands that there are, for a run that holds results of another kind.

    option: of the command that needs the kind; "": it is the command itself.
    also: kinds that will do as well, since their results hold such results.
    """
    if run.result == kind or run.result in also:
        return
    needed = f"{option} is for {words_for(kind)}" if option else f"{words_for(kind)} are needed here"
    its = KINDS.get(run.result)
    remedy = f"; for {its.words} there are {its.commands}" if its else ""
    raise ConfigError(f"{run.url} holds {words_for(run.result)}: {needed}{remedy}")
