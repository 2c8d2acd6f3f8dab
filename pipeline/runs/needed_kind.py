"""Which kind of result a caller needs, where it can use no other."""

from pipeline.errors import ConfigError
from pipeline.results.instance_kind import NAME as INSTANCES
from pipeline.results.semantic_kind import NAME as SEMANTIC
from pipeline.runs.run_folder import RunFolder

_WORDS = {INSTANCES: "instance masks", SEMANTIC: "semantic labels"}
_COMMANDS = {
    INSTANCES: "`cuts3d evaluate`, `cuts3d export --coco` and `cuts3d gallery`",
    SEMANTIC: "`cuts3d evaluate-semantic`, `cuts3d export --semantic` and `cuts3d gallery`",
}


def need_kind(run: RunFolder, kind: str, option: str = "") -> None:
    """ConfigError, with the commands that take it, for a run that holds results of another kind.

    option: of the command that needs the kind; "": it is the command itself.
    """
    if run.result == kind:
        return
    found = _WORDS.get(run.result, f"results of kind {run.result!r}")
    needed = f"{_WORDS[kind]} are needed here" if not option else f"{option} is of {_WORDS[kind]}"
    remedy = f"; {commands} take it" if (commands := _COMMANDS.get(run.result)) else ""
    raise ConfigError(f"{run.url} holds {found}: {needed}{remedy}")
