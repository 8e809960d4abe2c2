"""
What a trace tells of the per-CPU page lists at its start, and of the types of pageblocks.

A block that leaves the buddy system leaves a row (``mm_page_alloc_zone_locked``). One that is handed out without any
row of it before lay on the list of that CPU, order and type at the start: in front of all that is handed out later. So
did one first seen being drained, behind all that is drained later. A list that was refilled held nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .schema import EV_PAGE_ALLOC, EV_PAGE_FREE, EV_PCPU_DRAIN, EV_ZONE_LOCKED, EventChunk

List = tuple[int, int, int]
"""CPU, order and migratetype."""

THP_ORDER = 9
REFILL_SHIFT = 12
"""No zone of a PC begins within 16 MiB."""
_MOST_FRAMES = 1 << 40
_AREA_BITS = 30
_COSTLY_ORDER = 3
_TYPES = 3
_MOVABLE = 1
_BLOCK = 9
_EVENTS = (EV_PAGE_ALLOC, EV_PAGE_FREE, EV_ZONE_LOCKED, EV_PCPU_DRAIN)


@dataclass(slots=True)
class PageLists:
    """
    The lists, as far as the trace shows them.

    Attributes
    ----------
    first, last
        By list: first pfn of the blocks at its head, in order; and of those at its tail, the last one first.
    refilled
        Lists that the kernel refilled, with ``pfn >> REFILL_SHIFT`` of a block, which tells the zone: at the start they
        held ``first`` and ``last`` and nothing between.
    types
        Migratetype of a pageblock, by pfn >> 9, as the first of its rows that tells has it.
    """

    first: dict[List, list[int]] = field(default_factory=dict)
    last: dict[List, list[int]] = field(default_factory=dict)
    refilled: set[tuple[int, ...]] = field(default_factory=set)
    types: dict[int, int] = field(default_factory=dict)


class PageListsSeen:
    """Finds them while a trace is read."""

    def __init__(self) -> None:
        self._found = PageLists()
        self._frames = _Seen()
        self._blocks = _Seen()
        self._told = False

    def feed(self, chunk: EventChunk) -> None:
        """Look at the chunk's page rows."""
        rows = np.flatnonzero(np.isin(chunk.event, _EVENTS) & (chunk.pfn > 0) & (chunk.pfn < _MOST_FRAMES))
        if not len(rows):
            return
        event, pfn = chunk.event[rows], chunk.pfn[rows]
        cpu, order = chunk.cpu[rows], chunk.order[rows]
        mt = np.where(chunk.migratetype[rows] < _TYPES, chunk.migratetype[rows], _MOVABLE)
        self._told = self._told or bool((event == EV_ZONE_LOCKED).any())
        listed = ((order >= 0) & (order <= _COSTLY_ORDER) | (order == THP_ORDER)) & (chunk.migratetype[rows] >= 0)
        for i in self._frames.first_seen(pfn).tolist():
            if listed[i] and event[i] in (EV_PAGE_ALLOC, EV_PCPU_DRAIN):
                kept = self._found.first if event[i] == EV_PAGE_ALLOC else self._found.last
                kept.setdefault((int(cpu[i]), int(order[i]), int(mt[i])), []).append(int(pfn[i]))
        taken = listed & (event == EV_ZONE_LOCKED)
        if taken.any():
            keys = (cpu[taken].astype(np.int64) << 8 | order[taken]) << 8 | mt[taken]
            for key in np.unique(keys << _AREA_BITS | pfn[taken] >> REFILL_SHIFT).tolist():
                area = key & ((1 << _AREA_BITS) - 1)
                key >>= _AREA_BITS
                self._found.refilled.add((key >> 16, key >> 8 & 255, key & 255, area))
        telling = np.flatnonzero((event != EV_PAGE_FREE) & (chunk.migratetype[rows] >= 0))
        for i in self._blocks.first_seen(pfn[telling] >> _BLOCK).tolist():
            self._found.types[int(pfn[telling[i]]) >> _BLOCK] = int(mt[telling[i]])

    def finish(self) -> PageLists:
        """The lists; none of a trace that does not show what leaves the buddy system."""
        return self._found if self._told else PageLists()


class _Seen:
    """Numbers that were there; memory goes by their count, whatever a broken trace names."""

    def __init__(self) -> None:
        self._sorted = np.zeros(0, np.int64)

    def first_seen(self, numbers: np.ndarray) -> np.ndarray:
        """Indexes, ascending, of numbers that were not there and now are; of equal ones the first."""
        values, at = np.unique(numbers, return_index=True)
        places = np.searchsorted(self._sorted, values)
        new = np.append(self._sorted, -1)[places] != values
        self._sorted = np.insert(self._sorted, places[new], values[new])
        return np.sort(at[new])
