"""
SLAB's storage: caches, their arrays and nodes, slabs and the three lists of a node (MODEL 7.1, 7.2, 7.6).

A slab is a row in typed arrays (``sl_*``). Its objects have a state each in ``obj_state``, and its free ones are a
stack of indexes in ``obj_index``, both from ``sl_seg[slab]`` on: slot ``active`` is the next one to be handed out.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.config import SlabParams
from memtrace.mm.constants import (
    NIL,
    OBJECT_FREE,
    OBJECT_LIVE,
    PAGE_SHIFT,
    PAGE_USED,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_HWCACHE_ALIGN,
    SLAB_NOLEAKTRACE,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
    SLABS_FREE,
    SLABS_FULL,
    SLABS_NONE,
    SLABS_PARTIAL,
    ZERO_SIZE_PTR,
)
from memtrace.mm.gfp import GFP_BIT_COMP, GFP_BIT_DMA, GFP_BIT_DMA32, GFP_BIT_RECLAIMABLE
from memtrace.mm.kmem_cache import KmemCache
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.slab_common import SlabAllocator
from memtrace.mm.slab_geometry import (
    CACHE_LINE,
    SLAB_OBJ_MIN_SIZE,
    array_limit,
    free_limit,
    geometry,
    is_early,
    shared_factor,
    stride,
)
from memtrace.mm.slab_rows import RowCache, SlabRows, longer
from memtrace.mm.stats import NR_SLAB_STATS

ALIEN_LIMIT = 12
NO_BATCH = 0  # shared and alien arrays have none


@cython.cclass
class ArrayCache:
    """A stack of free objects by address (struct array_cache); the next to be handed out is the last."""

    avail: cython.int
    limit: cython.int
    batchcount: cython.int
    touched: cython.bint
    entry: cython.longlong[:]

    def __init__(self, limit: cython.int, batchcount: cython.int) -> None:
        self.avail = 0
        self.limit = limit
        self.batchcount = batchcount
        self.touched = False
        self.entry = array("q", [0]) * limit

    @cython.ccall
    @cython.exceptval(check=False)
    def drop(self, n: cython.int) -> cython.void:
        """Forget the oldest n entries."""
        i: cython.int
        self.avail -= n
        for i in range(self.avail):
            self.entry[i] = self.entry[i + n]


@cython.cclass
class KmemCacheNode:
    """What a cache has on one node (struct kmem_cache_node); ``first`` and ``last`` by list."""

    first: cython.int[:]
    last: cython.int[:]
    total_slabs: cython.int
    free_slabs: cython.int
    nr_partial: cython.int
    hidden: cython.int
    """Full slabs that the starting state counted but could not place; among ``total_slabs``."""
    free_objects: cython.longlong
    free_limit: cython.longlong
    colour_next: cython.int
    free_touched: cython.bint
    next_reap: cython.longlong
    """Jiffies before which the reaper leaves the node's own lists alone."""
    shared: ArrayCache
    """The array that the node's CPUs share; of limit 0 where there is none."""
    alien: list
    """By node: array of its objects that were freed here; None for the own node. Empty without other nodes."""

    def __init__(self, limit: cython.longlong, shared: ArrayCache, alien: list) -> None:
        self.first = array("i", [NIL]) * 3
        self.last = array("i", [NIL]) * 3
        self.total_slabs = 0
        self.free_slabs = 0
        self.nr_partial = 0
        self.hidden = 0
        self.free_objects = 0
        self.free_limit = limit
        self.colour_next = 0
        self.free_touched = False
        self.next_reap = 0
        self.shared = shared
        self.alien = alien


@cython.cclass
class SlabCache(RowCache):
    """A cache with SLAB's arrays by CPU and its nodes."""

    kind: cython.int
    """Where the index arrays are: OBJFREELIST, OFF_SLAB or ON_SLAB of ``slab_geometry``."""
    colour: cython.int
    colour_off: cython.int
    limit: cython.int
    batchcount: cython.int
    shared: cython.int
    early: cython.bint
    """Older than the machine's secondary CPUs, as what boots with it is (EXACT D C1)."""
    cpu_cache: list
    nodes: list
    stat: cython.longlong[:]
    num_active: cython.longlong
    high_mark: cython.longlong
    max_freeable: cython.longlong


@cython.cclass
class SlabSlabs(SlabRows):
    """SLAB's storage: slabs, their objects, the nodes' lists. ``Slab`` serves from it."""

    numa: cython.bint
    """Slabs are asked for on exactly one node first, as kernels with CONFIG_NUMA do."""
    possible_cpus: cython.int
    max_order: cython.int
    set_limit: cython.int
    set_batchcount: cython.int
    set_shared: cython.int
    node_cpus: cython.int[:]
    """CPUs of each node that are online."""
    sl_active: cython.int[:]
    sl_list: cython.int[:]
    sl_mem: cython.longlong[:]
    """Address of the first object (s_mem): behind the slab's colour."""
    sl_index: cython.longlong[:]
    """Address of the index array of a cache that keeps it off the slab, or 0."""
    obj_state: cython.uchar[:]
    obj_index: cython.short[:]

    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint,
        params: SlabParams, word: cython.int, possible_cpus: cython.int,
    ) -> None:
        SlabRows.__init__(self, pages, nr_cpus, nr_nodes, memcg, word)
        self.name = "slab"
        self.numa = word == 8
        self.possible_cpus = possible_cpus
        self.max_order = params.max_order
        if self.max_order < 0:
            managed: int = sum(zone.managed for zone in pages.zones)
            self.max_order = 1 if managed > 32 << (20 - PAGE_SHIFT) else 0
        self.set_limit = params.limit
        self.set_batchcount = params.batchcount
        self.set_shared = params.shared
        self.node_cpus = array("i", [0]) * nr_nodes
        for cpu in range(nr_cpus):
            self.node_cpus[pages.cpu_node[cpu]] += 1
        self.sl_active = array("i")
        self.sl_list = array("i")
        self.sl_mem = array("q")
        self.sl_index = array("q")
        self.obj_state = array("B")
        self.obj_index = array("h")
        self.first_room()

    @cython.cfunc
    def grow_rows(self, room: cython.int) -> cython.void:
        """Make room for more slabs."""
        extra: cython.int = room - self.row_room
        self.sl_active = longer(self.sl_active, "i", extra)
        self.sl_list = longer(self.sl_list, "i", extra)
        self.sl_mem = longer(self.sl_mem, "q", extra)
        self.sl_index = longer(self.sl_index, "q", extra)
        SlabRows.grow_rows(self, room)

    @cython.cfunc
    def grow_objects(self, room: cython.longlong) -> cython.void:
        """Make room for more objects."""
        self.obj_state = longer(self.obj_state, "B", room - self.object_room)
        self.obj_index = longer(self.obj_index, "h", room - self.object_room)
        SlabRows.grow_objects(self, room)

    # -- caches -----------------------------------------------------------------------------------

    @cython.ccall
    def new_cache(self, index: cython.int, name: str) -> KmemCache:
        s: SlabCache = SlabCache(index, name)
        s.stat = array("q", [0]) * (self.nr_cpus * NR_SLAB_STATS)
        # A cache that was destroyed is never opened, and samples still read it.
        s.kind = s.colour = s.colour_off = 0
        s.limit = s.batchcount = s.shared = 0
        s.early = False
        s.num_active = 0
        s.high_mark = 0
        s.max_freeable = 0
        s.spare = NIL
        s.cpu_cache = []
        s.nodes = []
        return s

    @cython.ccall
    def open_cache(self, s: KmemCache) -> cython.void:
        """Kernel: __kmem_cache_create(), enable_cpucache() (MODEL 7.2, 7.3)."""
        cache: SlabCache = cython.cast(SlabCache, s)
        align: cython.int = s.align
        if s.flags & SLAB_HWCACHE_ALIGN:
            line: cython.int = CACHE_LINE
            while s.object_size <= line // 2:
                line //= 2
            align = max(align, line)
        s.align = (align + self.word - 1) & -self.word
        s.inuse = s.object_size
        if s.size < SLAB_OBJ_MIN_SIZE:  # also what another allocator's trace says of a cache: SLAB has none smaller
            s.size = stride(s.object_size, s.align, self.word)
        found = geometry(
            s.size, s.object_size, bool(s.ctor or s.flags & SLAB_TYPESAFE_BY_RCU), bool(s.flags & SLAB_NOLEAKTRACE),
            bool(s.flags & SLAB_RECLAIM_ACCOUNT), self.max_order,
        )
        cache.kind = found.kind
        s.order = found.order
        s.objects = found.num
        s.min_order = s.order
        s.min_objects = s.objects
        cache.colour_off = max(CACHE_LINE, s.align)
        cache.colour = found.left // cache.colour_off
        s.allocflags = GFP_BIT_COMP
        if s.flags & SLAB_CACHE_DMA:
            s.allocflags |= GFP_BIT_DMA
        if s.flags & SLAB_CACHE_DMA32:
            s.allocflags |= GFP_BIT_DMA32
        if s.flags & SLAB_RECLAIM_ACCOUNT:
            s.allocflags |= GFP_BIT_RECLAIMABLE
        limit: cython.int = self.set_limit if self.set_limit > 0 else array_limit(s.size)
        batchcount: cython.int = min(self.set_batchcount, limit) if self.set_batchcount > 0 else (limit + 1) // 2
        shared: cython.int = self.set_shared if self.set_shared >= 0 else shared_factor(s.size, self.possible_cpus)
        cache.early = is_early(str(s.name))
        self.set_arrays(cache, limit, batchcount, shared)

    def set_arrays(self, s: SlabCache, limit: int, batchcount: int, shared: int) -> None:
        """Give a cache without objects arrays of this size, and nodes."""
        s.limit = limit
        s.batchcount = batchcount
        s.shared = shared
        s.cpu_cache = [ArrayCache(limit, batchcount) for _ in range(self.nr_cpus)]
        s.nodes = [
            KmemCacheNode(
                free_limit(self.node_cpus[node], batchcount, s.objects, bool(s.early)),
                self.new_shared(s), self.new_alien(s, node),
            )
            for node in range(self.nr_nodes)
        ]

    def new_shared(self, s: SlabCache) -> ArrayCache:
        """A node's shared array, of limit 0 for a cache without."""
        return ArrayCache(s.shared * s.batchcount, NO_BATCH)

    def new_alien(self, s: SlabCache, node: int) -> list:
        """A node's arrays for objects of other nodes. Kernel: alloc_alien_cache()."""
        if self.nr_nodes == 1:
            return []
        limit = ALIEN_LIMIT if s.limit > 1 else s.limit
        return [None if other == node else ArrayCache(limit, NO_BATCH) for other in range(self.nr_nodes)]

    @cython.ccall
    def may_merge(self, s: KmemCache, other: KmemCache) -> cython.bint:
        """Kernel: find_mergeable() under CONFIG_SLAB: the other's alignment must do."""
        return s.align <= other.align and other.align % s.align == 0

    @cython.ccall
    def ksize(self, addr: cython.longlong) -> cython.longlong:
        """Kernel: ksize() under CONFIG_SLAB: what the creator asked for."""
        pfn: cython.int = cython.cast(cython.int, addr >> PAGE_SHIFT)
        if addr <= ZERO_SIZE_PTR or self.frames.slab[pfn] < 0:
            return SlabAllocator.ksize(self, addr)
        s: KmemCache = self.cache_of(addr)
        return s.object_size

    def kmalloc_numbers(self) -> list[int]:
        """Kernel: create_kmalloc_caches(), SLAB on x86: 32 bytes at least, 96 and 192 behind 64 and 128."""
        return [5, 6, 1, 7, 2, 8, 9, 10, 11, 12, 13]

    def kmalloc_flags(self) -> int:
        """Kernel: ARCH_KMALLOC_FLAGS: so the stride of kmalloc-96 is 128 (MODEL 5.1)."""
        return SLAB_HWCACHE_ALIGN

    # -- lists ------------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def link(self, n: KmemCacheNode, slab: cython.int, which: cython.int, to_tail: cython.bint) -> cython.void:
        """Put a slab that is on no list at one end of one."""
        if to_tail:
            self.list_add(slab, n.last[which], NIL)
            n.last[which] = slab
            if self.sl_prev[slab] == NIL:
                n.first[which] = slab
        else:
            self.list_add(slab, NIL, n.first[which])
            n.first[which] = slab
            if self.sl_next[slab] == NIL:
                n.last[which] = slab
        self.sl_list[slab] = which
        if which == SLABS_PARTIAL:
            n.nr_partial += 1
        elif which == SLABS_FREE:
            n.free_slabs += 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def unlink(self, n: KmemCacheNode, slab: cython.int) -> cython.void:
        """Take a slab off its list."""
        which: cython.int = self.sl_list[slab]
        self.list_del(slab)
        if self.sl_prev[slab] == NIL:
            n.first[which] = self.sl_next[slab]
        if self.sl_next[slab] == NIL:
            n.last[which] = self.sl_prev[slab]
        self.sl_list[slab] = SLABS_NONE
        if which == SLABS_PARTIAL:
            n.nr_partial -= 1
        elif which == SLABS_FREE:
            n.free_slabs -= 1

    # -- slabs ------------------------------------------------------------------------------------

    @cython.ccall
    def build_slab(self, s: KmemCache, pfn: cython.int, offset: cython.int, node: cython.int) -> cython.int:
        """
        Register the pages of a slab whose objects begin ``offset`` bytes into it; its row.

        All objects are free, to be handed out in ascending order; the slab is on no list and not counted.
        """
        row: cython.int = self.new_row(cython.cast(SlabCache, s))
        seg: cython.longlong = self.sl_seg[row]
        p: cython.int
        self.sl_pfn[row] = pfn
        self.sl_active[row] = 0
        self.sl_list[row] = SLABS_NONE
        self.sl_next[row] = NIL
        self.sl_prev[row] = NIL
        self.sl_node[row] = node
        self.sl_mem[row] = (cython.cast(cython.longlong, pfn) << PAGE_SHIFT) + offset
        self.sl_index[row] = 0
        self.frames.kind[pfn] = PAGE_USED
        self.frames.order[pfn] = s.order
        for p in range(pfn, pfn + (1 << s.order)):
            self.frames.slab[p] = row
        for p in range(s.objects):
            self.obj_state[seg + p] = OBJECT_FREE
            self.obj_index[seg + p] = p
        self.account_slab_pages(pfn, 1 << s.order)
        return row

    @cython.cfunc
    @cython.exceptval(check=False)
    def object_at(self, slab: cython.int, addr: cython.longlong) -> cython.longlong:
        """Place of an object in ``obj_state``; -1 when no object of the slab is there."""
        s: KmemCache = self.caches[self.sl_cache[slab]]
        # 32 bits suffice within a slab, and divide several times faster; what lies before it wraps to large numbers.
        idx: cython.uint = cython.cast(cython.uint, (addr - self.sl_mem[slab]) & 0xFFFFFFFF)
        idx //= cython.cast(cython.uint, s.size)
        if idx >= cython.cast(cython.uint, s.objects):
            return -1
        return self.sl_seg[slab] + idx

    # -- slabs without a place --------------------------------------------------------------------

    @cython.ccall
    def hide_slabs(self, s: KmemCache, node: cython.int, slabs: cython.int) -> cython.void:
        """Count full slabs whose place is not known."""
        cache: SlabCache = cython.cast(SlabCache, s)
        n: KmemCacheNode = cache.nodes[node]
        n.hidden += slabs
        n.total_slabs += slabs
        cache.num_active += slabs * s.objects
        cache.live += slabs * s.objects
        self.account_hidden(node, slabs << s.order)

    @cython.ccall
    @cython.exceptval(check=False)
    def reveal_slab(self, s: KmemCache, pfn: cython.int, order: cython.int, node: cython.int) -> cython.void:
        """All objects of the slab are live; its colour is not known, so it is taken to be 0."""
        cache: SlabCache = cython.cast(SlabCache, s)
        n: KmemCacheNode = cache.nodes[node]
        row: cython.int = self.build_slab(s, pfn, 0, node)
        at: cython.longlong
        self.sl_active[row] = s.objects
        for at in range(self.sl_seg[row], self.sl_seg[row] + s.objects):
            self.obj_state[at] = OBJECT_LIVE
        self.link(n, row, SLABS_FULL, False)
        if n.hidden > 0:
            n.hidden -= 1
            self.account_hidden(node, -(1 << order))
        else:
            # More slabs than the starting state counted: all of them hold only live objects.
            n.total_slabs += 1
            cache.num_active += s.objects
            cache.live += s.objects

    # -- questions --------------------------------------------------------------------------------

    @cython.ccall
    def is_live(self, addr: cython.longlong) -> cython.bint:
        slab: cython.int = self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]
        if slab == NIL or addr < self.sl_mem[slab]:
            return False
        s: KmemCache = self.caches[self.sl_cache[slab]]
        at: cython.longlong = self.object_at(slab, addr)
        return at >= 0 and (addr - self.sl_mem[slab]) % s.size == 0 and self.obj_state[at] == OBJECT_LIVE

    # A cache has a list_lock a node, and a lock for every pair of nodes that has an alien array.

    @cython.cfunc
    @cython.exceptval(check=False)
    def list_lock(self, s: KmemCache, node: cython.int) -> cython.int:
        """Number of a cache's list_lock on a node; zone locks come first."""
        return self.nr_zones + s.index * self.locks_each() + node

    @cython.cfunc
    @cython.exceptval(check=False)
    def alien_lock(self, s: KmemCache, node: cython.int, other: cython.int) -> cython.int:
        """Number of the lock of a node's array of objects of another node."""
        return self.nr_zones + s.index * self.locks_each() + self.nr_nodes * (1 + node) + other

    @cython.ccall
    @cython.exceptval(check=False)
    def locks_each(self) -> cython.int:
        """Locks that every cache has."""
        return 1 if self.nr_nodes == 1 else self.nr_nodes * (self.nr_nodes + 1)

    def nr_locks(self) -> int:
        return len(self.caches) * self.locks_each()

    def lock_name(self, lock: int) -> str:
        cache, at = divmod(lock, self.locks_each())
        if at < self.nr_nodes:
            return f"list_lock {self.caches[cache].name} N{at}"
        node, other = divmod(at - self.nr_nodes, self.nr_nodes)
        return f"alien lock {self.caches[cache].name} N{node} of N{other}"

    def reset_statistics(self) -> None:
        for cache in self.caches:
            cache.high_mark = cache.num_active
            cache.max_freeable = 0
            for i in range(len(cache.stat)):
                cache.stat[i] = 0
