"""
Caches (struct kmem_cache) and their registry: creating, merging and destroying them (MODEL 5.5, 6.11).

An allocator says what a cache of its own is and what shape its slabs have; all the rest is the same for all of them.
"""

from __future__ import annotations

import cython

from memtrace.mm.constants import (
    KMALLOC_MAX_SIZE,
    NIL,
    PAGE_SHIFT,
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_NOLEAKTRACE,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.mmzone import Frames
from memtrace.mm.page_alloc import PageAllocator


@cython.cclass
class KmemCache:
    """
    One cache (struct kmem_cache), what every allocator needs of it.

    ``size`` is the stride in bytes, ``object_size`` what the creator asked for; ``order`` and ``objects``
    describe a slab of the preferred order, ``min_*`` one of the smallest. ``merge`` tells whether another
    cache may become an alias of this one.
    """

    index: cython.int
    name: object
    aliases: list
    object_size: cython.int
    size: cython.int
    align: cython.int
    inuse: cython.int
    offset: cython.int
    flags: cython.longlong
    allocflags: cython.longlong
    ctor: cython.bint
    merge: cython.bint
    order: cython.int
    objects: cython.int
    min_order: cython.int
    min_objects: cython.int
    live: cython.longlong
    """Objects handed out and not yet freed."""
    refcount: cython.int
    """Creators that have not destroyed it yet: one, and one for each alias."""
    gone: cython.bint
    """Destroyed: only its number is left, so that other caches keep theirs."""

    def __init__(self, index: cython.int, name: str) -> None:
        self.index = index
        self.name = name
        self.aliases = []
        self.object_size = 0
        self.size = 0
        self.align = 8
        self.inuse = 0
        self.offset = 0
        self.flags = 0
        self.allocflags = 0
        self.ctor = False
        self.merge = True
        self.order = 0
        self.objects = 0
        self.min_order = 0
        self.min_objects = 0
        self.live = 0
        self.refcount = 1
        self.gone = False


@cython.cclass
class SlabStat:
    """
    Reads an allocator's counts into buffers, as ``vmstat.VmStat`` does.

    ``names`` are the allocator's counters by CPU and cache, in the order ``cpu_caches`` gives them.
    """

    names: tuple

    def __init__(self, names: tuple) -> None:
        self.names = names

    @cython.ccall
    def caches(self, buf: cython.longlong[:]) -> cython.int:
        """CACHE_FIELDS of every cache, by index; rows written."""
        raise NotImplementedError

    @cython.ccall
    def cpu_caches(self, buf: cython.longlong[:]) -> cython.int:
        """(cpu, cache, counters...) of every pair that was ever used; rows written."""
        raise NotImplementedError


def get_order(size: int) -> int:
    """Smallest order whose block holds ``size`` bytes. Kernel: get_order()."""
    return max(0, ((size - 1) >> PAGE_SHIFT).bit_length())


@cython.cclass
class CacheRegistry:
    """The caches of a machine, by number and by name."""

    pages: PageAllocator
    frames: Frames
    it: Itinerary
    caches: list
    by_name: dict
    nr_cpus: cython.int
    nr_nodes: cython.int
    memcg: cython.bint
    word: cython.int
    """Bytes of a pointer: 8, or 4 on a 32-bit machine."""

    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint, word: cython.int
    ) -> None:
        self.pages = pages
        self.frames = pages.frames
        self.it = pages.it
        self.caches = []
        self.by_name = {}
        self.nr_cpus = nr_cpus
        self.nr_nodes = nr_nodes
        self.memcg = memcg
        self.word = word

    # -- what subclasses provide ------------------------------------------------------------------

    @cython.ccall
    def new_cache(self, index: cython.int, name: str) -> KmemCache:
        """An empty cache of the allocator's own kind."""
        return KmemCache(index, name)

    @cython.ccall
    def open_cache(self, s: KmemCache) -> cython.void:
        """Work out a cache's geometry from its object size, alignment and flags."""
        raise NotImplementedError

    @cython.ccall
    def may_merge(self, s: KmemCache, other: KmemCache) -> cython.bint:
        """Whether the allocator lets ``s``, otherwise like ``other``, become an alias of it."""
        return True

    @cython.ccall
    def shrink_cache(self, s: KmemCache, cpu: cython.int) -> cython.int:
        """
        Kernel: __kmem_cache_shrink(): give back what no object lies in; the slabs freed.

        ``cpu`` is the one that asks. An allocator without slabs of its own to keep does nothing and returns 0.
        """
        raise NotImplementedError

    @cython.ccall
    def destroy_cache(self, s: KmemCache, cpu: cython.int) -> cython.bint:
        """
        Kernel: __kmem_cache_shutdown(): give back every slab of a cache; False when an object is still alive.

        What is empty goes back even then. The caller (``kmem_cache_destroy``) takes the cache off the registry.
        """
        raise NotImplementedError

    # -- caches -----------------------------------------------------------------------------------

    @cython.ccall
    def find_cache(self, name: str) -> cython.int:
        """Index of the cache of this name or alias, or -1."""
        return self.by_name.get(name, NIL)

    def create_cache(
        self, name: str, object_size: int, align: int = 8, flags: int = 0, ctor: bool = False,
        merge: bool = True, size: int = 0, order: int = -1,
    ) -> int:
        """
        Kernel: kmem_cache_create(): index of a new cache, or of the one it was merged into.

        Parameters
        ----------
        object_size
            Bytes asked for.
        size
            Stride in bytes when it is known from a recording; 0 works it out (MODEL 6.2).
        order
            Order of a slab when it is known from a snapshot; -1 works it out (MODEL 6.3).
        """
        index = self.by_name.get(name, NIL)
        if index != NIL:
            return index
        s = self.new_cache(self.free_index(name), name)
        s.object_size = object_size
        s.align = max(8, align)
        s.flags = flags
        s.ctor = ctor
        s.size = size
        s.order = order
        s.merge = merge and not ctor and not flags & (SLAB_TYPESAFE_BY_RCU | SLAB_NOLEAKTRACE)
        self.open_cache(s)
        if s.merge and size == 0:
            twin = self.find_mergeable(s)
            if twin is not None:
                twin.aliases.append(name)
                twin.object_size = max(twin.object_size, object_size)
                twin.inuse = max(twin.inuse, s.inuse)
                twin.refcount += 1
                self.by_name[name] = twin.index
                return twin.index
        if s.index == len(self.caches):
            self.caches.append(s)
        else:
            self.caches[s.index] = s
        self.by_name[name] = s.index
        return s.index

    def kmem_cache_create(self, name: str, size: int, align: int = 0, flags: int = 0, ctor: bool = False) -> int:
        """
        Kernel: kmem_cache_create(): index of the cache that serves ``name`` from now on, or -1 for NULL.

        NULL is returned for a size of nothing or of more than the largest kmalloc, and for the second cache of a
        name that cannot be merged (its directory in sysfs exists).
        """
        if size < self.word or size > KMALLOC_MAX_SIZE:
            return NIL
        index = self.by_name.get(name, NIL)
        if index == NIL:
            return self.create_cache(name, size, align, flags, ctor)
        s = self.caches[index]
        if not s.merge or ctor:
            return NIL
        s.refcount += 1
        s.aliases.append(name)
        s.object_size = max(s.object_size, size)
        return index

    def kmem_cache_destroy(self, s: KmemCache, name: str, cpu: int) -> bool:
        """
        Kernel: kmem_cache_destroy(): one creator less, who called it ``name``; the last one takes the cache away.

        False when objects are still alive: the kernel warns, and the cache stays for good. A cache that goes leaves
        its number behind, for the next cache of its name.
        """
        index = s.index
        s.refcount -= 1
        if name in s.aliases:
            s.aliases.remove(name)
            if name != s.name and name not in s.aliases:
                self.by_name.pop(name, None)
        if s.refcount != 0:
            return True
        if not self.destroy_cache(s, cpu):
            return False
        for known in (s.name, *s.aliases):
            self.by_name.pop(known, None)
        # SLOB lets caches go while objects are alive: their frees still come here.
        grave = s if s.live else self.new_cache(index, s.name)
        grave.object_size = 0
        grave.gone = True
        grave.merge = False
        self.caches[index] = grave
        return True

    def free_index(self, name: str) -> int:
        """Number of the destroyed cache of this name, else the next new one."""
        for s in self.caches:
            if s.gone and s.live == 0 and s.name == name:
                return s.index
        return len(self.caches)

    def find_mergeable(self, s: KmemCache) -> KmemCache | None:
        """Kernel: find_mergeable(): the oldest cache that can serve ``s`` too (MODEL 6.11)."""
        same = SLAB_RECLAIM_ACCOUNT | SLAB_CACHE_DMA | SLAB_CACHE_DMA32 | SLAB_ACCOUNT
        for other in self.caches:
            if not other.merge or s.size > other.size or (other.flags ^ s.flags) & same:
                continue
            if other.size % s.align or other.size - s.size >= self.word or not self.may_merge(s, other):
                continue
            return other
        return None
