"""Locks that CPUs waited for."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ...units import format_time
from .. import style
from ..frames import RunFrames, df_locks, share

TITLE = "Waiting for locks"
TOP = 12


@matplotlib.rc_context(style.RC)
def draw(run: RunFrames, canvas: style.Canvas | None = None, top: int = TOP) -> Figure:
    """Total wait of the locks waited for longest, with how often each was taken and found taken."""
    canvas = canvas or style.Canvas()
    locks = df_locks(run)
    waited = locks[locks["wait_ns"] > 0].head(top)
    if waited.empty:
        return canvas.nothing("No CPU waited for a lock." if len(locks) else "No lock was taken.")
    axes = canvas.open(1.1 + 0.3 * max(len(waited), 3))
    y = np.arange(len(waited))
    axes.barh(y, waited["wait_ns"], color=style.OKABE_ITO[0], height=0.7)
    style.name_ticks(axes.yaxis, [style.label(name, 34) for name in waited["lock"]], fontsize=9)
    axes.set_ylim(max(len(y), 3) - 0.5, -0.5)
    axes.set_xlim(0, float(waited["wait_ns"].max()))
    axes.grid(axis="y", visible=False)
    style.duration_axis(axes.xaxis)
    axes.set_xlabel("waited for, simulated time, all CPUs together")
    for i, row in enumerate(waited.itertuples()):
        axes.text(1.01, i, f"{row.contended:,} of {row.acquisitions:,} waited; longest {format_time(row.max_wait_ns)}",
                  transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    return canvas.figure


def sentence(run: RunFrames) -> str:
    """What the figure shows in this run."""
    locks = df_locks(run)
    taken, contended = int(locks["acquisitions"].sum()), int(locks["contended"].sum())
    if not taken:
        return "No operation took a lock."
    held = f"{taken:,} acquisitions of {len(locks)} lock{'s' if len(locks) > 1 else ''}"
    if not contended:
        return f"Nothing was contended: {held}, and none had to wait."
    wait = int(locks["wait_ns"].sum())
    first = locks.iloc[0]
    waited = int((locks["wait_ns"] > 0).sum())
    text = (f"{contended:,} of {held} had to wait ({share(contended, taken):.2g} %), {format_time(wait)} in all; "
            f"{share(first['wait_ns'], wait):.0f} % of that was for {style.label(first['lock'], 60)}.")
    return text + (f" {waited - TOP} more locks with shorter waits are left out." if waited > TOP else "")
