"""The panel of an inspection: one picture that shows every stage of an image, a row for each proposal.

Gh, Gw patch grid · H, W pixels
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from pipeline.inspection import InspectedProposal, Inspection
from pipeline.inspection_words import drop_sentence, image_name, label, stop_sentence
from pipeline.overlays import instance_colours

DPI = 100
CELL = 2.45  # inches, width of a picture
GAP = 0.17  # inches between pictures
LEFT = 0.55  # inches, for the names of the rows
HEADING = 1.38  # inches over the first row of proposals
TITLE = 0.27  # inches over each picture

INK, QUIET, ALARM = "#1d2129", "#667085", "#b42318"
SOURCE, SINK, CUT = "#ffb000", "#1aa5ff", "#e5004f"
GROUP, TAKEN = (0.23, 0.45, 0.85), (0.64, 0.67, 0.73)
NEAR_FAR, LOW_HIGH, SIGNED = "magma_r", "viridis", "RdBu_r"


@dataclass(frozen=True)
class Column:
    """A stage: heading, caption in plain words, how a proposal's cell is drawn (returning its title), legend."""

    name: str
    caption: str
    draw: Callable[[Axes, InspectedProposal, "_Pictures"], str]
    scale: tuple[str, str, str] | None = None  # colour map, word at its low end, word at its high end
    terminals: tuple[str, ...] = ()  # words for the marks of source and sink


class _Pictures:
    """What the cells of one image share."""

    def __init__(self, inspection: Inspection) -> None:
        self.inspection = inspection
        height, width = inspection.photo.rgb.shape[:2]
        self.extent = (0.0, float(width), float(height), 0.0)
        self.step = height / inspection.grid[0], width / inspection.grid[1]
        long_side = 640 / max(height, width)
        size = max(1, round(width * long_side)), max(1, round(height * long_side))
        self.photo = np.asarray(Image.fromarray(inspection.photo.rgb).resize(size, Image.Resampling.LANCZOS)) / 255
        grey = self.photo.mean(axis=2, keepdims=True)
        self.pale = np.repeat(0.45 + 0.5 * grey, 3, axis=2)

    def show(self, axes: Axes, map_2d: np.ndarray, **style: object) -> None:
        axes.imshow(map_2d, extent=self.extent, interpolation="nearest", **style)  # type: ignore[arg-type]

    def tint(self, axes: Axes, mask_GhGw: np.ndarray, colour: tuple[float, ...], alpha: float = 0.55) -> None:
        self.show(axes, np.where(mask_GhGw[..., None], [*colour[:3], alpha], 0.0))

    def overlay(self, axes: Axes, mask_HW: np.ndarray, colour: tuple[float, ...]) -> None:
        """A mask at the size of the photo, with its outline."""
        rgba = np.where(mask_HW[..., None], [*colour, 0.5], 0.0)
        axes.imshow(rgba, extent=self.extent, interpolation="antialiased")
        if mask_HW.any() and not mask_HW.all():
            axes.contour(
                mask_HW, levels=[0.5], colors=[colour], linewidths=1.2, extent=(*self.extent[:2], 0.0, self.extent[2])
            )

    def border(
        self, axes: Axes, mask_GhGw: np.ndarray, colour: str, width: float, against: np.ndarray | None = None
    ) -> None:
        """Outline of a mask along the edges of its patches, or the part of it that borders on `against`."""
        axes.add_collection(LineCollection(self._segments(mask_GhGw, against), colors=colour, linewidths=width))

    def _segments(self, mask_GhGw: np.ndarray, against: np.ndarray | None) -> list[list[tuple[float, float]]]:
        other = np.pad(~mask_GhGw if against is None else against & ~mask_GhGw, 1, constant_values=against is None)
        dy, dx = self.step
        lines = []
        for row, column in np.argwhere(mask_GhGw):
            top, left, bottom, right = row * dy, column * dx, (row + 1) * dy, (column + 1) * dx
            for (up, along), line in {
                (0, 1): [(left, top), (right, top)],
                (2, 1): [(left, bottom), (right, bottom)],
                (1, 0): [(left, top), (left, bottom)],
                (1, 2): [(right, top), (right, bottom)],
            }.items():
                if other[row + up, column + along]:
                    lines.append(line)
        return lines

    def mark(self, axes: Axes, patch: int, colour: str, shape: str) -> None:
        row, column = divmod(patch, self.inspection.grid[1])
        dy, dx = self.step
        axes.plot(
            (column + 0.5) * dx, (row + 0.5) * dy, shape, color=colour, markersize=9, markeredgecolor="black", zorder=5,
            clip_on=False,
        )  # fmt: skip


def draw_panel(inspection: Inspection) -> Image.Image:
    """The panel of one image as an RGB picture, some 1,900 pixels wide."""
    pictures = _Pictures(inspection)
    columns = _columns(inspection)
    height, width = inspection.photo.rgb.shape[:2]
    cell_height = CELL * float(np.clip(height / width, 0.5, 1.6))
    row = cell_height + TITLE + 0.12
    whole = LEFT + len(columns) * (CELL + GAP) + 0.05, 0.72 + row + HEADING + row * len(inspection.proposals) + 0.45
    figure = Figure(figsize=whole, dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)

    def place(left: float, top: float, w: float, h: float) -> Axes:
        axes = figure.add_axes((left / whole[0], 1 - (top + h) / whole[1], w / whole[0], h / whole[1]))
        axes.set_axis_off()
        return axes

    def write(left: float, top: float, text: str, size: float, colour: str = INK, **style: object) -> None:
        """Text with its upper left corner there. Never parsed: "$" of a file name is no formula."""
        style = {"va": "top", "parse_math": False, **style}
        figure.text(left / whole[0], 1 - top / whole[1], text, fontsize=size, color=colour, **style)  # type: ignore[arg-type]

    write(LEFT, 0.16, textwrap.shorten(image_name(inspection), 110, placeholder=" …"), 17, weight="bold")
    write(LEFT, 0.48, _settings(inspection), 10, QUIET)
    for i, (title, draw) in enumerate(_overview(inspection)):
        left = LEFT + i * (CELL + GAP)
        write(left, 0.94, title, 10, va="baseline")
        draw(place(left, 0.72 + TITLE, CELL, cell_height), pictures)
    left = LEFT + len(_overview(inspection)) * (CELL + GAP) + 0.1
    _story(inspection, left, write)

    top = 0.72 + row
    for i, column in enumerate(columns):
        left = LEFT + i * (CELL + GAP)
        write(left, top + 0.16, column.name, 12, weight="bold")
        write(left, top + 0.40, textwrap.fill(column.caption, 39), 8.6, QUIET, linespacing=1.25)
        legend = top + HEADING - 0.23
        if column.scale:
            _colour_bar(place, write, left, legend, column.scale)
        for shift, mark, colour, word in zip((0.0, 0.75), "▲▼", (SOURCE, SINK), column.terminals, strict=False):
            write(left + shift, legend - 0.03, mark, 9.5, colour)
            write(left + shift + 0.15, legend - 0.02, word, 8, QUIET)
    top += HEADING
    for inspected in inspection.proposals:
        dropped = inspected.dropped is not None
        where = 0.27, top + TITLE + cell_height / 2
        text = f"{label(inspected)}\n{'dropped' if dropped else 'kept'}"
        write(
            *where, text, 11.5, ALARM if dropped else INK,
            rotation=90, va="center", ha="center", ma="center", weight="bold",
        )  # fmt: skip
        for i, column in enumerate(columns):
            left = LEFT + i * (CELL + GAP)
            title = column.draw(place(left, top + TITLE, CELL, cell_height), inspected, pictures)
            write(left, top + 0.22, title, 9, va="baseline")
        top += row
    write(LEFT, top + 0.12, stop_sentence(inspection), 12, weight="bold")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


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


def _story(inspection: Inspection, left: float, write: Callable[..., None]) -> None:
    """The text beside the overview: what was found, and how to read the marks."""
    found, tried = len(inspection.record.instances), len(inspection.proposals)
    write(left, 0.97, f"{_count(found, 'instance')} from {_count(tried, 'proposal')}", 15, weight="bold")
    text = (
        "Each row below is a proposal: similarity of features finds a group of one kind, and its depth tells the "
        "instances in it apart. What a round took is out of the next round's graph."
    )
    if inspection.recipe.local_cut is None:
        text = (
            "Each row below is a proposal: similarity of features finds a group of one kind; the connected part of it "
            "that holds the strongest patch is the mask."
        )
    write(left, 1.30, textwrap.fill(text, 88), 10, QUIET, linespacing=1.3)
    top = 1.95
    for inspected in inspection.proposals:
        head = f"{label(inspected)}: "
        if inspected.instance is None:
            write(left, top, head + f"dropped, {drop_sentence(inspected, inspection)}", 10, ALARM)
        else:
            area = int(inspected.proposal.mask.sum())
            write(left, top, head + f"kept, {area} patches, score {inspected.instance.score:.2f}", 10)
        top += 0.21


def _overview(inspection: Inspection) -> list[tuple[str, Callable[[Axes, _Pictures], None]]]:
    """The pictures that all proposals share: title and how each is drawn."""
    pictures: list[tuple[str, Callable[[Axes, _Pictures], None]]] = [
        ("Photo", lambda axes, shared: shared.show(axes, shared.photo)),
        ("Result: instances and scores", _result),
    ]
    depth, importance = inspection.depth, inspection.importance
    if depth is not None:
        pictures.insert(1, ("Depth: bright is near", lambda axes, shared: shared.show(axes, depth, cmap=NEAR_FAR)))
    if importance is not None:
        title = "Spatial Importance: depth edges"
        pictures.insert(2, (title, lambda axes, shared: shared.show(axes, importance, cmap="cividis", vmax=1)))
    return pictures


def _result(axes: Axes, shared: _Pictures) -> None:
    shared.show(axes, shared.photo)
    for inspected in shared.inspection.proposals:
        if inspected.instance is not None and inspected.refined is not None:
            colour = _colour_of(inspected, shared)
            shared.overlay(axes, inspected.refined, colour)
            rows, columns = np.nonzero(inspected.refined)
            box = {"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
            text = f"{inspected.instance.score:.2f}"
            axes.text(float(columns.mean()), float(rows.mean()), text, ha="center", va="center", fontsize=9, bbox=box)


def _columns(inspection: Inspection) -> list[Column]:
    recipe = inspection.recipe
    of_piece = " of a piece" if recipe.local_cut and recipe.local_cut.pieces == "all" else ""
    without = "" if recipe.rounds.taken_may_return else " without what was taken"
    columns = [
        Column("What is left", "The photo. Patches that earlier rounds took are greyed out.", _left),
        Column(
            "Affinity of the source",
            f"How like the source (▲) each patch is. Outlined: its neighbours in the graph, above τ = "
            f"{recipe.affinity.tau:g}" + (" after Spatial Importance." if recipe.spatial_importance else "."),
            _affinity,
            (LOW_HIGH, "cosine 0", "1"),
        ),
        Column(
            "Eigenvector",
            f"NCut parts the graph. White is the mean, where it is cut; the source is the strongest red{of_piece}.",
            _eigenvector,
            (SIGNED, "background", "foreground"),
        ),
        Column("Semantic group", f"The foreground side{without}: one kind of thing, maybe many of them.", _group),
    ]
    if recipe.local_cut is not None:
        caption = (
            f"Edges of {recipe.local_cut.tau_knn:g} or longer between the group's 3D points are cut. What still hangs "
            "on the source is the instance; red: where it is cut off."
        )
        columns.append(Column("LocalCut", caption, _local_cut, terminals=("source", "sink")))
    else:
        caption = "The connected part of the group that holds the seed, the eigenvector's peak."
        columns.append(Column("Component", caption, _local_cut, terminals=("seed",)))
    if recipe.spatial_confidence is not None:
        confidence = recipe.spatial_confidence
        caption = (
            f"In how many of {confidence.thresholds} cuts, at ever lower thresholds, a patch stays with the source; "
            f"{confidence.floor:g} at least."
        )
        columns.append(Column("Spatial Confidence", caption, _confidence, (LOW_HIGH, "0", "every cut")))
    caption = "The mask after the dense CRF, at the photo's own size." if recipe.refine.crf else "At full size."
    caption += f" Score: {recipe.score.replace('_', ' × ')}."
    columns.append(Column("Refined mask", caption, _refined))
    return columns


def _left(axes: Axes, inspected: InspectedProposal, shared: _Pictures) -> str:
    shared.show(axes, shared.photo)
    shared.tint(axes, inspected.taken, TAKEN, 0.9)
    return f"{int((~inspected.taken).sum())} of {inspected.taken.size} patches"


def _affinity(axes: Axes, inspected: InspectedProposal, shared: _Pictures) -> str:
    neighbours = inspected.edges > 0
    shared.show(axes, inspected.cosines, cmap=LOW_HIGH, vmin=0, vmax=1)
    shared.tint(axes, inspected.taken, TAKEN, 0.9)
    shared.border(axes, neighbours, "white", 1.0)
    shared.mark(axes, inspected.proposal.source, SOURCE, "^")
    return f"{int(neighbours.sum())} neighbours"


def _eigenvector(axes: Axes, inspected: InspectedProposal, shared: _Pictures) -> str:
    x = inspected.proposal.eigenvector
    spread = float(np.abs(x - x.mean()).max()) or 1.0
    shared.show(axes, x, cmap=SIGNED, vmin=x.mean() - spread, vmax=x.mean() + spread)
    shared.mark(axes, inspected.proposal.source, SOURCE, "^")
    return f"λ₂ = {inspected.proposal.eigenvalue:.3f}, gap to λ₃ = {inspected.proposal.gap:.3f}"


def _group(axes: Axes, inspected: InspectedProposal, shared: _Pictures) -> str:
    group = inspected.proposal.group
    shared.show(axes, shared.pale)
    shared.tint(axes, group, GROUP)
    shared.border(axes, group, "#1f3f87", 0.8)
    return _area(group)


def _local_cut(axes: Axes, inspected: InspectedProposal, shared: _Pictures) -> str:
    proposal = inspected.proposal
    shared.show(axes, shared.pale)
    shared.tint(axes, proposal.group & ~proposal.mask, GROUP, 0.25)
    shared.tint(axes, proposal.mask, _colour_of(inspected, shared), 0.75)
    shared.border(axes, proposal.mask, INK, 0.7)
    shared.mark(axes, proposal.source, SOURCE, "^")
    if proposal.sink >= 0:
        shared.border(axes, proposal.mask, CUT, 2.4, against=proposal.group)
        shared.mark(axes, proposal.sink, SINK, "v")
    return f"{_area(proposal.mask)}, contrast {proposal.contrast:.2f}"


def _confidence(axes: Axes, inspected: InspectedProposal, shared: _Pictures) -> str:
    shared.show(axes, shared.pale)
    if inspected.confidence is None:
        return "not computed: dropped before"
    inside = inspected.proposal.mask
    shared.show(axes, np.ma.array(inspected.confidence, mask=~inside), cmap=LOW_HIGH, vmin=0, vmax=1)
    shared.border(axes, inside, INK, 0.7)
    return f"mean {inspected.confidence[inside].mean():.2f}"


def _refined(axes: Axes, inspected: InspectedProposal, shared: _Pictures) -> str:
    if inspected.refined is None:
        shared.show(axes, shared.pale)
        words = textwrap.fill(drop_sentence(inspected, shared.inspection), 26)
        _notice(axes, f"dropped\n{words}")
        return ""
    shared.show(axes, shared.photo if inspected.instance else shared.pale)
    mask = inspected.refined
    shared.overlay(axes, mask, _colour_of(inspected, shared))
    iou = "" if shared.inspection.recipe.refine.crf is None else f", IoU with unrefined {inspected.crf_iou:.2f}"
    if inspected.instance is None:
        _notice(axes, "dropped\nthe CRF disagrees")
        return iou.removeprefix(", ")
    return f"score {inspected.instance.score:.2f}{iou}"


def _area(mask_GhGw: np.ndarray) -> str:
    return f"{_count(int(mask_GhGw.sum()), 'patch', 'es')} ({mask_GhGw.mean():.1%})"


def _count(n: int, what: str, plural: str = "s") -> str:
    return f"{n} {what}{'' if n == 1 else plural}"


def _colour_of(inspected: InspectedProposal, shared: _Pictures) -> tuple[float, ...]:
    """Colour of the proposal's instance, as the overlay has it; grey for a dropped proposal."""
    if inspected.instance is None:
        return 0.35, 0.35, 0.38
    inspection = shared.inspection
    colours = instance_colours(len(inspection.record.instances))
    return tuple(colours[inspection.index_of(inspected)] / 255)


def _notice(axes: Axes, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": ALARM, "boxstyle": "round,pad=0.5", "alpha": 0.92}
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9.5, color=ALARM, bbox=box,
        linespacing=1.35,
    )  # fmt: skip


def _colour_bar(
    place: Callable[..., Axes], write: Callable[..., None], left: float, top: float, scale: tuple[str, str, str]
) -> None:
    colours, low, high = scale
    write(left, top - 0.02, low, 8, QUIET)
    start = left + 0.08 * len(low) + 0.05
    axes = place(start, top + 0.01, 0.75, 0.09)
    axes.imshow(np.linspace(0, 1, 128)[None], cmap=colours, aspect="auto")
    write(start + 0.81, top - 0.02, high, 8, QUIET)
