"""Requests become calls of the model, and what the calls return is remembered by handle (``Holdings``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cython
import numpy as np

from memtrace.errors import ModelError
from memtrace.mm.gfp import GFP_BIT_MOVABLE
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.kmem_cache import KmemCache
from memtrace.mm.machine import Machine
from memtrace.mm.paths import (
    COST_KFREE_NULL,
    PATH_ALLOC_FAST,
    PATH_CACHE_DESTROY,
    PATH_CACHE_SHRINK,
    PATH_FREE_FAST,
    PATH_FREE_NOTHING,
)
from memtrace.schedule.bulk_array import BulkArray
from memtrace.schedule.handle_words import NONE, OBJECT_WORDS, PAGE_WORDS, RECLAIMED
from memtrace.schedule.holdings import Holdings
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
    RQ_DRAIN_ALL,
    RQ_KFREE,
    RQ_KFREE_NULL,
    RQ_KMALLOC,
    RQ_KSWAPD_BEGIN,
    RQ_KSWAPD_END,
    RQ_PAGE_ALLOC,
    RQ_PAGE_FREE,
    RQ_PERCPU_ALLOC,
    RQ_PERCPU_FREE,
    Requests,
)

PAGE_SHIFT = 12
MAX_TRACE_ORDER = 20  # orders that no kernel serves still are requests, which fail
MAX_HANDLE = 1 << 30

@cython.cclass
class Dispatcher(Holdings):
    """Executes requests on a machine; made with the parameters of ``Holdings``."""

    flags: cython.uchar[:]
    node: cython.short[:]
    handle: cython.int[:]
    rq_cache: cython.int[:]
    rq_site: cython.int[:]
    gfp: cython.longlong[:]
    size: cython.longlong[:]
    addr: cython.longlong[:]
    offset: cython.int[:]
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
    alloc_failures: cython.longlong
    page_failures: cython.longlong
    frees_of_nothing: cython.longlong
    frees_of_reclaimed: cython.longlong
    open_bulk: cython.longlong
    areas_compared: cython.longlong
    areas_same: cython.longlong
    area_failures: cython.longlong
    moves: Any
    caches_missing: cython.longlong
    creates_refused: cython.longlong
    destroys_refused: cython.longlong

    def __init__(self, machine: Machine, cache_map: np.ndarray, cache_names: Sequence[str] = ()) -> None:
        Holdings.__init__(self, machine, cache_map, cache_names)
        self.bulk = [BulkArray() for _ in range(machine.nr_cpus)]
        self.failures = []
        self.events = []
        self.objects_compared = 0
        self.objects_same = 0
        self.pages_compared = 0
        self.pages_same = 0
        self.object_parted_row = -1
        self.page_parted_row = -1
        self.alloc_failures = 0
        self.page_failures = 0
        self.frees_of_nothing = 0
        self.frees_of_reclaimed = 0
        self.open_bulk = 0
        self.areas_compared = 0
        self.areas_same = 0
        self.area_failures = 0
        self.moves = WorkMoves(machine, self.bulk)
        self.caches_missing = 0
        self.creates_refused = 0
        self.destroys_refused = 0

    def load(self, requests: Requests) -> None:
        """
        Take the next chunk of requests.

        Raises
        ------
        ModelError
            When a request is not well-formed: compiled code does not look twice.
        """
        Holdings.load(self, requests)
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
        elif op in (RQ_KSWAPD_BEGIN, RQ_KSWAPD_END) and self.node[i] >= 0:
            self.pages.kswapd_follow(self.node[i], op == RQ_KSWAPD_BEGIN)
        elif op == RQ_DRAIN_ALL:
            self.pages.drain_all_pages()
            it.reset()  # the request that did it comes later, at its own row; its drain takes no time here
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
    def note_failure(self, i: cython.int, order: cython.int) -> cython.void:
        self.failures.append((self.ts_ns[i], self.row[i], self.cpu[i], self.op[i], order, self.gfp[i], self.size[i],
                              self.cache, self.pages.fail_reason))

    @cython.cfunc
    def note_events(self, i: cython.int) -> cython.void:
        for kind, arguments in self.pages.events:
            self.events.append((self.ts_ns[i], self.row[i], self.cpu[i], kind, arguments))
        self.pages.events.clear()

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
