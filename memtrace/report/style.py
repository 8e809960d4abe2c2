"""How every figure looks: colours, sizes, and names made fit to be drawn."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from ..units import format_size, format_time
from .wording import shorten, visible

# Okabe and Ito, "Color Universal Design" (jfly.uni-koeln.de/color), without black, which is kept for text.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
OTHER = "#9aa0a6"

# These three stand for the page's own colours: ``inline_svg`` turns them into CSS, so that a figure
# inside the page follows light and dark. No other artist may use them.
INK = "#1b1f24"
GRID = "#d0d4d9"
PAPER = "#fefefe"

WIDTH_IN = 9.6
"""Width of a figure; at 100 dots an inch it is the page's text width."""

RC: dict[str, Any] = {
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "svg.fonttype": "path",
    "svg.hashsalt": "memtrace",
}


@lru_cache(maxsize=4096)
def _drawable(char: str) -> bool:
    """Whether the figures' font has ``char`` and draws it left to right, one for one."""
    if ord(char) < 0x7F:
        return char.isprintable()
    if unicodedata.category(char)[0] in "CMZ" or unicodedata.bidirectional(char) in ("R", "AL", "AN"):
        return False
    return ord(char) in _glyphs()


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    """Code points that the figures' font has."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def label(text: object, width: int = 28) -> str:
    """Return a name from the trace as the figures write it: visible, drawable, short."""
    raw = str(text)
    # A name of thousands of characters is cut before it is looked at one by one.
    return shorten(visible(shorten(raw, 4 * width), _drawable), width)


def new_figure(height_in: float) -> Figure:
    """An empty figure of page width; ``draw`` functions fill it under ``matplotlib.rc_context(RC)``."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def pyplot_ready() -> None:
    """
    Have pyplot load its backend now; to be called before any ``rc_context`` in which a figure is shown.

    A notebook's backend makes pyplot interactive when the first figure loads it. Within ``rc_context`` that would be
    undone at its end, and no later figure of the notebook would be shown.
    """
    from matplotlib import pyplot

    pyplot.draw_if_interactive()


def shown_figure(height_in: float) -> Figure:
    """A new figure of page width that pyplot knows, so that notebooks and ``plt.show()`` show it."""
    from matplotlib import pyplot

    with matplotlib.rc_context(RC):
        return pyplot.figure(figsize=(WIDTH_IN, height_in), layout="constrained")


class Canvas:
    """
    Where a figure is drawn: a new one, as high as it turns out to need, or axes that somebody gave.

    Parameters
    ----------
    axes
        Axes to draw on; their figure, and what is around them, stay as they are.
    make
        What makes a new figure, from its height in inches.
    """

    def __init__(self, axes: Axes | None = None, make: Callable[[float], Figure] = new_figure) -> None:
        self._given, self._make = axes is not None, make
        self._axes = axes

    def open(self, height_in: float) -> Axes:
        """The axes to draw on; a new figure gets this height."""
        if self._axes is None:
            self._axes = self._make(height_in).subplots()
        return self._axes

    @property
    def axes(self) -> Axes:
        """The axes, once they are open."""
        assert self._axes is not None, "nothing has been drawn"
        return self._axes

    @property
    def figure(self) -> Figure:
        """The figure that the axes are in."""
        figure: Any = self.axes.get_figure()
        return figure

    def nothing(self, why: str) -> Figure:
        """Say why there is nothing to draw, in a low figure."""
        axes = self.open(1.0)
        axes.set_axis_off()
        axes.text(0.5, 0.5, why, ha="center", va="center", color=INK, fontsize=11, transform=axes.transAxes)
        return self.figure

    def legend(self, side: str, ncols: int = 1, **options: Any) -> None:
        """
        A legend that covers no data: at the ``right`` of the axes, or ``below`` them.

        In a figure of our own the layout makes room for it; at given axes it hangs on them, since their figure
        may hold others.
        """
        if "handles" not in options:
            options["handles"], options["labels"] = self.axes.get_legend_handles_labels()
        if not self._given:
            place = "outside right upper" if side == "right" else "outside lower center"
            self.figure.legend(loc=place, ncols=ncols, **options)
        elif side == "right":
            self.axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, ncols=ncols, **options)
        else:
            # Below the axis' own ticks and label, however high the axes are.
            under = self.axes.transAxes + ScaledTranslation(0.0, -UNDER_IN, self.figure.dpi_scale_trans)
            self.axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=under, borderaxespad=0.0,
                             ncols=min(ncols, 3), **options)


UNDER_IN = 0.55
"""Height of an axis' ticks and label."""


def name_ticks(axis: Any, names: Sequence[str], **options: Any) -> None:
    """Ticks at 0, 1, 2, … that carry names from the trace; whoever made the axes, ``$`` in a name is no formula."""
    axis.set_ticks(range(len(names)), names, **options)
    for text in axis.get_ticklabels():
        text.set_parse_math(False)


def samples(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` (index t_ns) fit to be drawn in steps: a single sample is given a width of 1 ns."""
    if len(frame) != 1:
        return frame
    return pd.concat([frame, frame.set_axis(frame.index + 1)])


def time_axis(axes: Axes, times_ns: Any) -> Any:
    """
    Make the x axis simulated time, from the first to the last of ``times_ns``.

    Returns
    -------
    ``times_ns`` in the axis' unit, as a float array.
    """
    times = np.asarray(times_ns, dtype=float)
    units = (("s", 1e9), ("ms", 1e6), ("µs", 1e3))
    name, unit = next(((name, unit) for name, unit in units if times[-1] >= 2 * unit), ("ns", 1.0))
    axes.set_xlabel(f"simulated time, {name}")
    axes.set_xlim(times[0] / unit, max(times[-1], times[0] + 1) / unit)
    axes.xaxis.set_major_locator(MaxNLocator(9))
    return times / unit


def size_axis(axis: Any) -> None:
    """Ticks in binary units on an axis that holds bytes."""
    axis.set_major_locator(BinaryLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_size(value)))


def duration_axis(axis: Any) -> None:
    """Ticks as ``10 µs`` on an axis that holds nanoseconds."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_time(value) if value > 0 else "0"))


class BinaryLocator(MaxNLocator):
    """About six ticks at multiples of a power of two, so that they read 32 MiB and not 28.6 MiB."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        step = 1.0
        while vmax - vmin > 6 * step:
            step *= 2
        first = -(-vmin // step)
        return [step * (first + i) for i in range(8) if step * (first + i) <= vmax]


def sequence(n: int) -> list[Any]:
    """``n`` colours from dark to bright for things that have an order; viridis without its ends,
    which vanish on dark and on white."""
    return [matplotlib.colormaps["viridis"](0.25 + 0.67 * i / max(1, n - 1)) for i in range(n)]


def svg_text(figure: Figure) -> str:
    """The figure as an SVG document: equal bytes for equal figures."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    # Beside the outlines of each text stands a comment with the text. XML allows no "--" there; names may have it.
    return re.sub(r"<!--.*?-->\s*", "", out.getvalue(), flags=re.DOTALL)


def inline_svg(svg: str, prefix: str, title: str) -> str:
    """
    Return an SVG document as an element for the inside of an HTML page.

    Ids get ``prefix`` (the page holds many figures), the paper becomes transparent, ink and grid follow
    the page's colours. ``title`` is read out in place of the picture; it must be escaped already.
    """
    body = svg[svg.index("<svg"):]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body)
    body = re.sub(r'href="#', f'href="#{prefix}-', body)
    body = body.replace(INK, "var(--ink)").replace(GRID, "var(--grid)").replace(PAPER, "var(--card)")
    body = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", body)
    body = re.sub(r'^<svg ([^>]*?)height="[^"]*"', r"<svg \1", body)
    return re.sub(r"^<svg ", f'<svg role="img" aria-label="{title}" ', body)
