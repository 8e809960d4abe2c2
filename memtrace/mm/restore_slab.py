"""Laying out what an exact dump of a SLAB kernel says of its caches: arrays, lists and slabs in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython

from memtrace.errors import ConfigError
from memtrace.mm.constants import (
    NIL,
    OBJECT_CACHED,
    OBJECT_LIVE,
    PAGE_SHIFT,
    SLABS_FREE,
    SLABS_FULL,
    SLABS_PARTIAL,
)
from memtrace.mm.machine import Machine
from memtrace.mm.slab import Slab
from memtrace.mm.slab_slabs import ArrayCache, KmemCacheNode, SlabCache

if TYPE_CHECKING:
    from memtrace.snapshot.exact_dump import ArrayCache as DumpedArray
    from memtrace.snapshot.exact_dump import ExactDump
    from memtrace.snapshot.exact_dump import SlabCache as DumpedCache

_LISTS = ((SLABS_PARTIAL, "partial"), (SLABS_FULL, "full"), (SLABS_FREE, "free"))


def restore_slab_caches(machine: Machine, dump: ExactDump) -> None:
    """
    All caches of a dump, oldest first; their counters start at zero.

    Raises
    ------
    ConfigError
        An array of the dump names an object that no slab of it has.
    """
    for cache in reversed(dump.slab):  # a dump lists the newest cache first
        restore_slab_cache(machine, cache, direct_map_base(dump))


def direct_map_base(dump: ExactDump) -> int:
    """
    Virtual address of physical address 0: arrays name objects by pointer, slabs by page.

    The kernel maps memory from a multiple of 1 GiB on; the one that puts every object of an array on a slab of its
    cache is the one.
    """
    for cache in dump.slab:
        pfns = {page.pfn for node in cache.nodes.values() for _, name in _LISTS for page in getattr(node, name)}
        entries = [entry for array in cache.cpu_caches.values() for entry in array.entries]
        if len(entries) > 1 and cache.gfporder == 0:
            bases = set.intersection(*({entry - ((pfn << PAGE_SHIFT) | entry & 0xFFF) for pfn in pfns}
                                       for entry in entries))
            if len(bases) == 1:
                return bases.pop()
    return 0


def restore_slab_cache(machine: Machine, known: DumpedCache, base: int) -> None:
    """One cache with its arrays, nodes and slabs, tunables as they were unless the user sets them."""
    slab: Slab = cython.cast(Slab, machine.slab)
    index = slab.create_cache(
        known.name, known.object_size, known.align, known.flags, known.ctor, merge=False, size=known.size,
    )
    s: SlabCache = slab.caches[index]
    as_recorded = slab.set_limit < 0 and slab.set_batchcount < 0 and slab.set_shared < 0
    if as_recorded:
        slab.set_arrays(s, known.limit, known.batchcount, known.shared)
    s.order = known.gfporder
    s.objects = known.num
    s.colour = known.colour
    s.colour_off = known.colour_off
    for node, state in known.nodes.items():
        n: KmemCacheNode = s.nodes[node]
        n.colour_next = state.colour_next
        n.free_touched = bool(state.free_touched)
        if as_recorded:
            n.free_limit = state.free_limit
        for which, name in _LISTS:
            for page in getattr(state, name):
                add_slab(slab, s, node, page.pfn, page.active, page.s_mem_off, page.freelist, which)
        if state.shared is not None:
            fill_array(slab, s, n.shared, state.shared, base)
        for other, array in state.alien.items():
            fill_array(slab, s, n.alien[other], array, base)
    for cpu, array in known.cpu_caches.items():
        if cpu < machine.nr_cpus:
            fill_array(slab, s, s.cpu_cache[cpu], array, base)


@cython.ccall
def add_slab(
    slab: Slab, s: SlabCache, node: cython.int, pfn: cython.int, active: cython.int, offset: cython.int,
    freelist: list, which: cython.int,
) -> cython.void:
    """Put a slab at its list's tail; what is not in ``freelist`` (object indexes in hand-out order) is live."""
    n: KmemCacheNode = s.nodes[node]
    row: cython.int = slab.build_slab(s, pfn, offset, node)
    seg: cython.longlong = slab.sl_seg[row]
    i: cython.int
    for i in range(s.objects):
        slab.obj_state[seg + i] = OBJECT_LIVE
    for i in range(s.objects - active):
        slab.obj_index[seg + active + i] = freelist[i]
        slab.obj_state[seg + slab.obj_index[seg + active + i]] = 0
    slab.sl_active[row] = active
    slab.link(n, row, which, True)
    n.total_slabs += 1
    n.free_objects += s.objects - active
    s.num_active += active
    s.high_mark = s.num_active
    s.live += active


@cython.ccall
def fill_array(slab: Slab, s: SlabCache, ac: ArrayCache, known: DumpedArray, base: object) -> cython.void:
    """Objects of an array are not live; those for which a smaller array has no room are flushed as a free would."""
    entries: list = known.entries
    at: cython.longlong
    ac.touched = bool(known.touched)
    for entry in entries:
        addr: cython.longlong = entry - base
        pfn: cython.longlong = addr >> PAGE_SHIFT
        row: cython.int = slab.frames.slab[pfn] if 0 <= pfn < slab.frames.nr_frames else NIL
        if row == NIL or slab.sl_cache[row] != s.index or slab.object_at(row, addr) < 0:
            raise ConfigError(f"cache {s.name}: an array holds {entry:#x}, which lies on no slab of its own.")
        at = slab.object_at(row, addr)
        slab.obj_state[at] = OBJECT_CACHED
        s.live -= 1
        slab.put_in_array(s, ac, addr, slab.sl_node[row])
