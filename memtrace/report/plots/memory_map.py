"""Map of physical memory: address × time, coloured by what is there."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ...units import PAGE_SIZE, format_size
from .. import style
from ..frames import MAP_CONTENTS, RunFrames, df_memory_map, share

TITLE = "Map of physical memory"
COLUMNS = 480
"""Columns of the picture; each shows the last sample at or before its time."""

# What a bin is drawn as. Light means free: what stands out is what is in the way.
KINDS = (
    ("wholly free", "#e8eef3"),
    ("mostly free", "#b9d7ea"),
    ("per-CPU page lists", "#F0E442"),
    ("slab", "#D55E00"),
    ("movable", "#009E73"),
    ("unmovable", "#0072B2"),
    ("reclaimable", "#CC79A7"),
    ("reserved or not seen", "#6b7177"),
)
WHOLLY_FREE, MOSTLY_FREE, RESERVED = 0, 1, 7


def kinds(sums: pd.DataFrame, bins: pd.DataFrame) -> np.ndarray:
    """Index into ``KINDS`` of each row of ``df_memory_map``: what most of its pages are."""
    contents = sums[list(MAP_CONTENTS)].to_numpy()
    pages = bins["pages"].to_numpy()[sums["bin"].to_numpy()]
    rest = np.maximum(pages - contents.sum(axis=1), 0)
    kind = np.argmax(np.column_stack([contents, rest]), axis=1) + 1
    return np.where((contents[:, 0] == pages) & (pages > 0), WHOLLY_FREE, kind)


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, figure: Figure | None = None) -> Figure:
    """One row an address bin, low addresses at the bottom; zones divided by lines."""
    sums, bins = df_memory_map(run)
    if sums.empty:
        return style.empty_figure("No sample of physical memory.", figure)
    figure = figure or style.new_figure(5.6)
    axes = figure.subplots()
    times = np.unique(sums["t_ns"].to_numpy())
    grid = np.full((len(bins), len(times)), RESERVED)
    grid[sums["bin"], np.searchsorted(times, sums["t_ns"])] = kinds(sums, bins)
    x = style.time_axis(axes, times if len(times) > 1 else [times[0], times[0] + 1])
    wanted = np.linspace(times[0], times[-1], COLUMNS)
    shown = grid[:, np.searchsorted(times, wanted, side="right") - 1]
    colours = np.array([to_rgb(colour) for _, colour in KINDS])
    # Each bin three pixels high, so that no renderer blurs it away.
    axes.imshow(np.repeat(colours[shown], 3, axis=0), origin="lower", aspect="auto", interpolation="none",
                extent=(x[0], x[-1], 0, len(bins)))
    axes.grid(False)
    _address_axis(axes, bins)
    present = [i for i in range(len(KINDS)) if (shown == i).any()]
    per_row = int(bins["pages"].max()) * PAGE_SIZE
    figure.legend(handles=[Patch(facecolor=KINDS[i][1], edgecolor=style.GRID, label=KINDS[i][0]) for i in present],
                  loc="outside lower center", ncols=4, title=f"what most of a row's pages are (a row: {format_size(per_row)})")
    return figure


def _address_axis(axes: Axes, bins: pd.DataFrame) -> None:
    """Addresses as ticks; a line and a name for every zone that is high enough to carry one."""
    zone = bins.groupby(["node", "zone"], sort=False)
    least = 0.04 * len(bins)
    edges: list[int] = []
    for (node, name), rows in zone:
        low, high = int(rows.index[0]), int(rows.index[-1]) + 1
        edges.append(low)
        if low:
            axes.axhline(low, color=style.INK, linewidth=0.8)
        if high - low >= least:
            axes.text(1.01, (low + high) / 2, f"node {node}\n{style.label(name, 12)}", fontsize=8.5, va="center",
                      transform=axes.get_yaxis_transform())
    ticks = [int(tick) for tick in np.linspace(0, len(bins), 7)]
    # Ticks at zone starts, and between them where there is room.
    chosen: list[int] = []
    for tick in [edge for edge in edges if edge == 0 or edge >= least] + ticks:
        if all(abs(tick - other) >= 1.4 * least for other in chosen):
            chosen.append(tick)
    ends = [*bins["start_pfn"].tolist(), int(bins["end_pfn"].iloc[-1])]
    axes.set_yticks(chosen, [format_size(int(ends[tick]) * PAGE_SIZE) for tick in chosen])
    axes.set_ylabel("physical address")


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    sums, bins = df_memory_map(run)
    if sums.empty:
        return "Physical memory was not sampled."
    last = sums[sums["t_ns"] == sums["t_ns"].max()]
    pages = int(bins["pages"].sum())
    at_end = kinds(last, bins)
    parts = ", ".join(f"{share(int(last[name].sum()), pages):.1f} % {shown}" for name, shown in
                      zip(MAP_CONTENTS, ("free", "on per-CPU lists", "slab", "movable", "unmovable", "reclaimable"),
                          strict=True))
    return (f"At the end the {format_size(pages * PAGE_SIZE)} of memory shown were {parts}; "
            f"{int((at_end == WHOLLY_FREE).sum())} of {len(bins)} rows were wholly free and "
            f"{int((last['slab'] > 0).sum())} held at least one slab page.")
