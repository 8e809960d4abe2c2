"""SLUB gives slabs back on demand: kmem_cache_shrink(), kmem_cache_destroy() (MODEL 6.12, EXACT C3)."""

from __future__ import annotations

import cython

from memtrace.mm.constants import NIL
from memtrace.mm.paths import COST_SLUB_NODE
from memtrace.mm.slub import Slub
from memtrace.mm.slub_slabs import SlubCache

SHRINK_PROMOTE_MAX = 32


@cython.ccall
def shrink_slabs(slub: Slub, s: SlubCache, cpu: cython.int) -> cython.int:
    """
    Flush every CPU, free the nodes' empty slabs, put the fullest slabs first; the slabs freed.

    Kernel: __kmem_cache_do_shrink(): no counter but those of the flush (EXACT C3)
    """
    node: cython.int
    freed: cython.int = 0
    slub.flush_all(s.index)
    for node in range(slub.nr_nodes):
        freed += _shrink_node(slub, s, node, cpu)
    return freed


@cython.cfunc
def _shrink_node(slub: Slub, s: SlubCache, node: cython.int, cpu: cython.int) -> cython.int:
    """Sort one node's partial list by free objects, up to 32; slabs with more stay behind, in their order."""
    promote: list = [[] for _ in range(SHRINK_PROMOTE_MAX + 1)]
    discard: list = []
    idle: cython.int
    slab: cython.int = s.n_first[node]
    looked: cython.int = 0
    while slab != NIL:
        after: cython.int = slub.sl_next[slab]
        idle = slub.sl_objects[slab] - slub.sl_inuse[slab]
        looked += 1
        if slub.sl_inuse[slab] == 0:
            slub.remove_partial(s, slab)
            discard.append(slab)
        elif idle <= SHRINK_PROMOTE_MAX:
            slub.remove_partial(s, slab)
            promote[idle].append(slab)
        slab = after
    slub.it.locked(slub.list_lock(s, node), COST_SLUB_NODE, looked)
    # Every move is to a list's head: the last one found comes first, among equals and among those that go.
    for idle in range(SHRINK_PROMOTE_MAX, 0, -1):
        for slab in promote[idle]:
            slub.add_partial(s, slab, False)
    for slab in reversed(discard):
        slub.discard_slab(s, slab, cpu)
    return len(discard)


@cython.ccall
def shut_down(slub: Slub, s: SlubCache, cpu: cython.int) -> cython.bint:
    """
    Flush every CPU and free what is empty; False when a slab is left.

    Kernel: __kmem_cache_shutdown(), free_partial()
    """
    node: cython.int
    left: cython.int = 0
    slub.flush_all(s.index)
    for node in range(slub.nr_nodes):
        discard: list = []
        slab: cython.int = s.n_first[node]
        while slab != NIL:
            after: cython.int = slub.sl_next[slab]
            if slub.sl_inuse[slab] == 0:
                slub.remove_partial(s, slab)
                discard.append(slab)
            slab = after
        slub.it.locked(slub.list_lock(s, node), COST_SLUB_NODE, len(discard))
        for slab in reversed(discard):
            slub.discard_slab(s, slab, cpu)
        left += s.nr_slabs[node]
    return left == 0
