"""A recipe of one's own, in a file: a known one, and what is different in it.

    base = "cuts3d"

    [models]                    # what --features, --depth and --depth-kind take
    features = "dino_vitb8"

    [select]                    # what --set takes, a table for each stage
    masks = 5

    [refine.crf]
    iterations = 3

A run keeps all of it in run.json and launch.json: the file is not needed to go on.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

SUFFIX = ".toml"
BASE, MODELS = "base", "models"


@dataclass(frozen=True)
class OwnRecipe:
    """base: name of the recipe that it changes. settings, overrides: as of `Launch`."""

    base: str
    settings: Mapping[str, str]
    overrides: tuple[str, ...]


def read_recipe_file(path: str | Path) -> OwnRecipe:
    """Read a recipe from a file; ConfigError names the file and what is wrong. Options are checked by the recipe."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {path} is no TOML: {error}") from error
    base, models = content.pop(BASE, None), content.pop(MODELS, {})
    if not isinstance(base, str):
        raise ConfigError(f'recipe {path} does not say which recipe it changes: base = "cuts3d", for instance')
    if not isinstance(models, dict):
        raise ConfigError(f"recipe {path}: {MODELS} is {models!r}: make it a table, [{MODELS}], of names as texts")
    for name, value in models.items():
        if not isinstance(value, str):
            raise ConfigError(f"recipe {path}: {MODELS}.{name} is {value!r}: give one text, as --{name} takes it")
    return OwnRecipe(base, models, tuple(_overrides(content, path)))


def _overrides(table: Mapping[str, Any], path: str | Path, prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _overrides(value, path, f"{prefix}{name}.")
        elif isinstance(value, bool):
            yield f"{prefix}{name}={str(value).lower()}"
        elif isinstance(value, str | int | float):
            yield f"{prefix}{name}={value}"
        elif isinstance(value, list) and value and all(type(one) in (int, float) for one in value):
            # in brackets, or a list of one would pass for a number
            yield f"{prefix}{name}=[{','.join(map(str, value))}]"
        else:
            raise ConfigError(
                f"recipe {path}: {prefix}{name} is {value!r}: give a number, a list of them, a text, true or false"
            )
