"""
What a sample reads of SLOB.

SLOB has no slabs by cache and no /proc/slabinfo, and counts nothing by CPU. Its pages stand in the rows of its three
lists, as slabs of one page of 2-byte units; a cache's own row has its live objects and no slab.
"""

from __future__ import annotations

import cython

from memtrace.mm.kmem_cache import SlabStat
from memtrace.mm.slob import Slob, SlobCache
from memtrace.mm.stats import NR_CACHE_FIELDS, NR_SLOB_LISTS, NR_SLOB_STATS, SLOB_STATS

_UNITS = 2048


@cython.cclass
class SlobStat(SlabStat):
    """Reads a Slob."""

    slob: Slob

    def __init__(self, slob: Slob) -> None:
        SlabStat.__init__(self, SLOB_STATS)
        self.slob = slob

    @cython.ccall
    def caches(self, buf: cython.longlong[:]) -> cython.int:
        """CACHE_FIELDS of every cache, by index."""
        slob: Slob = self.slob
        s: SlobCache
        at: cython.int = 0
        i: cython.int
        for s in slob.caches:
            buf[at] = s.object_size
            buf[at + 1] = s.size
            buf[at + 2] = s.objects
            buf[at + 3] = 1 << s.order
            for i in range(4, NR_CACHE_FIELDS):
                buf[at + i] = 0
            if s.index < NR_SLOB_LISTS:
                buf[at + 5] = slob.list_pages[s.index] * _UNITS
                buf[at + 4] = buf[at + 5] - slob.list_units[s.index]
                buf[at + 6] = slob.list_pages[s.index]
                buf[at + 7] = slob.list_partial[s.index]
                buf[at + 9] = slob.list_pages[s.index]
            else:
                buf[at + 4] = s.live
                buf[at + 5] = s.live
            at += NR_CACHE_FIELDS
        return len(slob.caches)

    @cython.ccall
    def cpu_caches(self, buf: cython.longlong[:]) -> cython.int:
        """(cpu, cache, SLOB_STATS...) of every pair that was ever used; kmalloc and pages count for their list."""
        slob: Slob = self.slob
        s: SlobCache
        at: cython.int = 0
        rows: cython.int = 0
        cpu: cython.int
        for s in slob.caches:
            for cpu in range(slob.nr_cpus):
                taken: cython.longlong = 0
                given: cython.longlong = 0
                if s.index < NR_SLOB_LISTS:
                    taken = slob.new_pages[cpu * NR_SLOB_LISTS + s.index]
                    given = slob.freed_pages[cpu * NR_SLOB_LISTS + s.index]
                if (s.allocs[cpu] | s.frees[cpu] | taken | given) == 0:
                    continue
                buf[at] = cpu
                buf[at + 1] = s.index
                buf[at + 2] = s.allocs[cpu]
                buf[at + 3] = s.frees[cpu]
                buf[at + 4] = taken
                buf[at + 5] = given
                at += 2 + NR_SLOB_STATS
                rows += 1
        return rows
