"""Which classes of a run a panoptic detector finds as things, and which as stuff; a part of the detector's file.

C classes of the run · T thing classes · S stuff classes
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline.results.panoptic_split import ThingSplit
from pipeline.results.semantic import Classes


@dataclass(frozen=True)
class PanopticClasses:
    """The classes of a detector's heads.

    classes: of the run that it was trained on, C of them.
    things: of each label 0..T-1 of boxes and masks, its class 0..C-1.
    stuffs: of each class 1..S of the semantic head, its class 0..C-1; class 0 of that head is "some thing".

    Raises ValueError where a class has no place, or two.
    """

    classes: Classes
    things: tuple[int, ...]
    stuffs: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted((*self.things, *self.stuffs)) != list(range(len(self.classes))):
            raise ValueError(
                f"each of {len(self.classes)} classes must be a thing or stuff, not things {self.things} and stuff "
                f"{self.stuffs}"
            )

    @classmethod
    def of_split(cls, split: ThingSplit) -> Self:
        """As a run's split has them."""
        return cls(split.classes, split.thing_classes, split.stuff_classes)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The opposite of `to_json`. ValueError for anything else."""
        if not isinstance(value, Mapping):
            raise ValueError(f"an object was expected, not {type(value).__name__}")
        try:
            classes = Classes.from_json(value["classes"])
            things, stuffs = (tuple(map(_number, value[name])) for name in ("things", "stuffs"))
        except (KeyError, TypeError) as error:
            raise ValueError(f"it needs classes, things and stuffs ({error!r})") from error
        return cls(classes, things, stuffs)

    def to_json(self) -> dict[str, Any]:
        """As a detector's file has them: classes (names and colours), things, stuffs."""
        return {"classes": self.classes.to_json(), "things": list(self.things), "stuffs": list(self.stuffs)}

    @property
    def is_thing(self) -> tuple[bool, ...]:
        """Of each class of the run, (C,)."""
        return tuple(c in self.things for c in range(len(self.classes)))

    @property
    def thing_names(self) -> list[str]:
        """Of labels 0..T-1."""
        return [self.classes.names[c] for c in self.things]


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no number of a class")
    return value
