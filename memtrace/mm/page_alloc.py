"""
The page allocator's front: watermarks, zone walk, slow path (MODEL 1.2, 1.3, 2.7-2.11).

``alloc_pages`` and ``free_pages`` are what the floors above call.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.mm.constants import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MASK,
    ALLOC_WMARK_MIN,
    MAX_ORDER,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_RECLAIMABLE,
    MIGRATE_TYPES,
    MIGRATE_UNMOVABLE,
    NIL,
    PAGE_USED,
    PCP_AUTO,
)
from memtrace.mm.gfp import (
    GFP_BIT_DIRECT_RECLAIM,
    GFP_BIT_HIGH,
    GFP_BIT_KSWAPD_RECLAIM,
    GFP_BIT_MEMALLOC,
    GFP_BIT_MOVABLE,
    GFP_BIT_NOMEMALLOC,
    GFP_BIT_RECLAIMABLE,
    GFP_BIT_THISNODE,
    GFP_BIT_ZERO,
    GFP_ZONEMASK,
)
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.mmzone import Frames, Zone
from memtrace.mm.page_alloc_pcp import PcpLists
from memtrace.mm.paths import COST_ZERO_PAGE, COST_ZONE_CHECK, PATH_PAGE_ALLOC_FAILED


@cython.cclass
class PageAllocator(PcpLists):
    """The whole page allocator. Zonelists are lists of zone indexes, nearest and highest first."""

    zonelists: list
    """``zonelists[node]``: array of zone indexes over all nodes (FALLBACK)."""
    local_zonelists: list
    """``local_zonelists[node]``: the node's own zones (NOFALLBACK, __GFP_THISNODE)."""
    cpu_node: cython.int[:]
    gfp_zone: cython.int[:]
    """Highest zone type a request may reach, by the four low gfp bits; -1 invalid."""
    start_pfns: cython.int[:]
    end_pfns: cython.int[:]
    nr_zones: cython.int
    nofragment: cython.uchar[:]
    """By zone index: requests that prefer this zone first avoid fragmentation (Normal above a DMA32)."""
    halving_check: cython.bint
    """Watermark checks of higher orders disregard smaller blocks and halve the mark (vm.watermark_check)."""
    highatomic: cython.bint
    """Urgent requests reserve pageblocks for themselves (vm.reserve)."""
    count_free_reserve: cython.bint
    """Only the free pages of reserved pageblocks are kept from others, and reserves are bounded (6.12 and later)."""
    alloc_failures: cython.longlong
    last_zone: cython.int

    def __init__(self, frames: Frames, zones: list, it: Itinerary, cpu_node: list) -> None:
        PcpLists.__init__(self, frames, zones, it)
        self.cpu_node = array("i", cpu_node)
        self.nr_zones = len(zones)
        self.start_pfns = array("i", [zone.start_pfn for zone in zones])
        self.end_pfns = array("i", [zone.end_pfn for zone in zones])
        self.zonelists = []
        self.local_zonelists = []
        self.gfp_zone = array("i", [0]) * 16
        self.nofragment = array("B", [0]) * len(zones)
        self.halving_check = False
        self.highatomic = True
        self.count_free_reserve = False
        self.alloc_failures = 0
        self.last_zone = 0

    @cython.ccall
    def zone_of(self, pfn: cython.int) -> cython.int:
        """Index of the zone that holds a pfn, or NIL."""
        i: cython.int
        for i in range(self.nr_zones - 1, -1, -1):
            if pfn >= self.start_pfns[i] and pfn < self.end_pfns[i]:
                return i
        return NIL

    @cython.cfunc
    @cython.exceptval(check=False)
    def gfp_migratetype(self, gfp: cython.longlong) -> cython.int:
        """Kernel: gfp_migratetype() (MODEL 1.4)."""
        if not self.mobility_grouping:
            return MIGRATE_UNMOVABLE
        if gfp & GFP_BIT_MOVABLE:
            return MIGRATE_MOVABLE
        if gfp & GFP_BIT_RECLAIMABLE:
            return MIGRATE_RECLAIMABLE
        return MIGRATE_UNMOVABLE

    @cython.cfunc
    @cython.exceptval(check=False)
    def zone_watermark_ok(
        self, zone: Zone, order: cython.int, mark: cython.longlong, highest: cython.int, alloc_flags: cython.int
    ) -> cython.bint:
        """
        May this zone serve the request and keep ``mark`` pages and its reserve against higher zones?

        Kernel: __zone_watermark_ok(), 6.1 (MODEL 2.9)
        Departs: reads the exact free count, not one that lags by per-CPU deltas (EXACT B 2.6)
        """
        o: cython.int
        mt: cython.int
        free: cython.longlong = zone.free_pages - ((1 << order) - 1)
        least: cython.longlong = mark
        if self.halving_check:
            return self.zone_watermark_halving(zone, order, free, mark, highest, alloc_flags)
        if not alloc_flags & (ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE | ALLOC_HIGHATOMIC | ALLOC_OOM):
            free -= self.free_highatomic(zone) if self.count_free_reserve else zone.nr_reserved_highatomic
        if alloc_flags & ALLOC_MIN_RESERVE:
            least -= least // 2
            if alloc_flags & ALLOC_NON_BLOCK:
                least -= least // 4
        if alloc_flags & ALLOC_OOM:
            least -= least // 2
        if free <= least + zone.lowmem_reserve[highest]:
            return False
        if order == 0:
            return True
        for o in range(order, MAX_ORDER + 1):
            if zone.nr_free[o] == 0:
                continue
            for mt in range(MIGRATE_PCPTYPES):
                if zone.nr_free_mt[o * MIGRATE_TYPES + mt]:
                    return True
            if alloc_flags & (ALLOC_HIGHATOMIC | ALLOC_OOM) and zone.nr_free_mt[o * MIGRATE_TYPES + MIGRATE_HIGHATOMIC]:
                return True
        return False

    @cython.cfunc
    @cython.exceptval(check=False)
    def zone_watermark_halving(
        self, zone: Zone, order: cython.int, free: cython.longlong, mark: cython.longlong, highest: cython.int,
        alloc_flags: cython.int,
    ) -> cython.bint:
        """Kernel: zone_watermark_ok(), 2.6.24 to 4.3 (MODEL 2.9, old rules)."""
        o: cython.int
        least: cython.longlong = mark
        if alloc_flags & ALLOC_MIN_RESERVE:
            least -= least // 2
        if alloc_flags & ALLOC_NON_BLOCK:
            least -= least // 4
        if free <= least + zone.lowmem_reserve[highest]:
            return False
        for o in range(order):
            free -= zone.nr_free[o] << o
            least >>= 1
            if free <= least:
                return False
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def free_highatomic(self, zone: Zone) -> cython.longlong:
        """Free pages in reserved pageblocks (nr_free_highatomic)."""
        o: cython.int
        pages: cython.longlong = 0
        if zone.nr_reserved_highatomic:
            for o in range(MAX_ORDER + 1):
                pages += zone.nr_free_mt[o * MIGRATE_TYPES + MIGRATE_HIGHATOMIC] << o
        return pages

    @cython.cfunc
    @cython.exceptval(check=False)
    def note_below_high(
        self, zone: Zone, order: cython.int, highest: cython.int, alloc_flags: cython.int
    ) -> cython.bint:
        """Kernel: get_page_from_freelist(), 6.7 and later: is the zone above its high mark? Else remember it."""
        if self.zone_watermark_ok(zone, order, zone.watermark_high + zone.boost, highest, alloc_flags):
            return True
        zone.below_high = True
        return False

    @cython.cfunc
    @cython.exceptval(check=False)
    def watermark(self, zone: Zone, alloc_flags: cython.int) -> cython.longlong:
        """Stored mark plus the zone's current boost (MODEL 2.8.2)."""
        which: cython.int = alloc_flags & ALLOC_WMARK_MASK
        if which == ALLOC_WMARK_LOW:
            return zone.watermark_low + zone.boost
        if which == ALLOC_WMARK_MIN:
            return zone.watermark_min + zone.boost
        return zone.watermark_high + zone.boost

    @cython.cfunc
    @cython.exceptval(check=False)
    def zone_watermark_fast(
        self, zone: Zone, order: cython.int, highest: cython.int, alloc_flags: cython.int
    ) -> cython.bint:
        """Kernel: zone_watermark_fast(): urgent single pages need not respect a boost of the min mark (MODEL 2.9)."""
        if self.zone_watermark_ok(zone, order, self.watermark(zone, alloc_flags), highest, alloc_flags):
            return True
        if order > 0 or zone.boost == 0 or not alloc_flags & ALLOC_MIN_RESERVE:
            return False
        if alloc_flags & ALLOC_WMARK_MASK != ALLOC_WMARK_MIN:
            return False
        return self.zone_watermark_ok(zone, order, zone.watermark_min, highest, alloc_flags)

    @cython.cfunc
    def get_page_from_freelist(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int, alloc_flags: cython.int
    ) -> cython.int:
        """Kernel: get_page_from_freelist(), 6.1 (MODEL 2.10): first pfn of a block, or NIL."""
        highest: cython.int = self.gfp_zone[gfp & GFP_ZONEMASK]
        mt: cython.int = self.gfp_migratetype(gfp)
        zonelist: list = self.local_zonelists[node] if gfp & GFP_BIT_THISNODE else self.zonelists[node]
        zone: Zone
        skipped: cython.int = 0
        preferred: cython.int = NIL
        again: cython.bint = True
        while again:
            again = False
            for zone in zonelist:
                if zone.zone_idx > highest:
                    continue
                if preferred == NIL:
                    preferred = zone.node
                    if not self.nofragment[zone.index]:
                        alloc_flags &= ~ALLOC_NOFRAGMENT
                if alloc_flags & ALLOC_NOFRAGMENT and zone.node != preferred:
                    # Better to fragment the local node than to leave it.
                    again = True
                    break
                above: cython.bint = (
                    self.pcp_form == PCP_AUTO
                    and not zone.below_high
                    and self.note_below_high(zone, order, highest, alloc_flags)
                )
                if not above and not alloc_flags & ALLOC_NO_WATERMARKS and not self.zone_watermark_fast(
                    zone, order, highest, alloc_flags
                ):
                    skipped += 1
                    continue
                pfn: cython.int = self.rmqueue_zone(zone, order, mt, cpu, alloc_flags)
                if pfn != NIL:
                    if skipped:
                        self.it.step(COST_ZONE_CHECK, skipped)
                    self.last_zone = zone.index
                    zone.used_pages += 1 << order
                    if zone.boosted:
                        self.wake_kswapd()
                    return pfn
                skipped += 1
            if alloc_flags & ALLOC_NOFRAGMENT:
                again = True
            alloc_flags &= ~ALLOC_NOFRAGMENT
        self.it.step(COST_ZONE_CHECK, skipped + 1)
        return NIL

    @cython.cfunc
    @cython.exceptval(check=False)
    def wake_kswapd(self) -> cython.void:
        """
        Kernel: wakeup_kswapd() and the boost part of balance_pgdat() (MODEL 2.8.5, 10.1, 10.2).

        Departs: kswapd's run takes no time and reclaims nothing; it takes the watermark boosts away.
        """
        zone: Zone
        for zone in self.zones:
            if zone.boost:
                self.events.append(("kswapd_wake", {"zone": zone.index, "boost": zone.boost}))
            zone.boost = 0
            zone.boosted = False

    @cython.cfunc
    def rmqueue_zone(
        self, zone: Zone, order: cython.int, mt: cython.int, cpu: cython.int, alloc_flags: cython.int
    ) -> cython.int:
        """Kernel: rmqueue(): from the per-CPU lists when the order has some, else from the buddy system."""
        pfn: cython.int = NIL
        if self.order_to_pindex(order, mt) != NIL:
            pfn = self.rmqueue_pcplist(zone, cpu, order, mt, alloc_flags)
        if pfn == NIL:
            if alloc_flags & ALLOC_HIGHATOMIC:
                pfn = self.rmqueue_smallest(zone, order, MIGRATE_HIGHATOMIC)
            if pfn == NIL:
                pfn = self.rmqueue_buddy(zone, order, mt, alloc_flags)
            if pfn == NIL and alloc_flags & (ALLOC_OOM | ALLOC_NON_BLOCK):
                pfn = self.rmqueue_smallest(zone, order, MIGRATE_HIGHATOMIC)
        if pfn != NIL and alloc_flags & ALLOC_HIGHATOMIC:
            self.reserve_highatomic_pageblock(zone, pfn)
        return pfn

    @cython.cfunc
    @cython.exceptval(check=False)
    def reserve_highatomic_pageblock(self, zone: Zone, pfn: cython.int) -> cython.void:
        """Kernel: reserve_highatomic_pageblock() (MODEL 2.6): at most 1 % of the zone, and one block more until 6.8."""
        block: cython.int = 1 << zone.pageblock_order
        start: cython.int = (pfn >> zone.pageblock_order) << zone.pageblock_order
        limit: cython.int = zone.managed // 100
        if not self.count_free_reserve:
            limit += block
        elif limit < block:
            return
        else:
            limit = (limit + block - 1) // block * block
        if zone.nr_reserved_highatomic >= limit:
            return
        if zone.get_pageblock_migratetype(pfn) >= MIGRATE_PCPTYPES:
            return
        if start < zone.start_pfn or start + block > zone.end_pfn:
            return
        zone.nr_reserved_highatomic += block
        zone.set_pageblock_migratetype(pfn, MIGRATE_HIGHATOMIC)
        self.move_freepages(zone, start, start + block, MIGRATE_HIGHATOMIC)

    @cython.cfunc
    def unreserve_highatomic_pageblock(self, gfp: cython.longlong, node: cython.int, force: cython.bint) -> cython.bint:
        """Kernel: unreserve_highatomic_pageblock() (MODEL 2.6): turn one reserved block back; whether it did."""
        order: cython.int
        zone: Zone
        highest: cython.int = self.gfp_zone[gfp & GFP_ZONEMASK]
        for zone in self.zonelists[node]:
            block: cython.int = 1 << zone.pageblock_order
            if zone.zone_idx > highest:
                continue
            if not force and zone.nr_reserved_highatomic <= block:
                continue
            for order in range(MAX_ORDER + 1):
                if zone.nr_free_mt[order * MIGRATE_TYPES + MIGRATE_HIGHATOMIC] == 0:
                    continue
                pfn: cython.int = self.frames.next[zone.free_list(order, MIGRATE_HIGHATOMIC)]
                start: cython.int = (pfn >> zone.pageblock_order) << zone.pageblock_order
                mt: cython.int = self.gfp_migratetype(gfp)
                if zone.get_pageblock_migratetype(pfn) == MIGRATE_HIGHATOMIC:
                    zone.nr_reserved_highatomic = max(0, zone.nr_reserved_highatomic - block)
                zone.set_pageblock_migratetype(pfn, mt)
                self.move_freepages(zone, start, start + block, mt)
                return True
        return False

    @cython.ccall
    def alloc_pages(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int
    ) -> cython.int:
        """
        Allocate a block of ``2**order`` pages.

        Kernel: __alloc_pages(), 6.1 (MODEL 2.11, steps 1-3 and s1-s6)
        Departs: reclaim, compaction and the OOM killer are not modelled yet; where they would begin, the
        per-CPU lists of all CPUs are drained and the HighAtomic reserve is opened, then the request fails

        Parameters
        ----------
        node
            Node asked for, or -1 for the CPU's own.

        Returns
        -------
        First pfn, or NIL when memory is short.
        """
        if order > MAX_ORDER or self.gfp_zone[gfp & GFP_ZONEMASK] < 0:
            self.page_path = PATH_PAGE_ALLOC_FAILED
            self.alloc_failures += 1
            return NIL
        if node < 0:
            node = self.cpu_node[cpu]
        flags: cython.int = ALLOC_WMARK_LOW | ALLOC_NOFRAGMENT
        if gfp & GFP_BIT_KSWAPD_RECLAIM:
            flags |= ALLOC_KSWAPD
        pfn: cython.int = self.get_page_from_freelist(gfp, order, node, cpu, flags)
        if pfn == NIL:
            pfn = self.alloc_pages_slowpath(gfp, order, node, cpu)
        if pfn == NIL:
            self.page_path = PATH_PAGE_ALLOC_FAILED
            self.alloc_failures += 1
            return NIL
        if gfp & GFP_BIT_ZERO:
            self.it.step(COST_ZERO_PAGE, 1 << order)
        return pfn

    @cython.cfunc
    def alloc_pages_slowpath(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int
    ) -> cython.int:
        """Kernel: __alloc_pages_slowpath() (MODEL 2.9.1, 2.11)."""
        flags: cython.int = ALLOC_WMARK_MIN
        if gfp & GFP_BIT_KSWAPD_RECLAIM:
            flags |= ALLOC_KSWAPD
        if gfp & GFP_BIT_HIGH:
            flags |= ALLOC_MIN_RESERVE
        if not gfp & GFP_BIT_DIRECT_RECLAIM and not gfp & GFP_BIT_NOMEMALLOC:
            flags |= ALLOC_NON_BLOCK
            if order > 0 and flags & ALLOC_MIN_RESERVE and self.highatomic:
                flags |= ALLOC_HIGHATOMIC
        if flags & ALLOC_KSWAPD:
            self.wake_kswapd()
        pfn: cython.int = self.get_page_from_freelist(gfp, order, node, cpu, flags)
        if pfn != NIL:
            return pfn
        if gfp & GFP_BIT_MEMALLOC:
            return self.get_page_from_freelist(gfp, order, node, cpu, ALLOC_NO_WATERMARKS)
        if not gfp & GFP_BIT_DIRECT_RECLAIM:
            return NIL
        self.unreserve_highatomic_pageblock(gfp, node, False)
        self.drain_all_pages()
        pfn = self.get_page_from_freelist(gfp, order, node, cpu, flags)
        while pfn == NIL and self.unreserve_highatomic_pageblock(gfp, node, True):
            pfn = self.get_page_from_freelist(gfp, order, node, cpu, flags)
        return pfn

    @cython.ccall
    @cython.exceptval(check=False)
    def free_pages(self, pfn: cython.int, order: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: __free_pages(): give back a block of ``2**order`` pages."""
        zone: Zone = self.zones[self.zone_of(pfn)]
        zone.used_pages -= 1 << order
        self.free_unref_page(zone, cpu, pfn, order)

    @cython.ccall
    @cython.exceptval(check=False)
    def split_page(self, pfn: cython.int, old_order: cython.int, order: cython.int) -> cython.void:
        """Kernel: split_page() (MODEL 2.13): an allocated block becomes blocks of ``2**order`` pages."""
        frames: Frames = self.frames
        p: cython.int = pfn
        while p < pfn + (1 << old_order):
            frames.kind[p] = PAGE_USED
            frames.order[p] = order
            frames.mt[p] = frames.mt[pfn]
            p += 1 << order
