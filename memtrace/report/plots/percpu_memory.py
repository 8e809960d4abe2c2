"""Memory of the percpu allocator over time."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure

from ...units import PAGE_SIZE, format_size
from .. import style
from ..frames import RunFrames, df_percpu, share

TITLE = "Per-CPU memory"


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, canvas: style.Canvas | None = None) -> Figure:
    """What is populated, and what was asked for of it, on all possible CPUs."""
    canvas = canvas or style.Canvas()
    percpu = df_percpu(run)
    if percpu.empty or not percpu["areas"].any():
        return canvas.nothing("No per-CPU area was allocated.")
    axes = canvas.open(3.0)
    percpu = style.samples(percpu)
    x = style.time_axis(axes, percpu.index)
    populated = percpu["populated_pages"] * percpu["units"] * PAGE_SIZE
    colours = style.sequence(2)
    axes.plot(x, populated, color=colours[0], drawstyle="steps-post", label="populated pages")
    axes.plot(x, percpu["bytes_requested"], color=colours[1], drawstyle="steps-post", linestyle="--", label="asked for")
    axes.set_ylim(0, float(max(populated.max(), percpu["bytes_requested"].max())) * 1.1)
    style.size_axis(axes.yaxis)
    axes.set_ylabel("on all possible CPUs")
    canvas.legend("right")
    return canvas.figure


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    percpu = df_percpu(run)
    if percpu.empty or not percpu["areas"].any():
        return "The trace shows no per-CPU area."
    last = percpu.iloc[-1]
    populated = int(last["populated_pages"] * last["units"]) * PAGE_SIZE
    asked = int(last["bytes_requested"])
    return (f"At the end {int(last['areas']):,} per-CPU areas took {format_size(asked)} on {int(last['units'])} CPUs, "
            f"{share(asked, populated):.0f} % of the {format_size(populated)} that were populated, in "
            f"{int(last['chunks'])} chunks. Every possible CPU has a copy of each area, whether it is online or not.")
