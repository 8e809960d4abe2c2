"""The compiled loop of the second reading: rows in, requests out, in row order."""

from __future__ import annotations

from typing import Any

import cython
import numpy as np

from memtrace.mm.gfp import GFP_ISOLATED, GFP_KERNEL
from memtrace.trace.arrays import doubled, filled, view
from memtrace.trace.causes import (
    C_ALLOC_OF_LIVE_POINTER,
    C_BATCHED_PAGE_FREE,
    C_FAILED_ALLOC,
    C_FAILED_PAGE_ALLOC,
    C_IMPOSSIBLE_ORDER,
    C_KFREE_NULL,
    C_LARGE_KMALLOC_DOUBLED,
    C_PAGE_ALLOC_OF_LIVE_PFN,
    C_PAGE_BULK_ALLOC,
    C_PAGE_FREE_IN_PIECES,
    C_PERCPU_PAGE_OWNED,
    C_SLAB_PAGE_ALLOC_OWNED,
    C_SLAB_PAGE_FREE_OWNED,
    CAUSES,
    MAX_TRACE_ORDER,
    PAGE_BATCHED,
    PAGE_PERCPU,
    PAGE_SLAB,
    PTR_FRAME,
    TEXT_ALLOC,
    TEXT_BULK_ALLOC,
    TEXT_FREE,
    TEXT_ISOLATED,
    ZERO_SIZE_PTR,
)
from memtrace.trace.columns import Columns
from memtrace.trace.handles import HandlePool
from memtrace.trace.percpu_events import PercpuAreas, cpu_of_event, percpu_fields
from memtrace.trace.ptrmap import FrameMap, PtrMap
from memtrace.trace.requests import (
    FLAG_LAST,
    FLAG_MISSED,
    FLAG_RESERVED,
    FLAG_UNTRACED_PAGE,
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
    RQ_MARKER,
    RQ_PAGE_ALLOC,
    RQ_PAGE_FREE,
    RQ_PERCPU_ALLOC,
    RQ_PERCPU_FREE,
    PairingPlan,
)
from memtrace.trace.schema import (
    EV_CACHE_ALLOC,
    EV_CACHE_ALLOC_BULK,
    EV_CACHE_CREATE,
    EV_CACHE_DESTROY,
    EV_CACHE_FREE,
    EV_CACHE_FREE_BULK,
    EV_CACHE_SHRINK,
    EV_CPU_OFFLINE,
    EV_CPU_ONLINE,
    EV_GT_BULK_OBJ,
    EV_GT_PAGE,
    EV_KFREE,
    EV_KMALLOC,
    EV_MARKER,
    EV_PAGE_ALLOC,
    EV_PAGE_FREE,
    EV_PAGE_FREE_BATCHED,
    EV_PERCPU_ALLOC,
    EV_PERCPU_FREE,
)

DIRECT_MAP_BITS = 52
NEVER = (1 << 63) - 1
SIZE_MASK = (1 << 21) - 1


@cython.cclass
class Pairer:
    """
    What is alive now, and the requests made of the chunk being read.

    Attributes
    ----------
    objects
        Pointer -> handle of the live object there, -1 when there is none.
    cache
        By handle: Census.caches index of the object, -1 for kmalloc.
    frames
        Frame -> handle of the page block that holds it, -1 when there is none.
    head, order, left, pending_order
        By page handle: the block's first frame and order, its pages not freed yet, and the order of a
        free that waits for its batched row.
    row .. offset
        The requests, as in requests.REQUEST_COLUMNS; the first ``n`` are valid.
    """

    cols: Columns
    base: cython.ulonglong
    classes: PtrMap
    cache_of_name: cython.int[:]
    verdict: cython.uchar[:]
    bulk_last: cython.uchar[:]
    doubled_rows: cython.longlong[:]
    n_doubled: cython.longlong
    ended_row: cython.longlong[:]
    ended_ptr: cython.ulonglong[:]
    n_ended: cython.longlong
    extra_ns: cython.longlong[:]
    extra_row: cython.longlong[:]
    extra_ptr: cython.ulonglong[:]
    extra_cache: cython.int[:]
    extra_cpu: cython.short[:]
    n_extra: cython.longlong
    ordinal: cython.longlong
    n_bulk: cython.longlong
    objects: PtrMap
    handles: HandlePool
    cache: cython.int[:]
    frames: FrameMap
    page_handles: HandlePool
    head: cython.longlong[:]
    order: cython.int[:]
    left: cython.int[:]
    pending_order: cython.int[:]
    counts: cython.longlong[:]
    percpu: Any
    owns_percpu: cython.bint
    n: cython.longlong
    row: cython.longlong[:]
    ts_ns: cython.longlong[:]
    op: cython.uchar[:]
    flags: cython.uchar[:]
    cpu: cython.short[:]
    node: cython.short[:]
    handle: cython.int[:]
    cache_out: cython.int[:]
    site: cython.int[:]
    gfp: cython.longlong[:]
    size: cython.longlong[:]
    addr: cython.longlong[:]
    offset: cython.int[:]

    def __init__(self, cols: Columns, base: cython.ulonglong, plan: PairingPlan, start_cache: np.ndarray,
                 start_order: np.ndarray) -> None:
        self.cols = cols
        self.base = base
        self.classes = PtrMap(8)
        for key, index in zip(plan.class_keys.tolist(), plan.class_cache.tolist(), strict=True):
            self.classes.put(key, index)
        self.cache_of_name = view(plan.cache_of_name)
        self.verdict = view(plan.page_verdict)
        self.bulk_last = view(plan.bulk_last)
        self.doubled_rows = view(plan.doubled_rows)
        self.n_doubled = 0
        # With a last one that never comes, so that there always is a next one.
        self.ended_row = view(np.append(plan.ended_row, NEVER))
        self.ended_ptr = view(plan.ended_ptr)
        self.n_ended = 0
        self.extra_ns = view(np.append(plan.extra_ns, NEVER))
        self.extra_row = view(np.append(plan.extra_row, NEVER))
        self.extra_ptr = view(plan.extra_ptr)
        self.extra_cache = view(plan.extra_cache)
        self.extra_cpu = view(plan.extra_cpu)
        self.n_extra = 0
        self.ordinal = 0
        self.n_bulk = 0
        self.objects = PtrMap(12)
        self.cache = view(np.concatenate([start_cache, np.zeros(1024, np.int32)]))
        for handle, ptr in enumerate(plan.start_ptr.tolist()):
            self.objects.put(ptr, handle)
        self.handles = HandlePool(len(plan.start_ptr))
        self.frames = FrameMap()
        self.page_handles = HandlePool(len(plan.start_frame))
        n = len(plan.start_frame) + 1024
        self.head = filled(n, np.int64)
        self.order = filled(n, np.int32)
        self.left = filled(n, np.int32)
        self.pending_order = filled(n, np.int32)
        for handle, (frame, order) in enumerate(zip(plan.start_frame.tolist(), start_order.tolist(), strict=True)):
            self.place(handle, frame, order)
        self.percpu = PercpuAreas(list(plan.start_percpu))
        self.owns_percpu = plan.owns_percpu
        self.counts = filled(len(CAUSES), np.int64)
        self.allocate(1024)

    @cython.cfunc
    def place(self, handle: cython.int, frame: cython.longlong, order: cython.int) -> cython.void:
        """The block at ``frame`` is the one of this handle."""
        i: cython.longlong
        n: cython.longlong = 1 if frame >= PTR_FRAME else 1 << order
        while handle >= len(self.head):
            self.head = doubled(self.head)
            self.order = doubled(self.order)
            self.left = doubled(self.left)
            self.pending_order = doubled(self.pending_order)
        self.head[handle] = frame
        self.order[handle] = order
        self.left[handle] = n
        self.pending_order[handle] = order
        for i in range(frame, frame + n):
            self.frames.put(i, handle)

    def allocate(self, n: cython.longlong) -> None:
        """New room for n requests."""
        self.n = 0
        self.row = filled(n, np.int64)
        self.ts_ns = filled(n, np.int64)
        self.op = filled(n, np.uint8)
        self.flags = filled(n, np.uint8)
        self.cpu = filled(n, np.int16)
        self.node = filled(n, np.int16)
        self.handle = filled(n, np.int32)
        self.cache_out = filled(n, np.int32)
        self.site = filled(n, np.int32)
        self.gfp = filled(n, np.int64)
        self.size = filled(n, np.int64)
        self.addr = filled(n, np.int64)
        self.offset = filled(n, np.int32)

    @cython.cfunc
    def grow(self) -> cython.void:
        self.row = doubled(self.row)
        self.ts_ns = doubled(self.ts_ns)
        self.op = doubled(self.op)
        self.flags = doubled(self.flags)
        self.cpu = doubled(self.cpu)
        self.node = doubled(self.node)
        self.handle = doubled(self.handle)
        self.cache_out = doubled(self.cache_out)
        self.site = doubled(self.site)
        self.gfp = doubled(self.gfp)
        self.size = doubled(self.size)
        self.addr = doubled(self.addr)
        self.offset = doubled(self.offset)

    @cython.cfunc
    def emit(self, i: cython.longlong, op: cython.int, flags: cython.int, handle: cython.int, cache: cython.int,
             size: cython.longlong, addr: cython.longlong) -> cython.longlong:
        """One request of row i of the chunk; its place, for what else is to be set."""
        c: Columns = self.cols
        k: cython.longlong = self.n
        node: cython.int = c.node[i]
        if k == len(self.row):
            self.grow()
        self.n = k + 1
        self.row[k] = c.row0 + i
        self.ts_ns[k] = c.ts_ns[i]
        self.op[k] = op
        self.flags[k] = flags
        self.cpu[k] = c.cpu[i]
        self.node[k] = -1 if node < 0 else node
        self.handle[k] = handle
        self.cache_out[k] = cache
        self.site[k] = c.call_site[i]
        self.gfp[k] = c.gfp_mask[c.gfp[i] + 1]
        self.size[k] = size
        self.addr[k] = addr
        self.offset[k] = 0
        return k

    @cython.ccall
    def pair(self) -> cython.void:
        """All rows of the chunk that ``cols`` is bound to."""
        c: Columns = self.cols
        i: cython.longlong
        event: cython.int
        self.allocate(c.n + 16)
        for i in range(c.n):
            event = c.event[i]
            while c.ts_ns[i] >= self.extra_ns[self.n_extra] and c.row0 + i >= self.extra_row[self.n_extra]:
                self.extra(i)
            while c.row0 + i == self.ended_row[self.n_ended]:
                self.missed_free(i, self.ended_ptr[self.n_ended], c.cpu[i])
                self.n_ended += 1
            if event == EV_CACHE_ALLOC:
                self.object_alloc(i, RQ_CACHE_ALLOC, self.cache_index(i), -1)
            elif event == EV_CACHE_FREE:
                self.object_free(i, RQ_CACHE_FREE)
            elif event == EV_KMALLOC:
                if self.n_doubled < len(self.doubled_rows) and c.row0 + i == self.doubled_rows[self.n_doubled]:
                    self.n_doubled += 1
                    self.counts[C_LARGE_KMALLOC_DOUBLED] += 1
                else:
                    self.object_alloc(i, RQ_KMALLOC, -1, c.bytes_req[i])
            elif event == EV_KFREE:
                self.object_free(i, RQ_KFREE)
            elif event in (EV_PAGE_ALLOC, EV_PAGE_FREE, EV_PAGE_FREE_BATCHED):
                self.page_row(i, event)
            elif event == EV_MARKER:
                self.emit(i, RQ_MARKER, 0, -1, -1, c.text[i], -1)
            elif event in (EV_GT_BULK_OBJ, EV_CACHE_ALLOC_BULK, EV_CACHE_FREE_BULK):
                self.bulk_row(i, event)
            elif event == EV_GT_PAGE:
                self.gt_page(i)
            elif event in (EV_PERCPU_ALLOC, EV_PERCPU_FREE):
                self.percpu_row(i, event)
            elif event in (EV_CPU_OFFLINE, EV_CPU_ONLINE):
                self.emit(i, RQ_CPU_OFFLINE if event == EV_CPU_OFFLINE else RQ_CPU_ONLINE, 0, -1, -1,
                          cpu_of_event(c, i), -1)
            elif event == EV_CACHE_CREATE:
                self.cache_row(i, RQ_CACHE_CREATE)
            elif event == EV_CACHE_DESTROY:
                self.cache_row(i, RQ_CACHE_DESTROY)
            elif event == EV_CACHE_SHRINK:
                self.cache_row(i, RQ_CACHE_SHRINK)

    @cython.cfunc
    def extra(self, i: cython.longlong) -> cython.void:
        """The next request that left no event, before row i."""
        k: cython.longlong = self.n_extra
        at: cython.longlong
        handle: cython.int
        cache: cython.int = self.extra_cache[k]
        slot: cython.longlong = self.objects.slot(self.extra_ptr[k])
        self.n_extra = k + 1
        if cache < 0:
            self.missed_free(i, self.extra_ptr[k], self.extra_cpu[k])
        elif self.objects.vals[slot] < 0:
            handle = self.take_handle(cache)
            self.objects.vals[slot] = handle
            at = self.emit(i, RQ_BULK_ALLOC, FLAG_MISSED | FLAG_LAST, handle, cache, -1,
                           self.address(self.extra_ptr[k]))
            self.cpu[at] = self.extra_cpu[k]
            self.gfp[at] = GFP_KERNEL
            self.node[at] = -1
            self.site[at] = -1

    @cython.cfunc
    def missed_free(self, i: cython.longlong, ptr: cython.ulonglong, cpu: cython.int) -> cython.void:
        """Before row i, free an object whose free left no event."""
        k: cython.longlong
        slot: cython.longlong = self.objects.find(ptr)
        if slot < 0 or self.objects.vals[slot] < 0:
            return
        handle: cython.int = self.objects.vals[slot]
        self.objects.vals[slot] = -1
        self.handles.give_back(handle)
        k = self.emit(i, RQ_KFREE if self.cache[handle] < 0 else RQ_CACHE_FREE, FLAG_MISSED, handle,
                      self.cache[handle], -1, self.address(ptr))
        self.cpu[k] = cpu
        self.gfp[k] = 0
        self.node[k] = -1
        self.site[k] = -1

    @cython.cfunc
    def take_handle(self, cache: cython.int) -> cython.int:
        """A handle for an object of this cache."""
        handle: cython.int = self.handles.take()
        while handle >= len(self.cache):
            self.cache = doubled(self.cache)
        self.cache[handle] = cache
        return handle

    @cython.cfunc
    @cython.exceptval(check=False)
    def address(self, ptr: cython.ulonglong) -> cython.longlong:
        if self.base == 0 or ptr < self.base or (ptr - self.base) >> DIRECT_MAP_BITS:
            return -1
        return ptr - self.base

    @cython.cfunc
    def cache_index(self, i: cython.longlong) -> cython.int:
        """Cache of an allocation row: by its name, or by its class."""
        c: Columns = self.cols
        if c.name[i] >= 0:
            return self.cache_of_name[c.name[i]]
        return self.classes.get(
            (cython.cast(cython.ulonglong, c.call_site[i] + 2) << 42)
            | (cython.cast(cython.ulonglong, c.bytes_req[i] & SIZE_MASK) << 21)
            | cython.cast(cython.ulonglong, c.bytes_alloc[i] & SIZE_MASK))

    @cython.cfunc
    def object_alloc(self, i: cython.longlong, op: cython.int, cache: cython.int,
                     size: cython.longlong) -> cython.longlong:
        """One object handed out; the place of its request, -1 when the allocation failed."""
        c: Columns = self.cols
        ptr: cython.ulonglong = c.ptr[i]
        slot: cython.longlong
        handle: cython.int
        k: cython.longlong
        if ptr == 0 or ptr == ZERO_SIZE_PTR:
            self.counts[C_FAILED_ALLOC] += 1
            return -1
        slot = self.objects.slot(ptr)
        handle = self.objects.vals[slot]
        if handle >= 0:
            self.counts[C_ALLOC_OF_LIVE_POINTER] += 1
            k = self.emit(i, RQ_KFREE if self.cache[handle] < 0 else RQ_CACHE_FREE, FLAG_MISSED, handle,
                          self.cache[handle], -1, self.address(ptr))
            self.gfp[k] = 0
            self.node[k] = -1
            self.handles.give_back(handle)
        handle = self.take_handle(cache)
        self.objects.vals[slot] = handle
        return self.emit(i, op, 0, handle, cache, size, self.address(ptr))

    @cython.cfunc
    def object_free(self, i: cython.longlong, op: cython.int) -> cython.longlong:
        """One object given back; the place of its request, -1 when there is nothing to free."""
        c: Columns = self.cols
        ptr: cython.ulonglong = c.ptr[i]
        slot: cython.longlong
        handle: cython.int
        if ptr == 0 or ptr == ZERO_SIZE_PTR:
            self.counts[C_KFREE_NULL] += 1
            if op == RQ_KFREE:
                self.emit(i, RQ_KFREE_NULL, 0, -1, -1, -1, -1)
            return -1
        slot = self.objects.find(ptr)
        if slot < 0 or self.objects.vals[slot] < 0:
            return -1  # the census says why
        handle = self.objects.vals[slot]
        self.objects.vals[slot] = -1
        self.handles.give_back(handle)
        return self.emit(i, op, 0, handle, self.cache[handle], -1, self.address(ptr))

    @cython.cfunc
    def percpu_row(self, i: cython.longlong, event: cython.int) -> cython.void:
        """A per-CPU area is allocated or freed; what cannot be used, the census counted."""
        fields = percpu_fields(self.cols, i)
        k: cython.longlong
        if not fields.ptr:
            return
        if event == EV_PERCPU_FREE:
            handle = self.percpu.free(fields.ptr)
            if handle >= 0:
                self.emit(i, RQ_PERCPU_FREE, 0, handle, -1, -1, -1)
        elif fields.size > 0:
            handle, missed = self.percpu.alloc(fields.ptr)
            if missed >= 0:
                self.emit(i, RQ_PERCPU_FREE, FLAG_MISSED, missed, -1, -1, -1)
            k = self.emit(i, RQ_PERCPU_ALLOC, FLAG_RESERVED if fields.reserved else 0, handle, -1, fields.size,
                          fields.off)
            self.offset[k] = min(fields.align, 1 << 30)
            self.gfp[k] = fields.gfp

    @cython.cfunc
    def cache_row(self, i: cython.longlong, op: cython.int) -> cython.void:
        """A cache is created, destroyed or shrunk."""
        c: Columns = self.cols
        if c.name[i] < 0 or (op == RQ_CACHE_CREATE and c.bytes_req[i] <= 0):
            return  # the census counted it
        self.emit(i, op, 0, -1, self.cache_of_name[c.name[i]], c.bytes_req[i],
                  c.cache_args[c.text[i] + 1] if op == RQ_CACHE_CREATE else -1)

    @cython.cfunc
    def bulk_row(self, i: cython.longlong, event: cython.int) -> cython.void:
        c: Columns = self.cols
        k: cython.longlong = -1
        kind: cython.int = c.text_kind[c.text[i] + 1]
        if event == EV_CACHE_ALLOC_BULK or (event == EV_GT_BULK_OBJ and kind == TEXT_ALLOC):
            k = self.object_alloc(i, RQ_BULK_ALLOC, self.cache_index(i), -1)
        elif event == EV_CACHE_FREE_BULK or kind == TEXT_FREE:
            k = self.object_free(i, RQ_BULK_FREE)
        if k >= 0:
            if self.bulk_last[self.n_bulk >> 3] >> (self.n_bulk & 7) & 1:
                self.flags[k] = self.flags[k] | FLAG_LAST
            self.n_bulk += 1

    @cython.cfunc
    def gt_page(self, i: cython.longlong) -> cython.void:
        """Pages taken without an mm_page_alloc: by the bulk allocator, or by compaction, to move pages to."""
        c: Columns = self.cols
        kind: cython.int = c.text_kind[c.text[i] + 1]
        frame: cython.longlong
        if c.pfn[i] <= 0 or c.order[i] < 0 or c.order[i] > MAX_TRACE_ORDER:
            return
        if kind == TEXT_BULK_ALLOC:
            self.counts[C_PAGE_BULK_ALLOC] += 1
            self.page_alloc(i, c.pfn[i], c.order[i], FLAG_UNTRACED_PAGE)
        elif kind == TEXT_ISOLATED:
            for frame in range(c.pfn[i], c.pfn[i] + (1 << c.order[i])):
                self.gfp[self.page_alloc(i, frame, 0, FLAG_UNTRACED_PAGE)] = GFP_ISOLATED

    @cython.cfunc
    def page_row(self, i: cython.longlong, event: cython.int) -> cython.void:
        """mm_page_alloc, mm_page_free or mm_page_free_batched, as the census judged it."""
        c: Columns = self.cols
        frame: cython.longlong = c.page_frame(i)
        order: cython.int = c.order[i]
        handle: cython.int
        verdict: cython.int
        if event == EV_PAGE_FREE_BATCHED:
            if frame >= 0:
                handle = self.frames.get(frame)
                if handle >= 0:
                    self.counts[C_BATCHED_PAGE_FREE] += 1
                    self.page_free(i, frame, self.pending_order[handle] if self.pending_order[handle] >= 0 else 0)
            return
        verdict = self.verdict[self.ordinal >> 2] >> ((self.ordinal & 3) << 1) & 3
        self.ordinal += 1
        if order < 0 or order > MAX_TRACE_ORDER:
            self.counts[C_IMPOSSIBLE_ORDER] += 1
        elif frame < 0:
            self.counts[C_FAILED_PAGE_ALLOC] += 1 if event == EV_PAGE_ALLOC else 0
        elif verdict == PAGE_SLAB or (verdict == PAGE_PERCPU and self.owns_percpu):
            if verdict == PAGE_PERCPU:
                self.counts[C_PERCPU_PAGE_OWNED] += 1
                if event == EV_PAGE_ALLOC:
                    self.free_missed(i, frame, 1)
            elif event == EV_PAGE_ALLOC:
                self.counts[C_SLAB_PAGE_ALLOC_OWNED] += 1
                self.free_missed(i, frame, 1 if frame >= PTR_FRAME else 1 << order)
            else:
                self.counts[C_SLAB_PAGE_FREE_OWNED] += 1
                self.page_free(i, frame, order)  # none of these pages has a handle, unless the trace is broken
        elif event == EV_PAGE_ALLOC:
            self.page_alloc(i, frame, order, 0)
        elif verdict == PAGE_BATCHED:
            handle = self.frames.get(frame)
            if handle >= 0:
                self.pending_order[handle] = order
        else:
            self.page_free(i, frame, order)

    @cython.cfunc
    def page_alloc(
        self, i: cython.longlong, frame: cython.longlong, order: cython.int, flags: cython.int
    ) -> cython.longlong:
        """A block is handed out; the place of its request."""
        handle: cython.int
        self.free_missed(i, frame, 1 if frame >= PTR_FRAME else 1 << order)
        handle = self.page_handles.take()
        self.place(handle, frame, order)
        self.pending_order[handle] = -1
        return self.emit(i, RQ_PAGE_ALLOC, flags, handle, -1, order, -1 if frame >= PTR_FRAME else frame << 12)

    @cython.cfunc
    def free_missed(self, i: cython.longlong, frame: cython.longlong, n: cython.longlong) -> cython.void:
        """Free whatever still holds any of these frames: its own free left no event."""
        handle: cython.int
        f: cython.longlong
        g: cython.longlong
        end: cython.longlong
        found: cython.bint = False
        for f in range(frame, frame + n):
            handle = self.frames.get(f)
            if handle < 0:
                continue
            found = True
            end = self.head[handle] + (1 if self.head[handle] >= PTR_FRAME else 1 << self.order[handle])
            if self.left[handle] == end - self.head[handle]:
                self.free_piece(i, handle, self.head[handle], self.order[handle], FLAG_MISSED)
                continue
            for g in range(self.head[handle], end):
                if self.frames.get(g) == handle:
                    self.free_piece(i, handle, g, 0, FLAG_MISSED)
        if found:
            self.counts[C_PAGE_ALLOC_OF_LIVE_PFN] += 1

    @cython.cfunc
    def page_free(self, i: cython.longlong, frame: cython.longlong, order: cython.int) -> cython.void:
        """Free the pages of one event: a block, a piece of one, or (never seen) pages of several."""
        f: cython.longlong = frame
        n: cython.longlong = 1 if frame >= PTR_FRAME else 1 << order
        handle: cython.int = self.frames.get(frame)
        whole: cython.bint = handle >= 0
        for f in range(frame + 1, frame + n):
            if self.frames.get(f) != handle:
                whole = False
                break
        if whole:
            self.free_piece(i, handle, frame, self.order[handle] if frame >= PTR_FRAME else order, 0)
            return
        for f in range(frame, frame + n):
            handle = self.frames.get(f)
            if handle >= 0:
                self.free_piece(i, handle, f, 0, 0)

    @cython.cfunc
    def free_piece(self, i: cython.longlong, handle: cython.int, frame: cython.longlong, order: cython.int,
                   flags: cython.int) -> cython.void:
        """Free 2**order pages of a block, which all belong to it."""
        f: cython.longlong
        k: cython.longlong
        n: cython.longlong = 1 if frame >= PTR_FRAME else 1 << order
        for f in range(frame, frame + n):
            self.frames.put(f, -1)
        if order < self.order[handle] and not flags:
            self.counts[C_PAGE_FREE_IN_PIECES] += 1
        self.left[handle] -= n
        if self.left[handle] <= 0:
            flags = flags | FLAG_LAST
        k = self.emit(i, RQ_PAGE_FREE, flags, handle, -1, order, -1 if frame >= PTR_FRAME else frame << 12)
        self.offset[k] = frame - self.head[handle]
        self.gfp[k] = 0
        self.node[k] = -1
        if self.left[handle] <= 0:
            self.page_handles.give_back(handle)

