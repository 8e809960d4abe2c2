"""How long operations took, by the path they took."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...units import format_time
from .. import style
from ..assumed import is_assumed
from ..frames import RunFrames, df_latency, share

TITLE = "Operation times by path"

OP_COLOURS = {"alloc": style.OKABE_ITO[0], "free": style.OKABE_ITO[2], "page_alloc": style.OKABE_ITO[5],
              "page_free": style.OKABE_ITO[3]}


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, canvas: style.Canvas | None = None) -> Figure:
    """A row a path: thick to the 90th percentile, thin to the 99.9th, a dot at the longest; log axis."""
    canvas = canvas or style.Canvas()
    latency = df_latency(run)
    if latency.empty:
        return canvas.nothing("No operation was replayed.")
    rows = max(len(latency), 3)
    axes = canvas.open(1.7 + 0.25 * rows)
    colours = [OP_COLOURS.get(op, style.OTHER) for op in latency["op"]]
    y = np.arange(len(latency))
    # A path whose times are all equal still shows as a mark of some width.
    low = np.maximum(latency["min_ns"], 1)
    axes.hlines(y, low, np.maximum(latency["p999_ns"], low), colors=colours, linewidth=1.6)
    axes.hlines(y, low * 0.97, np.maximum(latency["p90_ns"], low) * 1.03, colors=colours, linewidth=8)
    # A median at an end of its bar would look like a cut.
    inside = (latency["p50_ns"] > 1.1 * low) & (1.1 * latency["p50_ns"] < latency["p90_ns"])
    axes.scatter(latency["p50_ns"][inside], y[inside], marker="|", s=90, color=style.PAPER, linewidth=2, zorder=3)
    axes.scatter(np.maximum(latency["p99_ns"], 1), y, marker="|", s=110, color=colours, linewidth=2, zorder=3)
    axes.scatter(np.maximum(latency["max_ns"], 1), y, marker="o", s=16, color=colours, zorder=3)
    axes.set_yticks(y, [f"{row.op} {row.path}".replace("_", " ") + (" *" if is_assumed(run, row.op, row.path) else "")
                        for row in latency.itertuples()], fontsize=9)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(float(low.min()) * 0.7, float(max(latency["max_ns"].max(), 2)) * 1.5)
    axes.grid(axis="y", visible=False)
    style.duration_axis(axes.xaxis)
    axes.set_xlabel("simulated time of one operation, waiting for locks included   (* rests on an assumed cost)")
    for i, count in enumerate(latency["count"]):
        axes.text(1.01, i, f"{count:,}", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    axes.text(1.01, 1, "operations", transform=axes.transAxes, va="bottom", fontsize=8.5)
    canvas.legend("below", ncols=4, handles=[
        Line2D([], [], color=style.INK, linewidth=8, label="shortest to 90 % (pale: median)"),
        Line2D([], [], color=style.INK, linewidth=1.6, label="to 99.9 %"),
        Line2D([], [], color=style.INK, linestyle="", marker="|", markersize=11, markeredgewidth=2, label="99 %"),
        Line2D([], [], color=style.INK, linestyle="", marker="o", markersize=4, label="longest"),
    ])
    return canvas.figure


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    latency = df_latency(run)
    if latency.empty or not latency["count"].sum():
        return "No operation was replayed, so there are no times."
    total, time = int(latency["count"].sum()), int(latency["sum_ns"].sum())
    most = latency.loc[latency["sum_ns"].idxmax()]
    longest = latency.loc[latency["max_ns"].idxmax()]
    marked = sum(is_assumed(run, row.op, row.path) for row in latency.itertuples())
    return (f"{total:,} operations took {format_time(time)} of CPU time; {_name(most)} took the largest "
            f"share ({share(most['sum_ns'], time):.0f} % in {share(most['count'], total):.1f} % of the operations), "
            f"and the longest single operation was {_name(longest)} with {format_time(longest['max_ns'])}. "
            f"{marked} of the {len(latency)} paths rest on assumed costs.")


def _name(row: object) -> str:
    return f"{row['op']} {row['path']}".replace("_", " ")  # type: ignore[index]
