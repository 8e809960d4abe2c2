"""The comparison's figures: small multiples, one panel a circumstance, all panels of a figure on one scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..report import style
from .measures import Measure
from .statistics import Sample

ACROSS = 3
PANELS = 12
"""Circumstances drawn; a page with more of them is not looked at."""
CHOICES = 21
"""Choices drawn in a panel: three rounds of colours."""
HATCHES = (None, "////", "xxxx")
MakeFigure = Callable[[float], Figure]
"""Makes a figure of a height in inches."""


def _panels(figure: Figure, n: int) -> list[Axes]:
    across = min(ACROSS, n)
    grid = figure.subplots(-(-n // across), across, sharex=True, sharey=True, squeeze=False)
    for spare in grid.flat[n:]:
        spare.set_visible(False)
    return list(grid.flat[:n])


def _face(i: int) -> dict[str, Any]:
    """Colour and hatch of the i-th choice, the same in every figure of a page."""
    return {"color": style.OKABE_ITO[i % len(style.OKABE_ITO)],
            "hatch": HATCHES[i // len(style.OKABE_ITO) % len(HATCHES)], "edgecolor": style.PAPER}


def scale(axis: Any, unit: str) -> None:
    """Ticks in the measure's unit."""
    if unit == "bytes":
        style.size_axis(axis)
    elif unit == "ns":
        style.duration_axis(axis)
    elif unit == "%":
        axis.set_major_formatter(lambda value, _: f"{value:g} %")


@matplotlib.rc_context(style.RC)
def draw_measure(measure: Measure, samples: dict[tuple[str, str], Sample], circumstances: Sequence[str],
                 choices: Sequence[str], make: MakeFigure = style.new_figure) -> Figure:
    """Bars from 0 by choice, one panel a circumstance; whiskers are 95 % intervals, where there are any."""
    shown, rows = list(circumstances[:PANELS]), list(choices[:CHOICES])
    down = -(-len(shown) // ACROSS)
    figure = make(0.55 + down * (0.55 + 0.27 * len(rows)))
    for axes, circumstance in zip(_panels(figure, len(shown)), shown, strict=True):
        measure_panel(axes, measure, samples, circumstance, rows)
        axes.set_title(style.label(circumstance, 44))
    # Only now: axes with a limit of their own do not grow with the next panel's values.
    figure.axes[0].set_xlim(left=0)
    return figure


@matplotlib.rc_context(style.RC)
def measure_panel(axes: Axes, measure: Measure, samples: dict[tuple[str, str], Sample], circumstance: str,
                  choices: Sequence[str]) -> None:
    """One panel of ``draw_measure``, without its title."""
    for at, choice in enumerate(choices):
        sample = samples.get((circumstance, choice))
        if sample is None:
            axes.text(0, at, " no value", va="center", color=style.INK, fontsize=8)
            continue
        axes.barh(at, sample.mean, height=0.7, linewidth=0, **_face(at))
        ends = sample.interval()
        if ends is not None:
            axes.hlines(at, *ends, color=style.INK, linewidth=1.4)
            axes.vlines(ends, at - 0.18, at + 0.18, color=style.INK, linewidth=1.4)
    style.name_ticks(axes.yaxis, [style.label(choice, 40) for choice in choices])
    axes.grid(axis="y", visible=False)
    axes.tick_params(labelbottom=True)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    scale(axes.xaxis, measure.unit)
    axes.set_ylim(len(choices) - 0.4, -0.6)


@matplotlib.rc_context(style.RC)
def draw_slab_memory(curves: dict[tuple[str, str], pd.Series], circumstances: Sequence[str], choices: Sequence[str],
                     make: MakeFigure = style.new_figure) -> Figure:
    """Pages in slabs over simulated time, a line a choice, a panel a circumstance, one vertical scale."""
    shown = list(circumstances[:PANELS])
    down = -(-len(shown) // ACROSS)
    figure = make(0.8 + 2.1 * down)
    across = min(ACROSS, len(shown))
    panels = figure.subplots(down, across, sharey=True, squeeze=False)
    for spare in panels.flat[len(shown):]:
        spare.set_visible(False)
    for axes, circumstance in zip(panels.flat, shown, strict=False):
        slab_panel(axes, curves, circumstance, choices)
        axes.set_title(style.label(circumstance, 44))
    top = max((float(curve.max()) for curve in curves.values() if len(curve)), default=0.0)
    panels[0][0].set_ylim(0, 1.05 * top or 1.0)
    handles: dict[str, Any] = {}
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, max(1, len(handles))))
    panels[0][0].set_ylabel("pages in slabs")
    return figure


@matplotlib.rc_context(style.RC)
def slab_panel(axes: Axes, curves: dict[tuple[str, str], pd.Series], circumstance: str, choices: Sequence[str]) -> None:
    """One panel of ``draw_slab_memory``, without title and legend."""
    lines = list(choices[: len(style.OKABE_ITO)])
    here = [(i, choice, curves[circumstance, choice]) for i, choice in enumerate(lines)
            if len(curves.get((circumstance, choice), ()))]
    if here:
        ends = [t for _, _, curve in here for t in (curve.index[0], curve.index[-1])]
        unit = style.time_axis(axes, np.array([min(ends), max(ends)]))[-1] or 1.0
        for i, choice, curve in here:
            times = curve.index.to_numpy(dtype=float) * (unit / max(ends) if max(ends) else 1.0)
            # Lines that lie upon one another stay visible: each later one is thinner.
            axes.step(times, curve.to_numpy(), where="post", color=style.OKABE_ITO[i],
                      linewidth=2.6 - 1.4 * i / max(1, len(lines) - 1), label=style.label(choice, 40))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    style.size_axis(axes.yaxis)
