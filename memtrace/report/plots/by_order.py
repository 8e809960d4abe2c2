"""What the figures of page blocks have in common: a line for each order over time."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from ...units import PAGE_SIZE, format_size
from .. import style


def lines(axes: Axes, frame: pd.DataFrame) -> None:
    """Draw the columns of ``frame``, which are orders, over its index, which is simulated time in ns."""
    x = style.time_axis(axes, frame.index)
    colours = style.sequence(len(frame.columns))
    for i, order in enumerate(frame.columns):
        axes.plot(x, frame[order], color=colours[i], drawstyle="steps-post",
                  label=f"{order}  ({format_size(PAGE_SIZE << int(order))})", linestyle=("-", "--")[i % 2])
