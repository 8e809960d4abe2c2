"""
SLUB's storage: caches, slabs and their objects, the nodes' partial lists (MODEL 6.1-6.4, 6.10).

A slab is a row in typed arrays (``sl_*``); its objects are linked by index in ``obj_next`` from
``sl_seg[slab]`` on.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.config import SlubParams
from memtrace.mm.constants import (
    NIL,
    OBJ_END,
    OBJ_LIVE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGE_USED,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_HWCACHE_ALIGN,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from memtrace.mm.gfp import (
    GFP_BIT_COMP,
    GFP_BIT_DMA,
    GFP_BIT_DMA32,
    GFP_BIT_RECLAIMABLE,
)
from memtrace.mm.kmem_cache import KmemCache, get_order
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.slab_rows import RowCache, SlabRows, longer
from memtrace.mm.slub_geometry import calculate_order, cpu_partial_objects, min_partial_slabs
from memtrace.mm.stats import (
    NR_SLUB_STATS,
)


@cython.cclass
class SlubCache(RowCache):
    """A cache with SLUB's per-CPU and per-node parts; arrays are indexed by CPU or by node."""

    min_partial: cython.int
    cpu_partial: cython.int
    cpu_partial_slabs: cython.int
    c_slab: cython.int[:]
    c_freelist: cython.int[:]
    c_partial: cython.int[:]
    n_first: cython.int[:]
    n_last: cython.int[:]
    nr_partial: cython.int[:]
    nr_slabs: cython.int[:]
    total_objects: cython.longlong[:]
    partial_free: cython.longlong[:]
    """Free objects on the node's partial list; what /proc/slabinfo calls inactive."""
    stat: cython.longlong[:]
    hidden: cython.int[:]
    """Slabs by node that the starting state counted but could not place: all full."""
    order_map: cython.short[:]
    """Random permutation of object indexes (SLAB_FREELIST_RANDOM), or of length 0."""


@cython.cclass
class SlubSlabs(SlabRows):
    """SLUB's storage: slabs, their objects, the nodes' partial lists. ``Slub`` serves from it."""

    min_objects: cython.int
    max_order: cython.int
    least_order: cython.int
    set_cpu_partial: cython.int
    set_min_partial: cython.int
    defrag_ratio: cython.int
    freelist_random: cython.bint
    order_rule: str
    merging: cython.bint
    comp_always: cython.bint
    pointer_in_middle: cython.bint
    min_order_fallback: cython.bint
    partial_lists: cython.bint
    """CPUs have lists of partial slabs."""
    partials_frozen: cython.bint
    """Slabs on those are frozen."""
    discard_remote: cython.bint
    """A slab that a free empties while no CPU holds it goes back whatever the node has."""
    node_first: cython.bint
    """A request for a node first tries for a new slab there alone."""
    dice: cython.ulonglong
    sl_order: cython.int[:]
    sl_objects: cython.int[:]
    sl_inuse: cython.int[:]
    sl_frozen: cython.int[:]
    sl_free: cython.int[:]
    sl_slabs: cython.int[:]
    sl_listed: cython.int[:]
    sl_cpu: cython.int[:]
    obj_next: cython.short[:]


    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint,
        params: SlubParams, seed: cython.int, word: cython.int,
    ) -> None:
        SlabRows.__init__(self, pages, nr_cpus, nr_nodes, memcg, word)
        self.name = "slub"
        self.min_objects = params.min_objects or 4 * (nr_cpus.bit_length() + 1)
        self.max_order = params.max_order
        self.least_order = params.min_order
        self.set_cpu_partial = params.cpu_partial
        self.set_min_partial = params.min_partial
        self.defrag_ratio = params.remote_node_defrag_ratio
        self.freelist_random = params.freelist_random
        self.order_rule = params.order_rule
        self.merging = params.merge
        self.comp_always = params.comp_always
        self.pointer_in_middle = params.free_pointer == "middle"
        self.min_order_fallback = params.min_order_fallback
        self.partial_lists = params.cpu_partial_lists
        self.partials_frozen = params.frozen_partials
        self.discard_remote = params.remote_empty == "discard"
        self.node_first = params.try_node_first
        self.dice = 0x9E3779B97F4A7C15 + seed
        self.sl_order = array("i")
        self.sl_objects = array("i")
        self.sl_inuse = array("i")
        self.sl_frozen = array("i")
        self.sl_free = array("i")
        self.sl_slabs = array("i")
        self.sl_listed = array("i")
        self.sl_cpu = array("i")
        self.obj_next = array("h")
        self.first_room()

    @cython.cfunc
    def grow_rows(self, room: cython.int) -> cython.void:
        """Make room for more slabs."""
        extra: cython.int = room - self.row_room
        self.sl_order = longer(self.sl_order, "i", extra)
        self.sl_objects = longer(self.sl_objects, "i", extra)
        self.sl_inuse = longer(self.sl_inuse, "i", extra)
        self.sl_frozen = longer(self.sl_frozen, "i", extra)
        self.sl_free = longer(self.sl_free, "i", extra)
        self.sl_slabs = longer(self.sl_slabs, "i", extra)
        self.sl_listed = longer(self.sl_listed, "i", extra)
        self.sl_cpu = longer(self.sl_cpu, "i", extra)
        SlabRows.grow_rows(self, room)

    @cython.cfunc
    def grow_objects(self, room: cython.longlong) -> cython.void:
        """Make room for more objects."""
        self.obj_next = longer(self.obj_next, "h", room - self.object_room)
        SlabRows.grow_objects(self, room)

    @cython.ccall
    def new_cache(self, index: cython.int, name: str) -> KmemCache:
        s: SlubCache = SlubCache(index, name)
        self.prepare_cache(s)
        return s

    @cython.cfunc
    def prepare_cache(self, s: SlubCache) -> cython.int:
        """Give an empty cache its per-CPU and per-node parts."""
        s.c_slab = array("i", [NIL]) * self.nr_cpus
        s.c_freelist = array("i", [OBJ_END]) * self.nr_cpus
        s.c_partial = array("i", [NIL]) * self.nr_cpus
        s.n_first = array("i", [NIL]) * self.nr_nodes
        s.n_last = array("i", [NIL]) * self.nr_nodes
        s.nr_partial = array("i", [0]) * self.nr_nodes
        s.nr_slabs = array("i", [0]) * self.nr_nodes
        s.total_objects = array("q", [0]) * self.nr_nodes
        s.partial_free = array("q", [0]) * self.nr_nodes
        s.stat = array("q", [0]) * (self.nr_cpus * NR_SLUB_STATS)
        s.hidden = array("i", [0]) * self.nr_nodes
        s.spare = NIL
        s.order_map = array("h")
        return 0

    @cython.ccall
    def open_cache(self, s: KmemCache) -> cython.void:
        """Kernel: calculate_sizes(), set_min_partial(), slub_set_cpu_partial() (MODEL 6.2-6.4)."""
        cache: SlubCache = cython.cast(SlubCache, s)
        align: cython.int = s.align
        if not self.merging:
            s.merge = False
        if s.flags & SLAB_HWCACHE_ALIGN:
            line: cython.int = 64
            while s.object_size <= line // 2:
                line //= 2
            align = max(align, line)
        s.align = (align + 7) & ~7
        size: cython.int = (s.object_size + self.word - 1) & -self.word
        s.inuse = size
        s.offset = (s.object_size // 2) & -self.word if self.pointer_in_middle else 0
        if s.ctor or s.flags & SLAB_TYPESAFE_BY_RCU:
            s.offset = size
            size += self.word
        if s.size == 0:
            s.size = (size + s.align - 1) // s.align * s.align
        if s.order < 0:
            s.order = calculate_order(s.size, self.min_objects, self.least_order, self.max_order, self.order_rule)
        s.objects = (PAGE_SIZE << s.order) // s.size
        s.min_order = min(s.order, get_order(s.size))
        s.min_objects = (PAGE_SIZE << s.min_order) // s.size
        if s.order > 0 or self.comp_always:
            s.allocflags |= GFP_BIT_COMP
        if s.flags & SLAB_CACHE_DMA:
            s.allocflags |= GFP_BIT_DMA
        if s.flags & SLAB_CACHE_DMA32:
            s.allocflags |= GFP_BIT_DMA32
        if s.flags & SLAB_RECLAIM_ACCOUNT:
            s.allocflags |= GFP_BIT_RECLAIMABLE
        cache.min_partial = min_partial_slabs(s.size) if self.set_min_partial < 0 else self.set_min_partial
        target: cython.int = cpu_partial_objects(s.size) if self.set_cpu_partial < 0 else self.set_cpu_partial
        cache.cpu_partial = target
        cache.cpu_partial_slabs = (2 * target + s.objects - 1) // s.objects  # compiled // rounds towards zero
        if not self.partial_lists:
            cache.cpu_partial = 0
            cache.cpu_partial_slabs = 0
        if self.freelist_random and s.objects > 1:
            cache.order_map = array("h", self.shuffled(s.objects))

    def shuffled(self, n: int) -> list[int]:
        """A random order of n object indexes from the model's own dice (MODEL 6.10)."""
        order = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.roll() % (i + 1)
            order[i], order[j] = order[j], order[i]
        return order

    @cython.cfunc
    @cython.exceptval(check=False)
    def roll(self) -> cython.longlong:
        """31 seeded pseudo-random bits (xorshift64)."""
        x: cython.ulonglong = self.dice
        x = (x ^ (x << 13)) & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 7
        x = (x ^ (x << 17)) & 0xFFFFFFFFFFFFFFFF
        self.dice = x
        return cython.cast(cython.longlong, x >> 33)

    @cython.cfunc
    @cython.exceptval(check=False)
    def list_lock(self, s: KmemCache, node: cython.int) -> cython.int:
        """Number of a cache's list_lock on a node; zone locks come first."""
        return self.nr_zones + s.index * self.nr_nodes + node

    @cython.cfunc
    @cython.exceptval(check=False)
    def count(self, s: SlubCache, cpu: cython.int, which: cython.int) -> cython.void:
        s.stat[cpu * NR_SLUB_STATS + which] += 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def add_partial(self, s: SlubCache, slab: cython.int, to_tail: cython.bint) -> cython.void:
        """Kernel: add_partial(); the caller holds the list_lock."""
        node: cython.int = self.sl_node[slab]
        if to_tail:
            self.list_add(slab, s.n_last[node], NIL)
            s.n_last[node] = slab
            if self.sl_prev[slab] == NIL:
                s.n_first[node] = slab
        else:
            self.list_add(slab, NIL, s.n_first[node])
            s.n_first[node] = slab
            if self.sl_next[slab] == NIL:
                s.n_last[node] = slab
        self.sl_listed[slab] = 1
        s.nr_partial[node] += 1
        s.partial_free[node] += self.sl_objects[slab] - self.sl_inuse[slab]

    @cython.cfunc
    @cython.exceptval(check=False)
    def remove_partial(self, s: SlubCache, slab: cython.int) -> cython.void:
        """Kernel: remove_partial()."""
        node: cython.int = self.sl_node[slab]
        self.list_del(slab)
        if self.sl_prev[slab] == NIL:
            s.n_first[node] = self.sl_next[slab]
        if self.sl_next[slab] == NIL:
            s.n_last[node] = self.sl_prev[slab]
        self.sl_listed[slab] = 0
        s.nr_partial[node] -= 1
        s.partial_free[node] -= self.sl_objects[slab] - self.sl_inuse[slab]

    @cython.ccall
    def build_slab(self, s: KmemCache, pfn: cython.int, order: cython.int, node: cython.int) -> cython.int:
        """Register the pages of a new slab: full, not frozen, on no list; its row."""
        cache: SlubCache = cython.cast(SlubCache, s)
        row: cython.int = self.new_row(cache)
        p: cython.int
        at: cython.longlong
        self.sl_pfn[row] = pfn
        self.sl_order[row] = order
        self.sl_objects[row] = s.objects if order == s.order else (PAGE_SIZE << order) // s.size
        self.sl_inuse[row] = self.sl_objects[row]
        self.sl_frozen[row] = 0
        self.sl_free[row] = OBJ_END
        self.sl_next[row] = NIL
        self.sl_prev[row] = NIL
        self.sl_slabs[row] = 0
        self.sl_node[row] = node
        self.sl_listed[row] = 0
        self.sl_cpu[row] = NIL
        self.frames.kind[pfn] = PAGE_USED
        self.frames.order[pfn] = order
        for p in range(pfn, pfn + (1 << order)):
            self.frames.slab[p] = row
        for at in range(self.sl_seg[row], self.sl_seg[row] + self.sl_objects[row]):
            self.obj_next[at] = OBJ_LIVE
        cache.nr_slabs[node] += 1
        cache.total_objects[node] += self.sl_objects[row]
        self.account_slab_pages(pfn, 1 << order)
        return row

    @cython.cfunc
    @cython.exceptval(check=False)
    def link_objects(self, s: SlubCache, slab: cython.int) -> cython.void:
        """Kernel: new slab's freelist: ascending addresses, or the cache's permutation from a random start."""
        n: cython.int = self.sl_objects[slab]
        seg: cython.longlong = self.sl_seg[slab]
        i: cython.int
        if len(s.order_map) == 0:
            for i in range(n - 1):
                self.obj_next[seg + i] = i + 1
            self.obj_next[seg + n - 1] = OBJ_END
            self.sl_free[slab] = 0
        else:
            total: cython.int = len(s.order_map)
            at: cython.int = cython.cast(cython.int, self.roll() % total)
            before: cython.int = OBJ_END
            for i in range(total):
                idx: cython.int = s.order_map[(at + i) % total]
                if idx < n:
                    self.obj_next[seg + idx] = before
                    before = idx
            self.sl_free[slab] = before
        self.sl_inuse[slab] = 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def discard_slab(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """
        Kernel: discard_slab(): its pages go back to the page allocator.

        Departs: pages of TYPESAFE_BY_RCU caches go at once, not after a grace period
        """
        pfn: cython.int = self.sl_pfn[slab]
        order: cython.int = self.sl_order[slab]
        node: cython.int = self.sl_node[slab]
        s.nr_slabs[node] -= 1
        s.total_objects[node] -= self.sl_objects[slab]
        self.spare_row(s, slab, order)
        self.account_slab_pages(pfn, -(1 << order))
        self.pages.free_pages(pfn, order, cpu)

    @cython.ccall
    def hide_slabs(self, s: KmemCache, node: cython.int, slabs: cython.int) -> cython.void:
        """Count full slabs whose place is not known."""
        cache: SlubCache = cython.cast(SlubCache, s)
        cache.hidden[node] += slabs
        cache.nr_slabs[node] += slabs
        cache.total_objects[node] += slabs * s.objects
        cache.live += slabs * s.objects
        self.account_hidden(node, slabs << s.order)

    @cython.ccall
    @cython.exceptval(check=False)
    def reveal_slab(self, s: KmemCache, pfn: cython.int, order: cython.int, node: cython.int) -> cython.void:
        cache: SlubCache = cython.cast(SlubCache, s)
        slab: cython.int = self.build_slab(s, pfn, order, node)
        if cache.hidden[node] > 0:
            cache.hidden[node] -= 1
            cache.nr_slabs[node] -= 1
            cache.total_objects[node] -= self.sl_objects[slab]
            self.account_hidden(node, -(1 << order))
        else:
            # More slabs than the starting state counted: all of them hold only live objects.
            cache.live += self.sl_objects[slab]

    @cython.ccall
    def is_live(self, addr: cython.longlong) -> cython.bint:
        slab: cython.int = self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]
        if slab == NIL:
            return False
        s: KmemCache = self.caches[self.sl_cache[slab]]
        offset: cython.longlong = addr - (cython.cast(cython.longlong, self.sl_pfn[slab]) << PAGE_SHIFT)
        idx: cython.longlong = offset // s.size
        return (
            offset % s.size == 0
            and idx < self.sl_objects[slab]
            and self.obj_next[self.sl_seg[slab] + idx] == OBJ_LIVE
        )

    def nr_locks(self) -> int:
        return len(self.caches) * self.nr_nodes

    def lock_name(self, lock: int) -> str:
        cache, node = divmod(lock, self.nr_nodes)
        return f"list_lock {self.caches[cache].name} N{node}"

    def reset_statistics(self) -> None:
        for cache in self.caches:
            for i in range(len(cache.stat)):
                cache.stat[i] = 0
