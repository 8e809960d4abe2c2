"""
Per-CPU page lists at a start from /proc files.

How many pages each CPU has, and where self-tuned limits stood, the files say. What the trace shows of the lists lies as
it shows it; of the rest only the number is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memtrace.mm.constants import MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE, NIL
from memtrace.mm.restore import add_pcp_pages

if TYPE_CHECKING:
    from memtrace.mm.machine import Machine
    from memtrace.mm.mmzone import Zone
    from memtrace.snapshot.proc import PcpState

_BY_USE = (MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, MIGRATE_RECLAIMABLE)
UNSEEN = tuple((order, mt) for order in (0, 9, 3, 2, 1) for mt in _BY_USE)
"""(order, type) of lists that may hold what the trace does not show, the likeliest first."""


@dataclass(slots=True)
class SeenList:
    """
    One CPU's list of one zone, order and type, as the trace shows it.

    Attributes
    ----------
    first, last
        First pfn of the blocks at its head and at its tail, in order.
    whole
        There was nothing between them.
    """

    first: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    whole: bool = False


SeenLists = dict[tuple[int, int, int, int], SeenList]
"""By zone index, CPU, order and type."""


def blocks_on(lists: SeenLists) -> list[tuple[int, int]]:
    """(first pfn, order) of all blocks that are known to be on a list."""
    return [(pfn, order) for (_, _, order, _), known in lists.items() for pfn in (*known.first, *known.last)]


def fill_lists(
    machine: Machine, zone: Zone, states: tuple[PcpState, ...], lists: SeenLists, taken: bytearray
) -> int:
    """
    Fill all CPUs' lists of a zone.

    Parameters
    ----------
    lists
        What the trace shows. Where it shows more than a CPU is said to have, the trace is believed: the snapshot was
        taken before it.
    taken
        By page frame: 0 for a page of which nothing is known. Marked 1 when it is put on a list here.

    Returns
    -------
    Pages on these lists that lie as the trace shows them.
    """
    seen = 0
    for state in states:
        if state.cpu >= machine.nr_cpus:
            continue
        pcp = zone.pcp[state.cpu]
        if pcp.high_min < pcp.high_max and state.high_min >= 0:
            # Lists that tune themselves go on from where they were.
            pcp.high_min, pcp.high, pcp.high_max = state.high_min, state.high, state.high_max
        mine = {key[2:]: known for key, known in lists.items() if key[:2] == (zone.index, state.cpu)}
        shown = sum((len(known.first) + len(known.last)) << order for (order, _), known in mine.items())
        seen += shown
        between = _unseen(machine, zone, state.count - shown, mine, taken)
        for order, mt in sorted(mine.keys() | between.keys()):
            known = mine.get((order, mt), SeenList())
            add_pcp_pages(machine, pcp, order, mt, [*known.first, *between.get((order, mt), []), *known.last])
    return seen


def _unseen(
    machine: Machine, zone: Zone, count: int, mine: dict[tuple[int, int], SeenList], taken: bytearray
) -> dict[tuple[int, int], list[int]]:
    """Blocks for ``count`` more pages, by order and type, on lists of which the trace does not show the whole."""
    found: dict[tuple[int, int], list[int]] = {}
    for order, mt in UNSEEN:
        if (order, mt) in mine and mine[order, mt].whole:
            continue
        if count >> order == 0 or machine.pages.free_pindex(order, mt) == NIL:
            continue
        blocks = _unknown_blocks(zone, order, count >> order, taken)
        count -= len(blocks) << order
        if blocks:
            found[order, mt] = blocks
    return found


def _unknown_blocks(zone: Zone, order: int, wanted: int, taken: bytearray) -> list[int]:
    """At most so many blocks that nothing is known of, from the end of the zone."""
    size = 1 << order
    blocks: list[int] = []
    pfn = zone.end_pfn
    while len(blocks) < wanted:
        pfn = taken.rfind(bytes(size), zone.start_pfn, pfn)
        if pfn < 0:
            break
        pfn &= -size
        if pfn >= zone.start_pfn and taken.count(0, pfn, pfn + size) == size:
            taken[pfn : pfn + size] = b"\1" * size
            blocks.append(pfn)
    return blocks
