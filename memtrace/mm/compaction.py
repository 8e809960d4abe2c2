"""
Compaction: movable pages go to the upper end of their zone, so that free blocks merge at the lower (MODEL 10.5).

What can be moved are the single pages that were asked for as movable (the lists of ``vmscan``); everything else,
larger blocks and pages that pre-date the trace and never appear in it stays where it is.
"""

from __future__ import annotations

import cython

from memtrace.mm.constants import (
    COMPACT_COMPLETE,
    COMPACT_CONTINUE,
    COMPACT_DEFERRED,
    COMPACT_MAX_DEFER_SHIFT,
    COMPACT_PRIO_ASYNC,
    COMPACT_PRIO_SYNC_FULL,
    COMPACT_SKIPPED,
    COMPACT_SUCCESS,
    MAX_ORDER,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    NIL,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGE_BUDDY,
    PAGE_USED,
)
from memtrace.mm.gfp import GFP_BIT_THISNODE, GFP_ZONEMASK
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.mmzone import Frames, Node, Zone
from memtrace.mm.paths import COST_COMPACT_MIGRATE, COST_COMPACT_SCAN
from memtrace.mm.vmscan import Reclaim


@cython.cclass
class CompactControl:
    """One run over one zone (struct compact_control). ``free`` are pages isolated as places to move to."""

    order: cython.int
    mt: cython.int
    cpu: cython.int
    any_block: cython.bint
    """Move pages out of pageblocks of every type, not only the requested one (the synchronous modes)."""
    migrate_pfn: cython.int
    free_pfn: cython.int
    last_migrated: cython.int
    free: list
    scanned: cython.longlong
    migrated: cython.longlong

    def __init__(self, order: cython.int, mt: cython.int, cpu: cython.int, any_block: cython.bint) -> None:
        self.order = order
        self.mt = mt
        self.cpu = cpu
        self.any_block = any_block
        self.migrate_pfn = 0
        self.free_pfn = 0
        self.last_migrated = NIL
        self.free = []
        self.scanned = 0
        self.migrated = 0


@cython.cclass
class Compaction(Reclaim):
    """Reclaim plus compaction."""

    compaction: cython.bint
    extfrag_threshold: cython.int
    compact_result: cython.int
    """COMPACT_* of the last request's compaction."""

    def __init__(self, frames: Frames, zones: list, it: Itinerary, cpu_node: list) -> None:
        Reclaim.__init__(self, frames, zones, it, cpu_node)
        self.compaction = True
        self.extfrag_threshold = 500
        self.compact_result = COMPACT_SKIPPED

    # -- is it worth trying -----------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(check=False)
    def fragmentation_index(self, zone: Zone, order: cython.int) -> cython.int:
        """Kernel: fragmentation_index() (MODEL 4.1): in 1/1000; -1000 when a block of this order is free."""
        o: cython.int
        blocks: cython.longlong = 0
        pages: cython.longlong = 0
        suitable: cython.longlong = 0
        requested: cython.longlong = 1 << order
        for o in range(MAX_ORDER + 1):
            blocks += zone.nr_free[o]
            pages += zone.nr_free[o] << o
            if o >= order:
                suitable += zone.nr_free[o] << (o - order)
        if blocks == 0:
            return 0
        if suitable:
            return -1000
        return cython.cast(cython.int, 1000 - (1000 + pages * 1000 // requested) // blocks)

    @cython.ccall
    @cython.exceptval(check=False)
    def compaction_suitable(
        self, zone: Zone, order: cython.int, alloc_flags: cython.int, highest: cython.int, free: cython.longlong
    ) -> cython.int:
        """Kernel: compaction_suitable() (MODEL 10.5): SUCCESS (needless), SKIPPED (too few pages free) or CONTINUE."""
        mark: cython.longlong
        if self.zone_watermark_ok(zone, order, self.watermark(zone, alloc_flags), highest, alloc_flags):
            return COMPACT_SUCCESS
        mark = zone.watermark_low if order > PAGE_ALLOC_COSTLY_ORDER else zone.watermark_min
        if not self.watermark_ok(zone, 0, mark + zone.boost + (2 << order), highest, 0, free):
            return COMPACT_SKIPPED
        if order > PAGE_ALLOC_COSTLY_ORDER:
            index: cython.int = self.fragmentation_index(zone, order)
            if 0 <= index <= self.extfrag_threshold:
                return COMPACT_SKIPPED
        return COMPACT_CONTINUE

    @cython.cfunc
    @cython.exceptval(check=False)
    def compaction_deferred(self, zone: Zone, order: cython.int) -> cython.bint:
        """Kernel: compaction_deferred(): after failures, most attempts are not made."""
        limit: cython.int = 1 << zone.compact_defer_shift
        if order < zone.compact_order_failed:
            return False
        zone.compact_considered += 1
        if zone.compact_considered >= limit:
            zone.compact_considered = limit
            return False
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def defer_compaction(self, zone: Zone, order: cython.int) -> cython.void:
        """Kernel: defer_compaction()."""
        zone.compact_considered = 0
        zone.compact_defer_shift = min(zone.compact_defer_shift + 1, COMPACT_MAX_DEFER_SHIFT)
        zone.compact_order_failed = min(zone.compact_order_failed, order)

    @cython.cfunc
    @cython.exceptval(check=False)
    def compaction_defer_reset(self, zone: Zone, order: cython.int, success: cython.bint) -> cython.void:
        """Kernel: compaction_defer_reset()."""
        if success:
            zone.compact_considered = 0
            zone.compact_defer_shift = 0
        if order >= zone.compact_order_failed:
            zone.compact_order_failed = order + 1

    # -- the two scanners -------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def is_movable_page(self, pfn: cython.int) -> cython.bint:
        """Is this a single page in use, on one of the lists of reclaimable pages?"""
        frames: Frames = self.frames
        return frames.kind[pfn] == PAGE_USED and frames.order[pfn] == 0 and frames.prev[pfn] != NIL

    @cython.cfunc
    @cython.exceptval(check=False)
    def compact_finished(self, zone: Zone, cc: CompactControl) -> cython.bint:
        """Kernel: __compact_finished(): is there a block of the order, or one that could be claimed whole?"""
        order: cython.int
        for order in range(cc.order, MAX_ORDER + 1):
            if zone.nr_free_mt[order * MIGRATE_TYPES + cc.mt]:
                return True
            if self.find_suitable_fallback(zone, order, cc.mt) != NIL and self.can_steal_fallback(zone, order, cc.mt):
                return True
        return False

    @cython.cfunc
    def isolate_freepages(self, zone: Zone, cc: CompactControl) -> cython.void:
        """
        Take free pages from the highest Movable pageblock that has some, above the migrate scanner.

        Kernel: isolate_freepages(), __isolate_free_page(): pages are taken only while the min mark is kept
        """
        frames: Frames = self.frames
        block: cython.int = 1 << zone.pageblock_order
        pfn: cython.int
        while not cc.free and cc.free_pfn > cc.migrate_pfn:
            start: cython.int = max(cc.free_pfn, zone.start_pfn)
            end: cython.int = min(cc.free_pfn + block, zone.end_pfn)
            cc.free_pfn -= block
            if zone.get_pageblock_migratetype(start) != MIGRATE_MOVABLE:
                continue
            if frames.kind[start] == PAGE_BUDDY and frames.order[start] >= zone.pageblock_order:
                continue
            cc.scanned += end - start
            pfn = start
            while pfn < end:
                if frames.kind[pfn] != PAGE_BUDDY:
                    pfn += 1
                    continue
                size: cython.int = 1 << frames.order[pfn]
                if not self.zone_watermark_ok(zone, 0, zone.watermark_min + size, 0, 0):
                    return
                self.isolate_free_block(zone, pfn, cc)
                pfn += size

    @cython.cfunc
    def isolate_free_block(self, zone: Zone, pfn: cython.int, cc: CompactControl) -> cython.void:
        """Split a free block into single pages in use, to be moved to."""
        frames: Frames = self.frames
        p: cython.int
        size: cython.int = 1 << frames.order[pfn]
        self.del_page_from_free_list(zone, pfn)
        zone.free_pages -= size
        zone.used_pages += size
        for p in range(pfn, pfn + size):
            frames.kind[p] = PAGE_USED
            frames.order[p] = 0
            frames.mt[p] = MIGRATE_MOVABLE
            cc.free.append(p)

    @cython.cfunc
    def migrate_block(self, zone: Zone, cc: CompactControl) -> cython.bint:
        """Move the movable pages of one pageblock up; False when there was no room left to move to."""
        frames: Frames = self.frames
        start: cython.int = max(cc.migrate_pfn, zone.start_pfn)
        end: cython.int = min(cc.migrate_pfn + (1 << zone.pageblock_order), zone.end_pfn)
        pfn: cython.int
        since: cython.int = 0
        cc.scanned += end - start
        for pfn in range(start, end):
            if cc.last_migrated != NIL and pfn >> cc.order != cc.last_migrated >> cc.order:
                # What was freed waits on this CPU's lists, where it cannot merge.
                self.drain_pages_zone(zone, cc.cpu)
                cc.last_migrated = NIL
            if not self.is_movable_page(pfn):
                continue
            if not cc.free:
                self.isolate_freepages(zone, cc)
                if not cc.free:
                    return False
            new: cython.int = cc.free.pop(0)
            frames.next[new] = frames.next[pfn]
            frames.prev[new] = frames.prev[pfn]
            frames.next[frames.prev[pfn]] = new
            frames.prev[frames.next[pfn]] = new
            frames.prev[pfn] = NIL
            zone.used_pages -= 1
            self.note_move(pfn, new)
            self.free_unref_page(zone, cc.cpu, pfn, 0)
            cc.migrated += 1
            cc.last_migrated = pfn
            since += 1
        return True

    @cython.cfunc
    def compact_zone(self, zone: Zone, cc: CompactControl) -> cython.int:
        """
        Kernel: compact_zone() (MODEL 10.5), for a zone that is suitable: SUCCESS or COMPLETE.

        Departs: a run is not interrupted by contention; a page freed meanwhile is not captured for the request
        """
        block: cython.int = 1 << zone.pageblock_order
        first: cython.int = zone.pageblock0 << zone.pageblock_order
        last: cython.int = ((zone.end_pfn - 1) >> zone.pageblock_order) << zone.pageblock_order
        result: cython.int = COMPACT_COMPLETE
        if zone.compact_migrate_pfn == NIL or zone.compact_free_pfn <= zone.compact_migrate_pfn:
            zone.compact_migrate_pfn = first
            zone.compact_free_pfn = last
        cc.migrate_pfn = zone.compact_migrate_pfn
        cc.free_pfn = zone.compact_free_pfn
        while cc.migrate_pfn < cc.free_pfn:
            at: cython.int = max(cc.migrate_pfn, zone.start_pfn)
            mt: cython.int = zone.get_pageblock_migratetype(at)
            wanted: cython.bint = mt < MIGRATE_PCPTYPES if cc.any_block else mt == cc.mt
            whole: cython.bint = (
                self.frames.kind[at] == PAGE_BUDDY and self.frames.order[at] >= zone.pageblock_order
            )
            if wanted and not whole:
                if not self.migrate_block(zone, cc):
                    break
                if self.compact_finished(zone, cc):
                    cc.migrate_pfn += block
                    result = COMPACT_SUCCESS
                    break
            cc.migrate_pfn += block
        if cc.last_migrated != NIL:
            self.drain_pages_zone(zone, cc.cpu)
        for pfn in cc.free:
            zone.used_pages -= 1
            self.free_unref_page(zone, cc.cpu, pfn, 0)
        if cc.free and result == COMPACT_COMPLETE:
            self.drain_pages_zone(zone, cc.cpu)
        if result == COMPACT_COMPLETE and self.compact_finished(zone, cc):
            result = COMPACT_SUCCESS
        zone.compact_migrate_pfn = cc.migrate_pfn if result == COMPACT_SUCCESS else NIL
        zone.compact_free_pfn = cc.free_pfn
        self.it.step(COST_COMPACT_SCAN, cython.cast(cython.int, cc.scanned))
        if cc.migrated:
            self.it.step(COST_COMPACT_MIGRATE, cython.cast(cython.int, cc.migrated))
        self.events.append(("compaction", {
            "zone": zone.index, "order": cc.order, "scanned": cc.scanned, "migrated": cc.migrated,
            "success": result == COMPACT_SUCCESS,
        }))
        return result

    # -- who asks ---------------------------------------------------------------------------------

    @cython.cfunc
    def try_to_compact_pages(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int, alloc_flags: cython.int,
        priority: cython.int,
    ) -> cython.int:
        """Kernel: try_to_compact_pages(): zone by zone, until one has succeeded; the best result."""
        zone: Zone
        highest: cython.int = self.gfp_zone[gfp & GFP_ZONEMASK]
        best: cython.int = COMPACT_SKIPPED
        zonelist: list = self.local_zonelists[node] if gfp & GFP_BIT_THISNODE else self.zonelists[node]
        for zone in zonelist:
            if zone.zone_idx > highest:
                continue
            if priority > COMPACT_PRIO_SYNC_FULL and self.compaction_deferred(zone, order):
                best = max(best, COMPACT_DEFERRED)
                continue
            result: cython.int = self.compaction_suitable(zone, order, alloc_flags, highest, zone.free_pages)
            if result == COMPACT_CONTINUE:
                cc = CompactControl(order, self.gfp_migratetype(gfp), cpu, priority != COMPACT_PRIO_ASYNC)
                result = self.compact_zone(zone, cc)
            best = max(best, result)
            if result == COMPACT_SUCCESS:
                self.compaction_defer_reset(zone, order, False)
                break
            if priority != COMPACT_PRIO_ASYNC and result == COMPACT_COMPLETE:
                self.defer_compaction(zone, order)
        return best

    @cython.cfunc
    @cython.exceptval(check=False)
    def compaction_zonelist_suitable(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, alloc_flags: cython.int
    ) -> cython.bint:
        """Kernel: compaction_zonelist_suitable(): could compaction run somewhere if the page cache were gone?"""
        zone: Zone
        highest: cython.int = self.gfp_zone[gfp & GFP_ZONEMASK]
        zonelist: list = self.local_zonelists[node] if gfp & GFP_BIT_THISNODE else self.zonelists[node]
        for zone in zonelist:
            if zone.zone_idx > highest:
                continue
            free: cython.longlong = zone.free_pages + self.nr_reclaimable(zone) // order
            if self.compaction_suitable(zone, order, alloc_flags, highest, free) == COMPACT_CONTINUE:
                return True
        return False

    @cython.ccall
    def kcompactd_run(self, nid: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: kcompactd_do_work() (MODEL 10.5): compact every zone of the node that needs and can use it."""
        node: Node = self.nodes[nid]
        zone: Zone
        order: cython.int = node.kcompactd_order
        highest: cython.int = node.kcompactd_highest_zoneidx
        node.kcompactd_order = 0
        node.kcompactd_highest_zoneidx = NIL
        node.kcompactd_awake = False
        if not self.compaction:
            return
        for zone in node.zones:
            if zone.zone_idx > highest or zone.managed == 0:
                continue
            if self.compaction_suitable(zone, order, 0, highest, zone.free_pages) != COMPACT_CONTINUE:
                continue
            if self.compaction_deferred(zone, order):
                continue
            cc = CompactControl(order, MIGRATE_MOVABLE, cpu, True)
            if self.compact_zone(zone, cc) == COMPACT_SUCCESS:
                self.compaction_defer_reset(zone, order, False)
            else:
                for cpu in range(len(zone.pcp)):
                    self.drain_pages_zone(zone, cpu)
                self.defer_compaction(zone, order)
