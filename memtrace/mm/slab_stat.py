"""What a sample reads of SLAB: /proc/slabinfo's counts and STATS (MODEL 4.6, 7.10)."""

from __future__ import annotations

import cython

from memtrace.mm.kmem_cache import SlabStat
from memtrace.mm.slab import Slab
from memtrace.mm.slab_slabs import KmemCacheNode, SlabCache
from memtrace.mm.stats import (
    NR_CACHE_FIELDS,
    NR_SLAB_STATS,
    SLAB_ALLOCHIT,
    SLAB_ALLOCSLOW,
    SLAB_FREED,
    SLAB_FREEHIT,
    SLAB_FREESLOW,
    SLAB_STATS,
)


@cython.cclass
class SlabAllocatorStat(SlabStat):
    """Reads a Slab."""

    slab: Slab

    def __init__(self, slab: Slab) -> None:
        SlabStat.__init__(self, SLAB_STATS)
        self.slab = slab

    @cython.ccall
    def caches(self, buf: cython.longlong[:]) -> cython.int:
        """CACHE_FIELDS of every cache, by index, as /proc/slabinfo counts (MODEL 4.6): CPUs hold no slabs."""
        s: SlabCache
        n: KmemCacheNode
        at: cython.int = 0
        for s in self.slab.caches:
            slabs: cython.longlong = 0
            free_slabs: cython.longlong = 0
            partial: cython.longlong = 0
            idle: cython.longlong = 0
            shared: cython.longlong = 0
            for n in s.nodes:
                slabs += n.total_slabs
                free_slabs += n.free_slabs
                partial += n.nr_partial
                idle += n.free_objects
                shared += n.shared.avail
            buf[at] = s.object_size
            buf[at + 1] = s.size
            buf[at + 2] = s.objects
            buf[at + 3] = 1 << s.order
            buf[at + 4] = slabs * s.objects - idle
            buf[at + 5] = slabs * s.objects
            buf[at + 6] = slabs
            buf[at + 7] = partial
            buf[at + 8] = 0
            buf[at + 9] = slabs - free_slabs
            buf[at + 10] = s.limit
            buf[at + 11] = s.batchcount
            buf[at + 12] = s.shared
            buf[at + 13] = shared
            buf[at + 14] = s.high_mark
            buf[at + 15] = s.max_freeable
            at += NR_CACHE_FIELDS
        return len(self.slab.caches)

    @cython.ccall
    def cpu_caches(self, buf: cython.longlong[:]) -> cython.int:
        """(cpu, cache, SLAB_STATS...) of every pair that was ever used."""
        s: SlabCache
        at: cython.int = 0
        rows: cython.int = 0
        cpu: cython.int
        i: cython.int
        for s in self.slab.caches:
            for cpu in range(self.slab.nr_cpus):
                first: cython.int = cpu * NR_SLAB_STATS
                if (
                    s.stat[first + SLAB_ALLOCHIT] | s.stat[first + SLAB_ALLOCSLOW] | s.stat[first + SLAB_FREEHIT]
                    | s.stat[first + SLAB_FREESLOW] | s.stat[first + SLAB_FREED]
                ) == 0:
                    continue
                buf[at] = cpu
                buf[at + 1] = s.index
                for i in range(NR_SLAB_STATS):
                    buf[at + 2 + i] = s.stat[first + i]
                at += 2 + NR_SLAB_STATS
                rows += 1
        return rows
