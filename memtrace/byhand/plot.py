"""Pictures of a machine that is called by hand: blocks as a tree, slabs byte by byte, per-CPU areas in each unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

from ..errors import MisuseError
from ..mm.constants import MAX_ORDER, PAGE_SIZE
from ..report import style
from ..report.plots import memory_map
from ..units import format_size
from .blocks import Block
from .slabs import SlabView

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .caller import Cache
    from .kernel import Kernel

# The same colours as in the report's map of physical memory.
_MAP = dict(zip(memory_map.USED, memory_map.COLOURS, strict=True))
_BLOCKS = {
    "free": ("#ffffff", "free"), "pcp": (_MAP["pcp"], "on a CPU's list"), "slab": (_MAP["slab"], "slab"),
    "Movable": (_MAP["movable"], "in use, movable"), "Unmovable": (_MAP["unmovable"], "in use, unmovable"),
    "Reclaimable": (_MAP["reclaimable"], "in use, reclaimable"), "rest": (_MAP["rest"], "not managed"),
}
_PIECES = {
    "live": (style.OKABE_ITO[0], "in use"), "cached": (style.OKABE_ITO[1], "free, kept for a CPU"),
    "free": ("#ffffff", "free"), "header": (style.OKABE_ITO[3], "header: the size"), "rest": ("#c9ced4", "no object"),
}
_MOST_SLABS = 24
_LEAST_LABEL = 1 / 40
"""Share of the width from which on a block has room for a word."""


class KernelPlot:
    """
    ``kernel.plot``: each method draws on ``ax``, or on a new figure, and returns the axes.

    Parameters
    ----------
    kernel
        Whose machine is drawn, as it is at the moment of the call.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        style.pyplot_ready()

    def buddy(self, pfn: int, order: int = MAX_ORDER, ax: Axes | None = None, *, least: int = 0,
              legend: bool = True, title: str = "") -> Axes:
        """
        The block of ``2**order`` page frames around ``pfn`` as a tree: a row for each order, the largest on top.

        A block stands in the row of its order; what was split stands above its halves as an outline. So two free
        buddies side by side cannot be: they would be one block, a row higher.

        Parameters
        ----------
        pfn
            Any page in it.
        order
            Of the top row.
        ax
            Where to draw; a new figure when None.
        least
            Order of the lowest row. Smaller blocks are not drawn: their parent stays an outline.
        legend
            Say below what the colours mean.
        title
            Of the axes; empty: which pages these are.

        Raises
        ------
        MisuseError
            There is no such page, or the orders are not 0 <= least <= order <= 10.
        """
        if not 0 <= least <= order <= MAX_ORDER:
            raise MisuseError(f"plot.buddy: order {order}, least {least}; expected 0 <= least <= order <= {MAX_ORDER}.")
        found = self._kernel.blocks(pfn, order)
        first = int(pfn) & -(1 << order)
        with matplotlib.rc_context(style.RC):
            ax = ax or style.shown_figure(0.9 + 0.36 * (order - least + 1)).subplots()
            _tree(ax, found, first, order, least)
            last = first + (1 << order) - 1
            _title(ax, title or f"pages {first:#x} to {last:#x}: {format_size(PAGE_SIZE << order)}")
            if legend:
                _legend(ax, _BLOCKS, {_kind(block) for block in found if block.order >= least})
        return ax

    def slabs(self, cache: Cache | str | None = None, ax: Axes | None = None, *, legend: bool = True,
              title: str = "") -> Axes:
        """
        The slabs of a cache, one a row, byte by byte: objects in use, free ones, and who keeps them.

        Parameters
        ----------
        cache
            One, or its name (``kmalloc-128``); None: all. SLOB has no slabs of one cache: its pages are drawn in which
            an object of that cache lies, and objects of others are paler.
        ax
            Where to draw; a new figure when None.
        legend
            Say below what the colours mean.
        title
            Of the axes; empty: which cache of which allocator this is.

        Raises
        ------
        MisuseError
            There is no such cache.
        """
        found = self._kernel.slabs(cache)
        name = "" if cache is None else cache if isinstance(cache, str) else cache.name
        allocator = self._kernel.config.allocator
        shown = found[:_MOST_SLABS]
        with matplotlib.rc_context(style.RC):
            ax = ax or style.shown_figure(1.2 + 0.42 * max(1, len(shown))).subplots()
            _slabs(ax, shown, name, each_named=cache is None and allocator != "slob")
            more = f", {len(found) - len(shown)} more not shown" if len(found) > len(shown) else ""
            what = ("page" if allocator == "slob" else "slab") + ("s" if len(found) != 1 else "")
            _title(ax, title or f"{allocator.upper()}, {style.label(name or 'all caches')}: {len(found)} {what}{more}")
            if legend:
                _legend(ax, _PIECES, {piece.state for view in shown for piece in view.pieces})
        return ax

    def percpu(self, ax: Axes | None = None, *, title: str = "") -> Axes:
        """
        Where per-CPU areas lie: a row for each possible CPU and chunk, over the part of a unit that has areas.

        An area has the same colour and the same offset in every row; an offline CPU has its copies too.

        Parameters
        ----------
        ax
            Where to draw; a new figure when None.
        title
            Of the axes; empty: how many areas there are.
        """
        areas = self._kernel.percpu_areas()
        percpu = self._kernel.machine.percpu
        rows = [(chunk, cpu) for chunk in sorted(set(areas.chunk)) for cpu in range(percpu.possible)]
        with matplotlib.rc_context(style.RC):
            ax = ax or style.shown_figure(1.0 + 0.42 * max(1, len(rows))).subplots()
            _percpu(ax, areas, rows, [self._cpu_name(cpu) for _, cpu in rows])
            apart = format_size(int(percpu.unit_size))
            _title(ax, title or f"{len(areas)} per-CPU area{'s' if len(areas) != 1 else ''}; units are {apart} apart")
        return ax

    def _cpu_name(self, cpu: int) -> str:
        machine = self._kernel.machine
        if cpu >= machine.nr_cpus:
            return f"CPU {cpu}\nonly possible"
        return f"CPU {cpu}" if machine.online[cpu] else f"CPU {cpu}\noffline"


def _title(ax: Axes, text: str) -> None:
    """Where ``set_title`` puts one by default, so that a caller's own replaces it."""
    ax.set_title(text, loc="center")


def _bare(ax: Axes) -> None:
    """No grid and no frame: what is drawn says where it is."""
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)


def _legend(ax: Axes, names: dict[str, tuple[str, str]], present: set[str]) -> None:
    patches = [Patch(facecolor=colour, edgecolor=style.INK, linewidth=0.5, label=text)
               for key, (colour, text) in names.items() if key in present]
    if patches:
        # Below the numbers of the axis, where there are some.
        ax.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(patches),
                  borderaxespad=2.0 if len(ax.get_xticks()) else 0.2, columnspacing=1.2, handlelength=1.2)


# -- the buddy system ---------------------------------------------------------------------------------------------


def _kind(block: Block) -> str:
    return block.migratetype if block.state == "used" and block.migratetype in _BLOCKS else (
        "Unmovable" if block.state == "used" else block.state)


def _tree(ax: Axes, found: list[Block], first: int, order: int, least: int) -> None:
    width = 1 << order
    split: set[tuple[int, int]] = set()
    for block in found:
        # A block larger than the window fills it.
        own = min(block.order, order)
        at = max(block.pfn, first) - first
        # Pages that nobody manages are no block of the buddy system: they are drawn in the lowest row.
        if own >= least and not (block.state == "rest" and least):
            _block(ax, block, at, own, width)
        for parent in range(max(own, least - 1) + 1, order + 1):
            split.add((at & -(1 << parent), parent))
    for at, parent in split:
        ax.add_patch(Rectangle((at, parent - 0.38), 1 << parent, 0.76, facecolor="none", edgecolor=style.OTHER,
                               linewidth=0.6, linestyle=":"))
    ax.set_xlim(-0.002 * width, 1.002 * width)
    ax.set_ylim(least - 0.5, order + 0.5)
    ax.set_yticks(range(least, order + 1), [f"order {row}  {format_size(PAGE_SIZE << row)}"
                                            for row in range(least, order + 1)], fontsize=9)
    ax.set_xticks([])
    _bare(ax)
    free = [sum(block.state == "free" and min(block.order, order) == row for block in found)
            for row in range(least, order + 1)]
    for row, n in enumerate(free, least):
        ax.text(1.01, row, f"{n} free" if n else "–", transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)


def _block(ax: Axes, block: Block, at: int, row: int, width: int) -> None:
    colour, text = _BLOCKS[_kind(block)]
    pages = 1 << row
    ax.add_patch(Rectangle((at, row - 0.38), pages, 0.76, facecolor=colour, edgecolor=style.INK,
                           linewidth=0.8 if pages / width > 0.01 else 0.3))
    if pages / width >= _LEAST_LABEL * max(1, len(text.split(",")[0]) / 4):
        ax.text(at + pages / 2, row, text.split(",")[0], ha="center", va="center", fontsize=8, color=_ink_on(colour))


def _ink_on(colour: str) -> str:
    """Black or white, whichever is read more easily on a colour."""
    red, green, blue = to_rgb(colour)
    return style.INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "#ffffff"


# -- slabs --------------------------------------------------------------------------------------------------------


def _slabs(ax: Axes, shown: list[SlabView], wanted: str, each_named: bool) -> None:
    total = max((PAGE_SIZE << view.order for view in shown), default=PAGE_SIZE)
    for row, view in enumerate(shown):
        for piece in view.pieces:
            colour, _ = _PIECES[piece.state]
            paler = piece.state == "live" and piece.owner and wanted and piece.owner != wanted
            ax.add_patch(Rectangle((piece.offset, row - 0.36), piece.size, 0.72, facecolor=colour,
                                   edgecolor=style.INK, linewidth=0.4, alpha=0.35 if paler else 1.0))
            if piece.cpu >= 0 and piece.size > total / 90:
                ax.text(piece.offset + piece.size / 2, row, str(piece.cpu), ha="center", va="center", fontsize=7,
                        color=style.INK)
    if not shown:
        ax.text(0.5, 0.5, "no slab", transform=ax.transAxes, ha="center", va="center")
    ax.set_xlim(-0.002 * total, 1.002 * total)
    ax.set_ylim(max(1, len(shown)) - 0.4, -0.6)
    names = [f"  {style.label(view.cache, 20)}" if each_named else "" for view in shown]
    ax.set_yticks(range(len(shown)), [f"{view.pfn * PAGE_SIZE:#x}{name}\n{view.place}"
                                      for view, name in zip(shown, names, strict=True)], fontsize=8)
    ticks: list[Any] = [total * i // 4 for i in range(5)]
    ax.set_xticks(ticks, [format_size(tick) if tick else "0" for tick in ticks], fontsize=9)
    _bare(ax)


# -- per-CPU areas ------------------------------------------------------------------------------------------------


def _percpu(ax: Axes, areas: pd.DataFrame, rows: list[tuple[int, int]], names: list[str]) -> None:
    low = int(areas.offset.min()) if len(areas) else 0
    high = int((areas.offset + areas["size"]).max()) if len(areas) else PAGE_SIZE
    margin = max(1, (high - low) // 40)
    for row, (chunk, _) in enumerate(rows):
        ax.add_patch(Rectangle((low - margin, row - 0.36), high - low + 2 * margin, 0.72, facecolor="#ffffff",
                               edgecolor=style.INK, linewidth=0.6))
        for i, area in enumerate(areas.itertuples()):
            if area.chunk == chunk:
                ax.add_patch(Rectangle((area.offset, row - 0.36), area.size, 0.72, edgecolor=style.INK, linewidth=0.4,
                                       facecolor=style.OKABE_ITO[i % len(style.OKABE_ITO)]))
    if not rows:
        ax.text(0.5, 0.5, "no area", transform=ax.transAxes, ha="center", va="center")
    ax.set_xlim(low - 1.1 * margin, high + 1.1 * margin)
    ax.set_ylim(max(1, len(rows)) - 0.4, -0.6)
    several = len({chunk for chunk, _ in rows}) > 1
    ax.set_yticks(range(len(rows)), [f"{name}, chunk {chunk}" if several else name
                                     for name, (chunk, _) in zip(names, rows, strict=True)], fontsize=8)
    ax.set_xticks([low, high], [f"+{low:#x}", f"+{high:#x}"], fontsize=9)
    ax.set_xlabel("offset in the CPU's unit")
    _bare(ax)
