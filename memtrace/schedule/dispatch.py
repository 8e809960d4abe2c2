"""
Requests become calls of the model, and what the calls return is remembered by handle.

A request names the object that it frees by the handle that its allocation was given; here stands where the
model put that object, whatever the recorded address was.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import cython
import numpy as np

from memtrace.errors import ModelError
from memtrace.mm.gfp import GFP_BIT_MOVABLE
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.machine import Machine
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.paths import (
    COST_KFREE_NULL,
    PATH_ALLOC_FAST,
    PATH_CACHE_DESTROY,
    PATH_CACHE_SHRINK,
    PATH_FREE_FAST,
    PATH_FREE_NOTHING,
)
from memtrace.mm.slab_common import KmemCache, SlabAllocator
from memtrace.schedule.callsites import CallSiteTable
from memtrace.schedule.decider import Decider
from memtrace.schedule.work_moves import WorkMoves
from memtrace.trace.cache_text import ALIGN_SHIFT, CTOR_BIT
from memtrace.trace.requests import (
    FLAG_LAST,
    FLAG_RESERVED,
    NR_REQUESTS,
    RQ_BULK_ALLOC,
    RQ_BULK_FREE,
    RQ_CACHE_ALLOC,
    RQ_CACHE_CREATE,
    RQ_CACHE_DESTROY,
    RQ_CACHE_FREE,
    RQ_CACHE_SHRINK,
    RQ_CPU_OFFLINE,
    RQ_CPU_ONLINE,
    RQ_KFREE,
    RQ_KFREE_NULL,
    RQ_KMALLOC,
    RQ_PAGE_ALLOC,
    RQ_PAGE_FREE,
    RQ_PERCPU_ALLOC,
    RQ_PERCPU_FREE,
    Census,
    Requests,
)

OBJECT_WORDS = 4  # address, bytes asked for, bytes given, call-site row << 16 | cpu
PAGE_WORDS = 2  # first pfn, order
PAGE_SHIFT = 12
PAGE_SIZE = 4096
MAX_TRACE_ORDER = 20  # orders that no kernel serves still are requests, which fail
NONE = -1
RECLAIMED = -2  # instead of a block's first pfn: the model took the page back, the trace has yet to free it
MAX_HANDLE = 1 << 30

CAUSES = (
    ("object_compared", "objects allocated whose recorded address is known"),
    ("object_at_recorded_address", "of these, objects that the model put where the kernel did"),
    ("page_compared", "page blocks allocated whose recorded pfn is known"),
    ("page_at_recorded_pfn", "of these, blocks that the model put where the kernel did"),
    ("start_object_placed", "objects that pre-date the trace and have a place in the model"),
    ("start_object_unplaced", "objects that pre-date the trace and have none (cache unknown, or no room); not freed"),
    ("start_page_placed", "page blocks that pre-date the trace and have a place in the model"),
    ("start_page_unplaced", "page blocks that pre-date the trace and have none; not freed"),
    ("model_alloc_failed", "object allocations that the model could not serve"),
    ("model_page_alloc_failed", "page allocations that the model could not serve"),
    ("model_reclaimed", "pages of page cache that the model took back because it needed more than the trace's kernel"),
    ("freed_by_reclaim", "of these, pages whose recorded free came later and was left out"),
    ("model_migrated", "pages that the model's compaction moved"),
    ("free_of_nothing", "frees of objects and blocks that the model never held; nothing is done"),
    ("cache_not_there", "allocations from, and calls about, a cache that is not created or was destroyed; not done"),
    ("cache_create_refused", "caches that the model could not create"),
    ("cache_destroy_refused", "caches destroyed while objects were alive in them; they stay, as in the kernel"),
    ("bulk_free_without_end", "bulk frees whose last object the trace does not show; done at the end"),
    ("percpu_compared", "per-CPU areas allocated whose recorded place is known"),
    ("percpu_at_recorded_offset", "of these, areas that the model put at the recorded offset"),
    ("start_percpu_unplaced", "per-CPU areas that pre-date the trace and have no place in the model; not freed"),
    ("model_percpu_failed", "per-CPU areas that the model could not serve"),
    ("moved_to_online_cpu", "operations of offline CPUs, done by the next online CPU of the node, else by the next"),
    ("cpu_event_ignored", "CPU hotplug events about CPUs that the machine does not have, or its last online one"),
)
"""Name and meaning of everything in ``Dispatcher.counts``."""

FAILURE_FIELDS = ("t_ns", "row", "cpu", "op", "order", "gfp", "size", "cache", "reason")


@cython.cclass
class BulkArray:
    """Objects of a bulk free that is not complete yet."""

    addrs: cython.longlong[:]
    n: cython.int
    size: cython.int

    def __init__(self) -> None:
        self.n = 0
        self.size = 64
        self.addrs = array("q", [0]) * 64

    @cython.cfunc
    def add(self, addr: cython.longlong) -> cython.void:
        i: cython.int
        old: cython.longlong[:] = self.addrs
        if self.n == self.size:
            self.size *= 2
            self.addrs = array("q", [0]) * self.size
            for i in range(self.n):
                self.addrs[i] = old[i]
        self.addrs[self.n] = addr
        self.n += 1

    def take_over(self, other: BulkArray) -> None:
        """Take the objects of another array, which is empty then."""
        i: cython.int
        for i in range(other.n):
            self.add(other.addrs[i])
        other.n = 0

    @cython.ccall
    def restore_order(self, slab_of: cython.int[:]) -> cython.void:
        """
        From the order of the trace to the order in the kernel's array.

        The kernel frees an array from its end, slab by slab, and notes each slab's objects as they lie in the array
        (EXACT C1): so the trace has the array's slabs backwards and the objects of each slab forwards.
        """
        first: cython.int = 0
        end: cython.int
        self.reverse(0, self.n)
        while first < self.n:
            end = first + 1
            while end < self.n and slab_of[self.addrs[end] >> PAGE_SHIFT] == slab_of[self.addrs[first] >> PAGE_SHIFT]:
                end += 1
            self.reverse(first, end)
            first = end

    @cython.cfunc
    @cython.exceptval(check=False)
    def reverse(self, first: cython.int, end: cython.int) -> cython.void:
        """Turn the objects of [first, end) around."""
        addr: cython.longlong
        while first < end - 1:
            end -= 1
            addr = self.addrs[first]
            self.addrs[first] = self.addrs[end]
            self.addrs[end] = addr
            first += 1


@cython.cclass
class Dispatcher(Decider):
    """
    Executes requests on a machine.

    Parameters
    ----------
    machine
        The model.
    cache_map
        By index into ``Census.caches``: the machine's cache, -1 for one that the trace creates later.
    cache_names
        By the same index: what creating and destroying call it.
    """

    machine: Machine
    slab: SlabAllocator
    pages: PageAllocator
    sites: CallSiteTable
    cache_map: cython.int[:]
    cache_names: list
    nr_mapped: cython.int
    flags: cython.uchar[:]
    node: cython.short[:]
    handle: cython.int[:]
    rq_cache: cython.int[:]
    rq_site: cython.int[:]
    gfp: cython.longlong[:]
    size: cython.longlong[:]
    addr: cython.longlong[:]
    offset: cython.int[:]
    objects: cython.longlong[:]
    """By object handle * OBJECT_WORDS; address 0 where the model has no object."""
    nr_objects: cython.int
    blocks: cython.longlong[:]
    """By page handle * PAGE_WORDS; pfn -1 where the model has no block."""
    nr_blocks: cython.int
    owner: cython.int[:]
    """By pfn: the page handle of a single page. Only made, and kept, once the model has taken or moved a page."""
    owned: cython.bint
    live: cython.longlong[:]
    """By 2 * cache: bytes asked for and bytes given of the objects that are alive."""
    nr_caches: cython.int
    bulk: list
    failures: list
    """``FAILURE_FIELDS`` of allocations that the model could not serve, since they were last taken."""
    events: list
    """(t_ns, row, cpu, kind, arguments) of the model's rare decisions, since they were last taken."""
    objects_compared: cython.longlong
    objects_same: cython.longlong
    pages_compared: cython.longlong
    pages_same: cython.longlong
    object_parted_row: cython.longlong
    """First trace row whose object is not at its recorded address, -1 while all are."""
    page_parted_row: cython.longlong
    start_placed: cython.longlong
    start_unplaced: cython.longlong
    start_pages_placed: cython.longlong
    start_pages_unplaced: cython.longlong
    alloc_failures: cython.longlong
    page_failures: cython.longlong
    frees_of_nothing: cython.longlong
    reclaimed: cython.longlong
    frees_of_reclaimed: cython.longlong
    migrated: cython.longlong
    open_bulk: cython.longlong
    areas: dict
    """By handle: pointer of the per-CPU area; none where the model has no area."""
    areas_compared: cython.longlong
    areas_same: cython.longlong
    area_failures: cython.longlong
    start_areas_unplaced: cython.longlong
    moves: Any
    caches_missing: cython.longlong
    creates_refused: cython.longlong
    destroys_refused: cython.longlong

    def __init__(self, machine: Machine, cache_map: np.ndarray, cache_names: Sequence[str] = ()) -> None:
        Decider.__init__(self)
        self.machine = machine
        self.slab = machine.slab
        self.pages = machine.pages
        self.it = machine.it
        self.sites = CallSiteTable()
        self.cache_names = list(cache_names)
        nameless = np.asarray(cache_map)[len(cache_names) :]
        if len(nameless) and int(np.min(nameless)) < 0:
            raise ModelError(f"trace cache {len(cache_names) + int(np.argmin(nameless))} has no cache in the machine, "
                             "and no name to create it by")
        self.cache_map = array("i", np.asarray(cache_map, np.int32).tolist())
        self.nr_mapped = len(cache_map)
        self.objects = array("q")
        self.nr_objects = 0
        self.blocks = array("q")
        self.nr_blocks = 0
        self.owner = array("i")
        self.owned = False
        self.live = array("q")
        self.nr_caches = 0
        self.bulk = [BulkArray() for _ in range(machine.nr_cpus)]
        self.failures = []
        self.events = []
        self.objects_compared = 0
        self.objects_same = 0
        self.pages_compared = 0
        self.pages_same = 0
        self.object_parted_row = -1
        self.page_parted_row = -1
        self.start_placed = 0
        self.start_unplaced = 0
        self.start_pages_placed = 0
        self.start_pages_unplaced = 0
        self.alloc_failures = 0
        self.page_failures = 0
        self.frees_of_nothing = 0
        self.reclaimed = 0
        self.frees_of_reclaimed = 0
        self.migrated = 0
        self.open_bulk = 0
        self.areas = {}
        self.areas_compared = 0
        self.areas_same = 0
        self.area_failures = 0
        self.start_areas_unplaced = 0
        self.moves = WorkMoves(machine, self.bulk)
        self.caches_missing = 0
        self.creates_refused = 0
        self.destroys_refused = 0
        self.see_caches(max(1, len(machine.slab.caches)))

    def load(self, requests: Requests) -> None:
        """
        Take the next chunk of requests.

        Raises
        ------
        ModelError
            When a request is not well-formed: compiled code does not look twice.
        """
        Decider.load(self, requests)
        self.flags = requests.flags.data
        self.node = requests.node.data
        self.handle = requests.handle.data
        self.rq_cache = requests.cache.data
        self.rq_site = requests.site.data
        self.gfp = requests.gfp.data
        self.size = requests.size.data
        self.addr = requests.addr.data
        self.offset = requests.offset.data
        bad: cython.longlong = self.first_malformed(len(requests))
        if bad >= 0:
            raise ModelError(
                f"a malformed request: operation {self.op[bad]}, CPU {self.cpu[bad]}, node {self.node[bad]}, handle "
                f"{self.handle[bad]}, trace cache {self.rq_cache[bad]}, size {self.size[bad]}, page offset "
                f"{self.offset[bad]}; expected {self.machine.nr_cpus} CPUs, {self.machine.nr_nodes} nodes, "
                f"{self.nr_mapped} trace caches, orders to {MAX_TRACE_ORDER}",
                self.row[bad], self.ts_ns[bad])
        self.moves.load(requests)

    @cython.cfunc
    @cython.exceptval(check=False)
    def first_malformed(self, n: cython.longlong) -> cython.longlong:
        """The first request that must not reach the model, or -1; the handle tables get room for all before it."""
        i: cython.longlong
        op: cython.int
        handle: cython.int
        size: cython.longlong
        objects: cython.int = 0
        blocks: cython.int = 0
        for i in range(n):
            op = self.op[i]
            handle = self.handle[i]
            if op >= NR_REQUESTS or self.cpu[i] < 0 or self.cpu[i] >= self.machine.nr_cpus:
                return i
            if self.node[i] < -1 or self.node[i] >= self.machine.nr_nodes or handle < -1 or handle > MAX_HANDLE:
                return i
            if op in (RQ_PAGE_ALLOC, RQ_PAGE_FREE):
                size = self.size[i]
                if size < 0 or size > MAX_TRACE_ORDER or self.offset[i] < 0 or self.offset[i] > 1 << MAX_TRACE_ORDER:
                    return i
                blocks = max(blocks, handle + 1)
                continue
            if op >= RQ_PERCPU_ALLOC:
                continue
            named: cython.bint = op in (RQ_CACHE_ALLOC, RQ_BULK_ALLOC) or RQ_CACHE_CREATE <= op <= RQ_CACHE_SHRINK
            if named and (self.rq_cache[i] < 0 or self.rq_cache[i] >= self.nr_mapped):
                return i
            objects = max(objects, handle + 1)
        self.make_handles(objects, blocks)
        return -1

    def make_handles(self, nr_objects: int, nr_blocks: int) -> None:
        """See that the tables have room for this many handles."""
        if nr_objects > self.nr_objects:
            self.objects = _longer(self.objects, self.nr_objects * OBJECT_WORDS, nr_objects * OBJECT_WORDS, 0)
            self.nr_objects = len(self.objects) // OBJECT_WORDS
        if nr_blocks > self.nr_blocks:
            self.blocks = _longer(self.blocks, self.nr_blocks * PAGE_WORDS, nr_blocks * PAGE_WORDS, NONE)
            self.nr_blocks = len(self.blocks) // PAGE_WORDS

    def see_caches(self, nr_caches: int) -> None:
        """See that the sums by cache have room for this many."""
        self.live = _longer(self.live, 2 * self.nr_caches, 2 * nr_caches, 0)
        self.nr_caches = len(self.live) // 2

    # -- before the first request -----------------------------------------------------------------

    def create_start_objects(self, census: Census) -> None:
        """
        Give objects and page blocks that pre-date the trace their place in the model, at no cost in time.

        Object i of ``census.start_addr`` gets handle i, block i of ``census.start_pfn`` page handle i.
        """
        # As many as the whole trace needs, so that the tables need not grow while it plays.
        self.make_handles(max(census.max_handles, len(census.start_addr)),
                          max(census.max_page_handles, len(census.start_pfn)))
        objects = zip(census.start_addr.tolist(), census.start_cache.tolist(), census.start_size.tolist(), strict=True)
        for handle, (addr, cache, size) in enumerate(objects):
            if cache >= 0:
                self.adopt_object(handle, addr, self.cache_map[cache])
            elif size >= PAGE_SIZE:
                self.adopt_large(handle, addr, size)
            else:
                self.adopt_object(handle, addr, NONE)
        for handle, (pfn, order) in enumerate(zip(census.start_pfn.tolist(), census.start_order.tolist(), strict=True)):
            found = self.machine.adopt_page(pfn, order)
            self.blocks[handle * PAGE_WORDS] = found
            self.blocks[handle * PAGE_WORDS + 1] = order
            if found < 0:
                self.start_pages_unplaced += 1
            else:
                self.start_pages_placed += 1
        for handle, (_, _, off) in enumerate(census.start_percpu):
            ptr = self.machine.percpu.adopt(off)
            if ptr:
                self.areas[handle] = ptr
            else:
                self.start_areas_unplaced += 1
        self.pages.events.clear()
        self.it.reset()

    @cython.ccall
    def adopt_object(self, handle: cython.int, addr: cython.longlong, cache: cython.int) -> cython.void:
        """Give one slab object its place; what it asked for is not known, so it is taken to waste nothing."""
        found: cython.longlong = self.machine.adopt_object(addr, cache)
        if found == 0:
            self.objects[handle * cython.cast(cython.longlong, OBJECT_WORDS)] = 0
            self.start_unplaced += 1
            return
        self.place(handle, found, self.slab.last_cache, self.slab.last_bytes)
        self.enliven(self.slab.last_cache, self.slab.last_bytes, self.slab.last_bytes)

    @cython.ccall
    def adopt_large(self, handle: cython.int, addr: cython.longlong, size: cython.longlong) -> cython.void:
        """Give one large kmalloc of ``size`` bytes its place, which is a page block."""
        order: cython.int = 0
        while (cython.cast(cython.longlong, PAGE_SIZE) << order) < size:
            order += 1
        pfn: cython.longlong = self.machine.adopt_page(addr >> PAGE_SHIFT if addr >= 0 else NONE, order)
        if pfn < 0:
            self.objects[handle * cython.cast(cython.longlong, OBJECT_WORDS)] = 0
            self.start_unplaced += 1
            return
        self.place(handle, pfn << PAGE_SHIFT, NONE, cython.cast(cython.longlong, PAGE_SIZE) << order)

    @cython.cfunc
    def place(self, handle: cython.int, addr: cython.longlong, cache: cython.int, size: cython.longlong) -> cython.void:
        """Remember where an object that pre-dates the trace lies."""
        at: cython.longlong = handle * cython.cast(cython.longlong, OBJECT_WORDS)
        site: cython.int = self.sites.find(NONE, cache)
        self.sites.existed(site, size)
        self.objects[at] = addr
        self.objects[at + 1] = size
        self.objects[at + 2] = size
        self.objects[at + 3] = cython.cast(cython.longlong, site) << 16
        self.start_placed += 1

    # -- one request ------------------------------------------------------------------------------

    @cython.ccall
    def decide(self, i: cython.int) -> cython.int:
        """Execute request i of the loaded chunk; the path it took."""
        op: cython.int = self.op[i]
        it: Itinerary = self.it
        if self.machine.nr_deferred > 0 and self.machine.deferred[self.cpu[i]]:
            self.machine.run_deferred(self.cpu[i], self.ts_ns[i])
        it.reset()
        self.cache = NONE
        self.site = NONE
        if op in (RQ_KMALLOC, RQ_CACHE_ALLOC, RQ_BULK_ALLOC):
            self.object_alloc(i, op)
        elif op in (RQ_KFREE, RQ_CACHE_FREE, RQ_BULK_FREE):
            self.object_free(i, op)
        elif op == RQ_PAGE_ALLOC:
            self.page_alloc(i)
        elif op == RQ_PAGE_FREE:
            self.page_free(i)
        elif op == RQ_KFREE_NULL:
            it.path = PATH_FREE_NOTHING
            it.step(COST_KFREE_NULL, 0)
        elif op == RQ_PERCPU_ALLOC:
            self.percpu_alloc(i)
        elif op == RQ_PERCPU_FREE:
            self.percpu_free(i)
        elif op in (RQ_CPU_OFFLINE, RQ_CPU_ONLINE):
            self.cpu_event(i, op)
        elif op == RQ_CACHE_CREATE:
            self.cache_create(i)
        elif op in (RQ_CACHE_DESTROY, RQ_CACHE_SHRINK):
            self.cache_give_back(i, op)
        if self.pages.journalled:
            self.follow_pages()
        if self.pages.events:
            self.note_events(i)
        return it.path

    @cython.ccall
    def waited(self, site: cython.int, wait_ns: cython.longlong) -> cython.void:
        """Be told that an operation of ``site`` waited for locks."""
        if site >= 0:
            self.sites.waited(site, wait_ns)

    @cython.cfunc
    def object_alloc(self, i: cython.int, op: cython.int) -> cython.int:
        cpu: cython.int = self.cpu[i]
        addr: cython.longlong
        site: cython.int
        bytes_req: cython.longlong = self.size[i]
        bytes_alloc: cython.longlong
        at: cython.longlong = self.handle[i] * cython.cast(cython.longlong, OBJECT_WORDS)
        if op == RQ_KMALLOC:
            addr = self.machine.kmalloc(bytes_req, self.gfp[i], self.node[i], cpu)
        elif self.cache_map[self.rq_cache[i]] < 0:
            self.caches_missing += 1
            if at >= 0:
                self.objects[at] = 0
            return 0
        elif op == RQ_CACHE_ALLOC:
            addr = self.machine.cache_alloc(self.cache_map[self.rq_cache[i]], self.gfp[i], self.node[i], cpu)
        else:
            addr = self.machine.bulk_alloc_one(self.cache_map[self.rq_cache[i]], self.gfp[i], cpu)
        self.cache = self.slab.last_cache
        bytes_alloc = self.slab.last_bytes
        if bytes_req <= 0:
            # The event names no size: the cache's objects are as large as they are.
            bytes_req = bytes_alloc
        site = self.sites.find(self.rq_site[i], self.cache)
        self.site = site
        if addr == 0:
            self.alloc_failures += 1
            self.note_failure(i, NONE)
            if at >= 0:
                self.objects[at] = 0
            return 0
        self.sites.allocated(site, bytes_req, bytes_alloc, self.it.path != PATH_ALLOC_FAST)
        self.enliven(self.cache, bytes_req, bytes_alloc)
        if self.addr[i] >= 0:
            self.objects_compared += 1
            if self.addr[i] == addr:
                self.objects_same += 1
            elif self.object_parted_row < 0:
                self.object_parted_row = self.row[i]
        if at >= 0:
            self.objects[at] = addr
            self.objects[at + 1] = bytes_req
            self.objects[at + 2] = bytes_alloc
            self.objects[at + 3] = (cython.cast(cython.longlong, site) << 16) | cpu
        return 0

    @cython.cfunc
    def object_free(self, i: cython.int, op: cython.int) -> cython.int:
        cpu: cython.int = self.cpu[i]
        addr: cython.longlong = 0
        site: cython.int = NONE
        at: cython.longlong = self.handle[i] * cython.cast(cython.longlong, OBJECT_WORDS)
        bulk: BulkArray
        if at >= 0:
            addr = self.objects[at]
            self.objects[at] = 0
        if addr == 0:
            self.frees_of_nothing += 1
        else:
            site = self.objects[at + 3] >> 16
            self.cache = self.sites.cache_of(site)
            self.site = site
            self.enliven(self.cache, -self.objects[at + 1], -self.objects[at + 2])
        if op == RQ_BULK_FREE:
            bulk = self.bulk[cpu]
            if addr != 0:
                bulk.add(addr)
            if self.flags[i] & FLAG_LAST and bulk.n > 0:
                bulk.restore_order(self.machine.frames.slab)
                self.machine.bulk_free(bulk.addrs, bulk.n, cpu)
                bulk.n = 0
        elif addr != 0:
            if op == RQ_KFREE:
                self.machine.kfree(addr, cpu)
            else:
                self.machine.cache_free(addr, cpu)
        if site >= 0:
            self.sites.freed(site, self.objects[at + 2], (self.objects[at + 3] & 0xFFFF) != cpu,
                             self.it.n > 0 and self.it.path != PATH_FREE_FAST)
        return 0

    @cython.cfunc
    def page_alloc(self, i: cython.int) -> cython.int:
        order: cython.int = self.size[i]
        at: cython.longlong = self.handle[i] * cython.cast(cython.longlong, PAGE_WORDS)
        pfn: cython.longlong = self.machine.page_alloc(order, self.gfp[i], self.node[i], self.cpu[i])
        if self.pages.journalled:
            # Before the block that was made of these pages gets an owner.
            self.follow_pages()
        if pfn < 0:
            self.page_failures += 1
            self.note_failure(i, order)
        elif self.addr[i] >= 0:
            self.pages_compared += 1
            if self.addr[i] >> PAGE_SHIFT == pfn:
                self.pages_same += 1
            elif self.page_parted_row < 0:
                self.page_parted_row = self.row[i]
        if at >= 0 and pfn >= 0 and order == 0 and self.gfp[i] & GFP_BIT_MOVABLE:
            self.pages.lru_add(self.pages.zones[self.pages.last_zone], pfn, self.gfp[i])
        if at >= 0:
            self.blocks[at] = pfn
            self.blocks[at + 1] = order
            if self.owned and pfn >= 0:
                self.owner[pfn] = self.handle[i]
        return 0

    @cython.cfunc
    def page_free(self, i: cython.int) -> cython.int:
        at: cython.longlong = self.handle[i] * cython.cast(cython.longlong, PAGE_WORDS)
        order: cython.int = self.size[i]
        if at < 0 or self.blocks[at] < 0:
            if at >= 0 and self.blocks[at] == RECLAIMED:
                self.frees_of_reclaimed += 1
                self.blocks[at] = NONE
            else:
                self.frees_of_nothing += 1
            return 0
        if self.offset[i] + (1 << order) > 1 << self.blocks[at + 1]:
            raise ModelError(f"a free of 2**{order} pages at offset {self.offset[i]} of a block of order "
                             f"{self.blocks[at + 1]}", self.row[i], self.ts_ns[i])
        self.machine.page_free(self.blocks[at] + self.offset[i], order, self.cpu[i])
        if self.flags[i] & FLAG_LAST:
            self.blocks[at] = NONE
        return 0

    @cython.cfunc
    def cache_create(self, i: cython.int) -> cython.int:
        """kmem_cache_create(): from now on the trace's cache is the new one, or the one that it merged into."""
        which: cython.int = self.rq_cache[i]
        arguments: cython.longlong = self.addr[i]
        index: cython.int = self.slab.kmem_cache_create(
            self.cache_names[which], self.size[i], (arguments >> ALIGN_SHIFT) & 0xFFFFFFF, arguments & 0xFFFFFFFF,
            arguments & CTOR_BIT != 0)
        if index < 0:
            self.creates_refused += 1
            return 0
        self.cache_map[which] = index
        self.see_caches(len(self.slab.caches))
        return 0

    @cython.cfunc
    def cache_give_back(self, i: cython.int, op: cython.int) -> cython.int:
        """kmem_cache_destroy() or kmem_cache_shrink()."""
        which: cython.int = self.rq_cache[i]
        index: cython.int = self.cache_map[which]
        if index < 0:
            self.caches_missing += 1
            return 0
        self.cache = index
        if op == RQ_CACHE_SHRINK:
            self.slab.shrink_cache(self.slab.caches[index], self.cpu[i])
            self.it.path = PATH_CACHE_SHRINK
            return 0
        if not self.slab.kmem_cache_destroy(self.slab.caches[index], self.cache_names[which], self.cpu[i]):
            self.destroys_refused += 1
        elif self.slab.find_cache(self.cache_names[which]) != index:
            self.cache_map[which] = NONE
        s: KmemCache = self.slab.caches[index]
        if s.gone:
            for which in range(self.nr_mapped):
                if self.cache_map[which] == index:
                    self.cache_map[which] = NONE
        self.it.path = PATH_CACHE_DESTROY
        return 0

    @cython.cfunc
    def percpu_alloc(self, i: cython.int) -> cython.int:
        ptr: cython.longlong = self.machine.percpu.alloc(
            self.size[i], self.offset[i], self.flags[i] & FLAG_RESERVED != 0, self.gfp[i], self.cpu[i])
        self.areas.pop(self.handle[i], None)
        if ptr == 0:
            self.area_failures += 1
            self.note_failure(i, NONE)
            return 0
        self.areas[self.handle[i]] = ptr
        if self.addr[i] >= 0:
            self.areas_compared += 1
            if self.machine.percpu.offset_of(ptr) == self.addr[i]:
                self.areas_same += 1
        return 0

    @cython.cfunc
    def percpu_free(self, i: cython.int) -> cython.int:
        ptr = self.areas.pop(self.handle[i], None)
        if ptr is None:
            self.frees_of_nothing += 1
        else:
            self.machine.free_percpu(ptr, self.cpu[i])
        return 0

    # -- CPU hotplug ------------------------------------------------------------------------------

    @cython.cfunc
    def cpu_event(self, i: cython.int, op: cython.int) -> cython.int:
        """A CPU goes offline or comes online, as recorded."""
        event = self.moves.recorded(self.size[i], op == RQ_CPU_ONLINE, self.ts_ns[i], self.row[i], i + 1)
        if event is not None:
            self.events.append(event)
        return 0

    def hotplug(self, cpu: int, online: bool, t_ns: int) -> None:
        """
        Take a CPU offline or online, when all requests up to ``t_ns`` are decided.

        Raises
        ------
        ConfigError
            It is the last CPU online.
        """
        event = self.moves.asked(cpu, online, t_ns)
        if event is not None:
            self.events.append(event)

    @cython.cfunc
    def enliven(self, cache: cython.int, bytes_req: cython.longlong, bytes_alloc: cython.longlong) -> cython.void:
        """Count an object of a cache as alive (or, with negative sizes, as dead)."""
        if cache < 0:
            return
        if cache >= self.nr_caches:
            self.see_caches(cache + 1)
        self.live[2 * cache] += bytes_req
        self.live[2 * cache + 1] += bytes_alloc

    @cython.cfunc
    def note_failure(self, i: cython.int, order: cython.int) -> cython.void:
        self.failures.append((self.ts_ns[i], self.row[i], self.cpu[i], self.op[i], order, self.gfp[i], self.size[i],
                              self.cache, self.pages.fail_reason))

    @cython.cfunc
    def note_events(self, i: cython.int) -> cython.void:
        for kind, arguments in self.pages.events:
            self.events.append((self.ts_ns[i], self.row[i], self.cpu[i], kind, arguments))
        self.pages.events.clear()

    @cython.cfunc
    def follow_pages(self) -> cython.void:
        """Tell owners that reclaim took their page, or that compaction moved it."""
        pfn: cython.int
        new: cython.int
        handle: cython.longlong
        if not self.owned:
            self.map_owners()
        for pfn, new in self.pages.take_journal():
            handle = self.owner[pfn]
            if handle < 0 or self.blocks[handle * PAGE_WORDS] != pfn or self.blocks[handle * PAGE_WORDS + 1] != 0:
                continue
            if new >= 0:
                self.migrated += 1
                self.blocks[handle * PAGE_WORDS] = new
                self.owner[new] = cython.cast(cython.int, handle)
            else:
                self.reclaimed += 1
                self.blocks[handle * PAGE_WORDS] = RECLAIMED

    @cython.cfunc
    def map_owners(self) -> cython.void:
        """From now on know whose each single page is."""
        handle: cython.longlong
        self.owner = array("i", [NONE]) * self.machine.frames.nr_frames
        self.owned = True
        for handle in range(self.nr_blocks):
            if self.blocks[handle * PAGE_WORDS] >= 0 and self.blocks[handle * PAGE_WORDS + 1] == 0:
                self.owner[self.blocks[handle * PAGE_WORDS]] = cython.cast(cython.int, handle)

    def settle(self, t_ns: int) -> None:
        """Take note of what a daemon has just done to the model: its events, and pages that changed hands."""
        self.it.reset()
        if self.pages.journalled:
            self.follow_pages()
        for kind, arguments in self.pages.events:
            self.events.append((t_ns, NONE, NONE, kind, arguments))
        self.pages.events.clear()

    # -- what it has seen -------------------------------------------------------------------------

    def flush(self) -> None:
        """Free what stands in bulk arrays whose end the trace does not show; after the last request."""
        self.moves.load(None)
        for cpu, bulk in enumerate(self.bulk):
            if bulk.n:
                self.open_bulk += 1
                self.it.reset()
                bulk.restore_order(self.machine.frames.slab)
                self.machine.bulk_free(bulk.addrs, bulk.n, cpu)
                bulk.n = 0

    def take_failures(self) -> list[tuple[int, ...]]:
        """``FAILURE_FIELDS`` of every allocation that failed since the last call; op is an ``RQ_*`` code."""
        taken, self.failures = self.failures, []
        return taken

    def take_events(self) -> list[tuple[int, int, int, str, dict[str, int]]]:
        """(t_ns, row, cpu, kind, arguments) of every rare decision of the model since the last call."""
        taken, self.events = self.events, []
        return taken

    def live_bytes(self, nr_caches: int) -> tuple[np.ndarray, np.ndarray]:
        """Bytes asked for and bytes given of live objects, int64 by cache, of the first ``nr_caches``."""
        if nr_caches > self.nr_caches:
            self.see_caches(nr_caches)
        live = np.asarray(self.live)[: 2 * nr_caches].reshape(nr_caches, 2)
        return live[:, 0], live[:, 1]

    def counts(self) -> dict[str, int]:
        """What could not be done, by cause, and how often the model agreed with the recorded addresses."""
        return {
            "object_compared": self.objects_compared,
            "object_at_recorded_address": self.objects_same,
            "page_compared": self.pages_compared,
            "page_at_recorded_pfn": self.pages_same,
            "start_object_placed": self.start_placed,
            "start_object_unplaced": self.start_unplaced,
            "start_page_placed": self.start_pages_placed,
            "start_page_unplaced": self.start_pages_unplaced,
            "model_alloc_failed": self.alloc_failures,
            "model_page_alloc_failed": self.page_failures,
            "model_reclaimed": self.reclaimed,
            "freed_by_reclaim": self.frees_of_reclaimed,
            "model_migrated": self.migrated,
            "free_of_nothing": self.frees_of_nothing,
            "cache_not_there": self.caches_missing,
            "cache_create_refused": self.creates_refused,
            "cache_destroy_refused": self.destroys_refused,
            "bulk_free_without_end": self.open_bulk,
            "percpu_compared": self.areas_compared,
            "percpu_at_recorded_offset": self.areas_same,
            "start_percpu_unplaced": self.start_areas_unplaced,
            "model_percpu_failed": self.area_failures,
            "moved_to_online_cpu": self.moves.moved,
            "cpu_event_ignored": self.moves.ignored,
        }


def _longer(old: object, used: int, wanted: int, fill: int) -> array:
    """A copy of the first ``used`` words with room for ``wanted``, and some to spare."""
    new = array("q")
    new.frombytes(memoryview(old)[:used].tobytes())  # type: ignore[arg-type]
    new.extend(array("q", [fill]) * (wanted + wanted // 4 - used))
    return new
