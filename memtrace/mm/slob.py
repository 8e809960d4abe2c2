"""
SLOB: one heap for all caches and kmalloc (MODEL 8, EXACT D C8, C12, C13); ``slob_pages.py`` is the heap.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.mm.constants import (
    NIL,
    PAGE_SHIFT,
    PAGE_SIZE,
    SLAB_HWCACHE_ALIGN,
    SLAB_TYPESAFE_BY_RCU,
    WAKE_RCU,
    ZERO_SIZE_PTR,
)
from memtrace.mm.kmem_cache import KmemCache, SlabStat, get_order
from memtrace.mm.mmzone import Zone
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.paths import (
    COST_KFREE_NULL,
    COST_LARGE_KMALLOC,
    PATH_ALLOC_FAILED,
    PATH_ALLOC_LARGE,
    PATH_FREE_LARGE,
    PATH_FREE_NOTHING,
    PATH_FREE_SLOB_RCU,
)
from memtrace.mm.slab_common import kmalloc_class_of
from memtrace.mm.slob_pages import SlobPages
from memtrace.mm.stats import NR_SLOB_LISTS, SLOB_LISTS

_MINALIGN = 8
_CACHE_LINE = 64
_UNITS = 2048
_SIZE_BITS = 16
_SIZE_MASK = 0xFFFF
_LARGE_KMALLOC = 0
"""Entry in ``live`` of a kmalloc of whole pages: cache 0, which has no such objects, and no bytes."""


@cython.cclass
class SlobCache(KmemCache):
    """
    A cache: sizes and counts, no pages of its own.

    ``kmalloc_bytes`` > 0 when it only stands for kmalloc of that size, another allocator's class.
    ``allocs`` and ``frees`` count objects by CPU.
    """

    kmalloc_bytes: cython.longlong
    allocs: cython.longlong[:]
    frees: cython.longlong[:]

    def __init__(self, index: cython.int, name: str, nr_cpus: cython.int) -> None:
        KmemCache.__init__(self, index, name)
        self.kmalloc_bytes = 0
        self.allocs = array("q", [0]) * nr_cpus
        self.frees = array("q", [0]) * nr_cpus


@cython.cclass
class Slob(SlobPages):
    """
    The whole allocator.

    Caches 0 to 2 are the three lists: they stand for kmalloc, which has no caches under SLOB, and for the pages.
    ``live`` maps an object's address to its cache << 16 | bytes of its block (0: whole pages).
    """

    live: dict
    waiting: list
    """(address, bytes, CPU) of blocks that wait for a grace period, oldest first; gone up to ``nr_released``."""
    nr_released: cython.int
    hidden_pages: cython.longlong
    """Pages that the starting state counted and could not place: full ones, and blocks of whole pages."""

    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint, word: cython.int
    ) -> None:
        SlobPages.__init__(self, pages, nr_cpus, nr_nodes, memcg, word)
        self.name = "slob"
        self.live = {}
        self.waiting = []
        self.nr_released = 0
        self.hidden_pages = 0
        for name in SLOB_LISTS:
            self.create_cache(name, 2)

    # -- caches -----------------------------------------------------------------------------------

    @cython.ccall
    def new_cache(self, index: cython.int, name: str) -> KmemCache:
        return SlobCache(index, name, self.nr_cpus)

    @cython.ccall
    def open_cache(self, s: KmemCache) -> cython.void:
        """
        Kernel: __kmem_cache_create() and calculate_alignment() (MODEL 8.4, EXACT C12).

        SLOB neither merges caches nor pads objects; with TYPESAFE_BY_RCU a footer of an rcu_head and a size is
        added: 24 bytes, 12 on 32-bit machines. A recorded size is another allocator's stride and does not count.
        """
        align: cython.int
        s.merge = False
        if s.flags & SLAB_HWCACHE_ALIGN:
            align = _CACHE_LINE
            while s.object_size <= align // 2:
                align //= 2
            s.align = max(s.align, align)
        s.inuse = s.object_size
        s.size = s.object_size
        if s.flags & SLAB_TYPESAFE_BY_RCU:
            s.size += 3 * self.word
        s.size = (s.size + 1) & ~1
        s.order = get_order(s.size) if s.size >= PAGE_SIZE else 0
        s.objects = 1 if s.size >= PAGE_SIZE else PAGE_SIZE // max(2, s.size)
        s.min_order = s.order
        s.min_objects = s.objects

    def create_kmalloc_caches(self) -> None:
        """SLOB's kmalloc has no caches (MODEL 5)."""

    def kmalloc_home(self, name: str) -> int:
        """A cache that stands for kmalloc of the size in another allocator's name, like ``kmalloc-96``."""
        size, _ = kmalloc_class_of(name)
        if size == 0:
            return NIL
        index = self.create_cache(name, size)
        s: SlobCache = cython.cast(SlobCache, self.caches[index])
        s.kmalloc_bytes = size
        return index

    # -- allocation -------------------------------------------------------------------------------

    @cython.ccall
    def kmalloc(
        self, size: cython.longlong, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """
        Kernel: __do_kmalloc_node() (MODEL 8.5, EXACT C13): a header of 8 bytes holds the size.

        From PAGE_SIZE - 8 bytes on whole pages are given. Powers of two are aligned to their size.
        """
        if size == 0:
            self.last_cache = NIL
            self.last_bytes = 0
            self.it.path = PATH_FREE_NOTHING
            self.it.step(COST_KFREE_NULL, 1)
            return ZERO_SIZE_PTR
        if size >= PAGE_SIZE - _MINALIGN:
            large: cython.longlong = self.kmalloc_large(size, gfp, node, cpu)
            if large != 0:
                self.account_slab_pages(
                    cython.cast(cython.int, large >> PAGE_SHIFT), cython.cast(cython.int, self.last_bytes >> PAGE_SHIFT)
                )
                self.live[large] = _LARGE_KMALLOC
            return large
        align: cython.int = _MINALIGN
        if size & (size - 1) == 0 and size > align:
            align = cython.cast(cython.int, size)
        total: cython.int = cython.cast(cython.int, size) + _MINALIGN
        which: cython.int = self.list_of(total)
        self.last_cache = which
        self.last_bytes = total
        block: cython.longlong = self.slob_alloc(total, gfp, align, node, _MINALIGN, cpu)
        if block == 0:
            return 0
        self.live[block + _MINALIGN] = (which << _SIZE_BITS) | total
        kind: SlobCache = self.caches[which]
        kind.allocs[cpu] += 1
        kind.live += 1
        return block + _MINALIGN

    @cython.ccall
    def slab_alloc(
        self, s: KmemCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: slob_alloc_node() (MODEL 8.4): objects of a page or more are whole pages."""
        cache: SlobCache = cython.cast(SlobCache, s)
        addr: cython.longlong
        pfn: cython.int
        if cache.kmalloc_bytes:
            return self.kmalloc(cache.kmalloc_bytes, gfp, node, cpu)
        if s.size < PAGE_SIZE:
            addr = self.slob_alloc(s.size, gfp, s.align, node, 0, cpu)
            if addr == 0:
                return 0
            self.live[addr] = (cython.cast(cython.longlong, s.index) << _SIZE_BITS) | s.size
        else:
            pfn = self.pages.alloc_pages(gfp, s.order, node, cpu)
            if pfn == NIL:
                self.it.path = PATH_ALLOC_FAILED
                return 0
            self.account_slab_pages(pfn, 1 << s.order)
            self.it.path = PATH_ALLOC_LARGE
            addr = cython.cast(cython.longlong, pfn) << PAGE_SHIFT
            self.live[addr] = cython.cast(cython.longlong, s.index) << _SIZE_BITS
        s.live += 1
        cache.allocs[cpu] += 1
        return addr

    @cython.ccall
    def bulk_alloc_one(self, s: KmemCache, gfp: cython.longlong, cpu: cython.int) -> cython.longlong:
        """Kernel: kmem_cache_alloc_bulk(): a loop."""
        return self.slab_alloc(s, gfp, NIL, cpu)

    # -- freeing ----------------------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(check=False)
    def kfree(self, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Kernel: kfree() and kmem_cache_free(): what is in no SLOB page is a block of pages (MODEL 8.5)."""
        if addr <= ZERO_SIZE_PTR:
            self.last_cache = NIL
            self.last_bytes = 0
            self.it.path = PATH_FREE_NOTHING
            self.it.step(COST_KFREE_NULL, 1)
            return
        pfn: cython.int = cython.cast(cython.int, addr >> PAGE_SHIFT)
        if self.frames.slab[pfn] != NIL or self.live.get(addr, _LARGE_KMALLOC) != _LARGE_KMALLOC:
            self.slab_free(self.frames.slab[pfn], addr, cpu)
            return
        if self.live.pop(addr, NIL) == NIL:
            self.unhide(pfn, 1 << self.frames.order[pfn])
        self.last_cache = NIL
        self.last_bytes = cython.cast(cython.longlong, PAGE_SIZE) << self.frames.order[pfn]
        self.free_large(pfn, cpu)

    @cython.cfunc
    @cython.exceptval(check=False)
    def free_large(self, pfn: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: slob_free_pages()."""
        self.account_slab_pages(pfn, -(1 << self.frames.order[pfn]))
        self.pages.free_pages(pfn, self.frames.order[pfn], cpu)
        self.it.path = PATH_FREE_LARGE
        self.it.step(COST_LARGE_KMALLOC, 1)

    @cython.ccall
    @cython.exceptval(check=False)
    def slab_free(self, slab: cython.int, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Free one object by its address, as which it was handed out."""
        entry: cython.longlong = self.live.pop(addr, -1)
        if entry < 0:
            self.bad_frees += 1
            return
        index: cython.int = cython.cast(cython.int, entry >> _SIZE_BITS)
        size: cython.int = cython.cast(cython.int, entry & _SIZE_MASK)
        s: SlobCache = self.caches[index]
        self.last_cache = index
        self.last_bytes = size if size else s.size
        s.frees[cpu] += 1
        s.live -= 1
        if index < NR_SLOB_LISTS:
            self.slob_free(addr - _MINALIGN, size, cpu)
            return
        if s.flags & SLAB_TYPESAFE_BY_RCU:
            # Kernel: call_rcu(kmem_rcu_free): the block stays taken until a grace period is over.
            self.waiting.append((addr, size, cpu))
            if size:
                self.sp_other[slab] += (size + 1) >> 1
            self.it.path = PATH_FREE_SLOB_RCU
            self.it.step(COST_KFREE_NULL, 1)
            self.it.wake(WAKE_RCU, 1)
        elif size:
            self.slob_free(addr, size, cpu)
        else:
            self.free_large(cython.cast(cython.int, addr >> PAGE_SHIFT), cpu)

    @cython.ccall
    def grace_period_over(self, frees: cython.int) -> cython.void:
        """Kernel: kmem_rcu_free() of the oldest ``frees`` blocks that wait, on the CPUs that freed them."""
        while frees > 0 and self.nr_released < len(self.waiting):
            addr, size, cpu = self.waiting[self.nr_released]
            self.nr_released += 1
            frees -= 1
            if size:
                self.sp_other[self.frames.slab[addr >> PAGE_SHIFT]] -= (size + 1) >> 1
                self.slob_free(addr, size, cpu)
            else:
                self.free_large(addr >> PAGE_SHIFT, cpu)
        if self.nr_released == len(self.waiting):
            self.waiting = []
            self.nr_released = 0

    @cython.ccall
    @cython.exceptval(check=False)
    def bulk_free(self, addrs: cython.longlong[:], n: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: kmem_cache_free_bulk(): a loop."""
        i: cython.int
        for i in range(n):
            self.kfree(addrs[i], cpu)

    # -- what pre-dates the trace -----------------------------------------------------------------

    @cython.ccall
    def restore_page(self, pfn: cython.int, which: cython.int, gaps: list) -> cython.void:
        """Lay out a page of a dump behind all others of its list; ``gaps`` are (first unit, units), ascending."""
        row: cython.int = self.add_page(pfn, which)
        gap: cython.int = NIL
        units: cython.int = 0
        for at, length in reversed(gaps):
            gap = self.new_gap(at, length, gap)
            units += length
        self.sp_first[row] = gap
        self.sp_other[row] = _UNITS - units
        self.change_units(row, units)
        if units:
            self.add_tail(which, row)

    @cython.ccall
    @cython.exceptval(check=False)
    def reveal_slab(self, s: KmemCache, pfn: cython.int, order: cython.int, node: cython.int) -> cython.void:
        """A page that is on no list is full; an object of a page or more is a block of its own."""
        self.unhide(pfn, 1 << order)
        if s.size >= PAGE_SIZE:
            return
        self.account_slab_pages(pfn, -1)
        row: cython.int = self.add_page(pfn, 0)
        self.sp_other[row] = _UNITS

    @cython.ccall
    @cython.exceptval(check=False)
    def hide_pages(self, pages: cython.longlong) -> cython.void:
        """Count pages whose place is not known."""
        zone: Zone = self.home_zone()
        self.hidden_pages = pages
        zone.slab_pages += pages

    @cython.cfunc
    def home_zone(self) -> Zone:
        """The zone in which pages without a place are counted: the highest that slab pages may come from."""
        zone: Zone
        for zone in self.pages.zonelists[0]:
            if zone.zone_idx <= self.pages.gfp_zone[0]:
                return zone
        return self.pages.zones[0]

    @cython.cfunc
    @cython.exceptval(check=False)
    def unhide(self, pfn: cython.int, pages: cython.int) -> cython.void:
        """Pages turn out to be SLOB's: they are among those without a place, or were not counted."""
        zone: Zone = self.home_zone()
        known: cython.longlong = min(self.hidden_pages, cython.cast(cython.longlong, pages))
        self.hidden_pages -= known
        zone.slab_pages -= known
        self.account_slab_pages(pfn, pages)

    @cython.ccall
    def claim(self, addr: cython.longlong, cache: cython.int) -> cython.bint:
        """
        An object that pre-dates the trace lies at ``addr``: note it, if what is known leaves room for it there.

        Its cache tells its size. The blocks of kmalloc hold their sizes themselves, where no trace shows them.
        """
        if cache < NR_SLOB_LISTS:
            return False
        s: KmemCache = self.caches[cache]
        row: cython.int = self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]
        if s.size >= PAGE_SIZE:
            if row != NIL or addr in self.live:
                return False
            self.live[addr] = cython.cast(cython.longlong, cache) << _SIZE_BITS
        else:
            if row == NIL or not self.take_other(row, cython.cast(cython.int, addr & (PAGE_SIZE - 1)) >> 1, s.size):
                return False
            self.live[addr] = (cython.cast(cython.longlong, cache) << _SIZE_BITS) | s.size
        s.live += 1
        self.last_cache = cache
        self.last_bytes = s.size
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def take_other(self, row: cython.int, at: cython.int, size: cython.int) -> cython.bint:
        """Turn units of nobody known into an object's; False when some of them are free or another's."""
        units: cython.int = (size + 1) >> 1
        gap: cython.int = self.sp_first[row]
        if self.sp_other[row] < units or at + units > _UNITS:
            return False
        while gap != NIL:
            if self.gap_at[gap] < at + units and at < self.gap_at[gap] + self.gap_units[gap]:
                return False
            gap = self.gap_next[gap]
        self.sp_other[row] -= units
        return True

    @cython.ccall
    def is_live(self, addr: cython.longlong) -> cython.bint:
        return addr in self.live

    @cython.ccall
    def cache_of(self, addr: cython.longlong) -> KmemCache:
        return self.caches[self.live[addr] >> _SIZE_BITS]

    # -- for generic code -------------------------------------------------------------------------

    @cython.ccall
    def shrink_cache(self, s: KmemCache, cpu: cython.int) -> cython.int:
        """Kernel: __kmem_cache_shrink(): nothing to do."""
        return 0

    @cython.ccall
    def destroy_cache(self, s: KmemCache, cpu: cython.int) -> cython.bint:
        """Kernel: __kmem_cache_shutdown(): SLOB cannot tell whether objects are alive, and does not ask."""
        return True

    @cython.ccall
    def ksize(self, addr: cython.longlong) -> cython.longlong:
        """Kernel: __ksize(): what kmalloc was asked for, in whole units, or the whole block."""
        if addr <= ZERO_SIZE_PTR:
            return 0
        entry: cython.longlong = self.live.get(addr, 0)
        if entry & _SIZE_MASK == 0:
            return cython.cast(cython.longlong, PAGE_SIZE) << self.frames.order[addr >> PAGE_SHIFT]
        header: cython.longlong = _MINALIGN if entry >> _SIZE_BITS < NR_SLOB_LISTS else 0
        return ((entry & _SIZE_MASK) - header + 1) & ~1

    # -- statistics, locks ------------------------------------------------------------------------

    def reset_statistics(self) -> None:
        cpu: cython.int
        i: cython.int
        s: SlobCache
        for i in range(NR_SLOB_LISTS * self.nr_cpus):
            self.new_pages[i] = 0
            self.freed_pages[i] = 0
        for s in self.caches:
            for cpu in range(self.nr_cpus):
                s.allocs[cpu] = 0
                s.frees[cpu] = 0

    def stat_reader(self) -> SlabStat:
        from memtrace.mm.slob_stat import SlobStat

        return SlobStat(self)

    def validate(self) -> None:
        from memtrace.mm.slob_validate import validate_slob

        validate_slob(self)

    def nr_locks(self) -> int:
        return 1

    def lock_name(self, lock: int) -> str:
        return "slob_lock"
