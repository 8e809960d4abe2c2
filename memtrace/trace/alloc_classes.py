"""Classes of allocations that share a cache, and what speaks for the name of that cache."""

from __future__ import annotations

import cython
import numpy as np

from memtrace.trace.arrays import doubled, filled
from memtrace.trace.causes import (
    CLASS_KMALLOC,
    CLASS_KMALLOC_KEY,
    CLASS_NAMED,
    CLASS_NAMED_KEY,
    CLASS_SITE,
)
from memtrace.trace.columns import Columns
from memtrace.trace.pages_seen import PagesSeen
from memtrace.trace.ptrmap import PtrMap

SIZE_MASK = (1 << 21) - 1
KMALLOC_BYTES_MASK = (1 << 58) - 1


@cython.cclass
class AllocClasses:
    """
    Classes seen so far: by name, by (call site, bytes_req, bytes_alloc), or by a kmalloc's bytes_alloc and
    family (KMALLOC_*).

    Attributes
    ----------
    numbers
        Key of a class -> its number; ``c_*`` are its properties by number, as in naming.AllocClass.
    votes
        ``(class << 24 | name) << 1 | by_page`` -> frees that gave this class this name.
    links
        ``class << 31 | class`` -> times two classes met on one slab page.
    mixed, met
        Of the times two allocations met on one slab page: with different sizes, and all. Slab pages of
        SLUB and SLAB hold one cache, those of SLOB anything.
    names_seen
        Codes of the cache names printed so far, in order.
    """

    cols: Columns
    pages: PagesSeen
    numbers: PtrMap
    n_classes: cython.int
    c_key: cython.ulonglong[:]
    c_kind: cython.uchar[:]
    c_reclaimable: cython.uchar[:]
    c_family: cython.uchar[:]
    c_site: cython.int[:]
    c_name: cython.int[:]
    c_req: cython.longlong[:]
    c_alloc: cython.longlong[:]
    c_allocs: cython.longlong[:]
    votes: PtrMap
    links: PtrMap
    mixed: cython.longlong
    met: cython.longlong
    names_seen: cython.int[:]
    n_names: cython.int
    name_known: PtrMap

    def __init__(self, cols: Columns, pages: PagesSeen) -> None:
        n = 256
        self.cols = cols
        self.pages = pages
        self.numbers = PtrMap(8)
        self.n_classes = 0
        self.c_key = filled(n, np.uint64)
        self.c_kind = filled(n, np.uint8)
        self.c_reclaimable = filled(n, np.uint8)
        self.c_family = filled(n, np.uint8)
        self.c_site = filled(n, np.int32)
        self.c_name = filled(n, np.int32)
        self.c_req = filled(n, np.int64)
        self.c_alloc = filled(n, np.int64)
        self.c_allocs = filled(n, np.int64)
        self.votes = PtrMap(8)
        self.links = PtrMap(8)
        self.mixed = 0
        self.met = 0
        self.names_seen = filled(n, np.int32)
        self.n_names = 0
        self.name_known = PtrMap(8)

    @cython.cfunc
    def kmalloc_class(self, i: cython.longlong) -> cython.int:
        """Class of a kmalloc row."""
        c: Columns = self.cols
        n_bytes: cython.longlong = c.bytes_alloc[i]
        family: cython.int = c.gfp_kmalloc[c.gfp[i] + 1]
        cls: cython.int = self.class_of(
            CLASS_KMALLOC_KEY | cython.cast(cython.ulonglong, family) << 58
            | cython.cast(cython.ulonglong, n_bytes + 1) & KMALLOC_BYTES_MASK, CLASS_KMALLOC, i)
        self.c_family[cls] = family
        return cls

    @cython.cfunc
    def cache_class(self, i: cython.longlong) -> cython.int:
        """Class of a kmem_cache_alloc row (or of one that was bulk allocated)."""
        c: Columns = self.cols
        name: cython.int = c.name[i]
        if name >= 0:
            self.see_name(name)
            return self.class_of(CLASS_NAMED_KEY | cython.cast(cython.ulonglong, name), CLASS_NAMED, i)
        return self.class_of(
            (cython.cast(cython.ulonglong, c.call_site[i] + 2) << 42)
            | (cython.cast(cython.ulonglong, c.bytes_req[i] & SIZE_MASK) << 21)
            | cython.cast(cython.ulonglong, c.bytes_alloc[i] & SIZE_MASK),
            CLASS_SITE, i)

    @cython.cfunc
    def class_of(self, key: cython.ulonglong, kind: cython.int, i: cython.longlong) -> cython.int:
        c: Columns = self.cols
        slot: cython.longlong = self.numbers.slot(key)
        cls: cython.int = self.numbers.vals[slot]
        if cls < 0:
            cls = self.n_classes
            if cls == len(self.c_kind):
                self.grow_classes()
            self.n_classes += 1
            self.numbers.vals[slot] = cls
            self.c_key[cls] = key
            self.c_kind[cls] = kind
            self.c_reclaimable[cls] = 0
            self.c_family[cls] = 0
            self.c_site[cls] = c.call_site[i]
            self.c_name[cls] = c.name[i]
            self.c_req[cls] = -1
            self.c_alloc[cls] = -1
            self.c_allocs[cls] = 0
        if c.bytes_alloc[i] > self.c_alloc[cls]:
            self.c_alloc[cls] = c.bytes_alloc[i]
        if c.bytes_req[i] > self.c_req[cls]:
            self.c_req[cls] = c.bytes_req[i]
        return cls

    @cython.cfunc
    def grow_classes(self) -> cython.void:
        self.c_key = doubled(self.c_key)
        self.c_kind = doubled(self.c_kind)
        self.c_reclaimable = doubled(self.c_reclaimable)
        self.c_family = doubled(self.c_family)
        self.c_site = doubled(self.c_site)
        self.c_name = doubled(self.c_name)
        self.c_req = doubled(self.c_req)
        self.c_alloc = doubled(self.c_alloc)
        self.c_allocs = doubled(self.c_allocs)

    @cython.cfunc
    def see_name(self, name: cython.int) -> cython.void:
        """Remember cache names in the order in which events print them."""
        slot: cython.longlong = self.name_known.slot(name + 1)
        if self.name_known.vals[slot] < 0:
            if self.n_names == len(self.names_seen):
                self.names_seen = doubled(self.names_seen)
            self.names_seen[self.n_names] = name
            self.name_known.vals[slot] = self.n_names
            self.n_names += 1

    @cython.cfunc
    def meet(self, life: cython.int, cls: cython.int) -> cython.void:
        """An allocation of this class lies on this slab page: what else does says what cache it is."""
        pages: PagesSeen = self.pages
        before: cython.int = pages.cls[life]
        if pages.slab_flags[life] & 2:
            self.c_reclaimable[cls] = 1
        if before >= 0:
            self.met += 1
            if before != cls:
                if self.c_alloc[before] != self.c_alloc[cls]:
                    self.mixed += 1 if self.c_alloc[before] > 0 and self.c_alloc[cls] > 0 else 0
                elif self.c_kind[cls] == CLASS_SITE and self.c_kind[before] == CLASS_SITE:
                    self.link(before, cls)
        pages.cls[life] = cls
        if self.c_kind[cls] == CLASS_NAMED:
            pages.name[life] = self.c_name[cls]
        elif self.c_kind[cls] == CLASS_SITE and pages.name[life] >= 0:
            self.vote(cls, pages.name[life], 1)

    @cython.cfunc
    def meet_name(self, life: cython.int, name: cython.int) -> cython.void:
        """An object on this slab page is freed by this name."""
        cls: cython.int = self.pages.cls[life]
        self.pages.name[life] = name
        if cls >= 0 and self.c_kind[cls] == CLASS_SITE:
            self.vote(cls, name, 1)

    @cython.cfunc
    def link(self, a: cython.int, b: cython.int) -> cython.void:
        low: cython.ulonglong = min(a, b) + 1
        high: cython.ulonglong = max(a, b) + 1
        self.links.count(low << 31 | high)

    @cython.cfunc
    def vote(self, cls: cython.int, name: cython.int, by_page: cython.int) -> cython.void:
        a: cython.ulonglong = cls + 1
        b: cython.ulonglong = name
        self.votes.count((a << 24 | b) << 1 | cython.cast(cython.ulonglong, by_page))
