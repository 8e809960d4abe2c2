"""What a sample reads: the model's state as rows of int64, in the order ``mm/stats.py`` names them."""

from __future__ import annotations

import cython

from memtrace.mm.constants import (
    MAX_ORDER,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_TYPES,
    NIL,
    NR_ORDERS,
    PAGE_BUDDY,
    PAGE_PCP,
    PAGE_TAIL,
    PAGE_USED,
    UNKNOWN_OWNER,
)
from memtrace.mm.kmem_cache import SlabStat
from memtrace.mm.machine import Machine
from memtrace.mm.mmzone import Frames, PerCpuPages, Zone
from memtrace.mm.percpu import PercpuAllocator


@cython.cclass
class VmStat:
    """
    Reads a machine into buffers that the caller owns.

    Each method fills ``buf`` (int64, row after row) and returns the number of rows; the caller makes it
    large enough: ``rows_*`` say how many rows there can be.
    """

    machine: Machine
    slab: SlabStat

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.slab = machine.slab.stat_reader()

    @property
    def stat_names(self) -> tuple[str, ...]:
        """Names of the counters that ``cpu_caches`` reads."""
        return self.slab.names

    @cython.ccall
    def caches(self, buf: cython.longlong[:]) -> cython.int:
        """CACHE_FIELDS of every cache, by index. active_objs is what /proc/slabinfo prints (MODEL 4.6)."""
        return self.slab.caches(buf)

    @cython.ccall
    def cpu_caches(self, buf: cython.longlong[:]) -> cython.int:
        """(cpu, cache, the allocator's counters...) of every pair that was ever used."""
        return self.slab.cpu_caches(buf)

    @cython.ccall
    def percpu(self, buf: cython.longlong[:]) -> cython.int:
        """PERCPU_FIELDS, one row."""
        percpu: PercpuAllocator = self.machine.percpu
        buf[0] = len(percpu.live_chunks())
        buf[1] = percpu.populated_pages()
        buf[2] = percpu.possible
        buf[3] = percpu.nr_areas
        buf[4] = percpu.nr_empty_pop_pages
        buf[5] = percpu.bytes_requested
        buf[6] = percpu.bytes_allocated
        return 1

    @cython.ccall
    def buddy(self, buf: cython.longlong[:]) -> cython.int:
        """(zone index, order, migratetype, blocks) for every order and type of every zone."""
        zone: Zone
        at: cython.int = 0
        order: cython.int
        mt: cython.int
        for zone in self.machine.pages.zones:
            for order in range(NR_ORDERS):
                for mt in range(MIGRATE_TYPES):
                    buf[at] = zone.index
                    buf[at + 1] = order
                    buf[at + 2] = mt
                    buf[at + 3] = zone.nr_free_mt[order * MIGRATE_TYPES + mt]
                    at += 4
        return at // 4

    @cython.ccall
    def zones(self, buf: cython.longlong[:]) -> cython.int:
        """ZONE_FIELDS of every zone."""
        zone: Zone
        pcp: PerCpuPages
        at: cython.int = 0
        for zone in self.machine.pages.zones:
            parked: cython.longlong = 0
            for pcp in zone.pcp:
                parked += pcp.count
            buf[at] = zone.free_pages
            buf[at + 1] = parked
            buf[at + 2] = zone.slab_pages
            buf[at + 3] = zone.watermark_min + zone.boost
            buf[at + 4] = zone.watermark_low + zone.boost
            buf[at + 5] = zone.watermark_high + zone.boost
            buf[at + 6] = zone.present
            buf[at + 7] = zone.managed
            buf[at + 8] = zone.spanned
            buf[at + 9] = zone.start_pfn
            buf[at + 10] = zone.boost
            at += 11
        return at // 11

    @cython.ccall
    def pcp(self, buf: cython.longlong[:]) -> cython.int:
        """PCP_FIELDS of every CPU's lists of every zone."""
        zone: Zone
        pcp: PerCpuPages
        at: cython.int = 0
        cpu: cython.int
        for zone in self.machine.pages.zones:
            for cpu in range(self.machine.nr_cpus):
                pcp = zone.pcp[cpu]
                buf[at] = zone.index
                buf[at + 1] = cpu
                buf[at + 2] = pcp.count
                buf[at + 3] = pcp.high
                buf[at + 4] = pcp.batch
                buf[at + 5] = pcp.refills
                buf[at + 6] = pcp.drains
                buf[at + 7] = pcp.given_back
                buf[at + 8] = pcp.hits
                buf[at + 9] = pcp.misses
                at += 10
        return at // 10

    @cython.ccall
    def pageblock_types(self, buf: cython.longlong[:]) -> cython.int:
        """(zone index, migratetype, pageblocks) for every type of every zone."""
        zone: Zone
        at: cython.int = 0
        mt: cython.int
        i: cython.int
        for zone in self.machine.pages.zones:
            for mt in range(MIGRATE_TYPES):
                blocks: cython.longlong = 0
                for i in range(zone.nr_pageblocks):
                    if zone.pageblock_type[i] == mt:
                        blocks += 1
                buf[at] = zone.index
                buf[at + 1] = mt
                buf[at + 2] = blocks
                at += 3
        return at // 3

    @cython.ccall
    def pageblock_map(self, buf: cython.longlong[:], bins: cython.int) -> cython.int:
        """PAGEBLOCK_MAP_FIELDS of runs of pageblocks, at most ``bins`` a zone; pages by what is in them."""
        frames: Frames = self.machine.frames
        zone: Zone
        rows: cython.int = 0
        for zone in self.machine.pages.zones:
            blocks: cython.int = (zone.nr_pageblocks + bins - 1) // bins
            first: cython.int = 0
            while first < zone.nr_pageblocks:
                start: cython.int = max(zone.start_pfn, (zone.pageblock0 + first) << zone.pageblock_order)
                end: cython.int = min(
                    zone.end_pfn, (zone.pageblock0 + first + blocks) << zone.pageblock_order
                )
                self.map_range(frames, zone, start, end, buf, 9 * rows)
                rows += 1
                first += blocks
        return rows

    @cython.cfunc
    @cython.exceptval(check=False)
    def map_range(
        self, frames: Frames, zone: Zone, start: cython.int, end: cython.int, buf: cython.longlong[:],
        at: cython.int,
    ) -> cython.void:
        """One row of the map: pages of [start, end) by what they hold; the rest is not managed memory."""
        pfn: cython.int = start
        i: cython.int
        for i in range(9):
            buf[at + i] = 0
        buf[at] = zone.index
        buf[at + 1] = start
        buf[at + 2] = end - start
        while pfn < end:
            head: cython.int = pfn
            if pfn == start:
                # A block larger than a pageblock may have begun in the run before.
                for i in range(1, MAX_ORDER + 1):
                    first: cython.int = start & ~((1 << i) - 1)
                    if first >= zone.start_pfn and frames.kind[first] != PAGE_TAIL and frames.order[first] >= i:
                        head = first
            kind: cython.int = frames.kind[head]
            size: cython.int = 1
            column: cython.int = 0
            if frames.slab[pfn] != NIL:
                column = 5
            elif kind == PAGE_TAIL:
                if frames.mt[pfn] == UNKNOWN_OWNER:
                    column = self.column_of(zone.get_pageblock_migratetype(pfn))
            else:
                size = min(head + (1 << frames.order[head]), end) - pfn
                if kind == PAGE_BUDDY:
                    column = 3
                elif kind == PAGE_PCP:
                    column = 4
                elif kind == PAGE_USED:
                    column = self.column_of(frames.mt[head])
            if column:
                buf[at + column] += size
            pfn += size

    @cython.cfunc
    @cython.exceptval(check=False)
    def column_of(self, mt: cython.int) -> cython.int:
        if mt == MIGRATE_MOVABLE:
            return 6
        if mt == MIGRATE_RECLAIMABLE:
            return 8
        return 7
