"""Configurations of ours as plain values, without MMEngine: importing it takes seconds, which is long for somebody who
has misspelt a setting. Whatever is trained or shown is read by MMEngine; a test holds the two against each other.
"""

import ast
from pathlib import Path
from typing import Any


class _Parts(dict[str, Any]):
    """What a file sees of those that it is based on: `_base_.model.backbone`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def plain_config(path: Path) -> dict[str, Any]:
    """A configuration and all that it is based on, as MMEngine puts them together. The file is run: only for ours."""
    bases, statements = _without_bases(ast.parse(path.read_text(encoding="utf-8")))
    merged = _Parts()
    for base in bases:
        merged = _merged(merged, plain_config(path.parent / base))
    scope: dict[str, Any] = {"_base_": merged}
    exec(compile(statements, str(path), "exec"), scope)
    return _merged(merged, {name: value for name, value in scope.items() if not name.startswith("_")})


def _without_bases(module: ast.Module) -> tuple[list[str], ast.Module]:
    """The files named by `_base_ = [...]`, and the rest."""
    bases: list[str] = []
    rest = []
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_base_":
            bases = ast.literal_eval(statement.value)
        else:
            rest.append(statement)
    return bases, ast.Module(rest, [])


def _merged(below: dict[str, Any], above: dict[str, Any]) -> _Parts:
    """Mappings are merged, unless `_delete_` says that the upper one replaces the lower; all else is replaced."""
    result = _Parts(below)
    for name, value in above.items():
        if not isinstance(value, dict):
            result[name] = _parts(value)
            continue
        own = {key: part for key, part in value.items() if key != "_delete_"}
        before = {} if value.get("_delete_") or not isinstance(below.get(name), dict) else below[name]
        result[name] = _merged(before, own)
    return result


def _parts(value: Any) -> Any:
    if isinstance(value, dict):
        return _merged({}, value)
    return type(value)(map(_parts, value)) if isinstance(value, (list, tuple)) else value
