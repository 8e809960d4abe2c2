"""What a sample reads of SLUB with sheaves, and the validator of sheaves."""

from __future__ import annotations

import cython

from memtrace.mm.constants import NIL, OBJ_SHEAF
from memtrace.mm.slub_barns import Barns, SheafCache
from memtrace.mm.slub_stat import SlubStat
from memtrace.mm.stats import NR_SHEAF_STATS, NR_SLUB_STATS, SHEAF_STATS, SLUB_STATS
from memtrace.mm.validate import fail


@cython.cclass
class SheafStat(SlubStat):
    """Reads SLUB with sheaves: SLUB_STATS, then SHEAF_STATS."""

    def __init__(self, slub: Barns) -> None:
        SlubStat.__init__(self, slub)
        self.names = SLUB_STATS + SHEAF_STATS

    @cython.ccall
    def cpu_caches(self, buf: cython.longlong[:]) -> cython.int:
        s: SheafCache
        at: cython.int = 0
        rows: cython.int = 0
        cpu: cython.int
        i: cython.int
        for s in self.slub.caches:
            for cpu in range(self.slub.nr_cpus):
                used: cython.longlong = 0
                for i in range(NR_SLUB_STATS):
                    buf[at + 2 + i] = s.stat[cpu * NR_SLUB_STATS + i]
                    used |= buf[at + 2 + i]
                for i in range(NR_SHEAF_STATS):
                    buf[at + 2 + NR_SLUB_STATS + i] = s.sheaf_stat[cpu * NR_SHEAF_STATS + i]
                    used |= buf[at + 2 + NR_SLUB_STATS + i]
                if used:
                    buf[at] = cpu
                    buf[at + 1] = s.index
                    at += 2 + NR_SLUB_STATS + NR_SHEAF_STATS
                    rows += 1
        return rows


@cython.ccall
def validate_sheaves(slub: Barns) -> cython.void:
    """Sheaves hold each object once, all of them marked, and no other object is."""
    s: SheafCache
    row: cython.int
    idx: cython.int
    marked: list = [0] * len(slub.caches)
    for row in range(slub.nr_rows):
        if slub.sl_pfn[row] == NIL:
            continue
        for idx in range(slub.sl_objects[row]):
            if slub.obj_next[slub.sl_seg[row] + idx] == OBJ_SHEAF:
                marked[slub.sl_cache[row]] += 1
    for s in slub.caches:
        held = slub.sheaf_objects(s)
        if len(set(held)) != len(held) or len(held) != marked[s.index]:
            fail(f"cache {s.name}: objects in sheaves, different ones, marked ones",
                 (len(held), len(set(held))), marked[s.index])
        for addr in held:
            row = slub.frames.slab[addr >> 12]
            if row == NIL or slub.sl_cache[row] != s.index:
                fail(f"cache {s.name}: object {addr:#x} in a sheaf", "not the cache's", "the cache's")
