"""
The page allocator's front: watermarks, zone walk, slow path (MODEL 1.2, 1.3, 2.7-2.11).

``alloc_pages`` and ``free_pages`` are what the floors above call.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.mm.compaction import Compaction
from memtrace.mm.constants import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_WMARK_HIGH,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MIN,
    COMPACT_DEFERRED,
    COMPACT_PRIO_ASYNC,
    COMPACT_PRIO_SYNC_FULL,
    COMPACT_PRIO_SYNC_LIGHT,
    COMPACT_SKIPPED,
    COMPACT_SUCCESS,
    FAIL_COSTLY,
    FAIL_IMPOSSIBLE,
    FAIL_NO_PROGRESS,
    FAIL_NO_RECLAIM,
    FAIL_NONE,
    FAIL_NORETRY,
    FAIL_OOM,
    MAX_ORDER,
    MAX_RECLAIM_RETRIES,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    NIL,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGE_USED,
    PCP_AUTO,
)
from memtrace.mm.gfp import (
    GFP_BIT_DIRECT_RECLAIM,
    GFP_BIT_FS,
    GFP_BIT_HIGH,
    GFP_BIT_IO,
    GFP_BIT_KSWAPD_RECLAIM,
    GFP_BIT_MEMALLOC,
    GFP_BIT_NOFAIL,
    GFP_BIT_NOMEMALLOC,
    GFP_BIT_NORETRY,
    GFP_BIT_RETRY_MAYFAIL,
    GFP_BIT_THISNODE,
    GFP_BIT_ZERO,
    GFP_ZONEMASK,
)
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.mmzone import Frames, Zone
from memtrace.mm.paths import (
    COST_ZERO_PAGE,
    COST_ZONE_CHECK,
    PATH_PAGE_ALLOC_COMPACT,
    PATH_PAGE_ALLOC_FAILED,
    PATH_PAGE_ALLOC_RECLAIM,
)


@cython.cclass
class PageAllocator(Compaction):
    """The whole page allocator."""

    nofragment: cython.uchar[:]
    """By zone index: requests that prefer this zone first avoid fragmentation (Normal above a DMA32)."""
    highatomic: cython.bint
    """Urgent requests reserve pageblocks for themselves (vm.reserve)."""
    alloc_failures: cython.longlong
    fail_reason: cython.int
    """FAIL_* of the last request that failed."""
    last_zone: cython.int

    def __init__(self, frames: Frames, zones: list, it: Itinerary, cpu_node: list) -> None:
        Compaction.__init__(self, frames, zones, it, cpu_node)
        self.nofragment = array("B", [0]) * len(zones)
        self.highatomic = True
        self.alloc_failures = 0
        self.fail_reason = FAIL_NONE
        self.last_zone = 0

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
                        zone.boosted = False
                        self.wakeup_kswapd(zone, 0, 0, zone.zone_idx)
                    return pfn
                skipped += 1
            if alloc_flags & ALLOC_NOFRAGMENT:
                again = True
            alloc_flags &= ~ALLOC_NOFRAGMENT
        self.it.step(COST_ZONE_CHECK, skipped + 1)
        return NIL

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

        Kernel: __alloc_pages(), 6.1 (MODEL 2.11, steps 1-3)
        Departs: nobody is killed when memory is out, and nobody waits for others: the request fails

        Parameters
        ----------
        node
            Node asked for, or -1 for the CPU's own.

        Returns
        -------
        First pfn, or NIL when memory is short; then ``fail_reason`` says why.
        """
        if order > MAX_ORDER or self.gfp_zone[gfp & GFP_ZONEMASK] < 0:
            self.fail_reason = FAIL_IMPOSSIBLE
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
    @cython.exceptval(check=False)
    def gfp_to_alloc_flags(self, gfp: cython.longlong, order: cython.int) -> cython.int:
        """Kernel: gfp_to_alloc_flags() (MODEL 2.9.1)."""
        flags: cython.int = ALLOC_WMARK_MIN
        if gfp & GFP_BIT_KSWAPD_RECLAIM:
            flags |= ALLOC_KSWAPD
        if gfp & GFP_BIT_HIGH:
            flags |= ALLOC_MIN_RESERVE
        if not gfp & GFP_BIT_DIRECT_RECLAIM and not gfp & GFP_BIT_NOMEMALLOC:
            flags |= ALLOC_NON_BLOCK
            if order > 0 and flags & ALLOC_MIN_RESERVE and self.highatomic:
                flags |= ALLOC_HIGHATOMIC
        return flags

    @cython.cfunc
    def alloc_pages_slowpath(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int
    ) -> cython.int:
        """
        Kernel: __alloc_pages_slowpath() (MODEL 2.11): as much of it as the flags allow.

        Departs: no task is known to be exempt from reclaim (PF_MEMALLOC) or to run in real time
        """
        flags: cython.int = self.gfp_to_alloc_flags(gfp, order)
        reclaims: cython.bint = bool(gfp & GFP_BIT_DIRECT_RECLAIM)
        reserves: cython.bint = bool(gfp & GFP_BIT_MEMALLOC and not gfp & GFP_BIT_NOMEMALLOC)
        costly: cython.bint = order > PAGE_ALLOC_COSTLY_ORDER
        if flags & ALLOC_KSWAPD:
            self.wake_all_kswapds(gfp, order, node)
        pfn: cython.int = self.get_page_from_freelist(gfp, order, node, cpu, flags)
        if pfn != NIL:
            return pfn
        early: cython.bint = costly or self.gfp_migratetype(gfp) != MIGRATE_MOVABLE
        if reclaims and order > 0 and early and not reserves and self.may_compact(gfp):
            pfn = self.direct_compact(gfp, order, node, cpu, flags, COMPACT_PRIO_ASYNC)
            if pfn != NIL:
                return pfn
            if costly and gfp & GFP_BIT_NORETRY and (
                self.compact_result in (COMPACT_SKIPPED, COMPACT_DEFERRED) or gfp & GFP_BIT_THISNODE
            ):
                self.fail_reason = FAIL_COSTLY
                return self.last_resort(gfp, order, node, cpu)
        if reserves:
            flags = ALLOC_NO_WATERMARKS | (flags & ALLOC_KSWAPD)
            pfn = self.get_page_from_freelist(gfp, order, node, cpu, flags)
        if pfn == NIL and reclaims:
            pfn = self.retry_with_reclaim(gfp, order, node, cpu, flags)
        elif pfn == NIL:
            self.fail_reason = FAIL_NO_RECLAIM
        if pfn == NIL:
            pfn = self.last_resort(gfp, order, node, cpu)
        return pfn

    @cython.cfunc
    def retry_with_reclaim(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int, flags: cython.int
    ) -> cython.int:
        """Kernel: the retry loop of __alloc_pages_slowpath(): MODEL 2.11, s6 to s11."""
        costly: cython.bint = order > PAGE_ALLOC_COSTLY_ORDER
        priority: cython.int = COMPACT_PRIO_ASYNC
        lowest: cython.int = COMPACT_PRIO_SYNC_LIGHT if costly else COMPACT_PRIO_SYNC_FULL
        compactions: cython.int = 0
        idle: cython.int = 0
        pfn: cython.int
        while True:
            progress: cython.bint = self.direct_reclaim(gfp, order, node, cpu) > 0
            pfn = NIL
            if progress:
                pfn = self.get_page_after_reclaim(gfp, order, node, cpu, flags)
                if pfn != NIL:
                    self.page_path = PATH_PAGE_ALLOC_RECLAIM
            if pfn == NIL and order > 0 and self.may_compact(gfp):
                pfn = self.direct_compact(gfp, order, node, cpu, flags, priority)
            if pfn != NIL:
                return pfn
            if gfp & GFP_BIT_NORETRY:
                self.fail_reason = FAIL_NORETRY
                return NIL
            if costly and not (gfp & GFP_BIT_RETRY_MAYFAIL and self.may_compact(gfp)):
                self.fail_reason = FAIL_COSTLY
                return NIL
            idle = 0 if progress and not costly else idle + 1
            if not self.should_reclaim_retry(gfp, order, node, flags, idle):
                if not progress or order == 0 or not self.may_compact(gfp):
                    break
                if self.compact_result == COMPACT_SUCCESS:
                    compactions += 1
                if self.compact_result == COMPACT_SKIPPED:
                    if not self.compaction_zonelist_suitable(gfp, order, node, flags):
                        break
                elif self.compact_result != COMPACT_SUCCESS or compactions > (4 if costly else 16):
                    if priority == lowest:
                        break
                    priority -= 1
            if flags & ALLOC_KSWAPD:
                self.wake_all_kswapds(gfp, order, node)
            pfn = self.get_page_from_freelist(gfp, order, node, cpu, flags)
            if pfn != NIL:
                return pfn
        return self.out_of_memory(gfp, order, node, cpu, flags)

    @cython.cfunc
    @cython.exceptval(check=False)
    def may_compact(self, gfp: cython.longlong) -> cython.bint:
        """Kernel: gfp_compaction_allowed()."""
        return self.compaction and bool(gfp & GFP_BIT_IO)

    @cython.cfunc
    def get_page_after_reclaim(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int, flags: cython.int
    ) -> cython.int:
        """Kernel: __alloc_pages_direct_reclaim(): once more; then with what per-CPU lists and the reserve hold."""
        pfn: cython.int = self.get_page_from_freelist(gfp, order, node, cpu, flags)
        if pfn == NIL:
            self.unreserve_highatomic_pageblock(gfp, node, False)
            self.drain_all_pages()
            pfn = self.get_page_from_freelist(gfp, order, node, cpu, flags)
        return pfn

    @cython.cfunc
    def direct_compact(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int, flags: cython.int,
        priority: cython.int,
    ) -> cython.int:
        """Kernel: __alloc_pages_direct_compact(); ``compact_result`` says how it went."""
        self.compact_result = self.try_to_compact_pages(gfp, order, node, cpu, flags, priority)
        if self.compact_result == COMPACT_SKIPPED or self.compact_result == COMPACT_DEFERRED:
            return NIL
        pfn: cython.int = self.get_page_from_freelist(gfp, order, node, cpu, flags)
        if pfn != NIL:
            self.compaction_defer_reset(self.zones[self.last_zone], order, True)
            self.page_path = PATH_PAGE_ALLOC_COMPACT
        return pfn

    @cython.cfunc
    def should_reclaim_retry(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, flags: cython.int, idle: cython.int
    ) -> cython.bint:
        """Kernel: should_reclaim_retry(): would the min mark hold somewhere if all page cache were gone?"""
        zone: Zone
        highest: cython.int = self.gfp_zone[gfp & GFP_ZONEMASK]
        zonelist: list = self.local_zonelists[node] if gfp & GFP_BIT_THISNODE else self.zonelists[node]
        if idle <= MAX_RECLAIM_RETRIES:
            for zone in zonelist:
                if zone.zone_idx > highest:
                    continue
                mark: cython.longlong = zone.watermark_min + zone.boost
                free: cython.longlong = zone.free_pages + self.nr_reclaimable(zone)
                if self.watermark_ok(zone, order, mark, highest, flags, free):
                    return True
        return self.unreserve_highatomic_pageblock(gfp, node, True)

    @cython.cfunc
    def out_of_memory(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int, flags: cython.int
    ) -> cython.int:
        """
        Kernel: __alloc_pages_may_oom(): one more look, above the high mark; then a task would be killed.

        Departs: it is reported instead, and the request fails; nothing is known of tasks and what they would free.
        Per-CPU lists are drained first: in the kernel they have been, because shrinkers make some progress
        """
        highest: cython.int = self.gfp_zone[gfp & GFP_ZONEMASK]
        self.drain_all_pages()
        pfn: cython.int = self.get_page_from_freelist(gfp, order, node, cpu, flags)
        if pfn == NIL:
            pfn = self.get_page_from_freelist(gfp & ~GFP_BIT_DIRECT_RECLAIM, order, node, cpu, ALLOC_WMARK_HIGH)
        if pfn != NIL:
            return pfn
        self.fail_reason = FAIL_NO_PROGRESS
        if order > PAGE_ALLOC_COSTLY_ORDER or gfp & (GFP_BIT_RETRY_MAYFAIL | GFP_BIT_THISNODE):
            return NIL
        if highest < self.gfp_zone[0] or not gfp & GFP_BIT_FS:
            return NIL
        self.fail_reason = FAIL_OOM
        self.events.append(("oom", {"order": order, "node": node}))
        return NIL

    @cython.cfunc
    def last_resort(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int
    ) -> cython.int:
        """
        Kernel: the nopage part of __alloc_pages_slowpath(): __GFP_NOFAIL may use part of the reserves.

        Departs: the kernel then tries for ever; the model takes all reserves, and fails when there is nothing left
        """
        if not gfp & GFP_BIT_NOFAIL or not gfp & GFP_BIT_DIRECT_RECLAIM:
            return NIL
        pfn: cython.int = self.get_page_from_freelist(gfp, order, node, cpu, ALLOC_MIN_RESERVE)
        if pfn == NIL:
            pfn = self.get_page_from_freelist(gfp, order, node, cpu, ALLOC_NO_WATERMARKS)
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
