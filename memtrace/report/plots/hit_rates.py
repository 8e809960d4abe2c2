"""Hit rates per CPU and cache: the share of allocations served by the CPU's own freelist."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .. import style
from ..frames import RunFrames, df_hits, share

TITLE = "Hit rate by CPU and cache"
TOP = 30
ANNOTATE_CPUS = 10
"""Up to so many CPUs each cell has room for its number."""


def shown_caches(hits: pd.DataFrame, top: int = TOP) -> tuple[pd.DataFrame, int]:
    """
    The busiest caches.

    Returns
    -------
    Sums of hits and allocs by cache, busiest first, at most ``top``, and how many more had allocations.
    """
    by_cache = hits.groupby("cache")[["hits", "allocs"]].sum()
    by_cache = by_cache[by_cache["allocs"] > 0].sort_values("allocs", ascending=False, kind="stable")
    return by_cache.head(top), max(0, len(by_cache) - top)


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, canvas: style.Canvas | None = None, top: int = TOP) -> Figure:
    """Rows are the busiest caches, columns the CPUs; grey where a CPU allocated nothing."""
    canvas = canvas or style.Canvas()
    hits = df_hits(run)
    caches, _ = shown_caches(hits, top)
    if caches.empty:
        return canvas.nothing("No slab allocation was replayed.")
    if not run.has_fast_path:
        return canvas.nothing("SLOB has no fast path.")
    axes = canvas.open(max(2.2, 1.2 + 0.21 * len(caches)))
    cpus = sorted(set(hits["cpu"]))
    rate = (hits.groupby(["cache", "cpu"])[["hits", "allocs"]].sum().unstack("cpu")
            .reindex(caches.index).fillna(0))
    allocs = rate["allocs"].reindex(columns=cpus, fill_value=0).to_numpy()
    percent = np.where(allocs > 0, 100 * rate["hits"].reindex(columns=cpus, fill_value=0).to_numpy()
                       / np.maximum(allocs, 1), np.nan)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad=style.OTHER)
    image = axes.imshow(np.ma.masked_invalid(percent), aspect="auto", cmap=colours, vmin=0, vmax=100,
                        interpolation="none")
    axes.grid(False)
    style.name_ticks(axes.yaxis, [style.label(name) for name in caches.index], fontsize=8.5)
    step = -(-len(cpus) // 32)
    axes.set_xticks(range(0, len(cpus), step), [str(cpu) for cpu in cpus[::step]])
    axes.set_xlabel("CPU (grey: no allocation there)")
    if len(cpus) <= ANNOTATE_CPUS:
        for (row, column), value in np.ndenumerate(percent):
            if not np.isnan(value):
                axes.text(column, row, _percent(value), ha="center", va="center", fontsize=7.5,
                          color="#000000" if value > 55 else "#ffffff")
    bar = canvas.figure.colorbar(image, ax=axes, pad=0.01, aspect=30)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    bar.set_label("on the fast path")
    bar.outline.set_visible(False)
    return canvas.figure


def _percent(value: float) -> str:
    """Percent for a cell: 100 only when nothing missed."""
    return f"{value:.0f}" if value in (0.0, 100.0) else f"{min(max(value, 0.1), 99.9):.1f}"


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    hits = df_hits(run)
    caches, left_out = shown_caches(hits)
    if caches.empty:
        return "No slab allocation was replayed, so there is no hit rate."
    if not run.has_fast_path:
        return "SLOB keeps no objects for a CPU: every allocation searches its lists under one lock."
    total = int(hits["allocs"].sum())
    rates = 100 * caches["hits"] / caches["allocs"]
    worst = rates.idxmin()
    text = f"Of {total:,} slab allocations {share(int(hits['hits'].sum()), total):.2f} % took the fast path"
    if len(caches) == 1:
        return f"{text}, all of them from {style.label(worst, 60)}."
    text += (f"; of the {len(caches)} caches shown {style.label(worst, 60)} had the lowest rate, {rates[worst]:.1f} % "
             f"of {int(caches['allocs'][worst]):,}.")
    if left_out:
        rest = total - int(caches["allocs"].sum())
        text += (f" {left_out} less busy cache{'s' if left_out > 1 else ''} ({share(rest, total):.1f} % of the "
                 "allocations) are left out of the figure.")
    return text
