"""Memory by cache over time, stacked."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure

from ...units import format_size, format_time
from .. import style
from ..frames import OTHER_CACHES, RunFrames, df_cache_bytes, share

TITLE = "Slab memory by cache"
TOP = 10


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, canvas: style.Canvas | None = None, top: int = TOP) -> Figure:
    """Stacked bytes of slab pages of the ``top`` largest caches, and of all others together."""
    canvas = canvas or style.Canvas()
    wide, others = df_cache_bytes(run, top)
    if wide.empty:
        return canvas.nothing("No cache held any slab.")
    axes = canvas.open(4.2)
    wide = style.samples(wide)
    x = style.time_axis(axes, wide.index)
    bottom = wide.iloc[:, 0] * 0.0
    handles = []
    for i, name in enumerate(wide.columns):
        rest = name == OTHER_CACHES
        upper = bottom + wide[name]
        handles.append(axes.fill_between(
            x, bottom, upper, step="post", linewidth=0.3, edgecolor=style.PAPER,
            facecolor=style.OTHER if rest else style.OKABE_ITO[i % len(style.OKABE_ITO)],
            # Seven colours can be told apart; the second round is hatched.
            hatch="////" if not rest and i >= len(style.OKABE_ITO) else None,
            label=f"{others} other{'s' if others > 1 else ''}" if rest else style.label(name)))
        bottom = upper
    axes.set_ylabel("slab pages")
    axes.set_ylim(0, float(bottom.max()) * 1.05)
    style.size_axis(axes.yaxis)
    # The legend's top is the stack's top.
    canvas.legend("right", handles=handles[::-1])
    return canvas.figure


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    wide, others = df_cache_bytes(run, TOP)
    if wide.empty:
        return "No cache held a slab at any sample."
    total = wide.sum(axis=1)
    peak_ns, peak = int(total.idxmax()), float(total.max())
    at_peak = wide.loc[peak_ns]
    largest = at_peak.drop(OTHER_CACHES, errors="ignore").idxmax()
    rest = (f", and {others} caches outside the {TOP} with the highest peaks held "
            f"{share(at_peak[OTHER_CACHES], peak):.0f} % together") if others else ""
    return (f"Slab pages took {format_size(total.iloc[0])} at the first sample, at most {format_size(peak)} (at "
            f"{format_time(peak_ns)}) and {format_size(total.iloc[-1])} at the end; at the peak "
            f"{style.label(largest, 60)} held {share(at_peak[largest], peak):.0f} % of them{rest}.")
