"""The buddy system: free lists, splitting and merging (MODEL 2.1-2.4)."""

from __future__ import annotations

import cython

from memtrace.mm.constants import (
    MAX_ORDER,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    NIL,
    PAGE_BUDDY,
    PAGE_TAIL,
    PAGE_USED,
)
from memtrace.mm.mmzone import Frames, Zone


@cython.cclass
class Buddy:
    """Free blocks of all zones; the lowest floor of the page allocator."""

    frames: Frames
    zones: list
    tail_merge: cython.bint
    """Blocks whose neighbours may soon merge wait at their list's tail (vm.tail_merge)."""
    types_apart: cython.bint
    """Blocks of at least a pageblock only merge when both types may be mixed (since 4.4)."""
    lists_match: cython.bint
    """A free block's list is always that of its pageblock's type (since 6.10)."""
    reread_type: cython.bint
    """The type of a page that leaves a per-CPU list is its pageblock's then, not when it was freed."""
    moved_to_tail: cython.bint
    """Blocks that change their type go to the tail of the other list."""

    def __init__(self, frames: Frames, zones: list) -> None:
        self.frames = frames
        self.zones = zones
        self.tail_merge = True
        self.types_apart = True
        self.lists_match = False
        self.reread_type = False
        self.moved_to_tail = True

    @cython.cfunc
    @cython.exceptval(check=False)
    def add_to_free_list(
        self, zone: Zone, pfn: cython.int, order: cython.int, mt: cython.int, to_tail: cython.bint
    ) -> cython.void:
        """Put a block on the list of (order, mt); page counts are the caller's business."""
        frames: Frames = self.frames
        head: cython.int = zone.free_list(order, mt)
        frames.kind[pfn] = PAGE_BUDDY
        frames.order[pfn] = order
        frames.mt[pfn] = mt
        if to_tail:
            frames.add_tail(head, pfn)
        else:
            frames.add_head(head, pfn)
        zone.nr_free[order] += 1
        zone.nr_free_mt[order * MIGRATE_TYPES + mt] += 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def del_page_from_free_list(self, zone: Zone, pfn: cython.int) -> cython.void:
        """Take a block off whatever free list it is on."""
        frames: Frames = self.frames
        order: cython.int = frames.order[pfn]
        frames.remove(pfn)
        frames.kind[pfn] = PAGE_TAIL
        zone.nr_free[order] -= 1
        zone.nr_free_mt[order * MIGRATE_TYPES + frames.mt[pfn]] -= 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def move_to_free_list(self, zone: Zone, pfn: cython.int, mt: cython.int) -> cython.void:
        """Kernel: move_to_free_list(): to the tail of another type's list (MODEL 2.5.1 e, f); 2.6.24: to its head."""
        order: cython.int = self.frames.order[pfn]
        self.del_page_from_free_list(zone, pfn)
        self.add_to_free_list(zone, pfn, order, mt, self.moved_to_tail)

    @cython.ccall
    def rmqueue_smallest(self, zone: Zone, order: cython.int, mt: cython.int) -> cython.int:
        """
        Take one block of ``2**order`` pages from the lowest order whose list of type ``mt`` has one.

        Kernel: __rmqueue_smallest(), mm/page_alloc.c, 6.1 (MODEL 2.2)
        Departs: nothing
        Cost: O(orders)

        Returns
        -------
        First pfn of the block, or NIL. Running out is a result of the simulated machine, not an error.
        """
        frames: Frames = self.frames
        cur: cython.int
        for cur in range(order, MAX_ORDER + 1):
            head: cython.int = zone.free_list(cur, mt)
            pfn: cython.int = frames.next[head]
            if pfn == head:
                continue
            self.del_page_from_free_list(zone, pfn)
            self.expand(zone, pfn, order, cur, mt)
            zone.free_pages -= 1 << order
            frames.kind[pfn] = PAGE_USED
            frames.order[pfn] = order
            frames.mt[pfn] = mt
            return pfn
        return NIL

    @cython.cfunc
    @cython.exceptval(check=False)
    def expand(
        self, zone: Zone, pfn: cython.int, low: cython.int, high: cython.int, mt: cython.int
    ) -> cython.void:
        """
        Split a block of order ``high`` down to ``low``: upper halves go to the heads of their lists.

        Kernel: expand(), mm/page_alloc.c (MODEL 2.3)
        """
        while high > low:
            high -= 1
            self.add_to_free_list(zone, pfn + (1 << high), high, mt, False)

    @cython.cfunc
    @cython.exceptval(check=False)
    def is_free_block(self, zone: Zone, pfn: cython.int, order: cython.int) -> cython.bint:
        """Is pfn the first page of a free block of exactly this order in this zone?"""
        if pfn < zone.start_pfn or pfn >= zone.end_pfn:
            return False
        return self.frames.kind[pfn] == PAGE_BUDDY and self.frames.order[pfn] == order

    @cython.ccall
    @cython.exceptval(check=False)
    def free_one_page(
        self, zone: Zone, pfn: cython.int, order: cython.int, mt: cython.int, to_tail: cython.bint
    ) -> cython.void:
        """
        Give a block back, merging it with its buddies as far as they are free.

        Kernel: __free_one_page(), mm/page_alloc.c, 6.1 (MODEL 2.4)
        Departs: no page reporting, no shuffling

        Parameters
        ----------
        mt
            Type of the list that the result goes to: that of the freed page's pageblock when it was freed.
        to_tail
            True for boot hand-over and pages put back by compaction, else False.
        """
        frames: Frames = self.frames
        buddy: cython.int
        buddy_type: cython.int
        frames.kind[pfn] = PAGE_TAIL
        zone.free_pages += 1 << order
        while order < MAX_ORDER:
            buddy = pfn ^ (1 << order)
            if not self.is_free_block(zone, buddy, order):
                break
            if order >= zone.pageblock_order:
                # Types of different blocks may only mix when both may be stolen from.
                buddy_type = zone.get_pageblock_migratetype(buddy)
                if mt != buddy_type:
                    if self.types_apart and (mt >= MIGRATE_PCPTYPES or buddy_type >= MIGRATE_PCPTYPES):
                        break
                    if self.lists_match:
                        self.change_pageblock_range(zone, buddy, order, mt)
            self.del_page_from_free_list(zone, buddy)
            pfn &= buddy
            order += 1
        self.add_to_free_list(zone, pfn, order, mt, to_tail or self.buddy_merge_likely(zone, pfn, order))

    @cython.cfunc
    @cython.exceptval(check=False)
    def change_pageblock_range(self, zone: Zone, pfn: cython.int, order: cython.int, mt: cython.int) -> cython.void:
        """Kernel: change_pageblock_range(): the type of every pageblock in a block of at least that size."""
        p: cython.int = pfn
        while p < pfn + (1 << order):
            zone.set_pageblock_migratetype(p, mt)
            p += 1 << zone.pageblock_order

    @cython.cfunc
    @cython.exceptval(check=False)
    def buddy_merge_likely(self, zone: Zone, pfn: cython.int, order: cython.int) -> cython.bint:
        """
        Would the next larger block be whole if this block's buddy came back?

        Kernel: buddy_merge_likely() (MODEL 2.4): such blocks wait at the tail, so that they stay free.
        """
        if order >= MAX_ORDER - 1 or not self.tail_merge:
            return False
        higher: cython.int = pfn & (pfn ^ (1 << order))
        return self.is_free_block(zone, higher ^ (1 << (order + 1)), order + 1)
