"""
What all slab allocators share besides caches (``kmem_cache``): what each of them must provide, and kmalloc (MODEL 5).

``SlabAllocator`` is the one standard interface of the book's figure; SLUB is a subclass of it.
"""

from __future__ import annotations

from array import array
from typing import Any

import cython

from memtrace.config import KmallocParams
from memtrace.mm.constants import (
    KMALLOC_MAX_CACHED,
    MAX_ORDER,
    NIL,
    PAGE_SHIFT,
    PAGE_SIZE,
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
    ZERO_SIZE_PTR,
)
from memtrace.mm.gfp import (
    GFP_BIT_ACCOUNT,
    GFP_BIT_COMP,
    GFP_BIT_DMA,
    GFP_BIT_RECLAIMABLE,
)
from memtrace.mm.kmem_cache import CacheRegistry, KmemCache, SlabStat
from memtrace.mm.mmzone import Zone
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.paths import (
    COST_KFREE_NULL,
    COST_LARGE_KMALLOC,
    PATH_ALLOC_FAILED,
    PATH_ALLOC_LARGE,
    PATH_FREE_LARGE,
    PATH_FREE_NOTHING,
)

KMALLOC_SIZES = (0, 96, 192, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
KMALLOC_SUFFIXES = ("", "96", "192", "8", "16", "32", "64", "128", "256", "512", "1k", "2k", "4k", "8k")
KMALLOC_PREFIXES = ("kmalloc-", "kmalloc-cg-", "kmalloc-rcl-", "dma-kmalloc-")
_NR_CLASSES = 14
_NORMAL = 0
_CGROUP = 1
_RECLAIM = 2
_DMA = 3


@cython.cclass
class SlabAllocator(CacheRegistry):
    """
    The interface generic kernel code sees; subclasses decide where an object comes from.

    Addresses are simulated physical addresses, 0 is NULL. ``last_cache`` (-1: large kmalloc or nothing)
    and ``last_bytes`` tell what the last call served or freed.
    """

    name: object
    """What ``--allocator`` calls it."""
    last_cache: cython.int
    last_bytes: cython.longlong
    kmalloc_class: cython.uchar[:]
    """Class of (size + 7) // 8 for sizes up to 192 (size_index)."""
    kmalloc_cache: cython.int[:]
    """Cache index of type * 14 + class."""
    kmalloc_largest: cython.int
    """Sizes above this take whole pages."""
    kmalloc_params: Any
    bad_frees: cython.longlong
    """Frees of an address that holds no live object; a correct caller never causes one."""

    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint, word: cython.int
    ) -> None:
        CacheRegistry.__init__(self, pages, nr_cpus, nr_nodes, memcg, word)
        self.name = ""
        self.last_cache = NIL
        self.last_bytes = 0
        self.kmalloc_class = array("B", [0]) * 25
        self.kmalloc_cache = array("i", [-1]) * (4 * _NR_CLASSES)
        self.bad_frees = 0
        self.set_kmalloc(KmallocParams())

    def set_kmalloc(self, params: KmallocParams) -> None:
        """Choose which kmalloc caches there will be; before they are created."""
        self.kmalloc_params = params
        self.kmalloc_largest = min(params.largest, KMALLOC_MAX_CACHED)

    # -- what subclasses provide ------------------------------------------------------------------

    @cython.ccall
    def slab_alloc(
        self, s: KmemCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """One object, or 0."""
        raise NotImplementedError

    @cython.ccall
    @cython.exceptval(check=False)
    def slab_free(self, slab: cython.int, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Free one object that lies in a slab."""
        raise NotImplementedError

    @cython.ccall
    def bulk_alloc_one(self, s: KmemCache, gfp: cython.longlong, cpu: cython.int) -> cython.longlong:
        """One object of a kmem_cache_alloc_bulk(), or 0."""
        raise NotImplementedError

    @cython.ccall
    @cython.exceptval(check=False)
    def bulk_free(self, addrs: cython.longlong[:], n: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: kmem_cache_free_bulk(): free ``addrs[:n]``."""
        raise NotImplementedError

    @cython.ccall
    def is_live(self, addr: cython.longlong) -> cython.bint:
        """Does an object that was handed out begin at this address?"""
        raise NotImplementedError

    @cython.ccall
    def cache_of(self, addr: cython.longlong) -> KmemCache:
        """Cache of the slab that an address lies in; there must be one."""
        raise NotImplementedError

    @cython.ccall
    @cython.exceptval(check=False)
    def reveal_slab(self, s: KmemCache, pfn: cython.int, order: cython.int, node: cython.int) -> cython.void:
        """Register a full slab that the starting state counted but could not place."""
        raise NotImplementedError

    @cython.ccall
    def claim(self, addr: cython.longlong, cache: cython.int) -> cython.bint:
        """
        Is the object that was alive at a recorded address when the trace began there? Says what it is.

        An allocator whose pages do not tell where objects begin notes it, as ``cache``'s (-1: not known).
        """
        if self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)] == NIL or not self.is_live(addr):
            return False
        s: KmemCache = self.cache_of(addr)
        self.last_cache = s.index
        self.last_bytes = s.size
        return True

    @cython.ccall
    def free_rcu_sheaf(self, addr: cython.longlong, cpu: cython.int) -> cython.bint:
        """Collect an object that kfree_rcu() frees; False when the allocator leaves that to kfree_rcu()'s batches."""
        return False

    @cython.ccall
    def grace_period_over(self, frees: cython.int) -> cython.void:
        """The oldest ``frees`` frees that wait for RCU (``WAKE_RCU``) are due; most allocators have none."""

    @cython.ccall
    def deferred_work(self, cpu: cython.int, now_ns: cython.longlong) -> cython.void:
        """
        Periodic work of a CPU that waits until the CPU is busy anyway; most allocators have none.

        ``now_ns`` only orders calls: it is compared with that of earlier ones.
        """

    @cython.ccall
    def ksize(self, addr: cython.longlong) -> cython.longlong:
        """
        Kernel: ksize(): bytes usable at the address of a live object, 0 for NULL and ZERO_SIZE_PTR (MODEL 5.4).

        Here: a cache's stride, but no further than ``inuse`` where the free pointer lies behind the object; a large
        kmalloc's whole block.
        """
        if addr <= ZERO_SIZE_PTR:
            return 0
        pfn: cython.int = cython.cast(cython.int, addr >> PAGE_SHIFT)
        if self.frames.slab[pfn] < 0:
            return cython.cast(cython.longlong, PAGE_SIZE) << self.frames.order[pfn]
        s: KmemCache = self.cache_of(addr)
        return s.inuse if s.flags & SLAB_TYPESAFE_BY_RCU else s.size

    def reset_statistics(self) -> None:
        """Zero every counter of every cache."""
        raise NotImplementedError

    def stat_reader(self) -> SlabStat:
        """What samples are read with."""
        raise NotImplementedError

    def validate(self) -> None:
        """Walk the whole state; raises ModelError at the first broken invariant."""
        raise NotImplementedError

    def nr_locks(self) -> int:
        """Locks of the allocator itself; their numbers follow those of the zones."""
        raise NotImplementedError

    def lock_name(self, lock: int) -> str:
        """Name of the allocator's lock ``lock``, counted from 0."""
        raise NotImplementedError

    def kmalloc_numbers(self) -> list[int]:
        """The allocator's classes of kmalloc, as indexes into KMALLOC_SIZES, in the order their caches are made."""
        return list(range(1, _NR_CLASSES))

    def kmalloc_flags(self) -> int:
        """Flags that the allocator gives all its kmalloc caches."""
        return 0

    def create_kmalloc_caches(self) -> None:
        """Kernel: create_kmalloc_caches(): the allocator's classes (MODEL 5.1), types of 5.2 that the kernel has."""
        params = self.kmalloc_params
        numbers = self.kmalloc_numbers()
        smallest = min(number for number in numbers if KMALLOC_SIZES[number] not in (96, 192))
        self.kmalloc_class = array("B", [max(smallest, n) if n > 2 else n for n in map(_small_class, range(0, 200, 8))])
        absent = {kind for kind, there in ((_CGROUP, self.memcg), (_RECLAIM, params.reclaim_caches)) if not there}
        for kind, prefix in enumerate(KMALLOC_PREFIXES):
            if kind in absent:
                continue
            flags = {_RECLAIM: SLAB_RECLAIM_ACCOUNT, _DMA: SLAB_CACHE_DMA, _CGROUP: SLAB_ACCOUNT}.get(kind, 0)
            flags |= self.kmalloc_flags()
            for number in numbers:
                size = KMALLOC_SIZES[number]
                if size > self.kmalloc_largest:
                    continue
                align = size & -size if size & (size - 1) == 0 or params.aligned_classes else 8
                name = prefix + KMALLOC_SUFFIXES[number]
                if not params.short_names and name not in self.by_name:
                    name = f"{prefix}{size}"
                self.kmalloc_cache[kind * _NR_CLASSES + number] = self.create_cache(
                    name, size, align, flags, merge=kind != _NORMAL or not self.memcg
                )
        for kind in absent:
            self.kmalloc_cache[kind * _NR_CLASSES : (kind + 1) * _NR_CLASSES] = self.kmalloc_cache[0:_NR_CLASSES]

    def kmalloc_home(self, name: str) -> int:
        """Cache that serves what another allocator's kmalloc cache of this name does, or -1: it is no kmalloc cache."""
        size, gfp = kmalloc_class_of(name)
        return self.kmalloc_slab(size, gfp) if 0 < size <= self.kmalloc_largest else NIL

    # -- CPUs that come and go --------------------------------------------------------------------

    @cython.ccall
    def cpu_prepare(self, cpu: cython.int) -> cython.void:
        """A CPU of this machine is about to come back (MODEL 13); ``cpu_dead`` took it away before."""

    @cython.ccall
    def cpu_dead(self, cpu: cython.int, by: cython.int) -> cython.void:
        """A CPU has gone (MODEL 13): what it held goes back to the slabs, on CPU ``by``; some keep nothing for it."""

    # -- kmalloc ----------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def kmalloc_slab(self, size: cython.longlong, gfp: cython.longlong) -> cython.int:
        """Kernel: kmalloc_slab(): cache index for a size of 1..8192 bytes (MODEL 5.1, 5.2)."""
        kind: cython.int = _NORMAL
        number: cython.int
        if gfp & (GFP_BIT_DMA | GFP_BIT_RECLAIMABLE | GFP_BIT_ACCOUNT):
            if gfp & GFP_BIT_DMA:
                kind = _DMA
            elif gfp & GFP_BIT_RECLAIMABLE:
                kind = _RECLAIM
            else:
                kind = _CGROUP
        if size <= 192:
            number = self.kmalloc_class[(size + 7) >> 3]
        else:
            number = 8
            while (1 << number) < size:
                number += 1
        return self.kmalloc_cache[kind * _NR_CLASSES + number]

    @cython.ccall
    def kmalloc(
        self, size: cython.longlong, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: kmalloc_node(): address, ZERO_SIZE_PTR for size 0, or 0 when memory is short."""
        if size == 0:
            self.last_cache = NIL
            self.last_bytes = 0
            self.it.path = PATH_FREE_NOTHING
            self.it.step(COST_KFREE_NULL, 1)
            return ZERO_SIZE_PTR
        if size > self.kmalloc_largest:
            return self.kmalloc_large(size, gfp, node, cpu)
        index: cython.int = self.kmalloc_slab(size, gfp)
        s: KmemCache = self.caches[index]
        self.last_cache = index
        self.last_bytes = s.size
        return self.slab_alloc(s, gfp, node, cpu)

    @cython.cfunc
    def kmalloc_large(
        self, size: cython.longlong, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: kmalloc_large_node(): whole pages (MODEL 5.3)."""
        order: cython.int = 0
        while (cython.cast(cython.longlong, PAGE_SIZE) << order) < size and order <= MAX_ORDER:
            order += 1
        self.last_cache = NIL
        self.last_bytes = cython.cast(cython.longlong, PAGE_SIZE) << order
        pfn: cython.int = self.pages.alloc_pages(gfp | GFP_BIT_COMP, order, node, cpu)
        if pfn == NIL:
            self.it.path = PATH_ALLOC_FAILED
            return 0
        self.it.path = PATH_ALLOC_LARGE
        self.it.step(COST_LARGE_KMALLOC, 1)
        return cython.cast(cython.longlong, pfn) << PAGE_SHIFT

    @cython.ccall
    @cython.exceptval(check=False)
    def kfree(self, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Kernel: kfree(), and kmem_cache_free(): NULL and ZERO_SIZE_PTR are no-ops."""
        pfn: cython.int = cython.cast(cython.int, addr >> PAGE_SHIFT)
        if addr <= ZERO_SIZE_PTR:
            self.last_cache = NIL
            self.last_bytes = 0
            self.it.path = PATH_FREE_NOTHING
            self.it.step(COST_KFREE_NULL, 1)
            return
        slab: cython.int = self.frames.slab[pfn]
        if slab >= 0:
            self.slab_free(slab, addr, cpu)
            return
        order: cython.int = self.frames.order[pfn]
        self.last_cache = NIL
        self.last_bytes = cython.cast(cython.longlong, PAGE_SIZE) << order
        self.pages.free_pages(pfn, order, cpu)
        self.it.path = PATH_FREE_LARGE
        self.it.step(COST_LARGE_KMALLOC, 1)

    @cython.ccall
    @cython.exceptval(check=False)
    def account_slab_pages(self, pfn: cython.int, pages: cython.int) -> cython.void:
        """Keep the zone's count of slab pages (NR_SLAB_*)."""
        zone: Zone = self.pages.zones[self.pages.zone_of(pfn)]
        zone.slab_pages += pages


def kmalloc_class_of(name: str) -> tuple[int, int]:
    """Size and gfp bits that a kmalloc cache's name stands for, (0, 0) for any other cache: ``kmalloc-rcl-1k``."""
    bits = {"kmalloc-": 0, "kmalloc-cg-": GFP_BIT_ACCOUNT, "kmalloc-rcl-": GFP_BIT_RECLAIMABLE,
            "dma-kmalloc-": GFP_BIT_DMA}
    prefix, dash, suffix = name.rpartition("-")
    digits = suffix.removesuffix("k")
    if prefix + dash not in bits or not digits.isdigit():
        return 0, 0
    return int(digits) << (10 if suffix.endswith("k") else 0), bits[prefix + dash]


def _small_class(size: int) -> int:
    """Class number of a size up to 192 (MODEL 5.1)."""
    if size <= 8:
        return 3
    if 64 < size <= 96:
        return 1
    if 128 < size <= 192:
        return 2
    return max(3, (size - 1).bit_length())
