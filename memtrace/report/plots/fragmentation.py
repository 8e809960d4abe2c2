"""Unusable free index by order over time: external fragmentation."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ...units import PAGE_SIZE, format_size
from .. import style
from ..frames import HUGE_ORDER, RunFrames, df_unusable
from . import by_order

TITLE = "Free memory in blocks too small to use (unusable free index)"


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, canvas: style.Canvas | None = None) -> Figure:
    """One line an order from 1: order 0 is 0 by definition while anything is free."""
    canvas = canvas or style.Canvas()
    index = df_unusable(run)
    if index.empty:
        return canvas.nothing("No sample of the free lists.")
    axes = canvas.open(4.0)
    index = style.samples(index)
    shares = 100 * index[[order for order in index.columns if order > 0]]
    by_order.lines(axes, shares)
    # Most runs stay far below 100 %; below 5 % of axis there would be nothing but noise.
    top = min(101.0, max(5.0, 1.15 * float(shares.to_numpy().max()))) if len(shares.columns) else 101.0
    axes.set_ylim(-0.01 * top, top)
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_ylabel("share of free memory")
    canvas.legend("right", title="too small for order", reverse=True)
    return canvas.figure


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    index = df_unusable(run)
    if index.empty:
        return "The free lists were not sampled."
    order = min(HUGE_ORDER, int(index.columns.max()))
    line = index[order]
    return (f"For a request of order {order} ({format_size(PAGE_SIZE << order)}), {100 * line.iloc[-1]:.1f} % of the "
            f"free memory was in blocks too small at the end, against {100 * line.iloc[0]:.1f} % at the first sample "
            f"and {100 * line.max():.1f} % at worst. At 0 % any free page would do; at 100 % the request must wait for "
            "compaction or reclaim, however much is free.")
