"""
SLUB as in Linux 6.1 (MODEL 6, EXACT C).

A slab is a row in typed arrays (``sl_*``); its objects are linked by index in ``obj_next`` from
``sl_seg[slab]`` on. Per CPU and cache there is one cpu slab with a private freelist, and a list of
partial slabs; per node a list of partial slabs under ``list_lock``. Full slabs are on no list.
"""

from __future__ import annotations

from array import array

import cython

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
    GFP_BIT_DIRECT_RECLAIM,
    GFP_BIT_DMA,
    GFP_BIT_DMA32,
    GFP_BIT_NOFAIL,
    GFP_BIT_NOMEMALLOC,
    GFP_BIT_NORETRY,
    GFP_BIT_NOWARN,
    GFP_BIT_RECLAIMABLE,
    GFP_RECLAIM,
    GFP_SLAB_KEEPS,
)
from memtrace.mm.mmzone import Zone
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.paths import (
    COST_SLUB_COLD,
    COST_SLUB_CPU_PARTIAL,
    COST_SLUB_FAST,
    COST_SLUB_FREE_SLOW,
    COST_SLUB_NEW_SLAB,
    COST_SLUB_NODE,
    COST_SLUB_REFILL,
    PATH_ALLOC_CPU_PARTIAL,
    PATH_ALLOC_FAILED,
    PATH_ALLOC_FAST,
    PATH_ALLOC_NEW_SLAB,
    PATH_ALLOC_NODE_PARTIAL,
    PATH_ALLOC_REFILL,
    PATH_FREE_CPU_PARTIAL,
    PATH_FREE_CPU_PARTIAL_DRAIN,
    PATH_FREE_DISCARD,
    PATH_FREE_FAST,
    PATH_FREE_NODE_PARTIAL,
    PATH_FREE_SLOW,
)
from memtrace.mm.slab_common import KmemCache, SlabAllocator, get_order
from memtrace.mm.slub_geometry import calculate_order, cpu_partial_objects, min_partial_slabs
from memtrace.mm.stats import (
    ALLOC_FASTPATH,
    ALLOC_FROM_PARTIAL,
    ALLOC_NODE_MISMATCH,
    ALLOC_REFILL,
    ALLOC_SLAB,
    ALLOC_SLOWPATH,
    CPU_PARTIAL_ALLOC,
    CPU_PARTIAL_DRAIN,
    CPU_PARTIAL_FREE,
    CPU_PARTIAL_NODE,
    CPUSLAB_FLUSH,
    DEACTIVATE_BYPASS,
    DEACTIVATE_EMPTY,
    DEACTIVATE_FULL,
    DEACTIVATE_REMOTE_FREES,
    DEACTIVATE_TO_HEAD,
    DEACTIVATE_TO_TAIL,
    FREE_ADD_PARTIAL,
    FREE_FASTPATH,
    FREE_FROZEN,
    FREE_REMOVE_PARTIAL,
    FREE_SLAB,
    FREE_SLOWPATH,
    NR_SLUB_STATS,
    ORDER_FALLBACK,
)


@cython.cclass
class SlubCache(KmemCache):
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
    spare: cython.int
    """First of the cache's unused slab rows, linked through sl_next."""
    order_map: cython.short[:]
    """Random permutation of object indexes (SLAB_FREELIST_RANDOM), or of length 0."""


@cython.cclass
class Slub(SlabAllocator):
    """The SLUB allocator."""

    nr_zones: cython.int
    min_objects: cython.int
    max_order: cython.int
    least_order: cython.int
    set_cpu_partial: cython.int
    set_min_partial: cython.int
    defrag_ratio: cython.int
    freelist_random: cython.bint
    dice: cython.ulonglong
    nr_rows: cython.int
    row_room: cython.int
    objects_used: cython.longlong
    object_room: cython.longlong
    sl_pfn: cython.int[:]
    sl_cache: cython.int[:]
    sl_order: cython.int[:]
    sl_objects: cython.int[:]
    sl_inuse: cython.int[:]
    sl_frozen: cython.int[:]
    sl_free: cython.int[:]
    sl_next: cython.int[:]
    sl_prev: cython.int[:]
    sl_slabs: cython.int[:]
    sl_node: cython.int[:]
    sl_listed: cython.int[:]
    sl_cpu: cython.int[:]
    sl_seg: cython.longlong[:]
    obj_next: cython.short[:]

    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint,
        params: object, seed: cython.int,
    ) -> None:
        SlabAllocator.__init__(self, pages, nr_cpus, nr_nodes, memcg)
        self.nr_zones = len(pages.zones)
        self.min_objects = params.min_objects or 4 * (nr_cpus.bit_length() + 1)
        self.max_order = params.max_order
        self.least_order = params.min_order
        self.set_cpu_partial = params.cpu_partial
        self.set_min_partial = params.min_partial
        self.defrag_ratio = params.remote_node_defrag_ratio
        self.freelist_random = params.freelist_random
        self.dice = 0x9E3779B97F4A7C15 + seed
        self.nr_rows = 0
        self.row_room = 0
        self.objects_used = 0
        self.object_room = 0
        self.sl_pfn = array("i")
        self.sl_cache = array("i")
        self.sl_order = array("i")
        self.sl_objects = array("i")
        self.sl_inuse = array("i")
        self.sl_frozen = array("i")
        self.sl_free = array("i")
        self.sl_next = array("i")
        self.sl_prev = array("i")
        self.sl_slabs = array("i")
        self.sl_node = array("i")
        self.sl_listed = array("i")
        self.sl_cpu = array("i")
        self.sl_seg = array("q")
        self.obj_next = array("h")
        self.grow_rows(1024)
        self.grow_objects(65536)

    # -- storage ----------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def grow_rows(self, room: cython.int) -> cython.void:
        """Make room for more slabs."""
        extra: cython.int = room - self.row_room
        self.sl_pfn = longer(self.sl_pfn, "i", extra)
        self.sl_cache = longer(self.sl_cache, "i", extra)
        self.sl_order = longer(self.sl_order, "i", extra)
        self.sl_objects = longer(self.sl_objects, "i", extra)
        self.sl_inuse = longer(self.sl_inuse, "i", extra)
        self.sl_frozen = longer(self.sl_frozen, "i", extra)
        self.sl_free = longer(self.sl_free, "i", extra)
        self.sl_next = longer(self.sl_next, "i", extra)
        self.sl_prev = longer(self.sl_prev, "i", extra)
        self.sl_slabs = longer(self.sl_slabs, "i", extra)
        self.sl_node = longer(self.sl_node, "i", extra)
        self.sl_listed = longer(self.sl_listed, "i", extra)
        self.sl_cpu = longer(self.sl_cpu, "i", extra)
        self.sl_seg = longer(self.sl_seg, "q", extra)
        self.row_room = room

    @cython.cfunc
    @cython.exceptval(check=False)
    def grow_objects(self, room: cython.longlong) -> cython.void:
        """Make room for more objects."""
        self.obj_next = longer(self.obj_next, "h", room - self.object_room)
        self.object_room = room

    @cython.cfunc
    def new_row(self, s: SlubCache) -> cython.int:
        """A slab row with room for the cache's objects: a spare one, or a new one."""
        row: cython.int = s.spare
        if row != NIL:
            s.spare = self.sl_next[row]
            return row
        row = self.nr_rows
        if row == self.row_room:
            self.grow_rows(2 * self.row_room)
        if self.objects_used + s.objects > self.object_room:
            self.grow_objects(2 * self.object_room + s.objects)
        self.sl_seg[row] = self.objects_used
        self.sl_cache[row] = s.index
        self.objects_used += s.objects
        self.nr_rows += 1
        return row

    # -- caches -----------------------------------------------------------------------------------

    @cython.ccall
    def new_cache(self, index: cython.int, name: str) -> KmemCache:
        s: SlubCache = SlubCache(index, name)
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
        return s

    @cython.ccall
    def open_cache(self, s: KmemCache) -> cython.void:
        """Kernel: calculate_sizes(), set_min_partial(), slub_set_cpu_partial() (MODEL 6.2-6.4)."""
        cache: SlubCache = s
        align: cython.int = s.align
        if s.flags & SLAB_HWCACHE_ALIGN:
            line: cython.int = 64
            while s.object_size <= line // 2:
                line //= 2
            align = max(align, line)
        s.align = (align + 7) & ~7
        size: cython.int = (s.object_size + 7) & ~7
        s.inuse = size
        s.offset = (s.object_size // 2) & ~7
        if s.ctor or s.flags & SLAB_TYPESAFE_BY_RCU:
            s.offset = size
            size += 8
        if s.size == 0:
            s.size = (size + s.align - 1) // s.align * s.align
        if s.order < 0:
            s.order = calculate_order(s.size, self.min_objects, self.least_order, self.max_order)
        s.objects = (PAGE_SIZE << s.order) // s.size
        s.min_order = min(s.order, get_order(s.size))
        s.min_objects = (PAGE_SIZE << s.min_order) // s.size
        if s.order > 0:
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
        cache.cpu_partial_slabs = -(-2 * target // s.objects)
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

    # -- node partial lists -----------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def add_partial(self, s: SlubCache, slab: cython.int, to_tail: cython.bint) -> cython.void:
        """Kernel: add_partial(); the caller holds the list_lock."""
        node: cython.int = self.sl_node[slab]
        other: cython.int
        if to_tail:
            other = s.n_last[node]
            self.sl_prev[slab] = other
            self.sl_next[slab] = NIL
            s.n_last[node] = slab
            if other == NIL:
                s.n_first[node] = slab
            else:
                self.sl_next[other] = slab
        else:
            other = s.n_first[node]
            self.sl_next[slab] = other
            self.sl_prev[slab] = NIL
            s.n_first[node] = slab
            if other == NIL:
                s.n_last[node] = slab
            else:
                self.sl_prev[other] = slab
        self.sl_listed[slab] = 1
        s.nr_partial[node] += 1
        s.partial_free[node] += self.sl_objects[slab] - self.sl_inuse[slab]

    @cython.cfunc
    @cython.exceptval(check=False)
    def remove_partial(self, s: SlubCache, slab: cython.int) -> cython.void:
        """Kernel: remove_partial()."""
        node: cython.int = self.sl_node[slab]
        before: cython.int = self.sl_prev[slab]
        after: cython.int = self.sl_next[slab]
        if before == NIL:
            s.n_first[node] = after
        else:
            self.sl_next[before] = after
        if after == NIL:
            s.n_last[node] = before
        else:
            self.sl_prev[after] = before
        self.sl_listed[slab] = 0
        s.nr_partial[node] -= 1
        s.partial_free[node] -= self.sl_objects[slab] - self.sl_inuse[slab]

    # -- allocation -------------------------------------------------------------------------------

    @cython.ccall
    def slab_alloc(
        self, s: KmemCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: slab_alloc_node() (MODEL 6.5)."""
        cache: SlubCache = s
        idx: cython.int = cache.c_freelist[cpu]
        slab: cython.int = cache.c_slab[cpu]
        if idx >= 0 and (node < 0 or self.sl_node[slab] == node):
            cache.stat[cpu * NR_SLUB_STATS + ALLOC_FASTPATH] += 1
            self.it.path = PATH_ALLOC_FAST
            self.it.step(COST_SLUB_FAST, 1)
        else:
            idx = self.slab_alloc_slow(cache, gfp, node, cpu)
            if idx < 0:
                self.it.path = PATH_ALLOC_FAILED
                return 0
            slab = cache.c_slab[cpu]
        return self.take(cache, slab, idx, cpu)

    @cython.cfunc
    @cython.exceptval(check=False)
    def take(self, s: SlubCache, slab: cython.int, idx: cython.int, cpu: cython.int) -> cython.longlong:
        """Hand out object ``idx``, the head of the CPU's freelist; its address."""
        at: cython.longlong = self.sl_seg[slab] + idx
        s.c_freelist[cpu] = self.obj_next[at]
        self.obj_next[at] = OBJ_LIVE
        s.live += 1
        return (cython.cast(cython.longlong, self.sl_pfn[slab]) << PAGE_SHIFT) + cython.cast(
            cython.longlong, idx
        ) * s.size

    @cython.cfunc
    def slab_alloc_slow(
        self, s: SlubCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.int:
        """
        Find the CPU a slab with free objects; index of the first one, or -1 when memory is short.

        Kernel: ___slab_alloc(), 6.1 (MODEL 6.6, stages A-I)
        Departs: the request stays on its CPU; nothing happens between its stages
        """
        slab: cython.int
        idx: cython.int
        path: cython.int = PATH_ALLOC_REFILL
        self.count(s, cpu, ALLOC_SLOWPATH)
        while True:
            slab = s.c_slab[cpu]
            if slab != NIL:
                if node >= 0 and self.sl_node[slab] != node:
                    self.count(s, cpu, ALLOC_NODE_MISMATCH)
                    self.flush_cpu_slab(s, cpu, cpu)
                else:
                    idx = s.c_freelist[cpu]
                    if idx < 0:
                        idx = self.get_freelist(s, slab, cpu)
                    if idx >= 0:
                        self.it.path = path
                        return idx
            if s.c_partial[cpu] != NIL:
                slab = s.c_partial[cpu]
                s.c_partial[cpu] = self.sl_next[slab]
                s.c_slab[cpu] = slab
                self.count(s, cpu, CPU_PARTIAL_ALLOC)
                self.it.step(COST_SLUB_CPU_PARTIAL, 1)
                path = PATH_ALLOC_CPU_PARTIAL
                continue
            break
        slab = self.get_partial(s, node, cpu)
        if slab != NIL:
            self.it.path = PATH_ALLOC_NODE_PARTIAL
        else:
            slab = self.new_slab(s, gfp, node, cpu)
            if slab == NIL:
                return NIL
            self.it.path = PATH_ALLOC_NEW_SLAB
        idx = self.sl_free[slab]
        self.sl_free[slab] = OBJ_END
        self.sl_inuse[slab] = self.sl_objects[slab]
        self.sl_frozen[slab] = 1
        s.c_slab[cpu] = slab
        s.c_freelist[cpu] = idx
        return idx

    @cython.cfunc
    def get_freelist(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.int:
        """Kernel: get_freelist(): what others freed to the CPU's slab; else the slab is full and forgotten."""
        idx: cython.int = self.sl_free[slab]
        self.it.step(COST_SLUB_REFILL, 1)
        self.sl_cpu[slab] = cpu
        if idx < 0:
            self.sl_frozen[slab] = 0
            s.c_slab[cpu] = NIL
            self.count(s, cpu, DEACTIVATE_BYPASS)
            return NIL
        self.sl_free[slab] = OBJ_END
        self.sl_inuse[slab] = self.sl_objects[slab]
        s.c_freelist[cpu] = idx
        self.count(s, cpu, ALLOC_REFILL)
        return idx

    @cython.cfunc
    def get_partial(self, s: SlubCache, node: cython.int, cpu: cython.int) -> cython.int:
        """Kernel: get_partial(): a slab from the wanted node's list, else by chance from another's (6.6 F, G)."""
        zone: Zone
        here: cython.int = node if node >= 0 else self.pages.cpu_node[cpu]
        slab: cython.int = self.get_partial_node(s, here, cpu)
        if slab != NIL or node >= 0 or self.nr_nodes == 1:
            return slab
        if self.defrag_ratio == 0 or self.roll() % 1024 > self.defrag_ratio:
            return NIL
        for zone in self.pages.zonelists[here]:
            if s.nr_partial[zone.node] > s.min_partial:
                slab = self.get_partial_node(s, zone.node, cpu)
                if slab != NIL:
                    return slab
        return NIL

    @cython.cfunc
    def get_partial_node(self, s: SlubCache, node: cython.int, cpu: cython.int) -> cython.int:
        """Kernel: get_partial_node(): the first slab, and some more for the CPU's partial list; or NIL."""
        first: cython.int = s.n_first[node]
        extra: cython.int = 0
        if first == NIL:
            return NIL
        self.remove_partial(s, first)
        self.sl_cpu[first] = cpu
        self.count(s, cpu, ALLOC_FROM_PARTIAL)
        while s.n_first[node] != NIL:
            slab: cython.int = s.n_first[node]
            self.remove_partial(s, slab)
            self.sl_frozen[slab] = 1
            self.sl_cpu[slab] = cpu
            self.push_cpu_partial(s, slab, cpu)
            self.count(s, cpu, CPU_PARTIAL_NODE)
            extra += 1
            if extra > s.cpu_partial_slabs // 2:
                break
        self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, 1 + extra)
        return first

    @cython.cfunc
    @cython.exceptval(check=False)
    def push_cpu_partial(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Put a frozen slab in front of the CPU's partial list; the head knows the list's length."""
        old: cython.int = s.c_partial[cpu]
        self.sl_slabs[slab] = 1 + (self.sl_slabs[old] if old != NIL else 0)
        self.sl_next[slab] = old
        s.c_partial[cpu] = slab

    @cython.cfunc
    def new_slab(self, s: SlubCache, gfp: cython.longlong, node: cython.int, cpu: cython.int) -> cython.int:
        """Kernel: allocate_slab(): a slab of the preferred order, else of the smallest; or NIL (12.5)."""
        order: cython.int = s.order
        flags: cython.longlong = (gfp & GFP_SLAB_KEEPS) | s.allocflags
        first: cython.longlong = (flags | GFP_BIT_NOWARN | GFP_BIT_NORETRY) & ~GFP_BIT_NOFAIL
        if flags & GFP_BIT_DIRECT_RECLAIM and s.order > s.min_order:
            first = (first | GFP_BIT_NOMEMALLOC) & ~GFP_RECLAIM
        pfn: cython.int = self.pages.alloc_pages(first, order, node, cpu)
        if pfn == NIL:
            order = s.min_order
            pfn = self.pages.alloc_pages(flags, order, node, cpu)
            if pfn == NIL:
                return NIL
            self.count(s, cpu, ORDER_FALLBACK)
        zone: Zone = self.pages.zones[self.pages.last_zone]
        slab: cython.int = self.build_slab(s, pfn, order, zone.node)
        self.link_objects(s, slab)
        self.sl_cpu[slab] = cpu
        self.count(s, cpu, ALLOC_SLAB)
        self.it.step(COST_SLUB_NEW_SLAB, self.sl_objects[slab])
        return slab

    @cython.ccall
    def build_slab(self, s: KmemCache, pfn: cython.int, order: cython.int, node: cython.int) -> cython.int:
        """Register the pages of a new slab: full, not frozen, on no list; its row."""
        cache: SlubCache = s
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

    @cython.ccall
    @cython.exceptval(check=False)
    def reveal_slab(self, s: KmemCache, pfn: cython.int, order: cython.int, node: cython.int) -> cython.void:
        cache: SlubCache = s
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
    def hide_slabs(self, s: KmemCache, node: cython.int, slabs: cython.int) -> cython.void:
        """Count full slabs whose place is not known."""
        cache: SlubCache = s
        cache.hidden[node] += slabs
        cache.nr_slabs[node] += slabs
        cache.total_objects[node] += slabs * s.objects
        cache.live += slabs * s.objects
        self.account_hidden(node, slabs << s.order)

    @cython.cfunc
    def account_hidden(self, node: cython.int, pages: cython.int) -> cython.int:
        """Pages of slabs without a place count in the highest zone of their node that slabs may use."""
        zone: Zone
        for zone in self.pages.local_zonelists[node]:
            if zone.zone_idx <= self.pages.gfp_zone[0]:
                zone.slab_pages += pages
                return 0
        return 0

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

    @cython.ccall
    def cache_of(self, addr: cython.longlong) -> KmemCache:
        return self.caches[self.sl_cache[self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]]]

    def reset_statistics(self) -> None:
        for cache in self.caches:
            for i in range(len(cache.stat)):
                cache.stat[i] = 0

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

    # -- free -------------------------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(check=False)
    def slab_free(self, slab: cython.int, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Kernel: slab_free() (MODEL 6.5, 6.7)."""
        s: SlubCache = self.caches[self.sl_cache[slab]]
        # 32 bits suffice within a slab, and divide several times faster.
        offset: cython.uint = addr - (cython.cast(cython.longlong, self.sl_pfn[slab]) << PAGE_SHIFT)
        idx: cython.int = offset // cython.cast(cython.uint, s.size)
        at: cython.longlong = self.sl_seg[slab] + idx
        self.last_cache = s.index
        self.last_bytes = s.size
        if idx >= self.sl_objects[slab] or self.obj_next[at] != OBJ_LIVE:
            self.bad_frees += 1
            return
        s.live -= 1
        if slab == s.c_slab[cpu]:
            self.obj_next[at] = s.c_freelist[cpu]
            s.c_freelist[cpu] = idx
            s.stat[cpu * NR_SLUB_STATS + FREE_FASTPATH] += 1
            self.it.path = PATH_FREE_FAST
            self.it.step(COST_SLUB_FAST, 1)
            return
        self.slab_free_slow(s, slab, idx, idx, 1, cpu)

    @cython.cfunc
    @cython.exceptval(check=False)
    def slab_free_slow(
        self, s: SlubCache, slab: cython.int, head: cython.int, tail: cython.int, n: cython.int, cpu: cython.int
    ) -> cython.void:
        """
        Free a chain of n objects to a slab that is not this CPU's.

        Kernel: __slab_free(), 6.1 (MODEL 6.7, all four rows)
        """
        prior: cython.int = self.sl_free[slab]
        self.count(s, cpu, FREE_SLOWPATH)
        self.it.path = PATH_FREE_SLOW
        self.it.step(COST_SLUB_FREE_SLOW, 1)
        if self.sl_cpu[slab] != cpu:
            self.it.step(COST_SLUB_COLD, 1)
            self.sl_cpu[slab] = cpu
        self.obj_next[self.sl_seg[slab] + tail] = prior
        self.sl_free[slab] = head
        self.sl_inuse[slab] -= n
        if self.sl_listed[slab]:
            s.partial_free[self.sl_node[slab]] += n
        if self.sl_frozen[slab]:
            self.count(s, cpu, FREE_FROZEN)
            return
        if prior < 0:
            self.sl_frozen[slab] = 1
            self.put_cpu_partial(s, slab, cpu)
            return
        if self.sl_inuse[slab] > 0:
            return
        node: cython.int = self.sl_node[slab]
        self.it.path = PATH_FREE_NODE_PARTIAL
        if s.nr_partial[node] < s.min_partial:
            self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, 0)
            return
        self.remove_partial(s, slab)
        self.count(s, cpu, FREE_REMOVE_PARTIAL)
        self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, 1)
        self.count(s, cpu, FREE_SLAB)
        self.discard_slab(s, slab, cpu)
        self.it.path = PATH_FREE_DISCARD

    @cython.cfunc
    @cython.exceptval(check=False)
    def put_cpu_partial(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: put_cpu_partial() with drain: a list that is long enough goes to the node first."""
        old: cython.int = s.c_partial[cpu]
        self.it.path = PATH_FREE_CPU_PARTIAL
        self.it.step(COST_SLUB_CPU_PARTIAL, 1)
        if old != NIL and self.sl_slabs[old] >= s.cpu_partial_slabs:
            s.c_partial[cpu] = NIL
            self.push_cpu_partial(s, slab, cpu)
            self.unfreeze_partials(s, old, cpu)
            self.count(s, cpu, CPU_PARTIAL_DRAIN)
            self.it.path = PATH_FREE_CPU_PARTIAL_DRAIN
        else:
            self.push_cpu_partial(s, slab, cpu)
        self.count(s, cpu, CPU_PARTIAL_FREE)

    @cython.cfunc
    @cython.exceptval(check=False)
    def unfreeze_partials(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: __unfreeze_partials(): a CPU's list to the node lists; surplus empty slabs are discarded."""
        discard: cython.int = NIL
        node: cython.int = NIL
        moved: cython.int = 0
        while slab != NIL:
            after: cython.int = self.sl_next[slab]
            if self.sl_node[slab] != node:
                if moved:
                    self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, moved)
                node = self.sl_node[slab]
                moved = 0
            moved += 1
            self.sl_frozen[slab] = 0
            if self.sl_inuse[slab] == 0 and s.nr_partial[node] >= s.min_partial:
                self.sl_next[slab] = discard
                discard = slab
            else:
                self.add_partial(s, slab, True)
                self.count(s, cpu, FREE_ADD_PARTIAL)
            slab = after
        if moved:
            self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, moved)
        while discard != NIL:
            after = self.sl_next[discard]
            self.count(s, cpu, DEACTIVATE_EMPTY)
            self.count(s, cpu, FREE_SLAB)
            self.discard_slab(s, discard, cpu)
            discard = after

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
        p: cython.int
        s.nr_slabs[node] -= 1
        s.total_objects[node] -= self.sl_objects[slab]
        for p in range(pfn, pfn + (1 << order)):
            self.frames.slab[p] = NIL
        self.account_slab_pages(pfn, -(1 << order))
        self.sl_pfn[slab] = NIL
        self.sl_next[slab] = s.spare
        s.spare = slab
        self.pages.free_pages(pfn, order, cpu)

    @cython.cfunc
    @cython.exceptval(check=False)
    def flush_cpu_slab(self, s: SlubCache, owner: cython.int, cpu: cython.int) -> cython.void:
        """
        Take the cpu slab of CPU ``owner`` away; counted on ``cpu``.

        Kernel: deactivate_slab(), 6.1 (MODEL 6.8)
        """
        slab: cython.int = s.c_slab[owner]
        idx: cython.int = s.c_freelist[owner]
        seg: cython.longlong = self.sl_seg[slab]
        to_tail: cython.bint = False
        s.c_slab[owner] = NIL
        s.c_freelist[owner] = OBJ_END
        if self.sl_free[slab] >= 0:
            self.count(s, cpu, DEACTIVATE_REMOTE_FREES)
            to_tail = True
        if idx >= 0:
            # The CPU's freelist goes in front of what others freed.
            last: cython.int = idx
            n: cython.int = 1
            while self.obj_next[seg + last] >= 0:
                last = self.obj_next[seg + last]
                n += 1
            self.obj_next[seg + last] = self.sl_free[slab]
            self.sl_free[slab] = idx
            self.sl_inuse[slab] -= n
        self.sl_frozen[slab] = 0
        node: cython.int = self.sl_node[slab]
        if self.sl_inuse[slab] == 0 and s.nr_partial[node] >= s.min_partial:
            self.count(s, cpu, DEACTIVATE_EMPTY)
            self.count(s, cpu, FREE_SLAB)
            self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, 0)
            self.discard_slab(s, slab, cpu)
        elif self.sl_free[slab] >= 0:
            self.add_partial(s, slab, to_tail)
            self.count(s, cpu, DEACTIVATE_TO_TAIL if to_tail else DEACTIVATE_TO_HEAD)
            self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, 1)
        else:
            self.count(s, cpu, DEACTIVATE_FULL)

    @cython.ccall
    @cython.exceptval(check=False)
    def flush_all(self, index: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: flush_all(): every CPU's slab and partial list of one cache, to the nodes (MODEL 6.12)."""
        s: SlubCache = self.caches[index]
        owner: cython.int
        for owner in range(self.nr_cpus):
            if s.c_slab[owner] != NIL:
                self.count(s, cpu, CPUSLAB_FLUSH)
                self.flush_cpu_slab(s, owner, cpu)
            if s.c_partial[owner] != NIL:
                slab: cython.int = s.c_partial[owner]
                s.c_partial[owner] = NIL
                self.unfreeze_partials(s, slab, cpu)

    # -- bulk -------------------------------------------------------------------------------------

    @cython.ccall
    def bulk_alloc_one(self, s: KmemCache, gfp: cython.longlong, cpu: cython.int) -> cython.longlong:
        """
        One object of a kmem_cache_alloc_bulk() (MODEL 6.12, EXACT C5).

        Taking from the CPU's freelist counts nothing; a refill counts as one slow allocation.
        """
        cache: SlubCache = s
        idx: cython.int = cache.c_freelist[cpu]
        if idx >= 0:
            self.it.path = PATH_ALLOC_FAST
            self.it.step(COST_SLUB_FAST, 1)
        else:
            idx = self.slab_alloc_slow(cache, gfp, NIL, cpu)
            if idx < 0:
                self.it.path = PATH_ALLOC_FAILED
                return 0
        self.last_cache = s.index
        self.last_bytes = s.size
        return self.take(cache, cache.c_slab[cpu], idx, cpu)

    @cython.ccall
    @cython.exceptval(check=False)
    def bulk_free(self, addrs: cython.longlong[:], n: cython.int, cpu: cython.int) -> cython.void:
        """
        Kernel: kmem_cache_free_bulk(), 6.1 (MODEL 6.12, EXACT C1, C5).

        The array is grouped by slab from its end, looking past at most three objects of other slabs; each
        group is one operation, and its object nearest to the array's end is on top afterwards.
        ``addrs`` is overwritten.
        """
        last: cython.int = n - 1
        while last >= 0:
            addr: cython.longlong = addrs[last]
            slab: cython.int = NIL
            if addr > 16:
                slab = self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]
            if slab == NIL:
                if addr > 16:
                    self.kfree(addr, cpu)
                last -= 1
                continue
            last = self.free_group(addrs, last, slab, cpu)

    @cython.cfunc
    def free_group(
        self, addrs: cython.longlong[:], last: cython.int, slab: cython.int, cpu: cython.int
    ) -> cython.int:
        """Free the objects of one slab found from ``addrs[last]`` backwards; where to go on."""
        s: SlubCache = self.caches[self.sl_cache[slab]]
        base: cython.longlong = cython.cast(cython.longlong, self.sl_pfn[slab]) << PAGE_SHIFT
        seg: cython.longlong = self.sl_seg[slab]
        i: cython.int = last
        head: cython.int = OBJ_END
        tail: cython.int = OBJ_END
        n: cython.int = 0
        missed: cython.int = 0
        resume: cython.int = -1
        while i >= 0:
            addr: cython.longlong = addrs[i]
            if addr > 16 and self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)] == slab:
                idx: cython.int = cython.cast(cython.int, (addr - base) // s.size)
                addrs[i] = 0
                if idx >= self.sl_objects[slab] or self.obj_next[seg + idx] != OBJ_LIVE:
                    self.bad_frees += 1
                else:
                    # Walking towards the array's front, each object goes below the ones before it.
                    if head == OBJ_END:
                        head = idx
                    else:
                        self.obj_next[seg + tail] = idx
                    self.obj_next[seg + idx] = OBJ_END
                    tail = idx
                    n += 1
            elif addr != 0:
                if resume < 0:
                    resume = i
                missed += 1
                if missed == 3:
                    break
            i -= 1
        self.last_cache = s.index
        self.last_bytes = s.size
        if n == 0:
            return resume
        s.live -= n
        if slab == s.c_slab[cpu]:
            self.obj_next[seg + tail] = s.c_freelist[cpu]
            s.c_freelist[cpu] = head
            self.count(s, cpu, FREE_FASTPATH)
            self.it.path = PATH_FREE_FAST
            self.it.step(COST_SLUB_FAST, 1)
        else:
            self.slab_free_slow(s, slab, head, tail, n, cpu)
        return resume


def longer(old: object, typecode: str, extra: int) -> array:
    """A copy of a typed array, longer by ``extra`` zeros."""
    grown = array(typecode)
    grown.frombytes(memoryview(old).tobytes())
    grown.extend(array(typecode, [0]) * extra)
    return grown
