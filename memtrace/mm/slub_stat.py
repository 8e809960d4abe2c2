"""What a sample reads of SLUB: /proc/slabinfo's counts and SLUB_STATS (MODEL 4.6, 6.14)."""

from __future__ import annotations

import cython

from memtrace.mm.constants import NIL
from memtrace.mm.kmem_cache import SlabStat
from memtrace.mm.slub import Slub
from memtrace.mm.slub_slabs import SlubCache
from memtrace.mm.stats import (
    ALLOC_FASTPATH,
    ALLOC_SLOWPATH,
    CPU_PARTIAL_DRAIN,
    CPUSLAB_FLUSH,
    FREE_ADD_PARTIAL,
    FREE_FASTPATH,
    FREE_SLAB,
    FREE_SLOWPATH,
    NR_CACHE_FIELDS,
    NR_SLUB_STATS,
    SLUB_STATS,
)


@cython.cclass
class SlubStat(SlabStat):
    """Reads a Slub."""

    slub: Slub

    def __init__(self, slub: Slub) -> None:
        SlabStat.__init__(self, SLUB_STATS)
        self.slub = slub

    @cython.ccall
    def caches(self, buf: cython.longlong[:]) -> cython.int:
        """CACHE_FIELDS of every cache, by index. active_objs is what /proc/slabinfo prints (MODEL 4.6)."""
        slub: Slub = self.slub
        s: SlubCache
        at: cython.int = 0
        node: cython.int
        cpu: cython.int
        for s in slub.caches:
            slabs: cython.longlong = 0
            total: cython.longlong = 0
            idle: cython.longlong = 0
            partial: cython.longlong = 0
            held: cython.longlong = 0
            for node in range(slub.nr_nodes):
                slabs += s.nr_slabs[node]
                total += s.total_objects[node]
                idle += s.partial_free[node]
                partial += s.nr_partial[node]
            for cpu in range(slub.nr_cpus):
                if s.c_slab[cpu] != NIL:
                    held += 1
                if s.c_partial[cpu] != NIL:
                    held += slub.sl_slabs[s.c_partial[cpu]]
            buf[at] = s.object_size
            buf[at + 1] = s.size
            buf[at + 2] = s.objects
            buf[at + 3] = 1 << s.order
            buf[at + 4] = total - idle
            buf[at + 5] = total
            buf[at + 6] = slabs
            buf[at + 7] = partial
            buf[at + 8] = held
            # As /proc/slabinfo prints them for SLUB: every slab is active, and there are no arrays.
            buf[at + 9] = slabs
            for node in range(10, NR_CACHE_FIELDS):
                buf[at + node] = 0
            at += NR_CACHE_FIELDS
        return len(slub.caches)

    @cython.ccall
    def cpu_caches(self, buf: cython.longlong[:]) -> cython.int:
        """(cpu, cache, SLUB_STATS...) of every pair that was ever used."""
        slub: Slub = self.slub
        s: SlubCache
        at: cython.int = 0
        rows: cython.int = 0
        cpu: cython.int
        i: cython.int
        for s in slub.caches:
            for cpu in range(slub.nr_cpus):
                first: cython.int = cpu * NR_SLUB_STATS
                # Nothing else is counted on a CPU that has neither allocated, freed nor flushed.
                if (
                    s.stat[first + ALLOC_FASTPATH] | s.stat[first + ALLOC_SLOWPATH] | s.stat[first + FREE_FASTPATH]
                    | s.stat[first + FREE_SLOWPATH] | s.stat[first + CPUSLAB_FLUSH] | s.stat[first + CPU_PARTIAL_DRAIN]
                    | s.stat[first + FREE_ADD_PARTIAL] | s.stat[first + FREE_SLAB]
                ) == 0:
                    continue
                buf[at] = cpu
                buf[at + 1] = s.index
                for i in range(NR_SLUB_STATS):
                    buf[at + 2 + i] = s.stat[first + i]
                at += 2 + NR_SLUB_STATS
                rows += 1
        return rows
