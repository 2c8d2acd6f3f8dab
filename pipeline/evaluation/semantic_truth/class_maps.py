"""What the values of label maps mean: the class lists of the benchmarks, and which values count for nothing.

H, W pixels
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pipeline.errors import SourceError

IGNORED = 255  # class of pixels that count for nothing
MOST_CLASSES = IGNORED
_VALUES = 1 << 16


@dataclass(frozen=True)
class ClassMap:
    """The meaning of a map's values.

    names: of the classes.
    of_value: class of each value that has one.
    ignored: values that are known and count for nothing.
    numbering: how values are numbered, where a format has several ways; for people.
    telling: values that show that this is the way.
    """

    names: tuple[str, ...]
    of_value: Mapping[int, int]
    ignored: frozenset[int] = frozenset()
    numbering: str = ""
    telling: frozenset[int] = field(default=frozenset())

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each value its class, uint8, and whether it is known, bool; the last one stands for all that are out of
        range.
        """
        classes, known = np.full(_VALUES + 1, IGNORED, np.uint8), np.zeros(_VALUES + 1, bool)
        for value, index in self.of_value.items():
            classes[value], known[value] = index, True
        known[list(self.ignored)] = True
        return classes, known

    def labels(self, values_HW: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """Classes of a map's values, uint8 (H, W), `IGNORED` for none; and pixels by value that nobody knows, -1 for
        all values that are out of range.
        """
        classes, known = self._tables
        if values_HW.dtype not in (np.uint8, np.uint16):
            wide_HW = values_HW.astype(np.int32)
            values_HW = np.where((wide_HW < 0) | (wide_HW >= _VALUES), np.int32(_VALUES), wide_HW)
        counts = np.bincount(values_HW.ravel(), minlength=_VALUES + 1)
        strange = {int(value): int(counts[value]) for value in np.flatnonzero((counts > 0) & ~known)}
        if _VALUES in strange:
            strange[-1] = strange.pop(_VALUES)
        return classes[values_HW], strange


def check_names(names: Sequence[str], location: str) -> None:
    """SourceError for classes that a file lists and that cannot be scored: more than 255, or two of one name."""
    if len(names) > MOST_CLASSES:
        raise SourceError(f"{location} has {len(names)} classes: {MOST_CLASSES} can be scored")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SourceError(f"{location} names two classes {twice[0]!r:.60}: give each a name of its own")


def _named(
    names: Sequence[str],
    of_value: Mapping[int, str],
    ignored: Collection[int],
    numbering: str = "",
    telling: Collection[int] = (),
) -> ClassMap:
    """The same from the name of each value's class."""
    index = {name: i for i, name in enumerate(names)}
    classes = {value: index[name] for value, name in of_value.items()}
    return ClassMap(tuple(names), classes, frozenset(ignored), numbering, frozenset(telling))


# --- Cityscapes, and what has its ids (KITTI) -------------------------------------------------------------------------

_CATEGORIES = {
    "flat": {7: "road", 8: "sidewalk", 9: "parking", 10: "rail track"},
    "construction": {11: "building", 12: "wall", 13: "fence", 14: "guard rail", 15: "bridge", 16: "tunnel"},
    "object": {17: "pole", 18: "polegroup", 19: "traffic light", 20: "traffic sign"},
    "nature": {21: "vegetation", 22: "terrain"},
    "sky": {23: "sky"},
    "human": {24: "person", 25: "rider"},
    "vehicle": {
        **{26: "car", 27: "truck", 28: "bus", 29: "caravan"},
        **{30: "trailer", 31: "train", 32: "motorcycle", 33: "bicycle"},
    },
}
_IDS = {id_: name for ids in _CATEGORIES.values() for id_, name in ids.items()}
_NOT_TRAINED = (9, 10, 14, 15, 16, 18, 29, 30)
# Ids below 7 are void; the licence plate is -1, which files hold as the largest number of theirs.
_VOID = (*range(7), 255, 65535)

# A category is a thing as its members are.
CITYSCAPES_THINGS: frozenset[str] = frozenset(
    name for category in ("human", "vehicle") for name in (category, *_CATEGORIES[category].values())
)
"""Names of the classes, in any of the lists, whose objects are told apart."""

CITYSCAPES: dict[int, ClassMap] = {
    27: _named(tuple(_IDS.values()), _IDS, _VOID),
    19: _named(
        tuple(name for id_, name in _IDS.items() if id_ not in _NOT_TRAINED),
        {id_: name for id_, name in _IDS.items() if id_ not in _NOT_TRAINED},
        (*_VOID, *_NOT_TRAINED),
    ),
    7: _named(tuple(_CATEGORIES), {id_: category for category, ids in _CATEGORIES.items() for id_ in ids}, _VOID),
}


def cityscapes_ids(names: Sequence[str]) -> list[int] | None:
    """Cityscapes' ids of these classes, None where one is none of its 27."""
    id_of = {name: id_ for id_, name in _IDS.items()}
    return [id_of[name] for name in names] if set(names) <= id_of.keys() else None


# --- COCO-Stuff: its supercategories, by COCO's category id minus 1 ---------------------------------------------------

_STUFF = {
    "electronic": "71-76",
    "appliance": "77-82",
    "food": "51-60",
    "furniture": "61-70",
    "indoor": "83-90",
    "kitchen": "43-50",
    "accessory": "25-32",
    "animal": "15-24",
    "outdoor": "9-14",
    "person": "0",
    "sports": "33-42",
    "vehicle": "1-8",
    "ceiling": "101-102",
    "floor": "100 113-117",
    "food-stuff": "120-121 152 169",
    "furniture-stuff": "97 106-107 109 111 122 129 132 155 160 164",
    "raw-material": "99 131 138 142",
    "textile": "91-92 103-104 108 130 136 140 151 166-167",
    "wall": "170-176",
    "window": "179-180",
    "building": "94-95 127 150 157 165",
    "ground": "110 124-125 135 139 143-144 146 148 153 158",
    "plant": "93 96 118 123 128 133 141 162 168",
    "sky": "105 156",
    "solid": "126 134 149 159 161 181",
    "structural": "98 112 137 145 163",
    "water": "119 147 154 177-178",
}
_THINGS = 12  # of the supercategories, the first ones


def _numbers(ranges: str) -> Iterable[int]:
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


COCO_27 = tuple(_STUFF)
COCO_THINGS = COCO_27[:_THINGS]
_STUFF_IDS = {number: name for name, ranges in _STUFF.items() for number in _numbers(ranges)}
COCO_CATEGORIES: dict[int, str] = {number + 1: name for number, name in _STUFF_IDS.items()}
"""Supercategory of each COCO category id, 1..182, of things and stuff."""

COCO_STUFF: dict[int, tuple[ClassMap, ...]] = {
    27: (
        _named(COCO_27, _STUFF_IDS, (255,), "by category id - 1", (255,)),
        # The maps of the stuff challenge: 183 is "other", which is all things.
        _named(COCO_27, COCO_CATEGORIES, (0, 183), "by category id", (182, 183)),
    )
}

# --- Potsdam ----------------------------------------------------------------------------------------------------------

_POTSDAM_6 = ("impervious surface", "building", "low vegetation", "tree", "car", "clutter")
# Cars stand on roads; clutter is mostly built; both vegetations are one (as IIC, STEGO and DepthG have it).
_POTSDAM_3 = ("road", "building", "vegetation")
_TO_3 = (0, 1, 2, 2, 0, 1)

POTSDAM_COLOURS: dict[tuple[int, int, int], int] = {
    (0, 0, 0): 0,
    (255, 255, 255): 1,
    (0, 0, 255): 2,
    (0, 255, 255): 3,
    (0, 255, 0): 4,
    (255, 255, 0): 5,
    (255, 0, 0): 6,
}
"""The values 0..6 that the colours of ISPRS' own files stand for; black is the border that some versions leave out."""


def _potsdam(names: tuple[str, ...], classes: Sequence[int]) -> tuple[ClassMap, ...]:
    return (
        ClassMap(
            names,
            {number + 1: index for number, index in enumerate(classes)},
            frozenset((0,)),
            "0 void, 1 to 6 classes",
            frozenset((6,)),
        ),
        ClassMap(names, dict(enumerate(classes)), frozenset((255,)), "0 to 5 classes, 255 void", frozenset((255,))),
    )


POTSDAM: dict[int, tuple[ClassMap, ...]] = {3: _potsdam(_POTSDAM_3, _TO_3), 6: _potsdam(_POTSDAM_6, range(6))}

# --- ADE20K, the 150 classes of SceneParsing, in its order ------------------------------------------------------------

_ADE20K = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister, escalator,
ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool,
stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot,
animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
_ADE20K_150 = tuple(" ".join(name.split()) for name in _ADE20K.split(","))

ADE20K: dict[int, ClassMap] = {
    150: ClassMap(_ADE20K_150, {number + 1: number for number in range(150)}, frozenset((0,)))
}


def numbered() -> ClassMap:
    """Maps that hold classes as they are, 0 to 254, and 255 for none."""
    names = tuple(map(str, range(MOST_CLASSES)))
    return ClassMap(names, {number: number for number in range(MOST_CLASSES)}, frozenset((IGNORED,)))
