"""
SLAB as in Linux 6.1 (MODEL 7, EXACT D): what happens beside requests. ``slab_serve.py`` has the requests.

The reaper gives idle objects back; caches are shrunk, destroyed and tuned; CPUs come and go.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.config import SlabParams
from memtrace.mm.constants import NIL, SLABS_FREE
from memtrace.mm.kmem_cache import KmemCache, SlabStat
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.paths import COST_SLAB_LISTS
from memtrace.mm.slab_geometry import free_limit
from memtrace.mm.slab_serve import SlabServing
from memtrace.mm.slab_slabs import ArrayCache, KmemCacheNode, SlabCache
from memtrace.mm.stats import NR_SLAB_STATS, SLAB_REAPED

REAPTIMEOUT_NODE_S = 4


@cython.cclass
class Slab(SlabServing):
    """The SLAB allocator."""

    hz: cython.int
    reap_node: cython.int[:]
    """By CPU: node whose objects the CPU's next reaper run sends home."""

    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint,
        params: SlabParams, word: cython.int, possible_cpus: cython.int,
    ) -> None:
        SlabServing.__init__(self, pages, nr_cpus, nr_nodes, memcg, params, word, possible_cpus)
        self.hz = params.hz
        self.reap_node = array("i", [(pages.cpu_node[cpu] + 1) % nr_nodes for cpu in range(nr_cpus)])

    # -- the reaper -------------------------------------------------------------------------------

    @cython.ccall
    def deferred_work(self, cpu: cython.int, now_ns: cython.longlong) -> cython.void:
        """A run of the reaper that was due."""
        self.cache_reap(cpu, now_ns // (1000000000 // self.hz))

    @cython.ccall
    def cache_reap(self, cpu: cython.int, now_jiffies: cython.longlong) -> cython.void:
        """
        Give back what a CPU, and every few seconds its node, has not used since last time.

        Kernel: cache_reap(), 6.1 (MODEL 7.8, EXACT D C3, C10)
        Departs: a node's lists are first looked at by the first run, not at a time that depends on addresses
        """
        s: SlabCache
        n: KmemCacheNode
        node: cython.int = self.pages.cpu_node[cpu]
        other: cython.int = self.reap_node[cpu]
        quota: cython.int
        for s in reversed(self.caches):
            if s.gone:
                continue
            n = s.nodes[node]
            if self.nr_nodes > 1 and n.alien and other != node:
                self.drain_alien_cache(s, n.alien[other], other, cpu)
            self.drain_array(s, s.cpu_cache[cpu], node, cpu)
            if n.next_reap > now_jiffies:
                continue
            n.next_reap = now_jiffies + REAPTIMEOUT_NODE_S * self.hz
            self.drain_array(s, n.shared, node, cpu)
            if n.free_touched:
                n.free_touched = False
            else:
                quota = cython.cast(cython.int, (n.free_limit + 5 * s.objects - 1) // (5 * s.objects))
                s.stat[cpu * NR_SLAB_STATS + SLAB_REAPED] += self.drain_freelist(s, n, quota, cpu)
        self.reap_node[cpu] = (other + 1) % self.nr_nodes

    @cython.cfunc
    @cython.exceptval(check=False)
    def drain_array(self, s: SlabCache, ac: ArrayCache, node: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: drain_array(): a fifth of an array that was not used since the last time; at most half of it."""
        if ac.avail == 0:
            return
        if ac.touched:
            ac.touched = False
            return
        count: cython.int = (ac.limit + 4) // 5
        if count > ac.avail:
            count = (ac.avail + 1) // 2
        self.give_back(s, ac, node, count, cpu)

    @cython.cfunc
    @cython.exceptval(check=False)
    def give_back(
        self, s: SlabCache, ac: ArrayCache, node: cython.int, count: cython.int, cpu: cython.int
    ) -> cython.void:
        """Free the oldest entries of an array to the slabs of their node."""
        dead: cython.int
        if count == 0:
            return
        dead = self.free_block(s, node, ac.entry, count)
        ac.drop(count)
        self.it.locked(self.list_lock(s, node), COST_SLAB_LISTS, count)
        self.slabs_destroy(s, dead, cpu)

    @cython.cfunc
    @cython.exceptval(check=False)
    def drain_freelist(
        self, s: SlabCache, n: KmemCacheNode, most: cython.int, cpu: cython.int
    ) -> cython.int:
        """Kernel: drain_freelist(): destroy up to ``most`` free slabs from the list's tail; how many."""
        done: cython.int = 0
        while done < most and n.last[SLABS_FREE] != NIL:
            self.slab_destroy(s, self.take_free_slab(s, n), cpu)
            done += 1
        return done

    # -- shrink, destroy, tune --------------------------------------------------------------------

    @cython.ccall
    def drain_cpu_caches(self, s: SlabCache, cpu: cython.int) -> cython.void:
        """Kernel: drain_cpu_caches(): every array of a cache is emptied, into the slabs (MODEL 7.9)."""
        n: KmemCacheNode
        ac: ArrayCache
        owner: cython.int
        node: cython.int
        for owner in range(self.nr_cpus):
            ac = s.cpu_cache[owner]
            self.give_back(s, ac, self.pages.cpu_node[owner], ac.avail, cpu)
        for n in s.nodes:
            self.drain_aliens(s, n, cpu)
        for node in range(self.nr_nodes):
            n = s.nodes[node]
            self.give_back(s, n.shared, node, n.shared.avail, cpu)

    @cython.cfunc
    def drain_aliens(self, s: SlabCache, n: KmemCacheNode, cpu: cython.int) -> cython.void:
        """Kernel: drain_alien_cache(): all objects of other nodes go home."""
        owner: cython.int
        for owner in range(len(n.alien)):
            if n.alien[owner] is not None:
                self.drain_alien_cache(s, n.alien[owner], owner, cpu)

    @cython.ccall
    def shrink_cache(self, s: KmemCache, cpu: cython.int) -> cython.int:
        """Kernel: __kmem_cache_shrink(), mm/slab.c (MODEL 7.9); the slabs freed."""
        cache: SlabCache = cython.cast(SlabCache, s)
        freed: cython.int = self.slabs_of(cache)
        n: KmemCacheNode
        self.drain_cpu_caches(cache, cpu)
        for n in cache.nodes:
            self.drain_freelist(cache, n, n.free_slabs, cpu)
        return freed - self.slabs_of(cache)

    @cython.ccall
    def destroy_cache(self, s: KmemCache, cpu: cython.int) -> cython.bint:
        """Kernel: __kmem_cache_shutdown(), mm/slab.c: shrink; False when slabs remain."""
        self.shrink_cache(s, cpu)
        return self.slabs_of(cython.cast(SlabCache, s)) == 0

    @cython.cfunc
    def slabs_of(self, s: SlabCache) -> cython.int:
        """Slabs of all nodes."""
        n: KmemCacheNode
        slabs: cython.int = 0
        for n in s.nodes:
            slabs += n.total_slabs
        return slabs

    def tune_cpucache(self, index: int, limit: int, batchcount: int, shared: int, cpu: int) -> None:
        """
        Change a cache's arrays, as writing to /proc/slabinfo does.

        Kernel: do_tune_cpucache(), setup_kmem_cache_nodes() (MODEL 7.3): new arrays; what the old ones held goes to
        the slabs. Aliens stay.
        """
        s = self.caches[index]
        old, s.cpu_cache = s.cpu_cache, [ArrayCache(limit, batchcount) for _ in range(self.nr_cpus)]
        s.limit, s.batchcount, s.shared = limit, batchcount, shared
        for owner, ac in enumerate(old):
            self.empty(index, ac, self.pages.cpu_node[owner], cpu)
        for node, n in enumerate(s.nodes):
            n.free_limit = free_limit(self.node_cpus[node], batchcount, s.objects, False)
            self.empty(index, n.shared, node, cpu)
            n.shared = self.new_shared(s)
            if not n.alien:
                n.alien = self.new_alien(s, node)

    @cython.ccall
    def empty(self, index: cython.int, ac: ArrayCache, node: cython.int, cpu: cython.int) -> cython.void:
        """Give back all that an array holds."""
        self.give_back(self.caches[index], ac, node, ac.avail, cpu)

    # -- CPUs that come and go --------------------------------------------------------------------

    @cython.ccall
    def cpu_prepare(self, cpu: cython.int) -> cython.void:
        """
        Kernel: cpuup_prepare() (MODEL 7.9): the node's arrays are there again, its limits are worked out anew.

        The CPU itself is not counted yet when they are (EXACT D C1).
        """
        node: cython.int = self.pages.cpu_node[cpu]
        s: SlabCache
        n: KmemCacheNode
        for s in self.caches:
            if s.gone:
                continue
            n = s.nodes[node]
            n.free_limit = free_limit(self.node_cpus[node], s.batchcount, s.objects, False)
            if n.shared.limit == 0:
                n.shared = self.new_shared(s)
            if not n.alien:
                n.alien = self.new_alien(s, node)
        self.node_cpus[node] += 1

    @cython.ccall
    def cpu_dead(self, cpu: cython.int, by: cython.int) -> cython.void:
        """
        Kernel: cpuup_canceled() (MODEL 7.9): the CPU's arrays are freed to slabs, with the node's last CPU its shared
        ones too; then every free slab of the node goes.
        """
        node: cython.int = self.pages.cpu_node[cpu]
        s: SlabCache
        n: KmemCacheNode
        ac: ArrayCache
        self.node_cpus[node] -= 1
        for s in reversed(self.caches):
            if s.gone:
                continue
            n = s.nodes[node]
            n.free_limit -= s.batchcount
            ac = s.cpu_cache[cpu]
            self.give_back(s, ac, node, ac.avail, by)
            if self.node_cpus[node] > 0:
                continue
            self.give_back(s, n.shared, node, n.shared.avail, by)
            n.shared = ArrayCache(0, 0)
            self.drain_aliens(s, n, by)
            n.alien = []
        for s in reversed(self.caches):
            if not s.gone:
                n = s.nodes[node]
                self.drain_freelist(s, n, n.free_slabs, by)

    @cython.ccall
    def put_in_array(self, s: SlabCache, ac: ArrayCache, addr: cython.longlong, node: cython.int) -> cython.void:
        """Push a free object that a starting state has in this array; a full one gives its oldest back first."""
        alone: ArrayCache
        if ac.limit == 0:
            # The user has set this kind of array to nothing.
            alone = ArrayCache(1, 1)
            self.put_in_array(s, alone, addr, node)
            self.give_back(s, alone, node, 1, 0)
            return
        if ac.avail == ac.limit:
            self.give_back(s, ac, node, (ac.limit + 1) // 2, 0)
        ac.entry[ac.avail] = addr
        ac.avail += 1

    # -- for samples and --check ------------------------------------------------------------------

    def slabs_on(self, index: int, node: int, which: int) -> list[int]:
        """First pfns of the slabs on one of a node's lists (``SLABS_*``), head to tail."""
        found = []
        row = self.caches[index].nodes[node].first[which]
        while row != NIL:
            found.append(self.sl_pfn[row])
            row = self.sl_next[row]
        return found

    def stat_reader(self) -> SlabStat:
        from memtrace.mm.slab_stat import SlabAllocatorStat

        return SlabAllocatorStat(self)

    def validate(self) -> None:
        from memtrace.mm.slab_validate import validate_slab

        validate_slab(self)
