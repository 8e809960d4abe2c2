"""``run.plot``: the report's figures on axes of one's own, or in new figures that a notebook shows."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from matplotlib.axes import Axes

from . import style
from .frames import RunFrames
from .plots import (
    cache_memory,
    callsite_waste,
    fragmentation,
    free_blocks,
    hit_rates,
    latency,
    lock_waits,
    memory_map,
    percpu_memory,
)


class RunPlots:
    """
    The figures of a run, named as the report's files under figures/.

    Each takes ``ax``, axes to draw on, and makes a new figure when there is none; each returns the axes. On axes of
    one's own, ``layout="constrained"`` (or "tight") of their figure makes room for legends. ``print(run.plot)`` says
    in one sentence each what the figures show.
    """

    def __init__(self, frames: RunFrames) -> None:
        self._frames = frames
        style.pyplot_ready()

    def _draw(self, module: ModuleType, ax: Axes | None, **options: Any) -> Axes:
        canvas = style.Canvas(ax, style.shown_figure)
        module.draw(self._frames, canvas, **options)
        return canvas.axes

    def cache_memory(self, ax: Axes | None = None, *, top: int = cache_memory.TOP) -> Axes:
        """Memory in slabs over time, the ``top`` largest caches stacked."""
        return self._draw(cache_memory, ax, top=top)

    def hit_rates(self, ax: Axes | None = None, *, top: int = hit_rates.TOP) -> Axes:
        """Fast-path hit rate by CPU and cache, of the ``top`` busiest caches."""
        return self._draw(hit_rates, ax, top=top)

    def latency(self, ax: Axes | None = None) -> Axes:
        """How long operations took, by the path they took."""
        return self._draw(latency, ax)

    def lock_waits(self, ax: Axes | None = None, *, top: int = lock_waits.TOP) -> Axes:
        """The ``top`` locks that were waited for longest."""
        return self._draw(lock_waits, ax, top=top)

    def callsite_waste(self, ax: Axes | None = None, *, top: int = callsite_waste.TOP) -> Axes:
        """The ``top`` call sites whose requests were rounded up most."""
        return self._draw(callsite_waste, ax, top=top)

    def free_blocks(self, ax: Axes | None = None) -> Axes:
        """Free memory by block size over time."""
        return self._draw(free_blocks, ax)

    def fragmentation(self, ax: Axes | None = None) -> Axes:
        """Unusable free index by order over time: free memory in blocks too small for a request."""
        return self._draw(fragmentation, ax)

    def memory_map(self, ax: Axes | None = None) -> Axes:
        """Map of physical memory: address by time, coloured by what is there."""
        return self._draw(memory_map, ax)

    def percpu_memory(self, ax: Axes | None = None) -> Axes:
        """Memory of the percpu allocator over time."""
        return self._draw(percpu_memory, ax)

    def __str__(self) -> str:
        from .page import FIGURES

        return "\n".join(f"{name}: {module.sentence(self._frames)}" for name, module in FIGURES)
