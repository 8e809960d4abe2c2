"""
SLUB as in Linux 6.1: how objects are handed out and taken back (MODEL 6, EXACT C).

Per CPU and cache there is one cpu slab with a private freelist, and a list of partial slabs; per node a list
of partial slabs under ``list_lock``. Full slabs are on no list.
"""

from __future__ import annotations

import cython

from memtrace.mm.constants import (
    NIL,
    OBJ_END,
    OBJ_LIVE,
    PAGE_SHIFT,
)
from memtrace.mm.gfp import (
    GFP_BIT_DIRECT_RECLAIM,
    GFP_BIT_NOFAIL,
    GFP_BIT_NOMEMALLOC,
    GFP_BIT_NORETRY,
    GFP_BIT_NOWARN,
    GFP_BIT_THISNODE,
    GFP_NOWAIT,
    GFP_RECLAIM,
    GFP_SLAB_KEEPS,
)
from memtrace.mm.kmem_cache import KmemCache, SlabStat
from memtrace.mm.mmzone import Zone
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
    PATH_FREE_DISCARD,
    PATH_FREE_FAST,
    PATH_FREE_NODE_PARTIAL,
    PATH_FREE_SLOW,
)
from memtrace.mm.slub_partial import SlubPartials
from memtrace.mm.slub_slabs import SlubCache
from memtrace.mm.stats import (
    ALLOC_FASTPATH,
    ALLOC_NODE_MISMATCH,
    ALLOC_REFILL,
    ALLOC_SLAB,
    ALLOC_SLOWPATH,
    CPU_PARTIAL_ALLOC,
    CPUSLAB_FLUSH,
    DEACTIVATE_BYPASS,
    FREE_FASTPATH,
    FREE_FROZEN,
    FREE_REMOVE_PARTIAL,
    FREE_SLAB,
    FREE_SLOWPATH,
    NR_SLUB_STATS,
    ORDER_FALLBACK,
)


@cython.cclass
class Slub(SlubPartials):
    """The SLUB allocator: how objects are handed out and taken back."""

    # -- allocation -------------------------------------------------------------------------------

    @cython.ccall
    def slab_alloc(
        self, s: KmemCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: slab_alloc_node() (MODEL 6.5)."""
        cache: SlubCache = cython.cast(SlubCache, s)
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
        idx: cython.int = self.find_objects(s, node, cpu)
        return idx if idx >= 0 else self.add_slab(s, gfp, node, cpu)

    @cython.cfunc
    def find_objects(self, s: SlubCache, node: cython.int, cpu: cython.int) -> cython.int:
        """
        Look for free objects in the slabs that there are; -1 leaves the CPU without a slab.

        Kernel: ___slab_alloc(), what it does before it asks for a page (MODEL 6.6, stages A-G)
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
        if slab == NIL:
            return NIL
        self.it.path = PATH_ALLOC_NODE_PARTIAL
        return self.use_slab(s, slab, cpu)

    @cython.cfunc
    def add_slab(
        self, s: SlubCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.int:
        """
        Make a new slab the CPU's; index of its first object, or -1 when memory is short.

        Kernel: ___slab_alloc(), from the page request on (MODEL 6.6, stages H-I)
        """
        slab: cython.int = NIL
        if self.node_first and node >= 0 and not gfp & GFP_BIT_THISNODE:
            slab = self.new_slab(s, GFP_NOWAIT | GFP_BIT_NOWARN | GFP_BIT_THISNODE, node, cpu)
            if slab == NIL:
                slab = self.get_any_partial(s, node, cpu)
        if slab == NIL:
            slab = self.new_slab(s, gfp, node, cpu)
        if slab == NIL:
            return NIL
        self.it.path = PATH_ALLOC_NEW_SLAB
        if s.c_slab[cpu] != NIL:
            # While the page was asked for, an interrupt got this CPU another one.
            self.count(s, cpu, CPUSLAB_FLUSH)
            self.flush_cpu_slab(s, cpu, cpu)
        return self.use_slab(s, slab, cpu)

    @cython.cfunc
    @cython.exceptval(check=False)
    def use_slab(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.int:
        """Make a slab the CPU's and its objects the CPU's freelist; index of the first one."""
        idx: cython.int = self.sl_free[slab]
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
    def new_slab(self, s: SlubCache, gfp: cython.longlong, node: cython.int, cpu: cython.int) -> cython.int:
        """Kernel: allocate_slab(): a slab of the preferred order, else of the smallest; or NIL (12.5)."""
        order: cython.int = s.order
        flags: cython.longlong = (gfp & GFP_SLAB_KEEPS) | s.allocflags
        first: cython.longlong = (flags | GFP_BIT_NOWARN | GFP_BIT_NORETRY) & ~GFP_BIT_NOFAIL
        if flags & GFP_BIT_DIRECT_RECLAIM and s.order > s.min_order:
            first = (first | GFP_BIT_NOMEMALLOC) & ~GFP_RECLAIM
        if not self.min_order_fallback:
            first = flags
        pfn: cython.int = self.pages.alloc_pages(first, order, node, cpu)
        if pfn == NIL and not self.min_order_fallback:
            return NIL
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
            self.note_held(s, slab, cpu)
            return
        if prior < 0 and not self.partial_lists:
            self.put_node_partial(s, slab, cpu)
            return
        if prior < 0:
            self.sl_frozen[slab] = 1
            self.put_cpu_partial(s, slab, cpu)
            return
        if self.sl_inuse[slab] > 0:
            return
        node: cython.int = self.sl_node[slab]
        self.it.path = PATH_FREE_NODE_PARTIAL
        if s.nr_partial[node] < s.min_partial and not self.discard_remote:
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
    def note_held(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """
        Count a free to a slab that a CPU holds.

        Since 6.8 slabs on partial lists are not frozen: the free that empties one takes the node's lock, to find
        that the slab is not on the node's list (MODEL 6.7).
        """
        owner: cython.int
        if self.partials_frozen:
            self.count(s, cpu, FREE_FROZEN)
            return
        for owner in range(self.nr_cpus):
            if s.c_slab[owner] == slab:
                self.count(s, cpu, FREE_FROZEN)
                return
        if self.sl_inuse[slab] == 0:
            self.it.locked(self.list_lock(s, self.sl_node[slab]), COST_SLUB_NODE, 0)

    # -- bulk -------------------------------------------------------------------------------------

    @cython.ccall
    def bulk_alloc_one(self, s: KmemCache, gfp: cython.longlong, cpu: cython.int) -> cython.longlong:
        """
        One object of a kmem_cache_alloc_bulk() (MODEL 6.12, EXACT C5).

        Taking from the CPU's freelist counts nothing; a refill counts as one slow allocation.
        """
        cache: SlubCache = cython.cast(SlubCache, s)
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

    @cython.ccall
    def shrink_cache(self, s: KmemCache, cpu: cython.int) -> cython.int:
        from memtrace.mm.slub_shrink import shrink_slabs

        return shrink_slabs(self, s, cpu)

    @cython.ccall
    def destroy_cache(self, s: KmemCache, cpu: cython.int) -> cython.bint:
        from memtrace.mm.slub_shrink import shut_down

        return shut_down(self, s, cpu)

    # -- for samples and --check ------------------------------------------------------------------

    def stat_reader(self) -> SlabStat:
        from memtrace.mm.slub_stat import SlubStat

        return SlubStat(self)

    def validate(self) -> None:
        from memtrace.mm.slub_validate import validate_slub

        validate_slub(self)
