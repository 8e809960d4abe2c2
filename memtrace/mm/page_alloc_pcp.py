"""Per-CPU page lists: taking from them, putting on them, refilling and draining (MODEL 3)."""

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
    PCP_AUTO,
    PCP_BATCH_SCALE_MAX,
    PCP_ORDERS,
    RMQUEUE_NORMAL,
    ZONE_MOVABLE,
)
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.mmzone import Frames, PerCpuPages, Zone
from memtrace.mm.page_alloc_tune import PcpTuning
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
class PcpLists(PcpTuning):
    """The buddy system with the per-CPU lists in front of it. A zone's lock is lock number ``zone.index``."""

    it: Itinerary
    page_path: cython.int
    """PATH_PAGE_* of the last page operation."""
    thp_lists: cython.bint
    """Order-9 blocks have per-CPU lists too (CONFIG_TRANSPARENT_HUGEPAGE)."""
    pcp_orders: cython.int
    """Orders below this have per-CPU lists."""
    mixed_lists: cython.bint
    """A CPU keeps single pages of all types on one list (2.6.24)."""

    def __init__(self, frames: Frames, zones: list, it: Itinerary) -> None:
        PcpTuning.__init__(self, frames, zones)
        self.it = it
        self.page_path = 0
        self.thp_lists = False
        self.pcp_orders = PCP_ORDERS
        self.mixed_lists = False

    @cython.cfunc
    @cython.exceptval(check=False)
    def order_to_pindex(self, order: cython.int, mt: cython.int) -> cython.int:
        """Kernel: order_to_pindex(): list number of (order, type), or NIL when the order has no lists."""
        if order < self.pcp_orders:
            return MIGRATE_PCPTYPES * order + (0 if self.mixed_lists else mt)
        if order == 9 and self.thp_lists:
            return 12 + (mt == MIGRATE_MOVABLE)
        return NIL

    @cython.ccall
    @cython.exceptval(check=False)
    def begin_refill(self, zone: Zone, pcp: PerCpuPages, order: cython.int) -> cython.int:
        """Before rmqueue() is asked for the blocks of one refill: how many it takes."""
        self.rmqueue_mode = RMQUEUE_NORMAL
        return self.nr_pcp_alloc(zone, pcp, order)

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
        want: cython.int = self.begin_refill(zone, pcp, order)
        got: cython.int = 0
        stolen: cython.int = 0
        last: cython.int = head
        while got < want:
            self.blocks_moved = 0
            pfn: cython.int = self.rmqueue(zone, order, mt, alloc_flags)
            stolen += self.blocks_moved
            if pfn == NIL:
                break
            frames.kind[pfn] = PAGE_PCP
            if self.mixed_lists:
                # In front of what other types' requests left, in the same order.
                frames.add_head(last, pfn)
                last = pfn
            else:
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
        self.begin_pcp_alloc(pcp, order, mt)
        if frames.next[head] == head or (self.mixed_lists and frames.mt[frames.next[head]] != mt):
            pcp.misses += 1
            self.page_path = PATH_PAGE_ALLOC_REFILL
            if self.rmqueue_bulk(zone, pcp, order, mt, alloc_flags) == 0:
                return NIL
        else:
            pcp.hits += 1
            self.page_path = PATH_PAGE_ALLOC_PCP
        pfn: cython.int = frames.next[head]
        self.take_from_pcp(pcp, pfn, order, mt)
        self.it.step(COST_PCP_HIT, 1)
        return pfn

    @cython.ccall
    @cython.exceptval(check=False)
    def begin_pcp_alloc(self, pcp: PerCpuPages, order: cython.int, mt: cython.int) -> cython.void:
        """Whatever list it takes from, an allocation makes the next drain smaller (MODEL 3.3)."""
        pcp.free_factor >>= 1
        pcp.free_count >>= 1
        if self.mixed_lists:
            self.bring_to_front(pcp.list0 + self.order_to_pindex(order, mt), mt)

    @cython.ccall
    @cython.exceptval(check=False)
    def take_from_pcp(
        self, pcp: PerCpuPages, pfn: cython.int, order: cython.int, mt: cython.int
    ) -> cython.void:
        """Hand out a block of a per-CPU list."""
        frames: Frames = self.frames
        frames.remove(pfn)
        frames.kind[pfn] = PAGE_USED
        frames.order[pfn] = order
        frames.mt[pfn] = mt
        pcp.count -= 1 << order

    @cython.cfunc
    @cython.exceptval(check=False)
    def bring_to_front(self, head: cython.int, mt: cython.int) -> cython.void:
        """Kernel: buffered_rmqueue(), 2.6.24: the first page of the wanted type on a list of all types."""
        frames: Frames = self.frames
        pfn: cython.int = frames.next[head]
        while pfn != head and frames.mt[pfn] != mt:
            pfn = frames.next[pfn]
        if pfn != head:
            frames.remove(pfn)
            frames.add_head(head, pfn)

    @cython.cfunc
    def rmqueue_buddy(
        self, zone: Zone, order: cython.int, mt: cython.int, alloc_flags: cython.int
    ) -> cython.int:
        """Kernel: rmqueue_buddy(): one block straight from the buddy system, or NIL."""
        self.page_path = PATH_PAGE_ALLOC_BUDDY
        self.blocks_moved = 0
        self.rmqueue_mode = RMQUEUE_NORMAL
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
        mt: cython.int = zone.get_pageblock_migratetype(pfn)
        pindex: cython.int = self.free_pindex(order, mt)
        if pindex == NIL:
            self.page_path = PATH_PAGE_FREE_BUDDY
            self.free_one_page(zone, pfn, order, mt, False)
            self.it.locked(zone.index, COST_BUDDY_FREE, 1)
            return
        pcp: PerCpuPages = zone.pcp[cpu]
        self.page_path = PATH_PAGE_FREE_PCP
        self.it.step(COST_PCP_HIT, 1)
        drained: cython.int = self.free_unref_page_commit(zone, pcp, pfn, order, mt)
        if drained:
            pcp.drains += 1
            self.free_pcppages_bulk(zone, pcp, drained, pindex)
            self.page_path = PATH_PAGE_FREE_DRAIN
            if zone.below_high:
                self.check_below_high(zone)

    @cython.ccall
    @cython.exceptval(check=False)
    def free_pindex(self, order: cython.int, mt: cython.int) -> cython.int:
        """The per-CPU list that a freed block of a pageblock of this type goes to, or NIL: to the buddy system."""
        if mt == MIGRATE_ISOLATE:
            return NIL
        return self.order_to_pindex(order, MIGRATE_MOVABLE if mt >= MIGRATE_PCPTYPES else mt)

    @cython.ccall
    @cython.exceptval(check=False)
    def free_unref_page_commit(
        self, zone: Zone, pcp: PerCpuPages, pfn: cython.int, order: cython.int, mt: cython.int
    ) -> cython.int:
        """
        Put a freed block in front of its per-CPU list.

        Kernel: free_unref_page_commit() (MODEL 3.4)

        Parameters
        ----------
        mt
            Type of its pageblock when it was freed.

        Returns
        -------
        Pages that a drain must free now; 0 for no drain.
        """
        frames: Frames = self.frames
        if frames.prev[pfn] != NIL:
            # It was reclaimable.
            frames.remove(pfn)
            zone.lru_freed += 1
        frames.kind[pfn] = PAGE_PCP
        frames.order[pfn] = order
        frames.mt[pfn] = mt
        frames.add_head(pcp.list0 + self.free_pindex(order, mt), pfn)
        pcp.count += 1 << order
        free_high: cython.bint = self.note_pcp_free(pcp, order)
        high: cython.int = self.nr_pcp_high(zone, pcp, free_high)
        if pcp.count < high:
            return 0
        return self.nr_pcp_free(pcp, high, free_high)

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
        index: cython.int = pindex
        while left > 0:
            index = self.drained_list(pcp, index)
            pfn: cython.int = frames.prev[pcp.list0 + index]
            left -= 1 << frames.order[pfn]
            self.drain_block(zone, pcp, pfn)
            moved += 1
        self.it.locked(zone.index, COST_PCP_DRAIN, moved)

    @cython.ccall
    @cython.exceptval(check=False)
    def drained_list(self, pcp: PerCpuPages, index: cython.int) -> cython.int:
        """The list that a drain which has come to list ``index`` takes from: the next that holds something."""
        while self.frames.prev[pcp.list0 + index] == pcp.list0 + index:
            index += 1
            if index >= NR_PCP_LISTS:
                index = 0
        return index

    @cython.ccall
    @cython.exceptval(check=False)
    def drain_block(self, zone: Zone, pcp: PerCpuPages, pfn: cython.int) -> cython.void:
        """Move one block from its per-CPU list to the buddy system."""
        frames: Frames = self.frames
        order: cython.int = frames.order[pfn]
        mt: cython.int = zone.get_pageblock_migratetype(pfn) if self.reread_type else frames.mt[pfn]
        frames.remove(pfn)
        pcp.count -= 1 << order
        self.free_one_page(zone, pfn, order, mt, False)

    @cython.cfunc
    @cython.exceptval(check=False)
    def give_back(self, zone: Zone, pcp: PerCpuPages, count: cython.int) -> cython.void:
        """About ``count`` pages leave the lists, from list 0 on, though no free has filled them."""
        before: cython.int = pcp.count
        self.free_pcppages_bulk(zone, pcp, count, 0)
        pcp.given_back += before - pcp.count

    @cython.cfunc
    @cython.exceptval(check=False)
    def check_below_high(self, zone: Zone) -> cython.void:
        """Kernel: the end of free_unref_page_commit(), 6.7 and later: is the zone above its high mark again?"""
        if zone.free_pages > zone.watermark_high + zone.boost + zone.lowmem_reserve[ZONE_MOVABLE]:
            zone.below_high = False

    @cython.ccall
    @cython.exceptval(check=False)
    def decay_pcp_high(self, zone: Zone, cpu: cython.int) -> cython.void:
        """
        Let a CPU's lists shrink that are not used as much as they were.

        Kernel: decay_pcp_high(), once a second from the vmstat worker, 6.7 and later (MODEL 3.6)
        """
        pcp: PerCpuPages = zone.pcp[cpu]
        if pcp.high > pcp.high_min:
            pcp.high = max(
                pcp.count - (pcp.batch << PCP_BATCH_SCALE_MAX), max(pcp.high - (pcp.high >> 3), pcp.high_min)
            )
        idle: cython.int = pcp.count - pcp.high
        while idle > 0:
            self.give_back(zone, pcp, min(idle, pcp.batch))
            idle -= pcp.batch

    @cython.ccall
    def refresh_cpu_vm_stats(self, cpu: cython.int, node: cython.int) -> cython.void:
        """
        What the statistics worker of a CPU of ``node`` does to the CPU's lists, once a second.

        Kernel: refresh_cpu_vm_stats() (MODEL 3.6, EXACT B 10): lists of another node's zone that were not used for
        three turns give a batch back
        Departs: "used" is a refill, a drain or a page taken, not a change of any of the zone's statistics
        """
        zone: Zone
        pcp: PerCpuPages
        for zone in self.zones:
            if self.pcp_form == PCP_AUTO:
                self.decay_pcp_high(zone, cpu)
            if zone.node == node:
                continue
            pcp = zone.pcp[cpu]
            used: cython.longlong = pcp.hits + pcp.refills + pcp.drains + pcp.given_back
            if used != pcp.seen_used:
                pcp.seen_used = used
                pcp.expire = 3
            if pcp.expire == 0 or pcp.count == 0:
                continue
            pcp.expire -= 1
            if pcp.expire == 0:
                self.give_back(zone, pcp, min(pcp.count, pcp.batch))
                pcp.seen_used = pcp.hits + pcp.refills + pcp.drains + pcp.given_back

    @cython.ccall
    @cython.exceptval(check=False)
    def drain_pages_zone(self, zone: Zone, cpu: cython.int) -> cython.void:
        """Kernel: drain_pages_zone(): all of a CPU's pages of a zone, in steps of batch << 5 (MODEL 3.6)."""
        pcp: PerCpuPages = zone.pcp[cpu]
        while pcp.count > 0:
            self.give_back(zone, pcp, min(pcp.count, pcp.batch << PCP_BATCH_SCALE_MAX))

    @cython.ccall
    @cython.exceptval(check=False)
    def drain_all_pages(self) -> cython.void:
        """Kernel: drain_all_pages(): the lists of one CPU after the other, of every zone."""
        zone: Zone
        cpu: cython.int
        for cpu in range(len(cython.cast(Zone, self.zones[0]).pcp)):
            for zone in self.zones:
                self.drain_pages_zone(zone, cpu)
