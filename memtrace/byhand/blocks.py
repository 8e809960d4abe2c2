"""Page frames of a machine that is called by hand, as the blocks that the buddy system sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..mm.constants import MAX_ORDER, NIL, PAGE_BUDDY, PAGE_PCP, PAGE_TAIL, PAGE_USED
from ..mm.machine import Machine
from ..mm.stats import MIGRATETYPES

BlockState = Literal["free", "pcp", "used", "slab", "rest"]


@dataclass(frozen=True, slots=True)
class Block:
    """
    A block of ``2**order`` page frames.

    Attributes
    ----------
    pfn
        Its first page.
    order
        0 to 10.
    state
        ``free``: on a list of the buddy system; ``pcp``: on a CPU's page list; ``used``: given to somebody;
        ``slab``: of them, to the slab allocator; ``rest``: not managed (holes, the kernel itself), page by page.
    migratetype
        Of the list that a free block is on; what the owner of another one asked for. Empty for ``rest``.
    """

    pfn: int
    order: int
    state: BlockState
    migratetype: str = ""

    @property
    def pages(self) -> int:
        """How many page frames."""
        return 1 << self.order

    @property
    def buddy(self) -> int:
        """First page of the block that it can merge with. Kernel: __find_buddy_pfn()."""
        return self.pfn ^ self.pages


def blocks(machine: Machine, pfn: int, order: int) -> list[Block]:
    """
    What lies in the ``2**order`` page frames from ``pfn`` on, by address.

    Parameters
    ----------
    pfn
        A multiple of ``2**order``.

    Returns
    -------
    One block when it is larger than what was asked for: that one, wherever it begins.
    """
    found: list[Block] = []
    at = _head(machine, pfn)
    end = pfn + (1 << order)
    while at < end:
        block = _block(machine, at)
        found.append(block)
        at += block.pages
    return found


def _head(machine: Machine, pfn: int) -> int:
    """First page of the block that a page belongs to; the page itself when it belongs to none."""
    frames = machine.frames
    for order in range(MAX_ORDER + 1):
        first = pfn & -(1 << order)
        if frames.kind[first] != PAGE_TAIL:
            return first if first + (1 << frames.order[first]) > pfn else pfn
    return pfn


def _block(machine: Machine, pfn: int) -> Block:
    frames = machine.frames
    if pfn >= frames.nr_frames or frames.kind[pfn] == PAGE_TAIL:
        return Block(pfn, 0, "rest")
    states: dict[int, BlockState] = {PAGE_BUDDY: "free", PAGE_PCP: "pcp", PAGE_USED: "used"}
    state = "slab" if frames.slab[pfn] != NIL else states[frames.kind[pfn]]
    mt = frames.mt[pfn]
    return Block(pfn, int(frames.order[pfn]), state, MIGRATETYPES[mt] if mt < len(MIGRATETYPES) else "")
