"""Serving a migratetype from another's free blocks, and when a whole pageblock changes hands (MODEL 2.5)."""

from __future__ import annotations

from array import array

import cython

from memtrace.mm.constants import (
    ALLOC_KSWAPD,
    ALLOC_NOFRAGMENT,
    MAX_ORDER,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_TYPES,
    MIGRATE_UNMOVABLE,
    NIL,
    PAGE_BUDDY,
    PAGE_TAIL,
    PAGE_USED,
)
from memtrace.mm.mmzone import Frames, Zone
from memtrace.mm.page_alloc_buddy import Buddy


@cython.cclass
class Fallback(Buddy):
    """Buddy plus fallback between migratetypes, the form of 4.x to 6.9 (MODEL 2.5.1)."""

    mobility_grouping: cython.bint
    watermark_boost_factor: cython.int
    fallbacks: cython.int[:]
    events: list
    """(kind, arguments) of rare decisions since they were last taken."""
    blocks_moved: cython.int
    """Blocks that the last fallback moved between lists; its cost."""

    def __init__(self, frames: Frames, zones: list) -> None:
        Buddy.__init__(self, frames, zones)
        self.mobility_grouping = True
        self.watermark_boost_factor = 15000
        # fallbacks[2 * wanted + i]: i-th type to take from.
        self.fallbacks = array("i", [
            MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE,
            MIGRATE_UNMOVABLE, MIGRATE_MOVABLE,
        ])
        self.events = []
        self.blocks_moved = 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def can_steal_fallback(self, zone: Zone, order: cython.int, wanted: cython.int) -> cython.bint:
        """Kernel: can_steal_fallback(): may the rest of the block's pageblock come along?"""
        return (
            order >= zone.pageblock_order
            or order >= zone.pageblock_order // 2
            or wanted != MIGRATE_MOVABLE
            or not self.mobility_grouping
        )

    @cython.cfunc
    @cython.exceptval(check=False)
    def find_suitable_fallback(self, zone: Zone, order: cython.int, wanted: cython.int) -> cython.int:
        """Kernel: find_suitable_fallback(): the first other type with a block of this order, or NIL."""
        i: cython.int
        if zone.nr_free[order] == 0 or wanted > MIGRATE_RECLAIMABLE:
            return NIL
        for i in range(2):
            mt: cython.int = self.fallbacks[2 * wanted + i]
            if zone.nr_free_mt[order * MIGRATE_TYPES + mt] > 0:
                return mt
        return NIL

    @cython.cfunc
    def rmqueue_fallback(
        self, zone: Zone, order: cython.int, wanted: cython.int, alloc_flags: cython.int
    ) -> cython.bint:
        """
        Move a block (or its whole pageblock) of another type to the wanted type's lists.

        Kernel: __rmqueue_fallback(), mm/page_alloc.c, 6.1 (MODEL 2.5.1)
        Returns: whether something was moved; the caller then takes it with rmqueue_smallest().
        """
        cur: cython.int
        mt: cython.int = NIL
        min_order: cython.int = order
        if alloc_flags & ALLOC_NOFRAGMENT and order < zone.pageblock_order:
            min_order = zone.pageblock_order
        cur = MAX_ORDER
        while cur >= min_order:
            mt = self.find_suitable_fallback(zone, cur, wanted)
            if mt != NIL:
                if (
                    not self.can_steal_fallback(zone, cur, wanted)
                    and wanted == MIGRATE_MOVABLE
                    and cur > order
                ):
                    # Only the piece will be taken: then the smallest that fits, to break no large block.
                    cur = order
                    while self.find_suitable_fallback(zone, cur, wanted) == NIL:
                        cur += 1
                    mt = self.find_suitable_fallback(zone, cur, wanted)
                break
            cur -= 1
        if mt == NIL:
            return False
        pfn: cython.int = self.frames.next[zone.free_list(cur, mt)]
        self.steal_suitable_fallback(
            zone, pfn, cur, wanted, alloc_flags, self.can_steal_fallback(zone, cur, wanted)
        )
        owned: cython.int = zone.get_pageblock_migratetype(pfn) == wanted
        self.events.append((
            "extfrag",
            {"zone": zone.index, "pfn": pfn, "alloc_order": order, "fallback_order": cur,
             "alloc_migratetype": wanted, "fallback_migratetype": mt, "change_ownership": owned},
        ))
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def steal_suitable_fallback(
        self, zone: Zone, pfn: cython.int, order: cython.int, wanted: cython.int, alloc_flags: cython.int,
        whole: cython.bint,
    ) -> cython.void:
        """Kernel: steal_suitable_fallback() (MODEL 2.5.1 a-f; EXACT B 2.11, 2.12)."""
        old: cython.int = zone.get_pageblock_migratetype(pfn)
        p: cython.int
        self.blocks_moved = 1
        if old == MIGRATE_HIGHATOMIC:
            self.move_to_free_list(zone, pfn, wanted)
            return
        if order >= zone.pageblock_order:
            p = pfn
            while p < pfn + (1 << order):
                zone.set_pageblock_migratetype(p, wanted)
                p += 1 << zone.pageblock_order
            self.move_to_free_list(zone, pfn, wanted)
            return
        self.boost_watermark(zone)
        if zone.boost and alloc_flags & ALLOC_KSWAPD:
            zone.boosted = True
        if not whole:
            self.move_to_free_list(zone, pfn, wanted)
            return
        start: cython.int = (pfn >> zone.pageblock_order) << zone.pageblock_order
        end: cython.int = start + (1 << zone.pageblock_order)
        if start < zone.start_pfn:
            start = pfn
        free: cython.int = 0
        movable: cython.int = 0
        if end <= zone.end_pfn:
            movable = self.count_movable(zone, start, end, old)
            free = self.move_freepages(zone, start, end, wanted)
        if free == 0:
            self.move_to_free_list(zone, pfn, wanted)
            return
        alike: cython.int = 0
        if wanted == MIGRATE_MOVABLE:
            alike = movable
        elif old == MIGRATE_MOVABLE:
            alike = (1 << zone.pageblock_order) - free - movable
        if free + alike >= 1 << (zone.pageblock_order - 1) or not self.mobility_grouping:
            zone.set_pageblock_migratetype(pfn, wanted)

    @cython.cfunc
    @cython.exceptval(check=False)
    def move_freepages(self, zone: Zone, start: cython.int, end: cython.int, mt: cython.int) -> cython.int:
        """Kernel: move_freepages(): all free blocks in [start, end) to the tails of mt's lists; pages moved."""
        frames: Frames = self.frames
        pfn: cython.int = start
        moved: cython.int = 0
        self.blocks_moved = 0
        while pfn < end:
            if frames.kind[pfn] == PAGE_BUDDY:
                self.move_to_free_list(zone, pfn, mt)
                self.blocks_moved += 1
                moved += 1 << frames.order[pfn]
                pfn += 1 << frames.order[pfn]
            else:
                pfn += 1
        return moved

    @cython.cfunc
    @cython.exceptval(check=False)
    def count_movable(self, zone: Zone, start: cython.int, end: cython.int, old: cython.int) -> cython.int:
        """
        Pages in [start, end) that could be moved away.

        Departs: "on the LRU or driver-movable" is read as "asked for as Movable"; a page in use since
        before the start is taken to be movable when its pageblock is (EXACT B 2.12: 476 of 476 decisions).
        """
        frames: Frames = self.frames
        pfn: cython.int = start
        movable: cython.int = 0
        while pfn < end:
            kind: cython.int = frames.kind[pfn]
            if kind == PAGE_TAIL:
                if old == MIGRATE_MOVABLE and frames.slab[pfn] < 0:
                    movable += 1
                pfn += 1
            if kind == PAGE_USED and frames.mt[pfn] == MIGRATE_MOVABLE and frames.slab[pfn] < 0:
                movable += 1 << frames.order[pfn]
            if kind != PAGE_TAIL:
                pfn += 1 << frames.order[pfn]
        return movable

    @cython.cfunc
    @cython.exceptval(check=False)
    def boost_watermark(self, zone: Zone) -> cython.void:
        """Kernel: boost_watermark() (MODEL 2.8.5)."""
        block: cython.longlong = 1 << zone.pageblock_order
        if self.watermark_boost_factor == 0 or 4 * block > zone.managed:
            return
        limit: cython.longlong = zone.watermark_high * self.watermark_boost_factor // 10000
        if limit == 0:
            return
        limit = max(block, limit)
        zone.boost = min(zone.boost + block, limit)

    @cython.ccall
    def rmqueue(
        self, zone: Zone, order: cython.int, mt: cython.int, alloc_flags: cython.int
    ) -> cython.int:
        """Kernel: __rmqueue(): from the type's own lists, else after a fallback; first pfn or NIL."""
        pfn: cython.int = self.rmqueue_smallest(zone, order, mt)
        while pfn == NIL and self.rmqueue_fallback(zone, order, mt, alloc_flags):
            pfn = self.rmqueue_smallest(zone, order, mt)
        return pfn
