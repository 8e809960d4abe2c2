"""Call sites whose requests were rounded up most."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ...units import format_size
from .. import style
from ..frames import RunFrames, df_waste, share

TITLE = "Call sites by waste"
TOP = 15


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, canvas: style.Canvas | None = None, top: int = TOP) -> Figure:
    """Bytes allocated beyond what was requested, summed over the run, by call site and cache."""
    canvas = canvas or style.Canvas()
    waste = df_waste(run)
    worst = waste[waste["waste_bytes"] > 0].head(top)
    if worst.empty:
        return canvas.nothing("No request was rounded up." if len(waste) else "No allocation was replayed.")
    axes = canvas.open(1.1 + 0.3 * max(len(worst), 3))
    y = np.arange(len(worst))
    axes.barh(y, worst["waste_bytes"], color=style.OKABE_ITO[5], height=0.7)
    style.name_ticks(axes.yaxis, [f"{style.label(row.call_site, 34)}  →  {style.label(row.cache, 20)}"
                                  for row in worst.itertuples()], fontsize=8.5)
    axes.set_ylim(max(len(y), 3) - 0.5, -0.5)
    axes.set_xlim(0, float(worst["waste_bytes"].max()))
    axes.grid(axis="y", visible=False)
    style.size_axis(axes.xaxis)
    axes.set_xlabel("allocated − requested, summed over the run")
    for i, row in enumerate(worst.itertuples()):
        axes.text(1.01, i, f"{share(row.waste_bytes, row.bytes_allocated):.0f} % of {row.allocs:,} allocs",
                  transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    return canvas.figure


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    waste = df_waste(run)
    if waste.empty:
        return "No allocation was replayed, so nothing was wasted."
    requested, allocated = int(waste["bytes_requested"].sum()), int(waste["bytes_allocated"].sum())
    total = allocated - requested
    if total <= 0:
        return f"Nothing was rounded up: {format_size(requested)} were requested and as much was allocated."
    first = waste.iloc[0]
    return (f"{format_size(requested)} were requested in all and {format_size(allocated)} allocated, "
            f"of which {share(total, allocated):.1f} % was rounding; {style.label(first['call_site'], 60)} in "
            f"{style.label(first['cache'], 40)} accounts for {share(first['waste_bytes'], total):.0f} % of the "
            f"difference.")
