"""What a study's circumstances and choices are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..report.wording import shorten, visible
from .grid import Cell, Grid
from .places import base_name

_CIRCUMSTANCES = ("trace", "machine", "cpus", "memory")
WIDTH = 40
"""Characters of a name that may have thousands."""


def roles(grid: Grid) -> tuple[list[str], list[str]]:
    """
    Axes that are circumstances, and axes that are choices.

    The traces, and what machine there is, are circumstances, as long as anything else is varied; a study of nothing but
    machines chooses among machines. Pooled traces are neither.
    """
    varied = [axis for axis in grid.varied() if axis != "trace" or not grid.pool_traces]
    choices = [axis for axis in varied if axis not in _CIRCUMSTANCES]
    if not choices:
        choices = [axis for axis in varied if axis != "trace"]
    if not choices:
        choices = varied
    return [axis for axis in varied if axis not in choices], choices


class Labels:
    """Names of a study's cells by their part in it; different things never share a name."""

    def __init__(self, grid: Grid) -> None:
        self._circumstances, self._choices = roles(grid)
        self._names = {"trace": short_names(grid.traces), "machine": short_names(filter(None, grid.machine))}
        self._whole = "the pooled traces" if grid.pool_traces else self._names["trace"][grid.traces[0]]

    def circumstance(self, cell: Cell) -> str:
        """``hello.csv, 4 CPUs``."""
        return ", ".join(self._said(axis, cell.value(axis)) for axis in self._circumstances) or self._whole

    def choice(self, cell: Cell) -> str:
        """``slub cpu_partial=30``; what its allocator does not look at is left out."""
        read = [axis for axis in self._choices if axis not in cell.unread]
        return " ".join(self._said(axis, cell.value(axis)) for axis in read) or "the only choice"

    def _said(self, axis: str, value: Any) -> str:
        if value is None:
            return f"{axis} as recorded"
        if axis in self._names:
            return self._names[axis][value]
        if axis == "cpus":
            return f"{value} CPU{'' if value == 1 else 's'}"
        if axis == "kernel":
            return f"kernel {value}"
        return str(value) if axis in ("allocator", "memory") else f"{axis.partition('.')[2] or axis}={value}"


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """
    What files are called: their last part, with as much before it as tells them apart, fit to be shown.

    Examples
    --------
    >>> short_names(["a/trace.csv", "b/trace.csv", "c/hello.csv"])
    {'a/trace.csv': 'a/trace.csv', 'b/trace.csv': 'b/trace.csv', 'c/hello.csv': 'hello.csv'}
    """
    whole = list(paths)
    out: dict[str, str] = {}
    for path in whole:
        parts = path.split("/")
        tails = ("/".join(parts[-n:]) for n in range(1, len(parts) + 1))
        out[path] = next((tail for tail in tails if _only(tail, path, whole)), path)
    shown = {path: shorten(visible(shorten(name, 4 * WIDTH)), WIDTH) for path, name in out.items()}
    every = list(shown.values())
    # Names that differ only in what was cut are numbered.
    return {path: name if every.count(name) == 1 else f"{name} ({every[:i].count(name) + 1})"
            for i, (path, name) in enumerate(shown.items())}


def _only(tail: str, path: str, paths: Sequence[str]) -> bool:
    """Whether a path's end is no other path's."""
    return bool(base_name(tail)) and not any(
        other != path and (other == tail or other.endswith(f"/{tail}")) for other in paths)
