"""Which kind of result a caller needs, where it can use no other."""

from pipeline.errors import ConfigError
from pipeline.results.crop_features_kind import NAME as CROPS
from pipeline.results.instance_kind import NAME as INSTANCES
from pipeline.results.semantic_kind import NAME as SEMANTIC
from pipeline.runs.run_folder import RunFolder

_WORDS = {INSTANCES: "instance masks", SEMANTIC: "semantic labels", CROPS: "features of crops"}
_COMMANDS = {
    INSTANCES: "`cuts3d evaluate`, `cuts3d export --coco` and `cuts3d gallery`",
    SEMANTIC: "`cuts3d evaluate-semantic`, `cuts3d export --semantic` and `cuts3d gallery`",
    CROPS: "`cuts3d train-semantic --inputs` and `cuts3d gallery`",
}


def words_for(kind: str) -> str:
    """What results of a kind are called in messages."""
    return _WORDS.get(kind, f"results of kind {kind!r}")


def need_kind(run: RunFolder, kind: str, option: str = "") -> None:
    """ConfigError, with the commands that there are, for a run that holds results of another kind.

    option: of the command that needs the kind; "": it is the command itself.
    """
    if run.result == kind:
        return
    needed = f"{option} is for {words_for(kind)}" if option else f"{words_for(kind)} are needed here"
    commands = _COMMANDS.get(run.result)
    remedy = f"; for {words_for(run.result)} there are {commands}" if commands else ""
    raise ConfigError(f"{run.url} holds {words_for(run.result)}: {needed}{remedy}")
