"""``study.plot``: the comparison's figures on axes of one's own, or in new figures that a notebook shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ConfigError, MetricsError
from ..report import style
from .figures import draw_measure, draw_slab_memory, measure_panel, slab_panel
from .measures import find_measure
from .page import curves
from .verdict import samples

if TYPE_CHECKING:
    from .study import Study


class StudyPlots:
    """
    The figures of a study.

    Each draws one panel a circumstance into a new figure; or, with ``ax``, one circumstance onto axes of one's own.
    Each returns its panels' axes, in the order of ``circumstances``.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        style.pyplot_ready()
        cells = study.measures
        self.circumstances: list[str] = list(dict.fromkeys(cells["circumstance"]))
        self.choices: list[str] = list(dict.fromkeys(cells["choice"]))

    def measure(self, name: str, ax: Axes | None = None, *, circumstance: str | None = None) -> list[Axes]:
        """
        One measure by choice, as bars; whiskers are 95 % intervals, where there are any.

        Parameters
        ----------
        name
            A column of ``Study.measures``, such as peak_slab_bytes, waste_pct or hit_pct.
        ax
            Where to draw.
        circumstance
            Only this one. With ``ax`` it may be left away where the study has only one.
        """
        measure = find_measure(name, "plot.measure")
        by = samples(self._study.measures, name, self._study.grid.pool_traces)

        def onto(axes: Axes, one: str) -> None:
            measure_panel(axes, measure, by, one, self.choices)
            axes.set_xlim(left=0)

        return self._draw(ax, circumstance, onto,
                          lambda shown: draw_measure(measure, by, shown, self.choices, style.shown_figure))

    def slab_memory(self, ax: Axes | None = None, *, circumstance: str | None = None) -> list[Axes]:
        """Pages in slabs over simulated time, a line a choice; parameters as of ``measure``."""
        by = curves(self._study)

        def onto(axes: Axes, one: str) -> None:
            slab_panel(axes, by, one, self.choices)
            axes.set_ylim(bottom=0)
            with matplotlib.rc_context(style.RC):
                style.Canvas(axes).legend("right")

        return self._draw(ax, circumstance, onto,
                          lambda shown: draw_slab_memory(by, shown, self.choices, style.shown_figure))

    def _draw(self, ax: Axes | None, circumstance: str | None, onto: Callable[[Axes, str], None],
              new: Callable[[list[str]], Figure]) -> list[Axes]:
        if circumstance is not None and circumstance not in self.circumstances:
            raise MetricsError(f'{self._study.path}: no circumstance "{circumstance}"; expected one of '
                               f"{', '.join(self.circumstances)}.")
        shown = self.circumstances if circumstance is None else [circumstance]
        if ax is None:
            panels = [axes for axes in new(shown).axes if axes.get_visible()]
            for axes in panels:
                _title(axes, axes.get_title(loc="left"))
            return panels
        if len(shown) > 1:
            raise ConfigError(f"plot: {len(shown)} circumstances on the axes of one; expected one. Give circumstance=, "
                              f"one of {', '.join(shown)}.")
        onto(ax, shown[0])
        _title(ax, style.label(shown[0], 44))
        return [ax]


def _title(axes: Axes, text: str) -> None:
    """Where ``set_title`` puts one by default, so that a caller's own replaces it."""
    axes.set_title("", loc="left")
    axes.set_title(text).set_parse_math(False)

