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

# A row has the colour of what most of its used pages are, the paler the more of it is free.
USED = ("pcp", "slab", "movable", "unmovable", "reclaimable", "rest")
SHOWN = ("per-CPU page lists", "slab", "movable", "unmovable", "reclaimable", "not managed")
COLOURS = ("#F0E442", "#D55E00", "#009E73", "#0072B2", "#CC79A7", "#6b7177")
FREE_COLOUR = "#eef2f5"
FREE = -1


def kinds(pages: np.ndarray, row_pages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    What each row of a ``MemoryMap`` is drawn as.

    Returns
    -------
    Index into ``USED`` of what most of its used pages are, or ``FREE`` when none is used; and the share of
    its pages that are used, 0..1. Both by row and sample.
    """
    rest = np.maximum(row_pages[:, None, None] - pages.sum(axis=2, keepdims=True), 0.0)
    used = np.concatenate([pages[:, :, 1:], rest], axis=2)
    # Rows hold fractions of pages where a run is divided; what rounding leaves is not memory.
    share_used = used.sum(axis=2) / row_pages[:, None]
    return np.where(share_used > 1e-9, np.argmax(used, axis=2), FREE), np.minimum(share_used, 1.0)


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, canvas: style.Canvas | None = None) -> Figure:
    """Equal heights are equally many pageblocks, low addresses at the bottom; zones divided by lines."""
    canvas = canvas or style.Canvas()
    found = df_memory_map(run)
    if found is None:
        return canvas.nothing("No sample of physical memory.")
    axes = canvas.open(5.6)
    kind, used = kinds(found.pages, found.row_pages)
    full = np.array([to_rgb(one) for one in (*COLOURS, FREE_COLOUR)])[kind]
    # Even one page in a row can be seen: strength begins at a fifth.
    strength = np.where(kind != FREE, 0.2 + 0.8 * used, 0.0)[:, :, None]
    colour = strength * full + (1 - strength) * np.array(to_rgb(FREE_COLOUR))
    times, rows = found.t_ns, len(colour)
    x = style.time_axis(axes, times if len(times) > 1 else [times[0], times[0] + 1])
    wanted = np.searchsorted(times, np.linspace(times[0], times[-1], COLUMNS), side="right") - 1
    # So many pixels high that no renderer blurs a row away.
    axes.imshow(np.repeat(colour[:, wanted], max(1, 768 // rows), axis=0), origin="lower", aspect="auto",
                interpolation="none", extent=(x[0], x[-1], 0, rows))
    axes.grid(False)
    _address_axis(axes, found.runs, rows)
    patches = [Patch(facecolor=FREE_COLOUR, edgecolor=style.OTHER, linewidth=0.5, label="free")]
    patches += [Patch(facecolor=COLOURS[i], label=SHOWN[i]) for i in range(len(USED)) if (kind == i).any()]
    canvas.legend("below", ncols=len(patches), handles=patches, columnspacing=1.2,
                  title=f"what most of a row's used pages are; the paler, the more of the row is free "
                        f"(a row is {format_size(found.row_pages.max() * PAGE_SIZE)})")
    return canvas.figure


def _address_axis(axes: Axes, runs: pd.DataFrame, rows: int) -> None:
    """Addresses as ticks; a line for every zone, and a name where it is high enough to carry one."""
    least = 0.04 * rows
    at = [*runs["at"].tolist(), float(rows)]
    for (node, name), part in runs.groupby(["node", "zone"], sort=False):
        low, high = at[part.index[0]], at[part.index[-1] + 1]
        if low:
            axes.axhline(low, color="#000000", linewidth=0.8)
        if high - low >= least:
            axes.text(1.01, (low + high) / 2, f"node {node}\n{style.label(name, 12)}", fontsize=8.5, va="center",
                      transform=axes.get_yaxis_transform())
    starts, pages = runs["start_pfn"].to_numpy(), runs["pages"].to_numpy()
    step = 1
    while int(pages.sum()) // step > 8:
        step *= 2
    ticks: dict[float, str] = {}
    for pfn in range(0, int(starts[-1] + pages[-1]) + 1, step):
        run = max(0, int(np.searchsorted(starts, pfn, side="right")) - 1)
        # An address in a hole has no place on this axis; around holes two ticks may fall together.
        within = max(0.0, (pfn - starts[run]) / pages[run])
        place = at[run] + within * (at[run + 1] - at[run])
        if within <= 1 and all(abs(place - other) >= least for other in ticks):
            ticks[place] = format_size(pfn * PAGE_SIZE)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylabel("physical address")


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    found = df_memory_map(run)
    if found is None:
        return "Physical memory was not sampled."
    last = found.pages[:, -1]
    total = found.row_pages.sum()
    names = ("free", "on per-CPU lists", "slab", "movable", "unmovable", "reclaimable")
    parts = ", ".join(f"{share(pages, total):.1f} % was {name}" if i == 0 else f"{share(pages, total):.1f} % {name}"
                      for i, (pages, name) in enumerate(zip(last.sum(axis=0), names, strict=True)))
    rest = share(total - last.sum(), total)
    kind, _ = kinds(found.pages[:, -1:], found.row_pages)
    text = (f"Of the {format_size(total * PAGE_SIZE)} shown, {parts} at the last sample"
            + (f", {rest:.1f} % not managed" if rest >= 0.05 else "")
            + f"; {int((kind == FREE).sum())} of {len(last)} rows were wholly free and "
              f"{int((last[:, MAP_CONTENTS.index('slab')] > 0).sum())} held slab pages."
              " Pages in use since before the trace count as what their pageblock is for.")
    unmanaged = round(float(last.sum())) - int(run.last("zones")["managed"].sum())
    if unmanaged > 0:
        text += (f" {format_size(unmanaged * PAGE_SIZE)} of them are not managed by the page allocator; the starting "
                 "state does not tell which.")
    if found.left_out_pages:
        text += f" {format_size(found.left_out_pages * PAGE_SIZE)} of addresses with no managed page are left out."
    return text
