"""Validators of SLAB: every slab, list, array and counter, recounted from the lists themselves."""

from __future__ import annotations

import cython

from memtrace.mm.constants import (
    NIL,
    OBJECT_CACHED,
    OBJECT_FREE,
    OBJECT_LIVE,
    PAGE_SHIFT,
    SLABS_FREE,
    SLABS_FULL,
    SLABS_NONE,
    SLABS_PARTIAL,
)
from memtrace.mm.slab import Slab
from memtrace.mm.slab_slabs import ArrayCache, KmemCacheNode, SlabCache
from memtrace.mm.validate import fail


@cython.ccall
def validate_slab(slab: Slab) -> cython.void:
    """Slabs own their pages and are on the right list, arrays hold each object once, counters equal a recount."""
    s: SlabCache
    row: cython.int
    node: cython.int
    if slab.bad_frees:
        fail("frees of addresses that hold no live object", slab.bad_frees, 0)
    # By cache: [slabs by node, live objects, objects in arrays].
    found: list = [[[0] * slab.nr_nodes, 0, 0] for _ in slab.caches]
    for row in range(slab.nr_rows):
        if slab.sl_pfn[row] != NIL:
            s = slab.caches[slab.sl_cache[row]]
            _validate_row(slab, s, row, found[s.index])
    for s in slab.caches:
        if s.gone:
            continue
        slabs, live, cached = found[s.index]
        for node in range(slab.nr_nodes):
            _validate_node(slab, s, node, slabs[node])
            n: KmemCacheNode = s.nodes[node]
            live += n.hidden * s.objects
        if s.live != live:
            fail(f"cache {s.name}: live objects", s.live, live)
        if s.num_active != live + cached:
            fail(f"cache {s.name}: num_active", s.num_active, live + cached)
        held = _validate_arrays(slab, s)
        if held != cached:
            fail(f"cache {s.name}: objects in arrays", held, cached)


@cython.cfunc
def _validate_row(slab: Slab, s: SlabCache, row: cython.int, found: list) -> cython.void:
    """One slab: its pages, its stack of free objects, the states of all."""
    where = f"cache {s.name}: slab at pfn {slab.sl_pfn[row]:#x}"
    seg: cython.longlong = slab.sl_seg[row]
    active: cython.int = slab.sl_active[row]
    p: cython.int
    for p in range(slab.sl_pfn[row], slab.sl_pfn[row] + (1 << s.order)):
        if slab.frames.slab[p] != row:
            fail(f"{where}: owner of page {p:#x}", slab.frames.slab[p], row)
    offset = slab.sl_mem[row] - (cython.cast(cython.longlong, slab.sl_pfn[row]) << PAGE_SHIFT)
    if offset % s.colour_off or offset // s.colour_off >= max(1, s.colour):
        fail(f"{where}: offset of the first object", offset, f"a multiple of {s.colour_off} below colour {s.colour}")
    expected = SLABS_FREE if active == 0 else SLABS_FULL if active == s.objects else SLABS_PARTIAL
    if slab.sl_list[row] == SLABS_NONE or slab.sl_list[row] != expected:
        fail(f"{where}: list, of {active} active objects", slab.sl_list[row], expected)
    seen: set = {slab.obj_index[seg + p] for p in range(active, s.objects)}
    if len(seen) != s.objects - active:
        fail(f"{where}: different free objects", len(seen), s.objects - active)
    for p in range(s.objects):
        state: cython.int = slab.obj_state[seg + p]
        if (state == OBJECT_FREE) != (p in seen):
            fail(f"{where}: state of object {p}", state, "free exactly when on the slab's stack")
        found[1] += state == OBJECT_LIVE
        found[2] += state == OBJECT_CACHED
    found[0][slab.sl_node[row]] += 1


@cython.cfunc
def _validate_node(slab: Slab, s: SlabCache, node: cython.int, slabs: cython.int) -> cython.void:
    """A node's lists are linked both ways and counted."""
    n: KmemCacheNode = s.nodes[node]
    idle: cython.longlong = 0
    lengths: list = [0, 0, 0]
    which: cython.int
    for which in range(3):
        row: cython.int = n.first[which]
        before: cython.int = NIL
        while row != NIL:
            if slab.sl_prev[row] != before or slab.sl_list[row] != which or slab.sl_node[row] != node:
                fail(f"cache {s.name} node {node}: slab at pfn {slab.sl_pfn[row]:#x}", "badly linked", "on its list")
            idle += s.objects - slab.sl_active[row]
            lengths[which] += 1
            before = row
            row = slab.sl_next[row]
        if n.last[which] != before:
            fail(f"cache {s.name} node {node}: last of list {which}", n.last[which], before)
    counted = (n.nr_partial, n.free_slabs, n.free_objects, n.total_slabs)
    recount = (lengths[SLABS_PARTIAL], lengths[SLABS_FREE], idle, slabs + n.hidden)
    if counted != recount or sum(lengths) != slabs:
        fail(f"cache {s.name} node {node}: partial and free slabs, free objects, slabs", counted, recount)


@cython.cfunc
def _validate_arrays(slab: Slab, s: SlabCache) -> cython.int:
    """Every array holds objects of this cache, and of its node, that are in no other; how many there are."""
    n: KmemCacheNode
    seen: set = set()
    held: cython.int = 0
    cpu: cython.int
    node: cython.int
    other: cython.int
    for cpu in range(slab.nr_cpus):
        held += _validate_array(slab, s, s.cpu_cache[cpu], slab.pages.cpu_node[cpu], seen, f"CPU {cpu}")
    for node in range(slab.nr_nodes):
        n = s.nodes[node]
        held += _validate_array(slab, s, n.shared, node, seen, f"shared array of node {node}")
        for other in range(len(n.alien)):
            if n.alien[other] is not None:
                held += _validate_array(slab, s, n.alien[other], other, seen, f"node {node}'s alien array of {other}")
    return held


@cython.cfunc
def _validate_array(
    slab: Slab, s: SlabCache, ac: ArrayCache, node: cython.int, seen: set, name: str
) -> cython.int:
    """One array: within its limit, each entry a free object of the right cache and node."""
    i: cython.int
    if ac.avail < 0 or ac.avail > ac.limit:
        fail(f"cache {s.name} {name}: avail", ac.avail, f"0 to {ac.limit}")
    for i in range(ac.avail):
        addr: cython.longlong = ac.entry[i]
        row: cython.int = slab.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]
        if row == NIL or slab.sl_cache[row] != s.index or slab.sl_node[row] != node or addr in seen:
            fail(f"cache {s.name} {name}: entry {i}, {addr:#x}", "not the cache's, or twice", "an object of this node")
        if slab.obj_state[slab.object_at(row, addr)] != OBJECT_CACHED:
            fail(f"cache {s.name} {name}: entry {i}, {addr:#x}", "not marked as in an array", "marked")
        seen.add(addr)
    return ac.avail
