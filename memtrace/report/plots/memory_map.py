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

# A bin has the colour of what most of its used pages are, the paler the more of it is free.
USED = ("pcp", "slab", "movable", "unmovable", "reclaimable", "rest")
SHOWN = ("per-CPU page lists", "slab", "movable", "unmovable", "reclaimable", "reserved or not seen")
COLOURS = ("#F0E442", "#D55E00", "#009E73", "#0072B2", "#CC79A7", "#6b7177")
FREE_COLOUR = "#eef2f5"
NOTHING, FREE = -2, -1


def kinds(sums: pd.DataFrame, bins: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """
    What each row of ``df_memory_map`` is drawn as.

    Returns
    -------
    Index into ``USED`` of what most of its used pages are, or ``FREE`` when none is used; and the share of
    its pages that are used, 0..1.
    """
    pages = np.maximum(bins["pages"].to_numpy()[sums["bin"].to_numpy()], 1)
    contents = sums[list(MAP_CONTENTS)].to_numpy()
    rest = np.maximum(pages - contents.sum(axis=1), 0)
    used = np.column_stack([contents[:, 1:], rest])
    total = used.sum(axis=1)
    return np.where(total > 0, np.argmax(used, axis=1), FREE), np.minimum(total / pages, 1.0)


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, figure: Figure | None = None) -> Figure:
    """One row an address bin, low addresses at the bottom; zones divided by lines."""
    sums, bins = df_memory_map(run)
    if sums.empty:
        return style.empty_figure("No sample of physical memory.", figure)
    figure = figure or style.new_figure(5.6)
    axes = figure.subplots()
    times = np.unique(sums["t_ns"].to_numpy())
    kind = np.full((len(bins), len(times)), NOTHING)
    colour = np.full((len(bins), len(times), 3), to_rgb(FREE_COLOUR))
    place = (sums["bin"].to_numpy(), np.searchsorted(times, sums["t_ns"].to_numpy()))
    kind[place], used = kinds(sums, bins)
    full = np.array([to_rgb(one) for one in (*COLOURS, FREE_COLOUR)])[kind[place]]
    # Even one page in a bin can be seen: strength begins at a fifth.
    strength = np.where(used > 0, 0.2 + 0.8 * used, 0.0)[:, None]
    colour[place] = strength * full + (1 - strength) * np.array(to_rgb(FREE_COLOUR))
    x = style.time_axis(axes, times if len(times) > 1 else [times[0], times[0] + 1])
    wanted = np.searchsorted(times, np.linspace(times[0], times[-1], COLUMNS), side="right") - 1
    # Each bin three pixels high, so that no renderer blurs it away.
    axes.imshow(np.repeat(colour[:, wanted], 3, axis=0), origin="lower", aspect="auto", interpolation="none",
                extent=(x[0], x[-1], 0, len(bins)))
    axes.grid(False)
    _address_axis(axes, bins)
    per_row = int(bins["pages"].max()) * PAGE_SIZE
    patches = [Patch(facecolor=FREE_COLOUR, edgecolor=style.OTHER, linewidth=0.5, label="free")]
    patches += [Patch(facecolor=COLOURS[i], label=SHOWN[i]) for i in range(len(USED)) if (kind == i).any()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), columnspacing=1.2,
                  title=f"what most of a row's used pages are; the paler, the more of the row is free "
                        f"(a row is {format_size(per_row)})")
    return figure


def _address_axis(axes: Axes, bins: pd.DataFrame) -> None:
    """Addresses as ticks; a line for every zone, and a name where it is high enough to carry one."""
    zone = bins.groupby(["node", "zone"], sort=False)
    least = 0.04 * len(bins)
    for (node, name), rows in zone:
        low, high = int(rows.index[0]), int(rows.index[-1]) + 1
        if low:
            axes.axhline(low, color=style.INK, linewidth=0.8)
        if high - low >= least:
            axes.text(1.01, (low + high) / 2, f"node {node}\n{style.label(name, 12)}", fontsize=8.5, va="center",
                      transform=axes.get_yaxis_transform())
    starts, ends = bins["start_pfn"].to_numpy(), bins["end_pfn"].to_numpy()
    step = 1
    while int(ends[-1] - starts[0]) // step > 8:
        step *= 2
    ticks: dict[float, str] = {}
    for pfn in range(0, int(ends[-1]) + 1, step):
        at = max(0, int(np.searchsorted(starts, pfn, side="right")) - 1)
        # An address in a hole has no place on this axis.
        if pfn <= ends[at]:
            ticks[at + min(1.0, max(0.0, (pfn - starts[at]) / (ends[at] - starts[at])))] = format_size(pfn * PAGE_SIZE)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylabel("physical address")


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    sums, bins = df_memory_map(run)
    if sums.empty:
        return "Physical memory was not sampled."
    last = sums[sums["t_ns"] == sums["t_ns"].max()]
    pages = int(bins["pages"].sum())
    kind, _ = kinds(last, bins)
    parts = ", ".join(f"{share(int(last[name].sum()), pages):.1f} % {shown}" for name, shown in
                      zip(MAP_CONTENTS, ("free", "on per-CPU lists", "slab", "movable", "unmovable", "reclaimable"),
                          strict=True))
    return (f"At the end the {format_size(pages * PAGE_SIZE)} of memory shown were {parts}; "
            f"{int((kind == FREE).sum())} of {len(bins)} rows were wholly free and "
            f"{int((last['slab'] > 0).sum())} held at least one slab page.")
