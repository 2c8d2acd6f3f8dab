"""The pictures of an inspection's panel: each cell shows what one stage made of one proposal.

Gh, Gw patch grid · H, W pixels

Each draws itself on `axes` from what the pictures of the image share; those of a proposal return the words over it.
"""

import textwrap
from dataclasses import asdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from PIL import Image

from pipeline.results.instance_overlay import deepest, instance_colours
from pipeline.results.instances import LEVELS
from pipeline.views.inspect.inspection import InspectedProposal, Inspection
from pipeline.views.inspect.words import cut_sentence, drop_sentence
from pipeline.wording import counted
from stages.ncut_tree import TreeConfig
from stages.score import factors

INK, QUIET, ALARM = "#1d2129", "#667085", "#b42318"
SOURCE, SINK, CUT = "#ffb000", "#1aa5ff", "#e5004f"
GROUP, OUTSIDE = (0.23, 0.45, 0.85), (0.64, 0.67, 0.73)
GAINED, LOST = (0.16, 0.62, 0.28), (0.85, 0.17, 0.13)
BAR, BEHIND = "#3f6fb5", "#e07b00"
MARK = 9  # points, the size of the marks of source and sink
NEAR_FAR, LOW_HIGH, SIGNED = "magma_r", "viridis", "RdBu_r"


class Pictures:
    """What the pictures of one image share: the photo, large and pale, and how maps, masks and marks are laid on it."""

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
        """A mark on a patch; on one at the edge moved inwards, so that it stays within the picture."""
        axes.apply_aspect()  # which settles where the picture is
        row, column = divmod(patch, self.inspection.grid[1])
        at = axes.transData.transform([(column + 0.5) * self.step[1], (row + 0.5) * self.step[0]])
        radius = MARK / 72 * axes.figure.dpi  # of its black edge, too
        box = axes.bbox.padded(-radius)
        x, y = axes.transData.inverted().transform(np.clip(at, box.min, box.max))
        axes.plot(x, y, shape, color=colour, markersize=MARK, markeredgecolor="black", zorder=5, clip_on=False)


def draw_parts(axes: Axes, shared: Pictures, level: int) -> None:
    """What the image has fallen into after so many cuts, one above the other; pale: in no part of a mask's size."""
    parts = [part for part in shared.inspection.tree if part.depth <= level]
    owner = np.full(shared.inspection.grid, -1)
    for k, part in enumerate(parts):  # those of a deeper level lie in those above them, and come later
        owner[part.mask] = k
    colours = np.vstack([instance_colours(len(parts)) / 255, np.ones((1, 3))])
    alpha = np.where(owner >= 0, 0.5, 0.4)
    shared.show(axes, shared.pale)
    shared.show(axes, np.dstack([colours[owner], alpha]))
    for k in np.unique(owner[owner >= 0]):
        shared.border(axes, owner == k, "white", 0.9)


def draw_regions(axes: Axes, shared: Pictures, tau: float) -> None:
    """The regions that there are at a threshold; pale: those too small for a mask."""
    regions = [one.proposal.mask for one in shared.inspection.proposals if one.proposal.tau == tau]
    colours = instance_colours(len(regions)) / 255
    shared.show(axes, shared.pale)
    for mask, colour in zip(regions, colours, strict=True):
        shared.tint(axes, mask, tuple(colour), 0.5)
        shared.border(axes, mask, "white", 0.5)


def draw_result(axes: Axes, shared: Pictures) -> None:
    """All instances that have a row, small ones on top, each with its number."""
    shared.show(axes, shared.photo)
    kept = [
        (row, inspected, inspected.refined)
        for row, inspected in enumerate(shared.inspection.rows, 1)
        if inspected.instance is not None and inspected.refined is not None
    ]
    for _, inspected, mask_HW in sorted(kept, key=lambda one: -int(one[2].sum())):
        shared.overlay(axes, mask_HW, _colour_of(inspected, shared))
    for row, inspected, mask_HW in kept:
        y, x = deepest(mask_HW)
        box = {"facecolor": _colour_of(inspected, shared), "edgecolor": "none", "boxstyle": "round,pad=0.2"}
        axes.text(x, y, str(row), ha="center", va="center", fontsize=8, bbox=box)


def draw_inside(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    shared.show(axes, shared.photo)
    shared.tint(axes, inspected.outside, OUTSIDE, 0.9)
    shared.border(axes, ~inspected.outside, "white", 0.8)
    inside = int((~inspected.outside).sum())
    return (
        "the whole image"
        if inside == inspected.outside.size
        else f"{inside} of {counted(inspected.outside.size, 'patch', 'es')}"
    )


def draw_affinity(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    neighbours = inspected.edges > 0
    shared.show(axes, inspected.cosines, cmap=LOW_HIGH, vmin=0, vmax=1)
    shared.tint(axes, inspected.outside, OUTSIDE, 0.9)
    shared.border(axes, neighbours, "white", 1.0)
    shared.mark(axes, inspected.proposal.source, SOURCE, "^")
    return counted(int(neighbours.sum()), "neighbour")


def draw_eigenvector(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    x, was_cut = inspected.proposal.eigenvector, inspected.proposal.was_cut
    mean = x[was_cut].mean()
    spread = float(np.abs(x[was_cut] - mean).max()) or 1.0
    shared.show(axes, x, cmap=SIGNED, vmin=mean - spread, vmax=mean + spread)
    shared.tint(axes, ~was_cut, OUTSIDE, 1.0)
    shared.mark(axes, inspected.proposal.source, SOURCE, "^")
    return f"λ₂ = {inspected.proposal.eigenvalue:.3f}, gap to λ₃ = {inspected.proposal.gap:.3f}"


def draw_likeness(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    proposal = inspected.proposal
    shared.show(axes, proposal.eigenvector, cmap=LOW_HIGH, vmin=0, vmax=1)
    shared.border(axes, proposal.group, "white", 1.0)
    shared.mark(axes, proposal.source, SOURCE, "^")
    inside = proposal.eigenvector[proposal.group]
    return f"mean {inside.mean():.2f} inside" if proposal.group.any() else ""


def draw_region(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    mask = inspected.proposal.mask
    shared.show(axes, shared.pale)
    shared.tint(axes, mask, _colour_of(inspected, shared), 0.75)
    shared.border(axes, mask, INK, 0.7)
    return _area(mask)


def draw_background(axes: Axes, shared: Pictures) -> None:
    """What the prompts along the border vote for."""
    background = shared.inspection.background
    shared.show(axes, shared.photo)
    if background is not None:
        shared.tint(axes, background, OUTSIDE, 0.9)
        shared.border(axes, background, "white", 0.8)


def draw_group(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    proposal = inspected.proposal
    shared.show(axes, shared.pale)
    shared.tint(axes, proposal.group, GROUP)
    shared.border(axes, proposal.group, "#1f3f87", 0.8)
    is_tree = isinstance(shared.inspection.recipe.search, TreeConfig)
    level = f", after {counted(proposal.level, 'cut')}" if is_tree else ""
    return _area(proposal.group) + level


def draw_local_cut(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    proposal = inspected.proposal
    shared.show(axes, shared.pale)
    shared.tint(axes, proposal.group & ~proposal.mask, GROUP, 0.25)
    shared.tint(axes, proposal.mask, _colour_of(inspected, shared), 0.75)
    shared.border(axes, proposal.mask, INK, 0.7)
    if proposal.sink >= 0:
        shared.border(axes, proposal.mask, CUT, 2.4, against=proposal.group)
        shared.mark(axes, proposal.sink, SINK, "v")
    shared.mark(axes, proposal.source, SOURCE, "^")
    how = cut_sentence(inspected, shared.inspection)
    area = counted(int(proposal.mask.sum()), "patch", "es") if how else _area(proposal.mask)
    return f"{area}, {how}" if how else area


def draw_confidence(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    shared.show(axes, shared.pale)
    if inspected.confidence is None:
        return "not computed: dropped before"
    inside = inspected.proposal.mask
    shared.show(axes, np.ma.array(inspected.confidence, mask=~inside), cmap=LOW_HIGH, vmin=0, vmax=1)
    shared.border(axes, inside, INK, 0.7)
    return f"mean {inspected.confidence[inside].mean():.2f}"


def draw_boundary(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    mask, settled = inspected.proposal.mask, inspected.proposal.settled
    shared.show(axes, shared.pale)
    shared.tint(axes, mask & settled, _colour_of(inspected, shared), 0.75)
    shared.tint(axes, settled & ~mask, GAINED, 0.85)
    shared.tint(axes, mask & ~settled, LOST, 0.85)
    shared.border(axes, settled, INK, 0.7)
    return f"{int((settled & ~mask).sum())} in, {int((mask & ~settled).sum())} out"


def draw_refined(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    if inspected.refined is None:
        shared.show(axes, shared.pale)
        words = textwrap.fill(drop_sentence(inspected, shared.inspection), 26)
        _notice(axes, f"dropped\n{words}")
        return ""
    shared.show(axes, shared.photo if inspected.instance else shared.pale)
    mask = inspected.refined
    shared.overlay(axes, mask, _colour_of(inspected, shared))
    if inspected.instance is None:
        _notice(axes, f"dropped\n{textwrap.fill(drop_sentence(inspected, shared.inspection), 26)}")
    if inspected.instance is not None and inspected.instance.level is not None:
        return f"{LEVELS[inspected.instance.level]}, IoU with unrefined {inspected.crf_iou:.2f}"
    return "" if shared.inspection.recipe.refine.crf is None else f"IoU with unrefined {inspected.crf_iou:.2f}"


def draw_score(axes: Axes, inspected: InspectedProposal, shared: Pictures) -> str:
    """A bar for each part of the score, 0..1, with a tick where the image's best mask has it; in orange that of those
    which count that is farthest below it."""
    parts, counts = asdict(inspected.parts), factors(shared.inspection.recipe.score)
    unknown = inspected.unknown_parts(shared.inspection.recipe)
    best = asdict(max(shared.inspection.record.instances, key=lambda one: one.score, default=inspected).parts)
    behind = min(counts, key=lambda name: parts[name] / max(best[name], 1e-9), default=None)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(parts) - 0.5, -0.5)
    for row, (name, value) in enumerate(parts.items()):
        held_back = name == behind and parts[name] < best[name]
        colour = BEHIND if held_back else BAR if name in counts else OUTSIDE
        axes.barh(row, 0.44, 0.62, left=0.38, color="#eef0f3")
        if name not in unknown:
            axes.barh(row, 0.44 * value, 0.62, left=0.38, color=colour)
        if name in counts and name not in unknown:
            axes.plot([0.38 + 0.44 * best[name]] * 2, [row - 0.4, row + 0.4], color=INK, linewidth=1.1)
        ink = INK if name in counts else QUIET
        axes.text(0.35, row, name, ha="right", va="center", fontsize=8.6, color=ink)
        axes.text(
            1.0, row, "–" if name in unknown else f"{value:.2f}", ha="right", va="center", fontsize=8.6, color=ink
        )
    if inspected.instance is None:
        return "dropped: no score"
    return f"score {inspected.instance.score:.3f}"


def _area(mask_GhGw: np.ndarray) -> str:
    return f"{counted(int(mask_GhGw.sum()), 'patch', 'es')} ({mask_GhGw.mean():.1%})"


def _colour_of(inspected: InspectedProposal, shared: Pictures) -> tuple[float, ...]:
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
