"""The panel of an inspection: one picture that shows every stage of an image, a row for each proposal.

Gh, Gw patch grid · H, W pixels
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from pipeline.methods.cuts.proposals import cut_thresholds
from pipeline.methods.cuts.recipes import RoundsConfig
from pipeline.views.inspect.cells import (
    ALARM,
    INK,
    LOW_HIGH,
    NEAR_FAR,
    QUIET,
    SIGNED,
    SINK,
    SOURCE,
    Pictures,
    draw_affinity,
    draw_background,
    draw_boundary,
    draw_confidence,
    draw_eigenvector,
    draw_group,
    draw_inside,
    draw_likeness,
    draw_local_cut,
    draw_parts,
    draw_refined,
    draw_region,
    draw_regions,
    draw_result,
    draw_score,
)
from pipeline.views.inspect.inspection import InspectedProposal, Inspection
from pipeline.views.inspect.sheet import Sheet
from pipeline.views.inspect.words import (
    drop_sentence,
    image_name,
    label,
    score_sentence,
    side_words,
    stop_sentence,
    story,
)
from pipeline.wording import counted
from stages.hierarchy import HierarchyConfig
from stages.ncut_tree import TreeConfig
from stages.patch_merging import MergeConfig
from stages.score import CONSTANT

CELL = 2.45  # inches, width of a picture
GAP = 0.17  # inches between pictures
LEFT = 0.55  # inches, for the names of the rows
STORY = 1.38  # inches over the overview, for name, settings and what the method does
HEADING = 1.38  # inches over the first row of proposals
FEW = 4  # proposals, whose pictures may be upright
MOST_LEVELS = 4  # of a tree that the overview has room for
TITLE = 0.27  # inches over each picture


@dataclass(frozen=True)
class Column:
    """A stage: heading, caption in plain words, how a proposal's cell is drawn (returning its title), legend."""

    name: str
    caption: str
    draw: Callable[[Axes, InspectedProposal, Pictures], str]
    scale: tuple[str, str, str] | None = None  # colour map, word at its low end, word at its high end
    terminals: tuple[str, ...] = ()  # words for the marks of source and sink


def draw_panel(inspection: Inspection) -> Image.Image:
    """The panel of one image as an RGB picture, some 2,000 pixels wide and 200 high for each proposal."""
    pictures = Pictures(inspection)
    columns, overview = _columns(inspection), _overview(inspection)
    height, width = inspection.photo.rgb.shape[:2]
    tallest = 1.6 if len(inspection.rows) <= FEW else 1.0  # ten rows of upright photos would not fit any screen
    cell_height = CELL * float(np.clip(height / width, 0.5, tallest))
    row = cell_height + TITLE + 0.12
    sheet = Sheet(
        LEFT + max(len(columns), len(overview)) * (CELL + GAP) + 0.05,
        STORY + row + HEADING + row * len(inspection.rows) + 0.45,
    )
    _write_story(sheet, inspection)
    for i, (title, draw) in enumerate(overview):
        left = _left(i)
        sheet.write(left, STORY + 0.22, title, 10, va="baseline")
        draw(sheet.place(left, STORY + TITLE, CELL, cell_height), pictures)
    _write_verdicts(sheet, inspection, _left(len(overview)) + 0.1, cell_height)
    top = STORY + row
    for i, column in enumerate(columns):
        _write_heading(sheet, column, _left(i), top)
    top += HEADING
    for inspected in inspection.rows:
        _write_row_name(sheet, inspected, inspection, top + TITLE + cell_height / 2)
        for i, column in enumerate(columns):
            left = _left(i)
            title = column.draw(sheet.place(left, top + TITLE, CELL, cell_height), inspected, pictures)
            sheet.write(left, top + 0.22, title, 9, va="baseline")
        top += row
    sheet.write(LEFT, top + 0.12, stop_sentence(inspection), 12, weight="bold")
    return sheet.picture()


def _left(i: int) -> float:
    """Where the i-th picture of a row begins, in inches."""
    return LEFT + i * (CELL + GAP)


def _write_story(sheet: Sheet, inspection: Inspection) -> None:
    """Over all: name, settings, what was found, and what the method does."""
    sheet.write(LEFT, 0.16, textwrap.shorten(image_name(inspection), 110, placeholder=" …"), 17, weight="bold")
    sheet.write(LEFT, 0.48, _settings(inspection), 10, QUIET)
    found, tried = len(inspection.record.instances), len(inspection.proposals)
    sheet.write(LEFT, 0.80, f"{counted(found, 'instance')} from {counted(tried, 'proposal')}", 13, weight="bold")
    sheet.write(LEFT, 1.06, story(inspection), 11)


def _write_heading(sheet: Sheet, column: Column, left: float, top: float) -> None:
    """Name, caption and legend of a column."""
    sheet.write(left, top + 0.16, column.name, 12, weight="bold")
    sheet.write(left, top + 0.40, textwrap.fill(column.caption, 39), 8.6, QUIET, linespacing=1.25)
    legend = top + HEADING - 0.23
    if column.scale:
        _draw_colour_bar(sheet, left, legend, column.scale)
    for shift, mark, colour, word in zip((0.0, 0.75), "▲▼", (SOURCE, SINK), column.terminals, strict=False):
        sheet.write(left + shift, legend - 0.03, mark, 9.5, colour)
        sheet.write(left + shift + 0.15, legend - 0.02, word, 8, QUIET)


def _write_row_name(sheet: Sheet, inspected: InspectedProposal, inspection: Inspection, middle: float) -> None:
    """Upright, left of a row: which proposal it is, and what became of it."""
    verdict, colour = ("kept", INK) if inspected.dropped is None else ("dropped", ALARM)
    centred = {"rotation": 90, "va": "center", "ha": "center", "ma": "center"}
    sheet.write(0.27, middle, f"{label(inspected, inspection)}\n{verdict}", 11.5, colour, weight="bold", **centred)


def _settings(inspection: Inspection) -> str:
    gh, gw = inspection.grid
    method = inspection.method
    height, width = inspection.photo.rgb.shape[:2]
    depth = f"depth {method['depth']['name']}" if method["depth"] else "no depth"
    features = f"features {method['features']['model']} ({method['features']['kind']})"
    return (
        f"recipe {inspection.recipe.name}  ·  {features}  ·  {depth}  ·  {width}×{height} pixels, "
        f"seen as {gw}×{gh} = {gw * gh} patches"
    )


def _write_verdicts(sheet: Sheet, inspection: Inspection, left: float, height: float) -> None:
    """What became of each round, beside the overview, in columns; other searches have too many masks for it, and
    pictures there.
    """
    if not isinstance(inspection.recipe.search, RoundsConfig):
        return
    lines = max(1, int(height / 0.21))
    for i, inspected in enumerate(inspection.proposals):
        text, colour = f"{label(inspected, inspection)}: ", INK
        if inspected.instance is None:
            text, colour = text + f"dropped, {drop_sentence(inspected, inspection)}", ALARM
        else:
            area = int(inspected.proposal.mask.sum())
            text += f"kept, {counted(area, 'patch', 'es')}, score {inspected.instance.score:.2f}"
        sheet.write(left + 5.4 * (i // lines), STORY + TITLE + 0.21 * (i % lines), text, 10, colour)


def _overview(inspection: Inspection) -> list[tuple[str, Callable[[Axes, Pictures], None]]]:
    """The pictures that all proposals share: title and how each is drawn."""
    pictures: list[tuple[str, Callable[[Axes, Pictures], None]]] = [
        ("Photo", lambda axes, shared: shared.show(axes, shared.photo))
    ]
    depth, importance = inspection.depth, inspection.importance
    if depth is not None:
        pictures.append(("Depth: bright is near", lambda axes, shared: shared.show(axes, depth, cmap=NEAR_FAR)))
    if importance is not None:
        title = "Spatial Importance: depth edges"
        pictures.append((title, lambda axes, shared: shared.show(axes, importance, cmap="cividis", vmax=1)))
    search = inspection.recipe.search
    if isinstance(search, TreeConfig):
        pictures += [
            (f"Parts after {counted(level, 'cut')}", partial(draw_parts, level=level))
            for level in range(1, min(search.depth, MOST_LEVELS) + 1)
        ]
    if isinstance(search, HierarchyConfig):
        pictures += [(f"Regions at τ = {tau:g}", partial(draw_regions, tau=tau)) for tau in search.taus[:MOST_LEVELS]]
    if inspection.background is not None:
        pictures.append(("Background, by vote: greyed out", draw_background))
    return [*pictures, ("Result, numbered as the rows", draw_result)]


def _columns(inspection: Inspection) -> list[Column]:
    recipe = inspection.recipe
    columns_of = {
        **{"rounds": _round_columns, "tree": _tree_columns},
        **{"merge": _merge_columns, "hierarchy": _region_columns},
    }
    columns = columns_of[recipe.searched](inspection)
    if recipe.spatial_confidence is not None:
        confidence = recipe.spatial_confidence
        caption = (
            f"In how many of {confidence.thresholds} cuts, at ever lower thresholds, a patch stays with the source. "
            f"Stored as {confidence.floor:g} at least."
        )
        columns.append(Column("Spatial Confidence", caption, draw_confidence, (LOW_HIGH, "0", "every cut")))
    if recipe.boundary is not None:
        caption = (
            "Patches along the outline go to the side that they are more like, inside or around: green came in, red "
            "went out."
        )
        columns.append(Column("Boundary", caption, draw_boundary))
    caption = "The mask after the dense CRF, at the photo's own size." if recipe.refine.crf else "At full size."
    columns.append(Column("Refined mask", caption, draw_refined))
    caption = f"{score_sentence(inspection)}.".capitalize()
    if recipe.score != CONSTANT:
        caption = (
            "The product of these. Ticks: those of the image's best mask; orange: what sets this one back most. Grey: "
            "not in this recipe's score."
        )
    columns.append(Column("Score", caption, draw_score))
    return columns


def _round_columns(inspection: Inspection) -> list[Column]:
    """The stages of a round up to its mask."""
    recipe = inspection.recipe
    of_piece = " of a piece" if recipe.local_cut and recipe.local_cut.pieces == "all" else ""
    may_return = isinstance(recipe.search, RoundsConfig) and recipe.search.taken_may_return
    without = "" if may_return else " without what was taken"
    columns = [
        Column("What is left", "The photo. Patches that earlier rounds took are greyed out.", draw_inside),
        Column(
            "Affinity of the source",
            f"How like the source (▲) each patch is. Outlined: its neighbours in the graph, above τ = "
            f"{recipe.affinity.tau:g}" + (" after Spatial Importance." if recipe.spatial_importance else "."),
            draw_affinity,
            (LOW_HIGH, "cosine 0", "1"),
        ),
        Column(
            "Eigenvector",
            f"NCut parts the graph. White is the mean, where it is cut; the source is the strongest red{of_piece}.",
            draw_eigenvector,
            (SIGNED, *side_words(inspection)),
        ),
        Column("Semantic group", f"The foreground side{without}: one kind of thing, maybe many of them.", draw_group),
    ]
    if recipe.local_cut is not None:
        caption = (
            f"Edges of {recipe.local_cut.tau_on(inspection.grid):.3g} or longer between the group's 3D points are cut. "
            "What still hangs on the source is the instance; red: where it is cut off."
        )
        columns.append(Column("LocalCut", caption, draw_local_cut, terminals=("source", "sink")))
    else:
        caption = "The connected part of the group that holds the seed, the eigenvector's peak."
        columns.append(Column("Component", caption, draw_local_cut, terminals=("seed",)))
    return columns


def _tree_columns(inspection: Inspection) -> list[Column]:
    """The stages from a part of the tree to a mask."""
    recipe = inspection.recipe
    columns = [
        Column(
            "What is cut in two", "The image, or a part that earlier cuts gave; the rest is greyed out.", draw_inside
        ),
        Column(
            "Affinity of the source",
            "How like the source (▲) each patch is. Outlined: its neighbours in the graph, more alike than the mean of "
            f"what is cut, and than τ = {recipe.affinity.tau:g}.",
            draw_affinity,
            (LOW_HIGH, "cosine 0", "1"),
        ),
        Column(
            "Eigenvector",
            "NCut parts the graph. White is the mean, where it is cut in two; red is the side of this mask.",
            draw_eigenvector,
            (SIGNED, *side_words(inspection)),
        ),
        Column(
            "Part",
            "A connected part of the red side: one kind of thing, maybe many. The next level cuts it again.",
            draw_group,
        ),
    ]
    return [*columns, *_pieces_column(inspection)]


def _merge_columns(inspection: Inspection) -> list[Column]:
    """The stages from patches to a merged mask."""
    recipe = inspection.recipe
    rules = recipe.search
    tau = rules.settled_tau("bipartition_tau") if isinstance(rules, MergeConfig) else 0.0
    after = " after Spatial Importance" if recipe.spatial_importance else ""
    return [
        Column(
            "Affinity of the source",
            f"How like the source (▲) each patch is. Outlined: what a prompt there would take, above {tau:g}{after}.",
            draw_affinity,
            (LOW_HIGH, "cosine 0", "1"),
        ),
        Column(
            "Affinity of the mask",
            "How like the mean features of the merged mask each patch is; the source is the most similar one.",
            draw_likeness,
            (LOW_HIGH, "cosine 0", "1"),
        ),
        Column("Merged mask", "Masks that overlap, or adjacent groups.", draw_group),
        *_pieces_column(inspection),
    ]


def _pieces_column(inspection: Inspection) -> list[Column]:
    """What LocalCut makes of a part; nothing for recipes without it."""
    recipe = inspection.recipe
    if recipe.local_cut is None:
        return []
    taus = cut_thresholds(recipe, inspection.grid)
    levels = f"{taus[0]:.2g}" if len(taus) == 1 else f"{len(taus)} thresholds τ, {taus[0]:.2g} to {taus[-1]:.2g}"
    caption = (
        f"3D edges of τ or longer are cut. The {'part' if recipe.has_ncut else 'mask'} and all its pieces "
        f"at {levels} compete; this one won a place. Red: where it is cut off."
    )
    return [Column("LocalCut", caption, draw_local_cut, terminals=("source", "sink"))]


def _region_columns(_: Inspection) -> list[Column]:
    """From patches to a region."""
    return [
        Column(
            "Likeness",
            "How like the region's mean feature each patch is. ▲: the most like of the region.",
            draw_likeness,
            (LOW_HIGH, "cosine 0", "1"),
        ),
        Column("Region", "Patches that merging has brought together down to τ.", draw_region),
    ]


def _draw_colour_bar(sheet: Sheet, left: float, top: float, scale: tuple[str, str, str]) -> None:
    colours, low, high = scale
    sheet.write(left, top - 0.02, low, 8, QUIET)
    start = left + 0.08 * len(low) + 0.05
    axes = sheet.place(start, top + 0.01, 0.75, 0.09)
    axes.imshow(np.linspace(0, 1, 128)[None], cmap=colours, aspect="auto")
    sheet.write(start + 0.81, top - 0.02, high, 8, QUIET)
