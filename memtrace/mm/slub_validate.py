"""Validators of SLUB: every slab, list and counter, recounted from the lists themselves."""

from __future__ import annotations

import cython

from memtrace.mm.constants import NIL, OBJ_LIVE, OBJ_SHEAF
from memtrace.mm.slub import Slub
from memtrace.mm.slub_slabs import SlubCache
from memtrace.mm.validate import fail


@cython.ccall
def validate_slub(slub: Slub) -> cython.void:
    """Slabs own their pages, their lists hold each object once, and every counter equals a recount."""
    s: SlubCache
    cpu: cython.int
    node: cython.int
    row: cython.int
    if slub.bad_frees:
        fail("frees of addresses that hold no live object", slub.bad_frees, 0)
    placed: list = [[0] * slub.nr_nodes for _ in slub.caches]
    live: list = [0] * len(slub.caches)
    private: dict = {}
    for s in slub.caches:
        for cpu in range(slub.nr_cpus):
            if s.c_slab[cpu] != NIL:
                if s.c_slab[cpu] in private:
                    fail(f"cache {s.name}: slab at pfn {slub.sl_pfn[s.c_slab[cpu]]:#x}", "two CPUs'", "one's")
                private[s.c_slab[cpu]] = s.c_freelist[cpu]
            elif s.c_freelist[cpu] >= 0:
                fail(f"cache {s.name} CPU {cpu}: freelist without a slab", s.c_freelist[cpu], -1)
    for row in range(slub.nr_rows):
        if slub.sl_pfn[row] == NIL:
            continue
        s = slub.caches[slub.sl_cache[row]]
        live[s.index] += _validate_slab(slub, s, row, private.get(row, -1))
        placed[s.index][slub.sl_node[row]] += 1
    for s in slub.caches:
        for node in range(slub.nr_nodes):
            _validate_node(slub, s, node)
            expected = placed[s.index][node] + s.hidden[node]
            if s.nr_slabs[node] != expected:
                fail(f"cache {s.name} node {node}: nr_slabs", s.nr_slabs[node], expected)
            live[s.index] += s.hidden[node] * s.objects
        if s.live != live[s.index]:
            fail(f"cache {s.name}: live objects", s.live, live[s.index])
        for cpu in range(slub.nr_cpus):
            _validate_cpu_partial(slub, s, cpu)


@cython.cfunc
def _validate_slab(slub: Slub, s: SlubCache, row: cython.int, private_head: cython.int) -> cython.int:
    """Walk both freelists of a slab; its live objects."""
    where = f"cache {s.name}: slab at pfn {slub.sl_pfn[row]:#x}"
    p: cython.int
    for p in range(slub.sl_pfn[row], slub.sl_pfn[row] + (1 << slub.sl_order[row])):
        if slub.frames.slab[p] != row:
            fail(f"{where}: owner of page {p:#x}", slub.frames.slab[p], row)
    seen: set = set()
    own: cython.int = 0
    for start in (slub.sl_free[row], private_head):
        idx: cython.int = start
        while idx >= 0:
            if idx in seen or idx >= slub.sl_objects[row]:
                fail(f"{where}: free object {idx}", "twice or beyond the slab", "once")
            seen.add(idx)
            idx = slub.obj_next[slub.sl_seg[row] + idx]
            if start == slub.sl_free[row] and start >= 0:
                own += 1
            if idx == OBJ_LIVE:
                fail(f"{where}: a live object", "on a freelist", "off it")
        if start == slub.sl_free[row] and start == private_head and start >= 0:
            fail(f"{where}: CPU and slab freelists", "the same", "apart")
    if slub.sl_objects[row] - own != slub.sl_inuse[row]:
        fail(f"{where}: inuse", slub.sl_inuse[row], slub.sl_objects[row] - own)
    handed_out: cython.int = 0
    in_sheaves: cython.int = 0
    for idx in range(slub.sl_objects[row]):
        if slub.obj_next[slub.sl_seg[row] + idx] == OBJ_LIVE:
            handed_out += 1
        elif slub.obj_next[slub.sl_seg[row] + idx] == OBJ_SHEAF:
            in_sheaves += 1
    if handed_out + in_sheaves + len(seen) != slub.sl_objects[row]:
        fail(f"{where}: live + free objects", handed_out + in_sheaves + len(seen), slub.sl_objects[row])
    return handed_out


@cython.cfunc
def _validate_node(slub: Slub, s: SlubCache, node: cython.int) -> cython.void:
    """A node's partial list: not frozen, not full, counted."""
    slab: cython.int = s.n_first[node]
    before: cython.int = NIL
    length: cython.int = 0
    idle: cython.longlong = 0
    while slab != NIL:
        where = f"cache {s.name} node {node}: partial slab at pfn {slub.sl_pfn[slab]:#x}"
        if slub.sl_prev[slab] != before or not slub.sl_listed[slab]:
            fail(where, "badly linked", "linked both ways")
        if slub.sl_frozen[slab] or slub.sl_free[slab] < 0 or slub.sl_node[slab] != node:
            fail(where, "frozen, full or of another node", "a partial slab of this node")
        idle += slub.sl_objects[slab] - slub.sl_inuse[slab]
        length += 1
        before = slab
        slab = slub.sl_next[slab]
    if length != s.nr_partial[node] or idle != s.partial_free[node]:
        fail(
            f"cache {s.name} node {node}: nr_partial and free objects",
            (s.nr_partial[node], s.partial_free[node]), (length, idle),
        )


@cython.cfunc
def _validate_cpu_partial(slub: Slub, s: SlubCache, cpu: cython.int) -> cython.void:
    """A CPU's partial list: frozen slabs, and the head knows how many."""
    slab: cython.int = s.c_partial[cpu]
    if slab == NIL:
        return
    expected: cython.int = slub.sl_slabs[slab]
    length: cython.int = 0
    while slab != NIL:
        if not slub.sl_frozen[slab] or slub.sl_listed[slab]:
            fail(f"cache {s.name} CPU {cpu}: slab at pfn {slub.sl_pfn[slab]:#x}", "not frozen", "frozen")
        length += 1
        slab = slub.sl_next[slab]
    if length != expected:
        fail(f"cache {s.name} CPU {cpu}: length of the partial list", length, expected)
