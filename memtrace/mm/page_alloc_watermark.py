"""Zonelists and watermarks: which zones a request may look at, and how far down (MODEL 1.2, 1.3, 2.7-2.9)."""

from __future__ import annotations

from array import array

import cython

from memtrace.mm.constants import (
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
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
)
from memtrace.mm.gfp import GFP_BIT_MOVABLE, GFP_BIT_RECLAIMABLE
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.mmzone import Frames, Node, Zone
from memtrace.mm.page_alloc_pcp import PcpLists


@cython.cclass
class Watermarks(PcpLists):
    """Per-CPU lists plus what the zones of all nodes are to each other. Zonelists are nearest and highest first."""

    zonelists: list
    """``zonelists[node]``: the zones of all nodes (FALLBACK)."""
    local_zonelists: list
    """``local_zonelists[node]``: the node's own zones (NOFALLBACK, __GFP_THISNODE)."""
    nodes: list
    cpu_node: cython.int[:]
    gfp_zone: cython.int[:]
    """Highest zone type a request may reach, by the four low gfp bits; -1 invalid."""
    start_pfns: cython.int[:]
    end_pfns: cython.int[:]
    nr_zones: cython.int
    halving_check: cython.bint
    """Watermark checks of higher orders disregard smaller blocks and halve the mark (vm.watermark_check)."""
    count_free_reserve: cython.bint
    """Only the free pages of reserved pageblocks are kept from others, and reserves are bounded (6.12 and later)."""

    def __init__(self, frames: Frames, zones: list, it: Itinerary, cpu_node: list) -> None:
        PcpLists.__init__(self, frames, zones, it)
        self.cpu_node = array("i", cpu_node)
        self.nr_zones = len(zones)
        self.start_pfns = array("i", [zone.start_pfn for zone in zones])
        self.end_pfns = array("i", [zone.end_pfn for zone in zones])
        self.zonelists = []
        self.local_zonelists = []
        nr_nodes = 1 + max(max(cpu_node), max([zone.node for zone in zones]))
        self.nodes = [Node(node, [zone for zone in zones if zone.node == node]) for node in range(nr_nodes)]
        self.gfp_zone = array("i", [0]) * 16
        self.halving_check = False
        self.count_free_reserve = False

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

        Kernel: zone_watermark_ok(), 6.1 (MODEL 2.9)
        Departs: reads the exact free count, not one that lags by per-CPU deltas (EXACT B 2.6)
        """
        return self.watermark_ok(zone, order, mark, highest, alloc_flags, zone.free_pages)

    @cython.cfunc
    @cython.exceptval(check=False)
    def watermark_ok(
        self, zone: Zone, order: cython.int, mark: cython.longlong, highest: cython.int, alloc_flags: cython.int,
        free: cython.longlong,
    ) -> cython.bint:
        """Kernel: __zone_watermark_ok(): the same if so many pages were free."""
        o: cython.int
        mt: cython.int
        least: cython.longlong = mark
        free -= (1 << order) - 1
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
