"""
Putting pages where a record says they were.

A replay never does this. A driver that is forced along a recording does, after it has asked the page allocator what
it would have done: whatever the answer was, the recorded block is the one that moves.
"""

from __future__ import annotations

import cython

from memtrace.mm.constants import (
    MAX_ORDER,
    MIGRATE_TYPES,
    NIL,
    NR_ORDERS,
    NR_PCP_LISTS,
    PAGE_BUDDY,
    PAGE_PCP,
    PAGE_TAIL,
    PAGE_USED,
    UNKNOWN_OWNER,
)
from memtrace.mm.mmzone import Frames, PerCpuPages, Zone
from memtrace.mm.page_alloc import PageAllocator


@cython.cclass
class PagePlaces:
    """Where blocks lie, and how to move them against the rules. Every method is O(length of a list) at most."""

    pages: PageAllocator
    frames: Frames

    def __init__(self, pages: PageAllocator) -> None:
        self.pages = pages
        self.frames = pages.frames

    @cython.ccall
    @cython.exceptval(check=False)
    def block_type(self, pfn: cython.int) -> cython.int:
        """Migratetype of the pageblock around a page."""
        zone: Zone = self.pages.zones[self.pages.zone_of(pfn)]
        return zone.get_pageblock_migratetype(pfn)

    @cython.ccall
    @cython.exceptval(check=False)
    def pcp_head(self, pcp: PerCpuPages, order: cython.int, mt: cython.int) -> cython.int:
        """First block of a per-CPU list, or NIL."""
        head: cython.int = pcp.list0 + self.pages.order_to_pindex(order, mt)
        first: cython.int = self.frames.next[head]
        return NIL if first == head else first

    @cython.ccall
    @cython.exceptval(check=False)
    def pcp_tail(self, pcp: PerCpuPages, index: cython.int) -> cython.int:
        """Last block of per-CPU list number ``index``, or NIL."""
        head: cython.int = pcp.list0 + index
        last: cython.int = self.frames.prev[head]
        return NIL if last == head else last

    @cython.ccall
    def free_list(self, zone: Zone, order: cython.int, mt: cython.int) -> list:
        """Blocks of a zone's free list, head first."""
        return self.frames.members(zone.free_list(order, mt))

    @cython.ccall
    @cython.exceptval(check=False)
    def free_block_order(self, pfn: cython.int) -> cython.int:
        """Order of the free block that begins at this page, or NIL."""
        if self.frames.kind[pfn] != PAGE_BUDDY:
            return NIL
        return self.frames.order[pfn]

    @cython.ccall
    @cython.exceptval(check=False)
    def parked_on(self, pfn: cython.int) -> cython.int:
        """
        Which per-CPU list holds the block that begins at this page.

        Returns
        -------
        ``cpu * NR_PCP_LISTS + index`` within the page's zone, or NIL.
        """
        frames: Frames = self.frames
        pcp: PerCpuPages
        if frames.kind[pfn] != PAGE_PCP:
            return NIL
        at: cython.int = pfn
        while at < frames.nr_frames:
            at = frames.next[at]
        zone: Zone = self.pages.zones[self.pages.zone_of(pfn)]
        cpu: cython.int
        for cpu in range(len(zone.pcp)):
            pcp = zone.pcp[cpu]
            if at >= pcp.list0 and at < pcp.list0 + NR_PCP_LISTS:
                return cpu * NR_PCP_LISTS + at - pcp.list0
        return NIL

    @cython.ccall
    def take(self, pfn: cython.int, order: cython.int, mt: cython.int) -> cython.bint:
        """
        Make a block a used one, asked for as ``mt``, wherever it is now.

        Returns
        -------
        False when a part of it was in use already.
        """
        zone: Zone = self.pages.zones[self.pages.zone_of(pfn)]
        whole: cython.bint = self.take_free(zone, pfn, order)
        self.mark_used(pfn, order, mt)
        return whole

    @cython.cfunc
    @cython.exceptval(check=False)
    def mark_used(self, pfn: cython.int, order: cython.int, mt: cython.int) -> cython.void:
        frames: Frames = self.frames
        p: cython.int
        for p in range(pfn, pfn + (1 << order)):
            frames.kind[p] = PAGE_TAIL
            frames.mt[p] = mt
        frames.kind[pfn] = PAGE_USED
        frames.order[pfn] = order

    @cython.cfunc
    def take_free(self, zone: Zone, pfn: cython.int, order: cython.int) -> cython.bint:
        """Take every page of a range off its list; False when one was on none."""
        frames: Frames = self.frames
        block: cython.int
        cur: cython.int
        for cur in range(order, MAX_ORDER + 1):
            block = (pfn >> cur) << cur
            if block >= zone.start_pfn and frames.kind[block] == PAGE_BUDDY and frames.order[block] == cur:
                self.carve(zone, block, cur, pfn, order)
                return True
            if block >= zone.start_pfn and frames.kind[block] == PAGE_PCP and frames.order[block] == cur:
                # What is left of a larger parked block has lost its list: it counts as in use.
                self.unpark(zone, block)
                self.mark_used(block, cur, frames.mt[block])
                self.split_for_free(pfn, order)
                return True
        if order == 0:
            return False
        half: cython.int = 1 << (order - 1)
        first: cython.bint = self.take_free(zone, pfn, order - 1)
        return self.take_free(zone, pfn + half, order - 1) and first

    @cython.cfunc
    def carve(
        self, zone: Zone, block: cython.int, cur: cython.int, pfn: cython.int, order: cython.int
    ) -> cython.void:
        """Cut a piece out of a free block; what is left over goes to the heads of its lists, as in expand()."""
        mt: cython.int = self.frames.mt[block]
        self.pages.del_page_from_free_list(zone, block)
        while cur > order:
            cur -= 1
            if pfn >= block + (1 << cur):
                self.pages.add_to_free_list(zone, block, cur, mt, False)
                block += 1 << cur
            else:
                self.pages.add_to_free_list(zone, block + (1 << cur), cur, mt, False)
        zone.free_pages -= 1 << order

    @cython.cfunc
    def unpark(self, zone: Zone, pfn: cython.int) -> cython.void:
        at: cython.int = self.parked_on(pfn)
        pcp: PerCpuPages = zone.pcp[at // NR_PCP_LISTS]
        self.frames.remove(pfn)
        pcp.count -= 1 << self.frames.order[pfn]

    @cython.ccall
    def park(
        self, pcp: PerCpuPages, pfn: cython.int, order: cython.int, mt: cython.int, to_tail: cython.bint
    ) -> cython.void:
        """Put a used block on a per-CPU list."""
        frames: Frames = self.frames
        head: cython.int = pcp.list0 + self.pages.free_pindex(order, mt)
        frames.kind[pfn] = PAGE_PCP
        frames.order[pfn] = order
        frames.mt[pfn] = mt
        if to_tail:
            frames.add_tail(head, pfn)
        else:
            frames.add_head(head, pfn)
        pcp.count += 1 << order

    @cython.ccall
    def unsplit(self, zone: Zone, pfn: cython.int, order: cython.int) -> cython.void:
        """Undo the last rmqueue(): the block, whole again, is the first of its list."""
        frames: Frames = self.frames
        cur: cython.int
        self.pages.free_one_page(zone, pfn, order, frames.mt[pfn], False)
        for cur in range(order, MAX_ORDER + 1):
            block: cython.int = (pfn >> cur) << cur
            if frames.kind[block] == PAGE_BUDDY and frames.order[block] == cur:
                mt: cython.int = frames.mt[block]
                self.pages.del_page_from_free_list(zone, block)
                self.pages.add_to_free_list(zone, block, cur, mt, False)
                return

    @cython.ccall
    @cython.exceptval(check=False)
    def in_use(self, pfn: cython.int, order: cython.int) -> cython.bint:
        """Is no page of this range free, on any list?"""
        frames: Frames = self.frames
        p: cython.int
        cur: cython.int
        for p in range(pfn, pfn + (1 << order)):
            if frames.kind[p] in (PAGE_BUDDY, PAGE_PCP):
                return False
        for cur in range(1, NR_ORDERS):
            block: cython.int = (pfn >> cur) << cur
            if frames.order[block] >= cur and frames.kind[block] in (PAGE_BUDDY, PAGE_PCP):
                return False
        return True

    @cython.ccall
    @cython.exceptval(check=False)
    def own(self, pfn: cython.int, order: cython.int, mt: cython.int) -> cython.void:
        """Say who asked for pages that are in use since before the start, if their owner is not known yet."""
        p: cython.int
        for p in range(pfn, pfn + (1 << order)):
            if self.frames.mt[p] != UNKNOWN_OWNER or self.frames.kind[p] != PAGE_TAIL:
                return
        self.mark_used(pfn, order, mt)

    @cython.ccall
    @cython.exceptval(check=False)
    def split_for_free(self, pfn: cython.int, order: cython.int) -> cython.void:
        """A piece of a larger allocated block is about to be freed: make the block pieces of that size."""
        frames: Frames = self.frames
        cur: cython.int
        for cur in range(order + 1, NR_ORDERS):
            block: cython.int = (pfn >> cur) << cur
            if frames.kind[block] == PAGE_USED and frames.order[block] == cur:
                self.pages.split_page(block, cur, order)
                return

    @cython.ccall
    @cython.exceptval(check=False)
    def set_reclaim_active(self, node: cython.int, active: cython.bint) -> cython.void:
        """kswapd runs on this node: per-CPU lists are kept short (MODEL 3.4, EXACT B 2.8)."""
        zone: Zone
        for zone in self.pages.zones:
            if zone.node == node:
                zone.reclaim_active = active

    @cython.ccall
    def isolate(self, zone: Zone, pfn: cython.int, order: cython.int) -> cython.bint:
        """
        Compaction takes a free block; whether it was one of exactly this order.

        Kernel: __isolate_free_page(), 6.1: taking most of a pageblock makes its blocks Movable
        """
        exact: cython.bint = self.pages.is_free_block(zone, pfn, order)
        self.take(pfn, order, 1)
        p: cython.int = pfn
        if order >= zone.pageblock_order - 1:
            while p < pfn + (1 << order):
                if zone.get_pageblock_migratetype(p) < 3:
                    zone.set_pageblock_migratetype(p, 1)
                p += 1 << zone.pageblock_order
        return exact

    def pageblock_types(self, zone: Zone) -> list[int]:
        """Migratetype of each pageblock of a zone, first block first."""
        return list(zone.pageblock_type)

    def lists(self, zone: Zone) -> dict[tuple[int, int], list[int]]:
        """(order, migratetype) -> blocks of every free list that is not empty, head first."""
        found = {}
        for order in range(NR_ORDERS):
            for mt in range(MIGRATE_TYPES):
                members = self.free_list(zone, order, mt)
                if members:
                    found[order, mt] = members
        return found
