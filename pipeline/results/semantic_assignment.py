"""Which cluster of a run of semantic labels stands for which class of a truth, as a file that outlives the evaluation.

K clusters · C classes · H, W pixels
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pipeline.errors import ConfigError, SourceError
from pipeline.results.semantic import NONE
from pipeline.storage.locations import absolute, read_json

SCHEMA = "cuts3d-assignment/1"


@dataclass(frozen=True)
class Assignment:
    """Cluster → class.

    clusters: names, in the order of the labels, (K,).
    classes: names, (C,).
    class_of: of each cluster the index of its class, None where the truth has told nothing of it, (K,).
    truth: what it was found on, for people.
    images: how many of them; 0 where nobody says.
    model: digest of what made the clusters; "" where nobody says.
    jointly: where `class_of` matches things and stuff apart, the class of each cluster when all are matched together,
        (K,), as accuracy and mIoU have it; else None.

    Raises ValueError where these do not fit each other.
    """

    clusters: tuple[str, ...]
    classes: tuple[str, ...]
    class_of: tuple[int | None, ...]
    truth: str = ""
    images: int = 0
    model: str = ""
    jointly: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.clusters) <= NONE or not 1 <= len(self.classes) <= NONE:
            raise ValueError(f"there must be 1 to {NONE} clusters and classes")
        if len(set(self.classes)) != len(self.classes) or len(set(self.clusters)) != len(self.clusters):
            raise ValueError("names of clusters and of classes must each be another")
        for class_of in (self.class_of, self.class_of if self.jointly is None else self.jointly):
            if len(class_of) != len(self.clusters):
                raise ValueError(f"{len(self.clusters)} clusters need as many classes, not {len(class_of)}")
            for index in class_of:
                if index is not None and not 0 <= index < len(self.classes):
                    raise ValueError(f"class {index} is none of 0 to {len(self.classes) - 1}")

    @property
    def table(self) -> np.ndarray:
        """uint8 (256,): of each label its class, `NONE` for what has none. `table[labels]` are classes."""
        table = np.full(256, NONE, np.uint8)
        table[: len(self.class_of)] = [NONE if index is None else index for index in self.class_of]
        return table

    def refuse_others(self, clusters: Sequence[str], model: str, of: str) -> None:
        """ConfigError for labels that are not those of these clusters.

        clusters, model: of the run. of: its name, for the message.
        """
        if tuple(clusters) != self.clusters:
            raise ConfigError(
                f"the assignment is of {len(self.clusters)} clusters ({self.clusters[0]} …), {of} has {len(clusters)} "
                f"({clusters[0]} …): give the assignment that was saved for it"
            )
        if model and self.model and model != self.model:
            raise ConfigError(
                f"the assignment is of clusters of another model ({self.model[:12]}), {of} is of {model[:12]}: cluster "
                "numbers mean nothing from one training to another; save an assignment for this one"
            )

    def refuse_other_classes(self, classes: Sequence[str], of: str) -> None:
        """ConfigError where a truth has other classes. of: its name, for the message."""
        if tuple(classes) != self.classes:
            own = f"{len(self.classes)} classes ({self.classes[0]} …, of {self.truth or 'a truth'})"
            raise ConfigError(
                f"the assignment is to {own}, {of} has {len(classes)} ({classes[0]} …): give a truth of those "
                "classes, or leave the assignment out"
            )

    def to_json(self) -> str:
        """The file's text."""
        facts: dict[str, Any] = {
            "schema": SCHEMA,
            "truth": self.truth,
            "images": self.images,
            "model": self.model,
            "classes": list(self.classes),
            "clusters": [
                {"name": name, "class": index, "class_name": None if index is None else self.classes[index]}
                for name, index in zip(self.clusters, self.class_of, strict=True)
            ],
        }
        if self.jointly is not None:
            for entry, index in zip(facts["clusters"], self.jointly, strict=True):
                entry["class_jointly"] = index
        return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, location: str) -> Self:
        """The file at a path or URL; SourceError, naming field and remedy, when it cannot be read or is none."""
        document = read_json(absolute(location))
        if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
            raise SourceError(
                f'{location} is no assignment: its "schema" must be "{SCHEMA}"; '
                "`--save-assignment` of `cuts3d evaluate-semantic` or `evaluate-panoptic` writes one"
            )
        try:
            classes, clusters = _texts(document["classes"], "classes"), document["clusters"]
            if not isinstance(clusters, list) or not all(isinstance(one, Mapping) for one in clusters):
                raise ValueError('"clusters" must be a list of name and class')
            names = _texts([one["name"] for one in clusters], "name")
            return cls(
                names,
                classes,
                tuple(_index(one["class"], "class") for one in clusters),
                str(document.get("truth", "")),
                _index(document.get("images", 0), "images") or 0,
                str(document.get("model", "")),
                tuple(_index(one["class_jointly"], "class_jointly") for one in clusters)
                if any("class_jointly" in one for one in clusters)
                else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise SourceError(f"{location} is no whole assignment: {what}; save it once more") from error


def _texts(values: Any, field: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
        raise ValueError(f'"{field}" must be texts')
    return tuple(values)


def _index(value: Any, field: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f'"{field}" must be a whole number from 0 up or null, not {value!r:.40}')
    return value
