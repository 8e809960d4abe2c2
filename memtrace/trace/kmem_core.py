"""The compiled loop behind ``memtrace stat``: what perf kmem keeps of each pointer, call site and page."""

from __future__ import annotations

import cython
import numpy as np

from memtrace.trace.arrays import doubled, filled, view
from memtrace.trace.ptrmap import PtrMap
from memtrace.trace.schema import (
    EV_CACHE_ALLOC,
    EV_CACHE_FREE,
    EV_KFREE,
    EV_KMALLOC,
    EV_PAGE_ALLOC,
    EV_PAGE_FREE,
    EventChunk,
)

NO_CPU = -1
SITE_BITS = 36  # where the fields of a class of pages stand in its key
GFP_BITS = 14
ORDER_BITS = 8
CLASS_BITS = 24
POINTER_BIT = 63  # a page known by its pointer alone; no pfn is that large
PAGE_SHIFT = 12


@cython.cclass
class SlabSums:
    """
    Sums by pointer and by call site.

    Arrays of pointers have an entry for each pointer seen, in order of first allocation; those of call sites are
    read at ``vocab.call_site`` code + 1. Bytes are int64.
    """

    ids: PtrMap
    null_id: cython.int
    n: cython.int
    ptr: cython.ulonglong[:]
    hit: cython.longlong[:]
    pingpong: cython.longlong[:]
    req: cython.longlong[:]
    alloc: cython.longlong[:]
    last_req: cython.longlong[:]
    last_alloc: cython.longlong[:]
    live: cython.uchar[:]
    cpu: cython.short[:]
    """CPU of the last allocation, NO_CPU after a free."""
    site: cython.int[:]
    site_hit: cython.longlong[:]
    site_pingpong: cython.longlong[:]
    site_req: cython.longlong[:]
    site_alloc: cython.longlong[:]
    now_req: cython.longlong[:]
    now_alloc: cython.longlong[:]
    max_req: cython.longlong[:]
    max_alloc: cython.longlong[:]
    max_waste: cython.longlong[:]
    nr_allocs: cython.longlong
    nr_frees: cython.longlong
    nr_unmatched: cython.longlong
    nr_with_node: cython.longlong
    freed: cython.longlong

    def __init__(self) -> None:
        self.ids = PtrMap()
        self.null_id = -1
        self.n = 0
        self.ptr = filled(1024, np.uint64)
        self.hit = filled(1024, np.int64)
        self.pingpong = filled(1024, np.int64)
        self.req = filled(1024, np.int64)
        self.alloc = filled(1024, np.int64)
        self.last_req = filled(1024, np.int64)
        self.last_alloc = filled(1024, np.int64)
        self.live = filled(1024, np.uint8)
        self.cpu = filled(1024, np.int16, NO_CPU)
        self.site = filled(1024, np.int32)
        self.site_hit = filled(64, np.int64)
        self.site_pingpong = filled(64, np.int64)
        self.site_req = filled(64, np.int64)
        self.site_alloc = filled(64, np.int64)
        self.now_req = filled(64, np.int64)
        self.now_alloc = filled(64, np.int64)
        self.max_req = filled(64, np.int64)
        self.max_alloc = filled(64, np.int64)
        self.max_waste = filled(64, np.int64)
        self.nr_allocs = 0
        self.nr_frees = 0
        self.nr_unmatched = 0
        self.nr_with_node = 0
        self.freed = 0

    @cython.cfunc
    def grow_sites(self, n: cython.int) -> cython.void:
        """Room for n call sites and more, what is there kept."""
        while len(self.site_hit) < n:
            self.site_hit = doubled(self.site_hit)
            self.site_pingpong = doubled(self.site_pingpong)
            self.site_req = doubled(self.site_req)
            self.site_alloc = doubled(self.site_alloc)
            self.now_req = doubled(self.now_req)
            self.now_alloc = doubled(self.now_alloc)
            self.max_req = doubled(self.max_req)
            self.max_alloc = doubled(self.max_alloc)
            self.max_waste = doubled(self.max_waste)

    @cython.cfunc
    def new_id(self) -> cython.int:
        if self.n == len(self.ptr):
            self.ptr = doubled(self.ptr)
            self.hit = doubled(self.hit)
            self.pingpong = doubled(self.pingpong)
            self.req = doubled(self.req)
            self.alloc = doubled(self.alloc)
            self.last_req = doubled(self.last_req)
            self.last_alloc = doubled(self.last_alloc)
            self.live = doubled(self.live)
            self.cpu = doubled(self.cpu, NO_CPU)
            self.site = doubled(self.site)
        self.n += 1
        return self.n - 1

    @cython.cfunc
    def id_of(self, ptr: cython.ulonglong, add: cython.bint) -> cython.int:
        """Number of a pointer, or -1; NULL, of failed allocations, is a pointer like others."""
        if ptr == 0:
            if self.null_id < 0 and add:
                self.null_id = self.new_id()
            return self.null_id
        i: cython.longlong = self.ids.find(ptr)
        if i >= 0:
            return self.ids.vals[i]
        if not add:
            return -1
        new: cython.int = self.new_id()
        self.ptr[new] = ptr
        self.ids.put(ptr, new)
        return new

    @cython.cfunc
    def allocated(
        self, ptr: cython.ulonglong, site: cython.int, req: cython.longlong, alloc: cython.longlong, cpu: cython.short
    ) -> cython.int:
        i: cython.int = self.id_of(ptr, True)
        if self.live[i]:  # its free was not recorded
            self.now_req[self.site[i]] -= self.last_req[i]
            self.now_alloc[self.site[i]] -= self.last_alloc[i]
        self.hit[i] += 1
        self.req[i] += req
        self.alloc[i] += alloc
        self.last_req[i] = req
        self.last_alloc[i] = alloc
        self.live[i] = ptr != 0
        self.cpu[i] = cpu
        self.site[i] = site
        self.site_hit[site] += 1
        self.site_req[site] += req
        self.site_alloc[site] += alloc
        self.nr_allocs += 1
        if ptr != 0:
            self.now_req[site] += req
            self.now_alloc[site] += alloc
            self.max_req[site] = max(self.max_req[site], self.now_req[site])
            self.max_alloc[site] = max(self.max_alloc[site], self.now_alloc[site])
            self.max_waste[site] = max(self.max_waste[site], self.now_alloc[site] - self.now_req[site])
        return 0

    @cython.cfunc
    def released(self, ptr: cython.ulonglong, cpu: cython.short) -> cython.int:
        """A second free of a pointer counts again, and as from another CPU: so does perf kmem."""
        self.nr_frees += 1
        i: cython.int = self.id_of(ptr, False)
        if i < 0:
            self.nr_unmatched += 1
            return 0
        self.freed += self.last_alloc[i]
        if self.cpu[i] != cpu:
            self.pingpong[i] += 1
            self.site_pingpong[self.site[i]] += 1
        self.cpu[i] = NO_CPU
        if self.live[i]:
            self.live[i] = 0
            self.now_req[self.site[i]] -= self.last_req[i]
            self.now_alloc[self.site[i]] -= self.last_alloc[i]
        return 0

    @cython.ccall
    def add(self, chunk: EventChunk, n_sites: cython.int) -> cython.void:
        """Adds the slab events of a chunk; ``n_sites`` is how many call sites the vocabulary has by now."""
        self.grow_sites(n_sites + 1)
        event: cython.uchar[:] = view(chunk.event)
        cpu: cython.short[:] = view(chunk.cpu)
        ptr: cython.ulonglong[:] = view(chunk.ptr)
        site: cython.int[:] = view(chunk.call_site)
        req: cython.longlong[:] = view(np.maximum(chunk.bytes_req, 0))
        # Traces by hand and synthetic ones hold requests only: then nothing is taken to be wasted.
        alloc: cython.longlong[:] = view(np.where(chunk.bytes_alloc < 0, np.maximum(chunk.bytes_req, 0),
                                                  chunk.bytes_alloc))
        node: cython.short[:] = view(chunk.node)
        i: cython.Py_ssize_t
        kind: cython.int
        for i in range(len(chunk.event)):
            kind = event[i]
            if kind in (EV_KMALLOC, EV_CACHE_ALLOC):
                self.allocated(ptr[i], site[i] + 1, req[i], alloc[i], cpu[i])
                if node[i] >= 0:
                    self.nr_with_node += 1
            elif kind in (EV_KFREE, EV_CACHE_FREE):
                self.released(ptr[i], cpu[i])


@cython.cclass
class PageSums:
    """
    Sums by page and by class of pages: order, migrate type, gfp flags and call site together.

    A row of the page table is a page in one class; ``row_page`` is its pfn, or its pointer where no pfn was recorded.
    """

    by_live: cython.bint
    """Only what is not freed counts, as with perf kmem's --live."""
    pages: PtrMap
    classes: PtrMap
    rows: PtrMap
    n_pages: cython.int
    n_classes: cython.int
    n_rows: cython.int
    page: cython.ulonglong[:]
    live_class: cython.int[:]
    """By page: class of its last allocation, -1 after its free."""
    class_key: cython.longlong[:]
    class_n: cython.longlong[:]
    class_bytes: cython.longlong[:]
    row_page: cython.int[:]
    row_class: cython.int[:]
    row_n: cython.longlong[:]
    row_bytes: cython.longlong[:]
    nr_allocs: cython.longlong
    nr_frees: cython.longlong
    nr_fails: cython.longlong
    nr_unmatched: cython.longlong
    alloc_bytes: cython.longlong
    free_bytes: cython.longlong
    fail_bytes: cython.longlong
    unmatched_bytes: cython.longlong

    def __init__(self, by_live: bool) -> None:
        self.by_live = by_live
        self.pages = PtrMap()
        self.classes = PtrMap()
        self.rows = PtrMap()
        self.n_pages = 0
        self.n_classes = 0
        self.n_rows = 0
        self.page = filled(1024, np.uint64)
        self.live_class = filled(1024, np.int32, -1)
        self.class_key = filled(64, np.int64)
        self.class_n = filled(64, np.int64)
        self.class_bytes = filled(64, np.int64)
        self.row_page = filled(1024, np.int32)
        self.row_class = filled(1024, np.int32)
        self.row_n = filled(1024, np.int64)
        self.row_bytes = filled(1024, np.int64)
        self.nr_allocs = 0
        self.nr_frees = 0
        self.nr_fails = 0
        self.nr_unmatched = 0
        self.alloc_bytes = 0
        self.free_bytes = 0
        self.fail_bytes = 0
        self.unmatched_bytes = 0

    @cython.cfunc
    def page_of(self, key: cython.ulonglong) -> cython.int:
        i: cython.int = self.pages.get(key)
        if i < 0:
            i = self.n_pages
            if i == len(self.page):
                self.page = doubled(self.page)
                self.live_class = doubled(self.live_class, -1)
            self.n_pages += 1
            self.page[i] = key
            self.pages.put(key, i)
        return i

    @cython.cfunc
    def class_of(self, key: cython.longlong) -> cython.int:
        i: cython.int = self.classes.get(key)
        if i < 0:
            i = self.n_classes
            if i == len(self.class_key):
                self.class_key = doubled(self.class_key)
                self.class_n = doubled(self.class_n)
                self.class_bytes = doubled(self.class_bytes)
            self.n_classes += 1
            self.class_key[i] = key
            self.classes.put(key, i)
        return i

    @cython.cfunc
    def row_of(self, page: cython.int, klass: cython.int) -> cython.int:
        key: cython.longlong = page + 1
        key = key << CLASS_BITS | klass
        i: cython.int = self.rows.get(key)
        if i < 0:
            i = self.n_rows
            if i == len(self.row_page):
                self.row_page = doubled(self.row_page)
                self.row_class = doubled(self.row_class)
                self.row_n = doubled(self.row_n)
                self.row_bytes = doubled(self.row_bytes)
            self.n_rows += 1
            self.row_page[i] = page
            self.row_class[i] = klass
            self.rows.put(key, i)
        return i

    @cython.cfunc
    def count(self, page: cython.int, klass: cython.int, n: cython.int, size: cython.longlong) -> cython.int:
        row: cython.int = self.row_of(page, klass)
        self.row_n[row] += n
        self.row_bytes[row] += size
        self.class_n[klass] += n
        self.class_bytes[klass] += size
        return 0

    @cython.ccall
    def add(self, chunk: EventChunk) -> cython.void:
        """Adds the page events of a chunk."""
        event: cython.uchar[:] = view(chunk.event)
        pfn: cython.longlong[:] = view(chunk.pfn)
        ptr: cython.ulonglong[:] = view(chunk.ptr)
        order: cython.short[:] = view(chunk.order)
        migratetype: cython.short[:] = view(chunk.migratetype)
        gfp: cython.int[:] = view(chunk.gfp_flags)
        site: cython.int[:] = view(chunk.call_site)
        i: cython.Py_ssize_t
        one: cython.ulonglong = 1
        key: cython.ulonglong
        size: cython.longlong
        word: cython.longlong
        page: cython.int
        klass: cython.int
        for i in range(len(chunk.event)):
            if event[i] != EV_PAGE_ALLOC and event[i] != EV_PAGE_FREE:
                continue
            size = 1
            size = size << (max(order[i], 0) + PAGE_SHIFT)
            key = pfn[i] if pfn[i] > 0 else (ptr[i] | one << POINTER_BIT if ptr[i] != 0 else 0)
            if event[i] == EV_PAGE_ALLOC:
                self.nr_allocs += 1
                self.alloc_bytes += size
                if key == 0:
                    self.nr_fails += 1
                    self.fail_bytes += size
                    continue
                word = site[i] + 1
                word = word << SITE_BITS
                klass = self.class_of(
                    word
                    | cython.cast(cython.longlong, gfp[i] + 1) << GFP_BITS
                    | (order[i] + 1) << ORDER_BITS
                    | (migratetype[i] + 1)
                    | one << (POINTER_BIT - 1)
                )
                page = self.page_of(key)
                self.live_class[page] = klass
                self.count(page, klass, 1, size)
                continue
            self.nr_frees += 1
            self.free_bytes += size
            page = self.pages.get(key) if key != 0 else -1
            klass = self.live_class[page] if page >= 0 else -1
            if klass < 0:
                self.nr_unmatched += 1
                self.unmatched_bytes += size
                continue
            self.live_class[page] = -1
            if self.by_live:
                self.count(page, klass, -1, -size)
