"""Per-CPU page lists, 6.1 form (MODEL 3)."""

from __future__ import annotations

import cython

from memtrace.mm.constants import (
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    NIL,
    NR_PCP_LISTS,
    PAGE_PCP,
    PAGE_USED,
    PCP_BATCH_SCALE_MAX,
    PCP_ORDERS,
)
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.mmzone import Frames, PerCpuPages, Zone
from memtrace.mm.page_alloc_fallback import Fallback
from memtrace.mm.paths import (
    COST_BUDDY_ALLOC,
    COST_BUDDY_FREE,
    COST_FALLBACK,
    COST_PCP_DRAIN,
    COST_PCP_HIT,
    COST_PCP_REFILL,
    PATH_PAGE_ALLOC_BUDDY,
    PATH_PAGE_ALLOC_PCP,
    PATH_PAGE_ALLOC_REFILL,
    PATH_PAGE_FREE_BUDDY,
    PATH_PAGE_FREE_DRAIN,
    PATH_PAGE_FREE_PCP,
)


@cython.cclass
class PcpLists(Fallback):
    """Fallback plus the per-CPU lists in front of it. A zone's lock is lock number ``zone.index``."""

    it: Itinerary
    page_path: cython.int
    """PATH_PAGE_* of the last page operation."""
    thp_lists: cython.bint
    """Order-9 blocks have per-CPU lists too (CONFIG_TRANSPARENT_HUGEPAGE)."""

    def __init__(self, frames: Frames, zones: list, it: Itinerary) -> None:
        Fallback.__init__(self, frames, zones)
        self.it = it
        self.page_path = 0
        self.thp_lists = False

    @cython.cfunc
    @cython.exceptval(check=False)
    def order_to_pindex(self, order: cython.int, mt: cython.int) -> cython.int:
        """Kernel: order_to_pindex(): list number of (order, type), or NIL when the order has no lists."""
        if order < PCP_ORDERS:
            return MIGRATE_PCPTYPES * order + mt
        if order == 9 and self.thp_lists:
            return 12 + (mt == MIGRATE_MOVABLE)
        return NIL

    @cython.cfunc
    def rmqueue_bulk(
        self, zone: Zone, pcp: PerCpuPages, order: cython.int, mt: cython.int, alloc_flags: cython.int
    ) -> cython.int:
        """
        Refill one per-CPU list under a single hold of the zone's lock; blocks taken.

        Kernel: rmqueue_pcplist() / rmqueue_bulk() (MODEL 3.3): blocks are appended, so that they come out
        in the order in which they left the buddy system.
        """
        frames: Frames = self.frames
        head: cython.int = pcp.list0 + self.order_to_pindex(order, mt)
        want: cython.int = pcp.batch
        got: cython.int = 0
        stolen: cython.int = 0
        if want > 1:
            want = max(want >> order, 2)
        while got < want:
            self.blocks_moved = 0
            pfn: cython.int = self.rmqueue(zone, order, mt, alloc_flags)
            stolen += self.blocks_moved
            if pfn == NIL:
                break
            frames.kind[pfn] = PAGE_PCP
            frames.add_tail(head, pfn)
            got += 1
        pcp.count += got << order
        pcp.refills += 1
        if stolen:
            self.it.locked(zone.index, COST_FALLBACK, stolen)
        self.it.locked(zone.index, COST_PCP_REFILL, got)
        return got

    @cython.cfunc
    def rmqueue_pcplist(
        self, zone: Zone, cpu: cython.int, order: cython.int, mt: cython.int, alloc_flags: cython.int
    ) -> cython.int:
        """Kernel: rmqueue_pcplist(): first pfn of a block from the CPU's list, refilled when empty, or NIL."""
        frames: Frames = self.frames
        pcp: PerCpuPages = zone.pcp[cpu]
        head: cython.int = pcp.list0 + self.order_to_pindex(order, mt)
        pcp.free_factor >>= 1
        if frames.next[head] == head:
            pcp.misses += 1
            self.page_path = PATH_PAGE_ALLOC_REFILL
            if self.rmqueue_bulk(zone, pcp, order, mt, alloc_flags) == 0:
                return NIL
        else:
            pcp.hits += 1
            self.page_path = PATH_PAGE_ALLOC_PCP
        pfn: cython.int = frames.next[head]
        frames.remove(pfn)
        frames.kind[pfn] = PAGE_USED
        frames.order[pfn] = order
        frames.mt[pfn] = mt
        pcp.count -= 1 << order
        self.it.step(COST_PCP_HIT, 1)
        return pfn

    @cython.cfunc
    def rmqueue_buddy(
        self, zone: Zone, order: cython.int, mt: cython.int, alloc_flags: cython.int
    ) -> cython.int:
        """Kernel: rmqueue_buddy(): one block straight from the buddy system, or NIL."""
        self.page_path = PATH_PAGE_ALLOC_BUDDY
        self.blocks_moved = 0
        pfn: cython.int = self.rmqueue(zone, order, mt, alloc_flags)
        if self.blocks_moved:
            self.it.locked(zone.index, COST_FALLBACK, self.blocks_moved)
        self.it.locked(zone.index, COST_BUDDY_ALLOC, 1)
        return pfn

    @cython.cfunc
    @cython.exceptval(check=False)
    def free_unref_page(
        self, zone: Zone, cpu: cython.int, pfn: cython.int, order: cython.int
    ) -> cython.void:
        """
        Free a block: to the CPU's list when its order has one, else to the buddy system.

        Kernel: free_unref_page(), free_unref_page_commit(), __free_pages_ok() (MODEL 3.4)
        """
        frames: Frames = self.frames
        mt: cython.int = zone.get_pageblock_migratetype(pfn)
        list_mt: cython.int = mt
        if mt >= MIGRATE_PCPTYPES:
            list_mt = MIGRATE_MOVABLE
        pindex: cython.int = self.order_to_pindex(order, list_mt)
        if pindex == NIL or mt == MIGRATE_ISOLATE:
            self.page_path = PATH_PAGE_FREE_BUDDY
            self.free_one_page(zone, pfn, order, mt, False)
            self.it.locked(zone.index, COST_BUDDY_FREE, 1)
            return
        pcp: PerCpuPages = zone.pcp[cpu]
        frames.kind[pfn] = PAGE_PCP
        frames.order[pfn] = order
        frames.mt[pfn] = mt
        frames.add_head(pcp.list0 + pindex, pfn)
        pcp.count += 1 << order
        self.page_path = PATH_PAGE_FREE_PCP
        self.it.step(COST_PCP_HIT, 1)
        free_high: cython.bint = pcp.free_factor != 0 and order >= 1 and order < PCP_ORDERS
        high: cython.int = self.nr_pcp_high(zone, pcp, free_high)
        if pcp.count >= high:
            self.free_pcppages_bulk(zone, pcp, self.nr_pcp_free(pcp, high, free_high), pindex)
            self.page_path = PATH_PAGE_FREE_DRAIN

    @cython.cfunc
    @cython.exceptval(check=False)
    def nr_pcp_high(self, zone: Zone, pcp: PerCpuPages, free_high: cython.bint) -> cython.int:
        """Kernel: nr_pcp_high(): the count at which a drain starts (MODEL 3.4, EXACT B 2.8)."""
        if pcp.high == 0 or free_high:
            return 0
        if zone.reclaim_active:
            return min(pcp.batch << 2, pcp.high)
        return pcp.high

    @cython.cfunc
    @cython.exceptval(check=False)
    def nr_pcp_free(self, pcp: PerCpuPages, high: cython.int, free_high: cython.bint) -> cython.int:
        """Kernel: nr_pcp_free(): pages that a drain frees; grows with consecutive drains."""
        if free_high:
            return pcp.count
        if high < pcp.batch:
            return 1
        most: cython.int = high - pcp.batch
        want: cython.int = pcp.batch << pcp.free_factor
        if want < most and pcp.free_factor < PCP_BATCH_SCALE_MAX:
            pcp.free_factor += 1
        return max(pcp.batch, min(want, most))

    @cython.cfunc
    @cython.exceptval(check=False)
    def free_pcppages_bulk(
        self, zone: Zone, pcp: PerCpuPages, count: cython.int, pindex: cython.int
    ) -> cython.void:
        """
        Move about ``count`` pages from the CPU's lists to the buddy system, oldest first.

        Kernel: free_pcppages_bulk(), 6.1 (MODEL 3.5): starts at list ``pindex`` and empties a whole list
        before it goes on to the next.
        """
        frames: Frames = self.frames
        moved: cython.int = 0
        left: cython.int = min(count, pcp.count)
        index: cython.int = pindex - 1
        pcp.drains += 1
        while left > 0:
            index += 1
            if index >= NR_PCP_LISTS:
                index = 0
            head: cython.int = pcp.list0 + index
            while left > 0 and frames.prev[head] != head:
                pfn: cython.int = frames.prev[head]
                order: cython.int = frames.order[pfn]
                mt: cython.int = frames.mt[pfn]
                frames.remove(pfn)
                pcp.count -= 1 << order
                left -= 1 << order
                self.free_one_page(zone, pfn, order, mt, False)
                moved += 1
        self.it.locked(zone.index, COST_PCP_DRAIN, moved)

    @cython.ccall
    @cython.exceptval(check=False)
    def drain_pages_zone(self, zone: Zone, cpu: cython.int) -> cython.void:
        """Kernel: drain_pages_zone(): all of a CPU's pages of a zone, in steps of batch << 5 (MODEL 3.6)."""
        pcp: PerCpuPages = zone.pcp[cpu]
        while pcp.count > 0:
            self.free_pcppages_bulk(zone, pcp, min(pcp.count, pcp.batch << PCP_BATCH_SCALE_MAX), 0)

    @cython.ccall
    @cython.exceptval(check=False)
    def drain_all_pages(self) -> cython.void:
        """Kernel: drain_all_pages(): every CPU's lists of every zone."""
        zone: Zone
        cpu: cython.int
        for zone in self.zones:
            for cpu in range(len(zone.pcp)):
                self.drain_pages_zone(zone, cpu)
