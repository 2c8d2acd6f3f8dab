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


def need_kind(run: RunFolder, kind: str) -> None:
    """ConfigError, with the commands that take it, for a run that holds results of another kind."""
    if run.result == kind:
        return
    found = _WORDS.get(run.result, f"results of kind {run.result!r}")
    remedy = f"; {commands} take it" if (commands := _COMMANDS.get(run.result)) else ""
    raise ConfigError(f"{run.url} holds {found}: {_WORDS[kind]} are needed here{remedy}")
