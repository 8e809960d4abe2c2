"""
Fallback between migratetypes as other kernels than 6.1 do it (MODEL 2.5.2, 2.5.3).

Since 6.15 a request first tries to *claim* a whole pageblock, else *steals* one block and leaves the rest with its
type, so that lists and pageblocks always agree. 2.6.24 breaks the largest block, and has a reserve as its last
resort.
"""

from __future__ import annotations

import cython

from memtrace.mm.constants import (
    ALLOC_KSWAPD,
    ALLOC_NOFRAGMENT,
    FALLBACK_CLAIM_STEAL,
    FALLBACK_LARGEST,
    FALLBACK_WHOLE_OR_PART,
    MAX_ORDER,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_TYPES,
    NIL,
    PAGE_BUDDY,
    PAGE_USED,
    RMQUEUE_NORMAL,
    RMQUEUE_STEAL,
)
from memtrace.mm.mmzone import Frames, Zone
from memtrace.mm.page_alloc_fallback import Fallback


@cython.cclass
class FallbackForms(Fallback):
    """Fallback of the kernel that ``fallback_form`` names."""

    fallback_form: cython.int
    rmqueue_mode: cython.int
    """What later blocks of one refill need not try again; whoever begins a refill sets it to normal."""

    def __init__(self, frames: Frames, zones: list) -> None:
        Fallback.__init__(self, frames, zones)
        self.fallback_form = FALLBACK_WHOLE_OR_PART
        self.rmqueue_mode = RMQUEUE_NORMAL

    def set_fallback_form(self, form: str) -> None:
        """Follow the kernel that ``vm.fallback`` names, in all that goes with its way of falling back."""
        if form == "claim_steal":
            self.fallback_form = FALLBACK_CLAIM_STEAL
            self.lists_match = True
            self.reread_type = True
        elif form == "2.6.24":
            self.fallback_form = FALLBACK_LARGEST
            self.reread_type = True
            self.types_apart = False
            self.moved_to_tail = False

    @cython.ccall
    def rmqueue(
        self, zone: Zone, order: cython.int, mt: cython.int, alloc_flags: cython.int
    ) -> cython.int:
        """Kernel: __rmqueue(): from the type's own lists, else after a fallback; first pfn or NIL."""
        if self.fallback_form == FALLBACK_CLAIM_STEAL:
            return self.rmqueue_claim_steal(zone, order, mt, alloc_flags)
        if self.fallback_form == FALLBACK_LARGEST:
            pfn: cython.int = self.rmqueue_smallest(zone, order, mt)
            if pfn == NIL:
                pfn = self.rmqueue_largest(zone, order, mt)
            return pfn
        return Fallback.rmqueue(self, zone, order, mt, alloc_flags)

    # -- 6.15 and later ---------------------------------------------------------------------------

    @cython.cfunc
    def rmqueue_claim_steal(
        self, zone: Zone, order: cython.int, mt: cython.int, alloc_flags: cython.int
    ) -> cython.int:
        """Kernel: __rmqueue(), 6.15 and later (MODEL 2.5.2): what failed is not tried again in the same refill."""
        pfn: cython.int
        if self.rmqueue_mode == RMQUEUE_NORMAL:
            pfn = self.rmqueue_smallest(zone, order, mt)
            if pfn != NIL:
                return pfn
            pfn = self.rmqueue_claim(zone, order, mt, alloc_flags)
            if pfn != NIL:
                return pfn
        if alloc_flags & ALLOC_NOFRAGMENT:
            return NIL
        pfn = self.rmqueue_steal(zone, order, mt)
        if pfn != NIL:
            self.rmqueue_mode = RMQUEUE_STEAL
        return pfn

    @cython.cfunc
    def rmqueue_claim(
        self, zone: Zone, order: cython.int, wanted: cython.int, alloc_flags: cython.int
    ) -> cython.int:
        """Kernel: __rmqueue_claim(): a block out of a pageblock that becomes the wanted type's, or NIL."""
        cur: cython.int
        least: cython.int = order
        if alloc_flags & ALLOC_NOFRAGMENT and order < zone.pageblock_order:
            least = zone.pageblock_order
        for cur in range(MAX_ORDER, least - 1, -1):
            mt: cython.int = self.find_suitable_fallback(zone, cur, wanted)
            if mt == NIL:
                continue
            if not self.can_steal_fallback(zone, cur, wanted):
                return NIL
            block: cython.int = self.frames.next[zone.free_list(cur, mt)]
            pfn: cython.int = self.try_to_claim_block(zone, block, cur, order, wanted, alloc_flags)
            if pfn != NIL:
                self.note_extfrag(zone, pfn, order, cur, wanted, mt)
                return pfn
        return NIL

    @cython.cfunc
    def try_to_claim_block(
        self, zone: Zone, block: cython.int, cur: cython.int, order: cython.int, wanted: cython.int,
        alloc_flags: cython.int,
    ) -> cython.int:
        """Kernel: try_to_claim_block(): a whole pageblock, or one of which half would suit; the block taken, or NIL."""
        old: cython.int = zone.get_pageblock_migratetype(block)
        if old == MIGRATE_HIGHATOMIC:
            return NIL
        if cur >= zone.pageblock_order:
            self.blocks_moved += 1
            self.del_page_from_free_list(zone, block)
            self.change_pageblock_range(zone, block, cur, wanted)
            return self.take_block(zone, block, order, cur, wanted, wanted)
        self.boost_watermark(zone)
        if zone.boost and alloc_flags & ALLOC_KSWAPD:
            zone.boosted = True
        start: cython.int = (block >> zone.pageblock_order) << zone.pageblock_order
        end: cython.int = start + (1 << zone.pageblock_order)
        if start < zone.start_pfn or end > zone.end_pfn:
            return NIL
        free: cython.int = self.count_free(start, end)
        movable: cython.int = self.count_movable(zone, start, end, old)
        alike: cython.int = 0
        if wanted == MIGRATE_MOVABLE:
            alike = movable
        elif old == MIGRATE_MOVABLE:
            alike = (1 << zone.pageblock_order) - free - movable
        if free + alike < 1 << (zone.pageblock_order - 1) and self.mobility_grouping:
            return NIL
        before: cython.int = self.blocks_moved
        self.move_freepages(zone, start, end, wanted)
        self.blocks_moved += before
        zone.set_pageblock_migratetype(block, wanted)
        return self.rmqueue_smallest(zone, order, wanted)

    @cython.cfunc
    def rmqueue_steal(self, zone: Zone, order: cython.int, wanted: cython.int) -> cython.int:
        """Kernel: __rmqueue_steal(): the smallest block of another type; what is left of it keeps its type; or NIL."""
        cur: cython.int
        for cur in range(order, MAX_ORDER + 1):
            mt: cython.int = self.find_suitable_fallback(zone, cur, wanted)
            if mt == NIL:
                continue
            pfn: cython.int = self.frames.next[zone.free_list(cur, mt)]
            self.del_page_from_free_list(zone, pfn)
            self.take_block(zone, pfn, order, cur, mt, wanted)
            self.blocks_moved += 1
            self.note_extfrag(zone, pfn, order, cur, wanted, mt)
            return pfn
        return NIL

    # -- 2.6.24 -----------------------------------------------------------------------------------

    @cython.cfunc
    def rmqueue_largest(self, zone: Zone, order: cython.int, wanted: cython.int) -> cython.int:
        """Kernel: __rmqueue_fallback(), 2.6.24 (MODEL 2.5.3): out of the largest block of any type, or NIL."""
        cur: cython.int
        i: cython.int
        if wanted <= MIGRATE_RECLAIMABLE:
            for cur in range(MAX_ORDER, order - 1, -1):
                for i in range(2):
                    mt: cython.int = self.fallbacks[2 * wanted + i]
                    if zone.nr_free_mt[cur * MIGRATE_TYPES + mt] == 0:
                        continue
                    pfn: cython.int = self.frames.next[zone.free_list(cur, mt)]
                    self.break_largest(zone, pfn, cur, order, wanted, mt)
                    return pfn
        return self.rmqueue_smallest(zone, order, MIGRATE_HIGHATOMIC)

    @cython.cfunc
    @cython.exceptval(check=False)
    def break_largest(
        self, zone: Zone, pfn: cython.int, cur: cython.int, order: cython.int, wanted: cython.int, mt: cython.int
    ) -> cython.void:
        """Take a block of type ``mt``, with the free rest of its pageblock when it is large or hard to move back."""
        start: cython.int = (pfn >> zone.pageblock_order) << zone.pageblock_order
        end: cython.int = start + (1 << zone.pageblock_order)
        rest: cython.int = mt
        self.blocks_moved += 1
        if cur >= zone.pageblock_order // 2 or wanted == MIGRATE_RECLAIMABLE:
            if start < zone.start_pfn:
                start = pfn
            moved: cython.int = 0
            before: cython.int = self.blocks_moved
            if end <= zone.end_pfn:
                moved = self.move_freepages(zone, start, end, wanted)
                self.blocks_moved += before
            if moved >= 1 << (zone.pageblock_order - 1):
                zone.set_pageblock_migratetype(pfn, wanted)
            rest = wanted
        self.del_page_from_free_list(zone, pfn)
        if cur == zone.pageblock_order:
            zone.set_pageblock_migratetype(pfn, wanted)
        self.take_block(zone, pfn, order, cur, rest, wanted)
        self.note_extfrag(zone, pfn, order, cur, wanted, mt)

    def reserve_pageblocks(self, zone: Zone) -> None:
        """
        Set pageblocks aside for when all else fails.

        Kernel: setup_zone_migrate_reserve(), 2.6.24 (MODEL 2.5.3): as many as the min watermark fills, from the
        zone's lowest free Movable ones.
        """
        block: cython.int
        block_pages = 1 << zone.pageblock_order
        wanted = -(-int(zone.watermark_min) // block_pages)
        for block in range(zone.nr_pageblocks):
            start = (zone.pageblock0 + block) << zone.pageblock_order
            if wanted == 0:
                return
            if start < zone.start_pfn or start + block_pages > zone.end_pfn:
                continue
            if zone.pageblock_type[block] != MIGRATE_MOVABLE or self.count_free(start, start + block_pages) == 0:
                continue
            zone.pageblock_type[block] = MIGRATE_HIGHATOMIC
            self.move_freepages(zone, start, start + block_pages, MIGRATE_HIGHATOMIC)
            wanted -= 1

    # -- parts ------------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def take_block(
        self, zone: Zone, pfn: cython.int, order: cython.int, cur: cython.int, rest: cython.int, wanted: cython.int
    ) -> cython.int:
        """Use the low end of a block that is on no list; what is left goes to the lists of type ``rest``; its pfn."""
        self.expand(zone, pfn, order, cur, rest)
        zone.free_pages -= 1 << order
        self.frames.kind[pfn] = PAGE_USED
        self.frames.order[pfn] = order
        self.frames.mt[pfn] = wanted
        return pfn

    @cython.cfunc
    @cython.exceptval(check=False)
    def count_free(self, start: cython.int, end: cython.int) -> cython.int:
        """Free pages in the blocks that begin in [start, end)."""
        frames: Frames = self.frames
        pfn: cython.int = start
        free: cython.int = 0
        while pfn < end:
            if frames.kind[pfn] == PAGE_BUDDY:
                free += 1 << frames.order[pfn]
                pfn += 1 << frames.order[pfn]
            else:
                pfn += 1
        return free

    @cython.cfunc
    def note_extfrag(
        self, zone: Zone, pfn: cython.int, order: cython.int, cur: cython.int, wanted: cython.int, mt: cython.int
    ) -> cython.int:
        """Note a fallback for the table of events."""
        owned: bool = zone.get_pageblock_migratetype(pfn) == wanted
        self.events.append((
            "extfrag",
            {"zone": zone.index, "pfn": pfn, "alloc_order": order, "fallback_order": cur,
             "alloc_migratetype": wanted, "fallback_migratetype": mt, "change_ownership": owned},
        ))
        return 0
