"""
A whole simulated machine: frames, zones, page allocator and slab allocator, and the calls that reach them.

``boot.py`` makes one; ``schedule`` calls it. Addresses are simulated physical addresses, 0 is NULL.
"""

from __future__ import annotations

from array import array
from typing import Any

import cython

from memtrace.mm.constants import MIGRATE_MOVABLE, NIL, PAGE_SHIFT, PAGE_USED, UNKNOWN_OWNER, WAKE_DEFERRED
from memtrace.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.kmem_cache import KmemCache
from memtrace.mm.mmzone import Frames, Zone
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.percpu import PercpuAllocator
from memtrace.mm.slab_common import SlabAllocator


@cython.cclass
class Machine:
    """
    The interface of generic kernel code, with the CPU that calls as the last argument.

    Every call is decided at once and leaves its steps in ``it``; callers reset that first.
    ``last_cache`` (-1 for none) and ``last_bytes`` describe what the last object call served.
    """

    frames: Frames
    pages: PageAllocator
    slab: SlabAllocator
    percpu: PercpuAllocator
    it: Itinerary
    config: Any
    pcp_params: Any
    nr_cpus: cython.int
    nr_nodes: cython.int
    nr_zones: cython.int
    next_unknown: cython.int
    """Where ``adopt_page`` goes on looking for pages of unknown owners."""
    deferred: cython.uchar[:]
    """By CPU: work waits for the CPU's next operation, because it does not wake an idle CPU."""
    nr_deferred: cython.int
    online: cython.uchar[:]
    """By CPU: is it online? See ``hotplug.py``."""
    runs_on: cython.int[:]
    """By CPU: who does its work; itself while it is online."""
    nr_offline: cython.int
    exact: cython.bint
    """Pages that pre-date the trace lie where the recording says (exact dump)."""
    moved: dict
    """Recorded address -> (address, cache, bytes) of objects carried over from another allocator, until adopted."""

    def __init__(
        self, pages: PageAllocator, slab: SlabAllocator, percpu: PercpuAllocator, config: Any, pcp_params: Any
    ) -> None:
        self.pages = pages
        self.frames = pages.frames
        self.slab = slab
        self.percpu = percpu
        self.it = pages.it
        self.config = config
        self.pcp_params = pcp_params
        self.nr_cpus = slab.nr_cpus
        self.nr_nodes = slab.nr_nodes
        self.nr_zones = len(pages.zones)
        self.next_unknown = 0
        self.deferred = array("B", [0]) * self.nr_cpus
        self.nr_deferred = 0
        self.online = array("B", [1]) * self.nr_cpus
        self.runs_on = array("i", range(self.nr_cpus))
        self.nr_offline = 0
        self.exact = False
        self.moved = {}

    # -- objects ----------------------------------------------------------------------------------

    @cython.ccall
    def kmalloc(
        self, size: cython.longlong, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: kmalloc_node(); node -1 is any."""
        return self.slab.kmalloc(size, gfp, node, cpu)

    @cython.ccall
    @cython.exceptval(check=False)
    def kfree(self, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Kernel: kfree()."""
        self.slab.kfree(addr, cpu)

    @cython.ccall
    def cache_alloc(
        self, cache: cython.int, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: kmem_cache_alloc_node()."""
        s: KmemCache = self.slab.caches[cache]
        self.slab.last_cache = cache
        self.slab.last_bytes = s.size
        return self.slab.slab_alloc(s, gfp, node, cpu)

    @cython.ccall
    @cython.exceptval(check=False)
    def cache_free(self, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Kernel: kmem_cache_free()."""
        self.slab.kfree(addr, cpu)

    @cython.ccall
    def bulk_alloc_one(self, cache: cython.int, gfp: cython.longlong, cpu: cython.int) -> cython.longlong:
        """One object of a kmem_cache_alloc_bulk()."""
        s: KmemCache = self.slab.caches[cache]
        return self.slab.bulk_alloc_one(s, gfp, cpu)

    @cython.ccall
    @cython.exceptval(check=False)
    def bulk_free(self, addrs: cython.longlong[:], n: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: kmem_cache_free_bulk(), kfree_bulk()."""
        self.slab.bulk_free(addrs, n, cpu)

    @property
    def last_cache(self) -> int:
        return self.slab.last_cache

    @property
    def last_bytes(self) -> int:
        return self.slab.last_bytes

    @property
    def cache_names(self) -> list:
        """Names of the caches, by index."""
        return [cache.name for cache in self.slab.caches]

    @property
    def nr_caches(self) -> int:
        return len(self.slab.caches)

    def find_cache(self, name: str) -> int:
        """Index of the cache of this name or alias, or -1."""
        return self.slab.find_cache(name)

    # -- pages ------------------------------------------------------------------------------------

    @cython.ccall
    def page_alloc(
        self, order: cython.int, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.int:
        """Kernel: __alloc_pages(): first pfn, or -1."""
        pfn: cython.int = self.pages.alloc_pages(gfp, order, node, cpu)
        self.it.path = self.pages.page_path
        return pfn

    @cython.ccall
    @cython.exceptval(check=False)
    def page_free(self, pfn: cython.int, order: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: __free_pages(): a block, or one aligned piece of one that was split."""
        self.pages.free_pages(pfn, order, cpu)
        self.it.path = self.pages.page_path

    # -- per-CPU areas ----------------------------------------------------------------------------

    @cython.ccall
    def alloc_percpu(
        self, size: cython.longlong, align: cython.longlong, gfp: cython.longlong, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: __alloc_percpu_gfp(): an area with a copy for each possible CPU, not only the calling one; or 0."""
        return self.percpu.alloc(size, align, False, gfp, cpu)

    @cython.ccall
    def free_percpu(self, ptr: cython.longlong, cpu: cython.int) -> cython.void:
        """Kernel: free_percpu()."""
        self.percpu.free(ptr, cpu)

    def percpu_ptr(self, ptr: int, cpu: int) -> int:
        """Kernel: per_cpu_ptr(): address of one CPU's copy; virtual, ``percpu.page_of`` knows its frame."""
        return self.percpu.cpu_address(ptr, cpu)

    # -- what pre-dates the trace -----------------------------------------------------------------

    @cython.ccall
    def adopt_object(self, addr: cython.longlong, cache: cython.int) -> cython.longlong:
        """
        Find, or make, the simulated object for one that was alive when the trace began.

        Parameters
        ----------
        addr
            Recorded physical address, or -1.
        cache
            Its cache, or -1 when unknown (kmalloc of unknown size).

        Returns
        -------
        Simulated address, or 0 when there is no place for it.

        With an exact starting state the object is where the recording says: if its page is not known as a
        slab yet, it belongs to a full slab, which dumps do not list (EXACT C 4.8). Otherwise the object is
        allocated, from the first CPU, at no cost.
        """
        s: KmemCache
        if addr in self.moved:
            found, self.slab.last_cache, self.slab.last_bytes = self.moved.pop(addr)
            return found
        if not self.exact:
            if cache == NIL:
                return 0
            return self.cache_alloc(cache, GFP_KERNEL, NIL, 0)
        pfn: cython.int = cython.cast(cython.int, addr >> PAGE_SHIFT)
        if addr < 0 or pfn >= self.frames.nr_frames:
            return 0
        if self.frames.slab[pfn] == NIL and cache != NIL:
            s = self.slab.caches[cache]
            self.adopt_slab(s, (pfn >> s.order) << s.order)
        return addr if self.slab.claim(addr, cache) else 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def adopt_slab(self, s: KmemCache, pfn: cython.int) -> cython.void:
        """Pages of an unknown owner turn out to be a full slab, which the dump counted but did not list."""
        if not self.is_unknown(pfn, 1 << s.order):
            return
        zone: Zone = self.pages.zones[self.pages.zone_of(pfn)]
        self.mark_used(pfn, s.order)
        self.slab.reveal_slab(s, pfn, s.order, zone.node)

    @cython.ccall
    def adopt_page(self, pfn: cython.int, order: cython.int) -> cython.int:
        """
        Find, or make, the block for pages that were in use when the trace began: first pfn, or -1.

        With an exact state it is the recorded one; otherwise any aligned block of pages whose owner is
        unknown, and when there is none left, a newly allocated one.
        """
        frames: Frames = self.frames
        p: cython.int
        size: cython.int = 1 << order
        if self.exact:
            if pfn < 0 or pfn + size > frames.nr_frames or not self.is_unknown(pfn, size):
                return NIL
            self.mark_used(pfn, order)
            self.make_reclaimable(pfn, order)
            return pfn
        p = self.unknown_block(order)
        if p != NIL:
            self.make_reclaimable(p, order)
            return p
        p = self.pages.alloc_pages(GFP_HIGHUSER_MOVABLE, order, NIL, 0)
        if p != NIL and order == 0:
            self.pages.lru_add(self.pages.zones[self.pages.last_zone], p, GFP_HIGHUSER_MOVABLE)
        return p

    @cython.ccall
    def unknown_block(self, order: cython.int) -> cython.int:
        """Take an aligned block of pages whose owner is unknown; its first pfn, or -1 when there is none left."""
        size: cython.int = 1 << order
        p: cython.int = (self.next_unknown + size - 1) & ~(size - 1)
        while p + size <= self.frames.nr_frames:
            if self.is_unknown(p, size):
                self.next_unknown = p + size
                self.mark_used(p, order)
                return p
            p += size
        if order == 0:
            self.next_unknown = self.frames.nr_frames  # none left: do not look through all memory each time
        return NIL

    @cython.cfunc
    @cython.exceptval(check=False)
    def is_unknown(self, pfn: cython.int, size: cython.int) -> cython.bint:
        """Are all these pages in use by somebody the model does not know?"""
        p: cython.int
        for p in range(pfn, pfn + size):
            if self.frames.mt[p] != UNKNOWN_OWNER or self.frames.kind[p] != 0:
                return False
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def mark_used(self, pfn: cython.int, order: cython.int) -> cython.void:
        """Give unknown pages an owner; the type they were asked with is taken to be their pageblock's."""
        zone: Zone = self.pages.zones[self.pages.zone_of(pfn)]
        p: cython.int
        for p in range(pfn, pfn + (1 << order)):
            self.frames.mt[p] = 0
        self.frames.kind[pfn] = PAGE_USED
        self.frames.order[pfn] = order
        self.frames.mt[pfn] = zone.get_pageblock_migratetype(pfn)

    @cython.cfunc
    @cython.exceptval(check=False)
    def make_reclaimable(self, pfn: cython.int, order: cython.int) -> cython.void:
        """A single page in use since before the trace is taken to be page cache when its pageblock is Movable."""
        if order == 0 and self.frames.mt[pfn] == MIGRATE_MOVABLE:
            self.pages.lru_add(self.pages.zones[self.pages.zone_of(pfn)], pfn, GFP_HIGHUSER_MOVABLE)

    # -- work beside the operations ---------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(check=False)
    def defer(self, cpu: cython.int) -> cython.void:
        """The allocator's periodic work is due on this CPU: it is done before the CPU's next operation."""
        if not self.deferred[cpu]:
            self.deferred[cpu] = True
            self.nr_deferred += 1

    @cython.ccall
    def run_deferred(self, cpu: cython.int, now_ns: cython.longlong) -> cython.void:
        """Do what waited for this CPU, whose next operation is about to be decided, at ``now_ns``."""
        self.deferred[cpu] = False
        self.nr_deferred -= 1
        self.it.reset()
        self.slab.deferred_work(cpu, now_ns)
        self.it.wake(WAKE_DEFERRED, cpu)

    # -- locks, statistics, rare events -----------------------------------------------------------

    def nr_locks(self) -> int:
        """Zone locks come first, then the allocator's own."""
        return self.nr_zones + self.slab.nr_locks()

    def lock_name(self, lock: int) -> str:
        """``zone->lock N0 Normal`` or ``list_lock dentry N0``."""
        if lock < self.nr_zones:
            zone = self.pages.zones[lock]
            return f"zone->lock N{zone.node} {zone.name}"
        return self.slab.lock_name(lock - self.nr_zones)

    def zone_node(self, zone: int) -> int:
        return self.pages.zones[zone].node

    def zone_name(self, zone: int) -> str:
        return self.pages.zones[zone].name

    def take_events(self) -> list:
        """(kind, arguments) of rare decisions since the last call."""
        events = self.pages.events
        self.pages.events = []
        return events

    def reset_statistics(self) -> None:
        """Forget every counter; state stays. Called once, when the trace begins."""
        self.slab.reset_statistics()
        self.percpu.reset_statistics()
        self.pages.events = []
        self.pages.alloc_failures = 0
        for zone in self.pages.zones:
            for pcp in zone.pcp:
                pcp.refills = pcp.drains = pcp.given_back = pcp.hits = pcp.misses = 0
            zone.lru_freed = zone.lru_reclaimed = 0
        for node in self.pages.nodes:
            node.seen_returned = 0

    def validate(self) -> None:
        """Run every validator; raises ModelError at the first broken invariant."""
        from memtrace.mm.validate import validate_machine

        validate_machine(self)
