"""A sheet of pictures and text, placed in inches from its upper left corner."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pipeline.views.inspect.cells import INK

DPI = 100


class Sheet:
    """A white sheet of `width` times `height` inches."""

    def __init__(self, width: float, height: float) -> None:
        self._width, self._height = width, height
        self._figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)

    def place(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes for a picture there, without ticks or frame."""
        bottom = 1 - (top + height) / self._height
        axes = self._figure.add_axes((left / self._width, bottom, width / self._width, height / self._height))
        axes.set_axis_off()
        axes.set_anchor("NW")  # a picture that is narrower stays below the left end of its title
        return axes

    def write(self, left: float, top: float, text: str, size: float, colour: str = INK, **style: object) -> None:
        """Text with its upper left corner there. Never parsed: "$" of a file name is no formula."""
        style = {"va": "top", "parse_math": False, **style}
        x, y = left / self._width, 1 - top / self._height
        self._figure.text(x, y, text, fontsize=size, color=colour, **style)  # type: ignore[arg-type]

    def picture(self) -> Image.Image:
        """The sheet as an RGB picture, `DPI` pixels an inch."""
        self._canvas.draw()
        return Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB")
