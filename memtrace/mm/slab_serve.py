"""
SLAB's requests: how objects are handed out and taken back (MODEL 7.4-7.7, EXACT D).

Per CPU and cache there is an array of free objects, used as a stack; per node one more that its CPUs share, arrays for
objects of other nodes, and three lists of slabs under ``list_lock``: partial, full and free.
"""

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
    SLABS_PARTIAL,
)
from memtrace.mm.gfp import (
    GFP_BIT_NOFAIL,
    GFP_BIT_NOWARN,
    GFP_BIT_THISNODE,
    GFP_CONSTRAINT_MASK,
    GFP_RECLAIM,
    GFP_SLAB_KEEPS,
)
from memtrace.mm.kmem_cache import KmemCache
from memtrace.mm.mmzone import Zone
from memtrace.mm.paths import (
    COST_SLAB_ALIEN,
    COST_SLAB_ARRAY,
    COST_SLAB_GROW,
    COST_SLAB_LISTS,
    COST_SLAB_MOVE,
    PATH_ALLOC_FAILED,
    PATH_ALLOC_FAST,
    PATH_ALLOC_NEW_SLAB,
    PATH_ALLOC_NODE,
    PATH_ALLOC_SHARED,
    PATH_ALLOC_SLABS,
    PATH_FREE_ALIEN,
    PATH_FREE_ALIEN_DRAIN,
    PATH_FREE_DISCARD,
    PATH_FREE_FAST,
    PATH_FREE_FLUSH_SHARED,
    PATH_FREE_FLUSH_SLABS,
)
from memtrace.mm.slab_geometry import OFF_SLAB
from memtrace.mm.slab_slabs import ArrayCache, KmemCacheNode, SlabCache, SlabSlabs
from memtrace.mm.stats import (
    NR_SLAB_STATS,
    SLAB_ALIENOVERFLOW,
    SLAB_ALLOCHIT,
    SLAB_ALLOCMISS,
    SLAB_ALLOCSLOW,
    SLAB_FREED,
    SLAB_FREEHIT,
    SLAB_FREEMISS,
    SLAB_FREESLOW,
    SLAB_GROWN,
    SLAB_LISTALLOCS,
    SLAB_NODEALLOCS,
    SLAB_REMOTEFREES,
)

BATCHREFILL_LIMIT = 16


@cython.cclass
class SlabServing(SlabSlabs):
    """How objects are handed out and taken back; ``Slab`` adds what happens beside requests."""

    # -- allocation -------------------------------------------------------------------------------

    @cython.ccall
    def slab_alloc(
        self, s: KmemCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """
        Kernel: slab_alloc_node(), __do_cache_alloc(), 6.1 (MODEL 7.4, 7.7).

        Departs: no memory policies
        """
        cache: SlabCache = cython.cast(SlabCache, s)
        ac: ArrayCache = cache.cpu_cache[cpu]
        here: cython.int = self.pages.cpu_node[cpu]
        addr: cython.longlong = 0
        if node < 0 or node == here:
            if ac.avail > 0:
                ac.touched = True
                ac.avail -= 1
                addr = ac.entry[ac.avail]
                cache.stat[cpu * NR_SLAB_STATS + SLAB_ALLOCHIT] += 1
                self.it.path = PATH_ALLOC_FAST
                self.it.step(COST_SLAB_ARRAY, 1)
                return self.hand_out(cache, addr)
            self.count(cache, cpu, SLAB_ALLOCMISS)
            addr = self.cache_alloc_refill(cache, gfp, here, cpu)
            node = here
        self.count(cache, cpu, SLAB_ALLOCSLOW)
        if addr == 0:
            addr = self.cache_alloc_node(cache, gfp, node, cpu)
            if addr == 0:
                self.it.path = PATH_ALLOC_FAILED
                return 0
        return self.hand_out(cache, addr)

    @cython.cfunc
    @cython.exceptval(check=False)
    def hand_out(self, s: SlabCache, addr: cython.longlong) -> cython.longlong:
        """Note that an object is live now."""
        slab: cython.int = self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]
        self.obj_state[self.object_at(slab, addr)] = OBJECT_LIVE
        s.live += 1
        return addr

    @cython.cfunc
    def cache_alloc_refill(
        self, s: SlabCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: cache_alloc_refill() (MODEL 7.4 step 2 to 4, EXACT D C5): fill the CPU's empty array, and pop."""
        ac: ArrayCache = s.cpu_cache[cpu]
        n: KmemCacheNode = s.nodes[node]
        batch: cython.int = ac.batchcount
        slab: cython.int
        if not ac.touched and batch > BATCHREFILL_LIMIT:
            batch = BATCHREFILL_LIMIT
        if n.free_objects > 0 or n.shared.avail > 0:
            if self.transfer_objects(ac, n.shared, batch) > 0:
                n.shared.touched = True
                self.it.path = PATH_ALLOC_SHARED
                self.it.locked(self.list_lock(s, node), COST_SLAB_MOVE, ac.avail)
            else:
                self.refill_from_slabs(s, n, ac, batch, cpu)
                self.it.path = PATH_ALLOC_SLABS
                self.it.locked(self.list_lock(s, node), COST_SLAB_LISTS, ac.avail)
        if ac.avail == 0:
            slab = self.cache_grow_begin(s, self.gfp_exact_node(gfp), node, cpu)
            if slab != NIL:
                if ac.avail == 0:
                    self.alloc_block(s, ac, slab, batch, cpu)
                # Else a shrinker, called for the slab's page, freed to this CPU: the slab stays unused (EXACT D C5).
                self.cache_grow_end(s, slab, cpu)
                self.it.path = PATH_ALLOC_NEW_SLAB
            if ac.avail == 0:
                return 0
        ac.touched = True
        ac.avail -= 1
        self.it.step(COST_SLAB_ARRAY, 1)
        return ac.entry[ac.avail]

    @cython.cfunc
    @cython.exceptval(check=False)
    def refill_from_slabs(
        self, s: SlabCache, n: KmemCacheNode, ac: ArrayCache, batch: cython.int, cpu: cython.int
    ) -> cython.void:
        """Take up to ``batch`` objects from partial slabs, then from free ones."""
        while batch > 0:
            slab: cython.int = self.get_first_slab(n)
            if slab == NIL:
                break
            batch = self.alloc_block(s, ac, slab, batch, cpu)
            self.fixup_slab_list(s, n, slab)
        n.free_objects -= ac.avail

    @cython.cfunc
    @cython.exceptval(check=False)
    def transfer_objects(self, to: ArrayCache, source: ArrayCache, most: cython.int) -> cython.int:
        """Kernel: transfer_objects(): move the newest entries, in their order; how many."""
        moved: cython.int = min(min(source.avail, most), to.limit - to.avail)
        i: cython.int
        for i in range(moved):
            to.entry[to.avail + i] = source.entry[source.avail - moved + i]
        source.avail -= moved
        to.avail += moved
        return moved

    @cython.cfunc
    @cython.exceptval(check=False)
    def get_first_slab(self, n: KmemCacheNode) -> cython.int:
        """Kernel: get_first_slab(): a slab with free objects, still on its list; or NIL."""
        slab: cython.int = n.first[SLABS_PARTIAL]
        if slab == NIL:
            n.free_touched = True
            slab = n.first[SLABS_FREE]
        return slab

    @cython.cfunc
    @cython.exceptval(check=False)
    def alloc_block(
        self, s: SlabCache, ac: ArrayCache, slab: cython.int, batch: cython.int, cpu: cython.int
    ) -> cython.int:
        """Kernel: alloc_block(): objects of one slab onto the array; what remains of the batch."""
        taken: cython.int = min(batch, s.objects - self.sl_active[slab])
        i: cython.int
        for i in range(taken):
            ac.entry[ac.avail + i] = self.slab_get_obj(s, slab)
        ac.avail += taken
        s.stat[cpu * NR_SLAB_STATS + SLAB_LISTALLOCS] += taken
        return batch - taken

    @cython.cfunc
    @cython.exceptval(check=False)
    def slab_get_obj(self, s: SlabCache, slab: cython.int) -> cython.longlong:
        """Kernel: slab_get_obj(): the object on top of the slab's stack."""
        seg: cython.longlong = self.sl_seg[slab]
        idx: cython.longlong = self.obj_index[seg + self.sl_active[slab]]
        self.sl_active[slab] += 1
        self.obj_state[seg + idx] = OBJECT_CACHED
        s.num_active += 1
        if s.num_active > s.high_mark:
            s.high_mark = s.num_active
        return self.sl_mem[slab] + idx * s.size

    @cython.cfunc
    @cython.exceptval(check=False)
    def fixup_slab_list(self, s: SlabCache, n: KmemCacheNode, slab: cython.int) -> cython.void:
        """Kernel: fixup_slab_list(): to the head of the list that fits it after objects were taken."""
        self.unlink(n, slab)
        self.link(n, slab, SLABS_FULL if self.sl_active[slab] == s.objects else SLABS_PARTIAL, False)

    @cython.cfunc
    @cython.exceptval(check=False)
    def gfp_exact_node(self, gfp: cython.longlong) -> cython.longlong:
        """Kernel: gfp_exact_node(): ask this node only and do not try hard; the fallback does."""
        if self.numa:
            return (gfp | GFP_BIT_THISNODE | GFP_BIT_NOWARN) & ~(GFP_RECLAIM | GFP_BIT_NOFAIL)
        return gfp & ~GFP_BIT_NOFAIL

    # -- another node -----------------------------------------------------------------------------

    @cython.cfunc
    def cache_alloc_node(
        self, s: SlabCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: ____cache_alloc_node() (MODEL 7.7): one object of this node's slabs; else the fallback."""
        n: KmemCacheNode = s.nodes[node]
        slab: cython.int = self.get_first_slab(n)
        addr: cython.longlong
        if slab != NIL:
            self.count(s, cpu, SLAB_NODEALLOCS)
            addr = self.slab_get_obj(s, slab)
            n.free_objects -= 1
            self.fixup_slab_list(s, n, slab)
            self.it.path = PATH_ALLOC_NODE
            self.it.locked(self.list_lock(s, node), COST_SLAB_LISTS, 1)
            return addr
        slab = self.cache_grow_begin(s, self.gfp_exact_node(gfp), node, cpu)
        if slab == NIL:
            return self.fallback_alloc(s, gfp, cpu)
        addr = self.slab_get_obj(s, slab)
        self.cache_grow_end(s, slab, cpu)
        self.it.path = PATH_ALLOC_NEW_SLAB
        return addr

    @cython.cfunc
    def fallback_alloc(self, s: SlabCache, gfp: cython.longlong, cpu: cython.int) -> cython.longlong:
        """Kernel: fallback_alloc() (MODEL 7.7): any node that has free objects, then pages from anywhere."""
        here: cython.int = self.pages.cpu_node[cpu]
        zone: Zone
        n: KmemCacheNode
        slab: cython.int
        addr: cython.longlong = 0
        if gfp & GFP_BIT_THISNODE:
            return 0
        for zone in self.pages.zonelists[here]:
            if zone.zone_idx > self.pages.gfp_zone[cython.cast(cython.int, gfp & 0xF)]:
                continue
            n = s.nodes[zone.node]
            if n.free_objects > 0:
                addr = self.cache_alloc_node(s, self.gfp_exact_node(gfp), zone.node, cpu)
                if addr != 0:
                    return addr
        slab = self.cache_grow_begin(s, gfp, here, cpu)
        if slab == NIL:
            return 0
        self.cache_grow_end(s, slab, cpu)
        return self.cache_alloc_node(s, self.gfp_exact_node(gfp), self.sl_node[slab], cpu)

    # -- new slabs --------------------------------------------------------------------------------

    @cython.cfunc
    def cache_grow_begin(
        self, s: SlabCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.int:
        """Kernel: cache_grow_begin() (MODEL 7.6): a slab on no list, not counted yet; or NIL."""
        flags: cython.longlong = gfp & GFP_SLAB_KEEPS
        pfn: cython.int = self.slab_pages(s, flags | s.allocflags, node, cpu)
        if pfn == NIL:
            return NIL
        owner: cython.int = self.pages.zones[self.pages.zone_of(pfn)].node
        n: KmemCacheNode = s.nodes[owner]
        n.colour_next += 1
        if n.colour_next >= s.colour:
            n.colour_next = 0
        index: cython.longlong = 0
        if s.kind == OFF_SLAB:
            index = self.index_alloc(s, gfp, owner, cpu)
            if index == 0:
                self.pages.free_pages(pfn, s.order, cpu)
                return NIL
        slab: cython.int = self.build_slab(s, pfn, n.colour_next * s.colour_off, owner)
        self.sl_index[slab] = index
        self.it.step(COST_SLAB_GROW, s.objects)
        return slab

    @cython.ccall
    def slab_pages(
        self, s: KmemCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.int:
        """Kernel: kmem_getpages(): pages for a slab, or NIL."""
        return self.pages.alloc_pages(gfp, s.order, node, cpu)

    @cython.ccall
    def index_alloc(
        self, s: KmemCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Memory for an off-slab index array, of a kmalloc cache that has none itself; its address, or 0."""
        other: KmemCache = self.caches[self.kmalloc_slab(s.objects, 0)]
        return self.slab_alloc(other, gfp & GFP_SLAB_KEEPS & ~GFP_CONSTRAINT_MASK, node, cpu)

    @cython.cfunc
    @cython.exceptval(check=False)
    def cache_grow_end(self, s: SlabCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: cache_grow_end(): count a new slab and put it on its list."""
        node: cython.int = self.sl_node[slab]
        n: KmemCacheNode = s.nodes[node]
        active: cython.int = self.sl_active[slab]
        n.total_slabs += 1
        if active == 0:
            self.link(n, slab, SLABS_FREE, True)
        else:
            self.link(n, slab, SLABS_FULL if active == s.objects else SLABS_PARTIAL, False)
        self.count(s, cpu, SLAB_GROWN)
        n.free_objects += s.objects - active
        self.it.locked(self.list_lock(s, node), COST_SLAB_LISTS, 0)

    # -- free -------------------------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(check=False)
    def slab_free(self, slab: cython.int, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Kernel: ___cache_free() (MODEL 7.5)."""
        s: SlabCache = self.caches[self.sl_cache[slab]]
        at: cython.longlong = self.object_at(slab, addr)
        ac: ArrayCache
        self.last_cache = s.index
        self.last_bytes = s.size
        if at < 0 or self.obj_state[at] != OBJECT_LIVE:
            self.bad_frees += 1
            return
        s.live -= 1
        self.obj_state[at] = OBJECT_CACHED
        if self.nr_nodes > 1 and self.sl_node[slab] != self.pages.cpu_node[cpu]:
            self.count(s, cpu, SLAB_FREESLOW)
            self.cache_free_alien(s, addr, self.sl_node[slab], cpu)
            return
        ac = s.cpu_cache[cpu]
        if ac.avail < ac.limit:
            s.stat[cpu * NR_SLAB_STATS + SLAB_FREEHIT] += 1
            self.it.path = PATH_FREE_FAST
        else:
            self.count(s, cpu, SLAB_FREEMISS)
            self.count(s, cpu, SLAB_FREESLOW)
            self.cache_flusharray(s, ac, cpu)
        ac.entry[ac.avail] = addr
        ac.avail += 1
        self.it.step(COST_SLAB_ARRAY, 1)

    @cython.cfunc
    @cython.exceptval(check=False)
    def cache_flusharray(self, s: SlabCache, ac: ArrayCache, cpu: cython.int) -> cython.void:
        """Kernel: cache_flusharray() (MODEL 7.5, EXACT D C6): a batch of the oldest entries leaves the full array."""
        node: cython.int = self.pages.cpu_node[cpu]
        n: KmemCacheNode = s.nodes[node]
        batch: cython.int = ac.batchcount
        dead: cython.int = NIL
        i: cython.int
        shared: ArrayCache = n.shared
        if shared.avail < shared.limit:
            batch = min(batch, shared.limit - shared.avail)
            for i in range(batch):
                shared.entry[shared.avail + i] = ac.entry[i]
            shared.avail += batch
            self.it.path = PATH_FREE_FLUSH_SHARED
            self.it.locked(self.list_lock(s, node), COST_SLAB_MOVE, batch)
        else:
            dead = self.free_block(s, node, ac.entry, batch)
            self.it.path = PATH_FREE_FLUSH_SLABS
            self.it.locked(self.list_lock(s, node), COST_SLAB_LISTS, batch)
        if n.free_slabs > s.max_freeable:
            s.max_freeable = n.free_slabs
        ac.drop(batch)
        if dead != NIL:
            self.slabs_destroy(s, dead, cpu)
            self.it.path = PATH_FREE_DISCARD

    @cython.cfunc
    @cython.exceptval(check=False)
    def free_block(
        self, s: SlabCache, node: cython.int, entry: cython.longlong[:], count: cython.int
    ) -> cython.int:
        """
        Put the first ``count`` objects back into their slabs, and take away slabs that are too many.

        Kernel: free_block() (MODEL 7.5)

        Returns
        -------
        The first of the slabs to be destroyed, chained through sl_next in that order; or NIL.
        """
        n: KmemCacheNode = s.nodes[node]
        dead: cython.int = NIL
        slab: cython.int
        i: cython.int
        n.free_objects += count
        for i in range(count):
            slab = self.frames.slab[cython.cast(cython.int, entry[i] >> PAGE_SHIFT)]
            self.unlink(n, slab)
            self.slab_put_obj(s, slab, entry[i])
            if self.sl_active[slab] == 0:
                self.link(n, slab, SLABS_FREE, False)
            else:
                self.link(n, slab, SLABS_PARTIAL, True)
        while n.free_objects > n.free_limit and n.last[SLABS_FREE] != NIL:
            slab = self.take_free_slab(s, n)
            self.sl_next[slab] = dead
            dead = slab
        return dead

    @cython.cfunc
    @cython.exceptval(check=False)
    def slab_put_obj(self, s: SlabCache, slab: cython.int, addr: cython.longlong) -> cython.void:
        """Kernel: slab_put_obj(): the object goes on top of the slab's stack."""
        seg: cython.longlong = self.sl_seg[slab]
        at: cython.longlong = self.object_at(slab, addr)
        self.sl_active[slab] -= 1
        self.obj_index[seg + self.sl_active[slab]] = cython.cast(cython.short, at - seg)
        self.obj_state[at] = OBJECT_FREE
        s.num_active -= 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def take_free_slab(self, s: SlabCache, n: KmemCacheNode) -> cython.int:
        """Take the last slab of the free list out of the node's books; there must be one."""
        slab: cython.int = n.last[SLABS_FREE]
        self.unlink(n, slab)
        n.total_slabs -= 1
        n.free_objects -= s.objects
        return slab

    @cython.cfunc
    @cython.exceptval(check=False)
    def slabs_destroy(self, s: SlabCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: slabs_destroy(): a chain of slabs."""
        while slab != NIL:
            after: cython.int = self.sl_next[slab]
            self.slab_destroy(s, slab, cpu)
            slab = after

    @cython.cfunc
    @cython.exceptval(check=False)
    def slab_destroy(self, s: SlabCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """
        Kernel: slab_destroy(): the pages go back, then the index array if it has memory of its own.

        Departs: pages of TYPESAFE_BY_RCU caches go at once, not after a grace period
        """
        pfn: cython.int = self.sl_pfn[slab]
        index: cython.longlong = self.sl_index[slab]
        self.spare_row(s, slab, s.order)
        self.account_slab_pages(pfn, -(1 << s.order))
        self.count(s, cpu, SLAB_FREED)
        self.pages.free_pages(pfn, s.order, cpu)
        if index != 0:
            cache: cython.int = self.last_cache
            size: cython.longlong = self.last_bytes
            self.slab_free(self.frames.slab[cython.cast(cython.int, index >> PAGE_SHIFT)], index, cpu)
            self.last_cache = cache
            self.last_bytes = size

    @cython.cfunc
    @cython.exceptval(check=False)
    def cache_free_alien(
        self, s: SlabCache, addr: cython.longlong, owner: cython.int, cpu: cython.int
    ) -> cython.void:
        """Kernel: __cache_free_alien() (MODEL 7.5, EXACT D C6): an object of node ``owner``, another than the CPU's."""
        here: cython.int = self.pages.cpu_node[cpu]
        n: KmemCacheNode = s.nodes[here]
        alien: ArrayCache = n.alien[owner]
        self.count(s, cpu, SLAB_REMOTEFREES)
        self.it.path = PATH_FREE_ALIEN
        if alien.avail == alien.limit:
            self.count(s, cpu, SLAB_ALIENOVERFLOW)
            self.drain_alien_cache(s, alien, owner, cpu)
            self.it.path = PATH_FREE_ALIEN_DRAIN
        alien.entry[alien.avail] = addr
        alien.avail += 1
        self.it.locked(self.alien_lock(s, here, owner), COST_SLAB_ALIEN, 0)

    @cython.cfunc
    @cython.exceptval(check=False)
    def drain_alien_cache(
        self, s: SlabCache, alien: ArrayCache, owner: cython.int, cpu: cython.int
    ) -> cython.void:
        """Kernel: __drain_alien_cache(): home to the owner's shared array, as far as it fits, and to its slabs."""
        n: KmemCacheNode = s.nodes[owner]
        dead: cython.int = NIL
        count: cython.int = alien.avail
        if count == 0:
            return
        self.transfer_objects(n.shared, alien, alien.limit)
        if alien.avail > 0:
            dead = self.free_block(s, owner, alien.entry, alien.avail)
            alien.avail = 0
        self.it.locked(self.list_lock(s, owner), COST_SLAB_LISTS, count)
        self.slabs_destroy(s, dead, cpu)

    # -- bulk -------------------------------------------------------------------------------------

    @cython.ccall
    def bulk_alloc_one(self, s: KmemCache, gfp: cython.longlong, cpu: cython.int) -> cython.longlong:
        """One object of a kmem_cache_alloc_bulk(): SLAB has no shortcut for them."""
        self.last_cache = s.index
        self.last_bytes = s.size
        return self.slab_alloc(s, gfp, NIL, cpu)

    @cython.ccall
    @cython.exceptval(check=False)
    def bulk_free(self, addrs: cython.longlong[:], n: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: kmem_cache_free_bulk(), mm/slab.c: one after the other, in the order of the array."""
        i: cython.int
        for i in range(n):
            self.kfree(addrs[i], cpu)

    @cython.cfunc
    @cython.exceptval(check=False)
    def count(self, s: SlabCache, cpu: cython.int, which: cython.int) -> cython.void:
        s.stat[cpu * NR_SLAB_STATS + which] += 1
