"""Free blocks per order over time."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ...units import PAGE_SIZE, format_size
from .. import style
from ..frames import RunFrames, df_free_pages, share
from . import by_order

TITLE = "Free memory by block size"


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, canvas: style.Canvas | None = None) -> Figure:
    """Pages in free blocks of each order, all zones together; a logarithmic axis that also shows 0."""
    canvas = canvas or style.Canvas()
    pages = df_free_pages(run)
    if pages.empty:
        return canvas.nothing("No sample of the free lists.")
    axes = canvas.open(4.0)
    pages = style.samples(pages)
    by_order.lines(axes, pages)
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    axes.set_ylim(0, max(10.0, float(pages.to_numpy().max()) * 1.6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylabel("pages in free blocks")
    canvas.legend("right", title="order (block size)", reverse=True)
    return canvas.figure


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    pages = df_free_pages(run)
    if pages.empty:
        return "The free lists were not sampled."
    first, last = pages.iloc[0], pages.iloc[-1]
    top = int(pages.columns.max())
    text = (f"Free memory went from {format_size(int(first.sum()) * PAGE_SIZE)} to "
            f"{format_size(int(last.sum()) * PAGE_SIZE)}")
    if not last.sum():
        return f"{text}: at the end nothing was free."
    largest = max(int(order) for order in pages.columns if last[order] > 0)
    small = share(float(last[[order for order in pages.columns if order <= 3]].sum()), float(last.sum()))
    return (f"{text}; at the end {share(last[top], last.sum()):.0f} % of it was in blocks of order {top}, "
            f"{small:.0f} % in blocks of order 3 or less, and the largest free block was of order {largest} "
            f"({format_size(PAGE_SIZE << largest)}).")
