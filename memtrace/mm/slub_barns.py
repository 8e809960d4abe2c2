"""
Sheaves, barns and what RCU frees into them: the store of SLUB with sheaves, as in Linux 6.18 (MODEL 6.13).

A CPU has a main sheaf, perhaps a spare one, and one that collects what RCU will free; a node's *barn* keeps full
and empty ones. Objects in a sheaf count as in use to the slabs below, and as active in /proc/slabinfo.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.config import SlubParams
from memtrace.mm.constants import (
    NIL,
    OBJ_LIVE,
    OBJ_SHEAF,
    PAGE_SHIFT,
    WAKE_RCU,
)
from memtrace.mm.kmem_cache import KmemCache
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.paths import (
    COST_SLUB_BARN,
    COST_SLUB_SHEAF,
    PATH_FREE_SHEAF,
)
from memtrace.mm.slub import Slub
from memtrace.mm.slub_slabs import SlubCache
from memtrace.mm.stats import (
    BARN_PUT,
    BARN_PUT_FAIL,
    FREE_RCU_SHEAF,
    NR_SHEAF_STATS,
    SHEAF_ALLOC,
    SHEAF_FLUSH,
    SHEAF_FREE,
)


@cython.cclass
class Sheaf:
    """A stack of free objects (struct slab_sheaf): addresses ``objects[:size]``."""

    size: cython.int
    objects: cython.longlong[:]

    def __init__(self, capacity: cython.int) -> None:
        self.size = 0
        self.objects = array("q", [0]) * capacity


@cython.cclass
class SheafCache(SlubCache):
    """
    A cache that may have sheaves: ``capacity`` 0 has none.

    ``c_main``, ``c_spare`` and ``c_rcu_free`` hold a Sheaf or None by CPU; ``full`` and ``empty`` are each node's
    barn, the sheaf put there last at the end.
    """

    capacity: cython.int
    c_main: list
    c_spare: list
    c_rcu_free: list
    full: list
    empty: list
    sheaf_stat: cython.longlong[:]


@cython.cclass
class Barns(Slub):
    """SLUB with a store of sheaves for some caches; ``SheafSlub`` serves from it."""

    sheaf_capacity: cython.int
    sheaf_caches: tuple
    barn_full: cython.int
    barn_empty: cython.int
    waiting: list
    """(cache, node, sheaf) of full sheaves that wait for a grace period, oldest first."""

    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint,
        params: SlubParams, seed: cython.int, word: cython.int,
    ) -> None:
        Slub.__init__(self, pages, nr_cpus, nr_nodes, memcg, params, seed, word)
        self.sheaf_capacity = params.sheaf_capacity
        self.sheaf_caches = params.sheaf_caches
        self.barn_full = params.barn_full
        self.barn_empty = params.barn_empty
        self.waiting = []

    # -- caches -----------------------------------------------------------------------------------

    @cython.ccall
    def new_cache(self, index: cython.int, name: str) -> KmemCache:
        s: SheafCache = SheafCache(index, name)
        self.prepare_cache(s)
        s.capacity = self.sheaf_capacity if name in self.sheaf_caches else 0
        s.c_main = []
        s.c_spare = [None] * self.nr_cpus
        s.c_rcu_free = [None] * self.nr_cpus
        s.full = [[] for _ in range(self.nr_nodes)]
        s.empty = [[] for _ in range(self.nr_nodes)]
        s.sheaf_stat = array("q", [0]) * (self.nr_cpus * NR_SHEAF_STATS)
        if s.capacity:
            cpu: cython.int
            for cpu in range(self.nr_cpus):
                s.c_main.append(self.new_sheaf(s, cpu))
        return s

    @cython.ccall
    def open_cache(self, s: KmemCache) -> cython.void:
        if cython.cast(SheafCache, s).capacity:
            s.merge = False
        Slub.open_cache(self, s)

    @cython.cfunc
    @cython.exceptval(check=False)
    def list_lock(self, s: KmemCache, node: cython.int) -> cython.int:
        """Number of a cache's list_lock on a node; that of the barn follows behind those of all nodes."""
        return self.nr_zones + 2 * s.index * self.nr_nodes + node

    def nr_locks(self) -> int:
        return 2 * len(self.caches) * self.nr_nodes

    def lock_name(self, lock: int) -> str:
        cache, rest = divmod(lock, 2 * self.nr_nodes)
        kind, node = divmod(rest, self.nr_nodes)
        return f"{('list_lock', 'barn')[kind]} {self.caches[cache].name} N{node}"

    # -- parts ------------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def note(self, s: SheafCache, cpu: cython.int, which: cython.int, n: cython.int) -> cython.void:
        s.sheaf_stat[cpu * NR_SHEAF_STATS + which] += n

    @cython.cfunc
    def new_sheaf(self, s: SheafCache, cpu: cython.int) -> Sheaf:
        """
        Kernel: alloc_empty_sheaf().

        Departs: never fails, and takes no memory of the model's: a trace of this kernel holds its kmalloc
        """
        self.note(s, cpu, SHEAF_ALLOC, 1)
        return Sheaf(s.capacity)

    @cython.cfunc
    def barn_step(self, s: SheafCache, node: cython.int) -> cython.int:
        """The barn's lock is taken to move a sheaf."""
        self.it.locked(self.list_lock(s, node) + self.nr_nodes, COST_SLUB_BARN, 1)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def mark(self, addr: cython.longlong, what: cython.int) -> cython.void:
        """Set an object's mark: OBJ_LIVE or OBJ_SHEAF."""
        slab: cython.int = self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]
        s: SlubCache = self.caches[self.sl_cache[slab]]
        offset: cython.longlong = addr - (cython.cast(cython.longlong, self.sl_pfn[slab]) << PAGE_SHIFT)
        self.obj_next[self.sl_seg[slab] + offset // s.size] = what

    @cython.cfunc
    @cython.exceptval(check=False)
    def push(self, s: SheafCache, sheaf: Sheaf, addr: cython.longlong) -> cython.void:
        """Put a live object on a sheaf."""
        sheaf.objects[sheaf.size] = addr
        sheaf.size += 1
        self.mark(addr, OBJ_SHEAF)
        s.live -= 1

    @cython.cfunc
    def flush_sheaf(self, s: SheafCache, sheaf: Sheaf, cpu: cython.int) -> cython.int:
        """Kernel: sheaf_flush_unused(): all its objects to their slabs."""
        i: cython.int
        for i in range(sheaf.size):
            self.mark(sheaf.objects[i], OBJ_LIVE)
        s.live += sheaf.size
        self.note(s, cpu, SHEAF_FLUSH, sheaf.size)
        Slub.bulk_free(self, sheaf.objects, sheaf.size, cpu)
        sheaf.size = 0
        return 0

    # -- RCU --------------------------------------------------------------------------------------

    @cython.ccall
    def free_rcu_sheaf(self, addr: cython.longlong, cpu: cython.int) -> cython.bint:
        """
        Kernel: __kfree_rcu_sheaf(): collect an object that RCU will free; False when its cache has no sheaves.

        A sheaf that is full waits for a grace period (``WAKE_RCU``); until then its objects are nobody's.
        """
        slab: cython.int = self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]
        if slab == NIL:
            return False
        s: SheafCache = self.caches[self.sl_cache[slab]]
        node: cython.int = self.pages.cpu_node[cpu]
        if s.capacity == 0 or self.sl_node[slab] != node or not self.is_live(addr):
            return False
        sheaf: Sheaf | None = s.c_rcu_free[cpu]
        if sheaf is None:
            spare: Sheaf | None = s.c_spare[cpu]
            if spare is not None and spare.size == 0:
                sheaf = spare
                s.c_spare[cpu] = None
            elif s.empty[node]:
                sheaf = s.empty[node].pop()
                self.barn_step(s, node)
            else:
                sheaf = self.new_sheaf(s, cpu)
            s.c_rcu_free[cpu] = sheaf
        self.push(s, sheaf, addr)
        self.note(s, cpu, FREE_RCU_SHEAF, 1)
        self.last_cache = s.index
        self.last_bytes = s.size
        self.it.path = PATH_FREE_SHEAF
        self.it.step(COST_SLUB_SHEAF, 1)
        if sheaf.size == s.capacity:
            s.c_rcu_free[cpu] = None
            self.wait_for_rcu(s, node, cpu, sheaf)
        return True

    @cython.cfunc
    def wait_for_rcu(self, s: SheafCache, node: cython.int, cpu: cython.int, sheaf: Sheaf) -> cython.int:
        """Kernel: call_rcu(rcu_free_sheaf)."""
        self.waiting.append((s.index, node, cpu, sheaf))
        self.it.wake(WAKE_RCU, 1)
        return 0

    @cython.ccall
    def grace_period_over(self, frees: cython.int) -> cython.void:
        """Kernel: rcu_free_sheaf(): the oldest sheaves become full ones of their barns, or go to the slabs."""
        while frees > 0 and self.waiting:
            frees -= 1
            index, node, cpu, waited = self.waiting.pop(0)
            s: SheafCache = self.caches[index]
            sheaf: Sheaf = waited
            if sheaf.size > 0 and len(s.full[node]) < self.barn_full:
                self.note(s, cpu, BARN_PUT, 1)
                s.full[node].append(sheaf)
                continue
            if sheaf.size > 0:
                self.note(s, cpu, BARN_PUT_FAIL, 1)
                self.flush_sheaf(s, sheaf, cpu)
            if len(s.empty[node]) < self.barn_empty:
                s.empty[node].append(sheaf)
            else:
                self.note(s, cpu, SHEAF_FREE, 1)

    # -- flushing ---------------------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(check=False)
    def flush_cpu(self, s: SlubCache, owner: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: pcs_flush_all(), then what the slabs below keep for that CPU (MODEL 6.13.4)."""
        cache: SheafCache = cython.cast(SheafCache, s)
        if cache.capacity:
            spare: Sheaf | None = cache.c_spare[owner]
            if spare is not None:
                self.flush_sheaf(cache, spare, cpu)
                self.note(cache, cpu, SHEAF_FREE, 1)
                cache.c_spare[owner] = None
            if cache.c_rcu_free[owner] is not None:
                self.wait_for_rcu(cache, self.pages.cpu_node[owner], cpu, cache.c_rcu_free[owner])
                cache.c_rcu_free[owner] = None
            self.flush_sheaf(cache, cache.c_main[owner], cpu)
        Slub.flush_cpu(self, s, owner, cpu)

    @cython.ccall
    def shrink_barns(self, s: KmemCache, cpu: cython.int) -> cython.void:
        """Kernel: barn_shrink() of every node; what waits for RCU is waited for (rcu_barrier())."""
        cache: SheafCache = cython.cast(SheafCache, s)
        node: cython.int
        self.grace_period_over(len(self.waiting))
        for node in range(self.nr_nodes):
            for sheaf in cache.full[node]:
                self.flush_sheaf(cache, sheaf, cpu)
            self.note(cache, cpu, SHEAF_FREE, len(cache.full[node]) + len(cache.empty[node]))
            cache.full[node] = []
            cache.empty[node] = []

    @cython.ccall
    def shrink_cache(self, s: KmemCache, cpu: cython.int) -> cython.int:
        self.flush_all(s.index)
        self.shrink_barns(s, cpu)
        return Slub.shrink_cache(self, s, cpu)

    @cython.ccall
    def destroy_cache(self, s: KmemCache, cpu: cython.int) -> cython.bint:
        self.flush_all(s.index)
        self.shrink_barns(s, cpu)
        return Slub.destroy_cache(self, s, cpu)

    # -- for starting states, samples and --check --------------------------------------------------

    @cython.ccall
    def fill_sheaves(self, s: KmemCache, cpu: cython.int, addrs: list) -> cython.int:
        """
        Lay out what a CPU's sheaves held at the start; how many objects found room.

        Parameters
        ----------
        addrs
            Live objects in the order in which they were handed out: main from its top, spare, full ones of the barn.
        """
        cache: SheafCache = cython.cast(SheafCache, s)
        at: cython.int = 0
        if cache.capacity == 0:
            return 0
        node: cython.int = self.pages.cpu_node[cpu]
        while at < len(addrs) and len(cache.full[node]) < self.barn_full:
            part: list = addrs[at : at + cache.capacity]
            sheaf: Sheaf = cache.c_main[cpu] if at == 0 else Sheaf(cache.capacity)
            for addr in reversed(part):
                self.push(cache, sheaf, addr)
            if at == cache.capacity:
                cache.c_spare[cpu] = sheaf
            elif at > 0:
                cache.full[node].insert(0, sheaf)
            at += len(part)
        return at

    @cython.ccall
    def sheaf_objects(self, s: KmemCache) -> list:
        """Every object in a sheaf of a cache: of each CPU, of the barns, and of those that wait for RCU."""
        cache: SheafCache = cython.cast(SheafCache, s)
        found: list = []
        groups = [cache.c_main, cache.c_spare, cache.c_rcu_free, *cache.full, *cache.empty]
        groups.append([sheaf for index, _, _, sheaf in self.waiting if index == s.index])
        for group in groups:
            for held in group:
                if held is not None:
                    sheaf: Sheaf = held
                    found.extend([sheaf.objects[i] for i in range(sheaf.size)])
        return found

    def reset_statistics(self) -> None:
        Slub.reset_statistics(self)
        for cache in self.caches:
            for i in range(len(cache.sheaf_stat)):
                cache.sheaf_stat[i] = 0
