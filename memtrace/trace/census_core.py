"""The compiled loop of the first reading: every row of a trace, once, in order."""

from __future__ import annotations

from typing import Any

import cython
import numpy as np

from memtrace.trace.alloc_classes import AllocClasses
from memtrace.trace.arrays import doubled, filled
from memtrace.trace.causes import (
    C_ALLOC_OF_LIVE_POINTER,
    C_CACHE_EVENT_UNUSABLE,
    C_CPU_EVENT,
    C_DOUBLE_FREE,
    C_FAILED_ALLOC,
    C_FAILED_PAGE_ALLOC,
    C_FREE_OF_UNKNOWN,
    C_FREE_OF_UNTRACED_ALLOC,
    C_IMPOSSIBLE_ORDER,
    C_KFREE_BULK_CALLBACKS,
    C_KFREE_NULL,
    C_LARGE_KMALLOC_DOUBLED,
    C_LARGE_KMALLOC_PAGE,
    C_OTHER_ROWS,
    C_OUTCOME_ROWS,
    C_PAGE_BULK_ALLOC,
    C_PAGE_ISOLATED,
    C_PERCPU_FREE_OF_UNKNOWN,
    C_PERCPU_UNUSABLE,
    C_SLAB_PAGE_BY_FLAGS,
    CAUSES,
    CLASS_KMALLOC,
    CLASS_SITE,
    LARGE_KMALLOC_BYTES,
    MASK_PERCPU,
    MASK_PERCPU_WORKER,
    MAX_CPUS,
    MAX_TRACE_ORDER,
    PTR_FRAME,
    TEXT_ALLOC,
    TEXT_BULK_ALLOC,
    TEXT_FREE,
    TEXT_ISOLATED,
    TEXT_OTHER,
    ZERO_SIZE_PTR,
)
from memtrace.trace.columns import Columns
from memtrace.trace.objects_seen import ObjectsSeen
from memtrace.trace.pages_seen import PagesSeen
from memtrace.trace.percpu_events import PercpuAreas, page_mask, percpu_fields
from memtrace.trace.schema import (
    EV_CACHE_ALLOC,
    EV_CACHE_ALLOC_BULK,
    EV_CACHE_CREATE,
    EV_CACHE_FREE,
    EV_CACHE_FREE_BULK,
    EV_CACHE_SHRINK,
    EV_CPU_OFFLINE,
    EV_CPU_ONLINE,
    EV_EXTFRAG,
    EV_GT_BULK_OBJ,
    EV_GT_PAGE,
    EV_GT_SLAB,
    EV_KFREE,
    EV_KFREE_BULK_CALLBACK,
    EV_KMALLOC,
    EV_MARKER,
    EV_PAGE_ALLOC,
    EV_PAGE_FREE,
    EV_PAGE_FREE_BATCHED,
    EV_PCPU_DRAIN,
    EV_PERCPU_ALLOC,
    EV_PERCPU_CREATE_CHUNK,
    EV_PERCPU_DESTROY_CHUNK,
    EV_ZONE_LOCKED,
)
from memtrace.trace.untraced import Untraced

OBJECT_FREED = -2  # as in objects_seen
LIFE_START = 3  # as in pages_seen
DIRECT_MAP_BITS = 52  # no machine has more physical address bits


@cython.cclass
class CensusScan:
    """
    What the first reading knows so far; `memtrace.trace.census` makes a Census of it.

    Attributes
    ----------
    objects
        What is known of every pointer.
    untraced
        What shows that an operation left no event.
    start_*
        Objects alive at the start, in the order of their frees; ``start_name`` from the free (-1 none),
        ``start_life`` of their page (-1 unknown).
    free_*
        Objects free at the start, in the order of their allocations.
    bulk_last
        One bit an accepted row of a bulk operation: it is the last of its array.
    doubled_rows
        Rows of the first of two kmalloc events for one large allocation.
    created
        (code of the name, object size) of caches that nothing named before their creation.
    """

    cols: Columns
    pages: PagesSeen
    base: cython.ulonglong
    objects: ObjectsSeen
    untraced: Untraced
    classes: AllocClasses
    start_ptr: cython.ulonglong[:]
    start_name: cython.int[:]
    start_life: cython.int[:]
    n_start: cython.longlong
    free_ptr: cython.ulonglong[:]
    free_class: cython.int[:]
    free_cpu: cython.short[:]
    n_free: cython.longlong
    live: cython.longlong
    peak: cython.longlong
    bulk_last: cython.uchar[:]
    n_bulk: cython.longlong
    run_key: cython.longlong[:]
    run_last: cython.longlong[:]
    last_born: cython.longlong[:]
    last_life: cython.int[:]
    last_ptr: cython.ulonglong[:]
    last_bytes: cython.longlong[:]
    last_row: cython.longlong[:]
    doubled_rows: cython.longlong[:]
    n_doubled: cython.longlong
    created: list
    percpu: Any
    percpu_allocs: cython.longlong
    populating: dict
    counts: cython.longlong[:]

    def __init__(self, cols: Columns, base: cython.ulonglong) -> None:
        n = 256
        self.cols = cols
        self.base = base
        self.counts = filled(len(CAUSES), np.int64)
        self.pages = PagesSeen(self.counts)
        self.objects = ObjectsSeen()
        self.untraced = Untraced()
        self.classes = AllocClasses(cols, self.pages)
        self.start_ptr = filled(n, np.uint64)
        self.start_name = filled(n, np.int32)
        self.start_life = filled(n, np.int32)
        self.n_start = 0
        self.free_ptr = filled(n, np.uint64)
        self.free_class = filled(n, np.int32)
        self.free_cpu = filled(n, np.int16)
        self.n_free = 0
        self.live = 0
        self.peak = 0
        self.bulk_last = filled(n, np.uint8)
        self.n_bulk = 0
        self.run_key = filled(MAX_CPUS * 4, np.int64, -1)
        self.run_last = filled(MAX_CPUS * 4, np.int64, -1)
        self.last_born = filled(MAX_CPUS, np.int64, -1)
        self.last_life = filled(MAX_CPUS, np.int32, -1)
        self.last_ptr = filled(MAX_CPUS, np.uint64)
        self.last_bytes = filled(MAX_CPUS, np.int64)
        self.last_row = filled(MAX_CPUS, np.int64)
        self.doubled_rows = filled(n, np.int64)
        self.n_doubled = 0
        self.created = []
        self.percpu = PercpuAreas()
        self.percpu_allocs = 0
        self.populating = {}

    @cython.ccall
    def scan(self) -> cython.void:
        """All rows of the chunk that ``cols`` is bound to."""
        c: Columns = self.cols
        i: cython.longlong
        event: cython.int
        cpu: cython.int
        order: cython.int
        frame: cython.longlong
        kind: cython.int
        life: cython.int
        n: cython.longlong = c.n
        self.pages.reserve(n)
        while (self.n_bulk + n) // 8 + 1 > len(self.bulk_last):
            self.bulk_last = doubled(self.bulk_last)
        for i in range(n):
            event = c.event[i]
            cpu = c.cpu[i]
            if event == EV_CACHE_ALLOC:
                self.object_alloc(i, cpu, self.classes.cache_class(i))
            elif event == EV_CACHE_FREE:
                self.object_free(i, cpu, c.name[i])
            elif event == EV_KMALLOC:
                self.kmalloc(i, cpu)
            elif event == EV_KFREE:
                self.object_free(i, cpu, -1)
            elif event in (EV_PAGE_ALLOC, EV_PAGE_FREE, EV_PAGE_FREE_BATCHED):
                frame = c.page_frame(i)
                order = c.order[i]
                if event == EV_PAGE_FREE_BATCHED:
                    if frame >= 0:
                        self.pages.batched(frame, 1)
                        self.end_objects(i)
                    continue
                if order < 0 or order > MAX_TRACE_ORDER:
                    self.counts[C_IMPOSSIBLE_ORDER] += 1
                elif frame < 0:
                    if event == EV_PAGE_ALLOC:
                        self.counts[C_FAILED_PAGE_ALLOC] += 1
                elif event == EV_PAGE_ALLOC:
                    kind = c.gfp_slab[c.gfp[i] + 1]
                    life = self.pages.alloc(frame, 1 if frame >= PTR_FRAME else 1 << order, order, False, kind)
                    if kind >= MASK_PERCPU_WORKER:
                        self.percpu_page(i, cpu, life, kind)
                    self.last_life[cpu] = life
                    self.last_born[cpu] = self.pages.ordinal
                    self.pages.born_ns[self.last_life[cpu]] = c.ts_ns[i]
                    self.pages.born_row[self.last_life[cpu]] = c.row0 + i
                else:
                    self.pages.free(frame, 1 if frame >= PTR_FRAME else 1 << order, order, False)
                self.last_ptr[cpu] = 0
                self.pages.ordinal += 1
                self.end_objects(i)
            elif event in (EV_GT_BULK_OBJ, EV_CACHE_ALLOC_BULK, EV_CACHE_FREE_BULK):
                kind = c.text_kind[c.text[i] + 1]
                if event == EV_CACHE_ALLOC_BULK or (event == EV_GT_BULK_OBJ and kind == TEXT_ALLOC):
                    self.bulk_row(i, cpu, True)
                elif event == EV_CACHE_FREE_BULK or kind == TEXT_FREE:
                    self.bulk_row(i, cpu, False)
                else:
                    self.counts[C_OTHER_ROWS] += 1
            elif event == EV_GT_PAGE:
                kind = c.text_kind[c.text[i] + 1]
                order = c.order[i]
                if kind == TEXT_BULK_ALLOC and c.pfn[i] > 0 and 0 <= order <= MAX_TRACE_ORDER:
                    self.counts[C_PAGE_BULK_ALLOC] += 1
                    self.pages.alloc(c.pfn[i], 1 << order, order, True, 0)
                    self.end_objects(i)
                elif kind == TEXT_ISOLATED and c.pfn[i] > 0 and 0 <= order <= MAX_TRACE_ORDER:
                    self.counts[C_PAGE_ISOLATED] += 1
                    for frame in range(c.pfn[i], c.pfn[i] + (1 << order)):
                        self.pages.alloc(frame, 1, 0, True, 0)
                    self.end_objects(i)
                elif kind == TEXT_OTHER:
                    self.counts[C_OTHER_ROWS] += 1
                else:
                    self.counts[C_OTHER_ROWS] += 1
            elif event == EV_KFREE_BULK_CALLBACK:
                self.counts[C_KFREE_BULK_CALLBACKS] += 1
                self.close_run(cpu, c.level[c.ctx[i] + 1])
            elif event in (EV_ZONE_LOCKED, EV_PCPU_DRAIN, EV_EXTFRAG, EV_GT_SLAB):
                self.counts[C_OUTCOME_ROWS] += 1
            elif EV_PERCPU_ALLOC <= event <= EV_PERCPU_DESTROY_CHUNK:
                self.percpu_row(i, cpu, event)
            elif event in (EV_CPU_ONLINE, EV_CPU_OFFLINE):
                self.counts[C_CPU_EVENT] += 1
            elif EV_CACHE_CREATE <= event <= EV_CACHE_SHRINK:
                self.cache_row(i, event)
            elif event != EV_MARKER:
                self.counts[C_OTHER_ROWS] += 1

    @cython.cfunc
    def percpu_page(self, i: cython.longlong, cpu: cython.int, life: cython.int, kind: cython.int) -> cython.void:
        """A page whose flags the percpu allocator uses: the worker's own, or perhaps a coming allocation's."""
        if self.cols.order[i] != 0:
            return
        if kind & MASK_PERCPU_WORKER:
            self.pages.own_percpu(life)
        elif kind & MASK_PERCPU:
            if self.last_life[cpu] < 0:  # an object was handed out or given back since the last page
                self.populating[cpu] = []
            mask = self.cols.gfp_mask[self.cols.gfp[i] + 1]
            self.populating.setdefault(cpu, []).append((life, self.pages.ordinal, mask))

    @cython.cfunc
    def percpu_row(self, i: cython.longlong, cpu: cython.int, event: cython.int) -> cython.void:
        """
        A percpu event. Pages that its CPU asked for just before, with the flags that come of the area's, populate
        the area (MODEL 12.3).
        """
        if event >= EV_PERCPU_CREATE_CHUNK:
            self.counts[C_OUTCOME_ROWS] += 1
            return
        fields = percpu_fields(self.cols, i)
        if not fields.ptr or (event == EV_PERCPU_ALLOC and fields.size <= 0):
            self.counts[C_PERCPU_UNUSABLE] += 1
            return
        if event == EV_PERCPU_ALLOC:
            self.percpu.alloc(fields.ptr)
            self.percpu_allocs += 1
            if self.last_life[cpu] >= 0:
                mask = page_mask(fields.gfp)
                for life, ordinal, of in self.populating.get(cpu, ()):
                    if of == mask and self.pages.born[life] == ordinal and self.pages.owned[life] == 0:
                        self.pages.own_percpu(life)
            self.populating[cpu] = []
        elif self.percpu.free(fields.ptr) < 0:
            if self.percpu.pre_dates(fields):
                self.counts[C_PERCPU_FREE_OF_UNKNOWN] += 1
            else:
                self.counts[C_PERCPU_UNUSABLE] += 1

    @cython.cfunc
    def cache_row(self, i: cython.longlong, event: cython.int) -> cython.void:
        """kmem_cache_create, kmem_cache_destroy or kmem_cache_shrink."""
        name: cython.int = self.cols.name[i]
        if name < 0 or (event == EV_CACHE_CREATE and self.cols.bytes_req[i] <= 0):
            self.counts[C_CACHE_EVENT_UNUSABLE] += 1
            return
        if event == EV_CACHE_CREATE and self.classes.name_known.get(name + 1) < 0:
            self.created.append((name, self.cols.bytes_req[i]))
        self.classes.see_name(name)

    @cython.cfunc
    def kmalloc(self, i: cython.longlong, cpu: cython.int) -> cython.void:
        """kmalloc; one for a large object may be written twice, the real caller's second (MODEL 5.3)."""
        c: Columns = self.cols
        ptr: cython.ulonglong = c.ptr[i]
        n_bytes: cython.longlong = c.bytes_alloc[i]
        cls: cython.int = self.classes.kmalloc_class(i)
        if n_bytes > LARGE_KMALLOC_BYTES and ptr != 0 and ptr == self.last_ptr[cpu] and n_bytes == self.last_bytes[cpu]:
            self.counts[C_LARGE_KMALLOC_DOUBLED] += 1
            if self.n_doubled == len(self.doubled_rows):
                self.doubled_rows = doubled(self.doubled_rows)
            self.doubled_rows[self.n_doubled] = self.last_row[cpu]
            self.n_doubled += 1
            self.last_ptr[cpu] = 0
            return
        self.object_alloc(i, cpu, cls)
        self.last_ptr[cpu] = ptr
        self.last_bytes[cpu] = n_bytes
        self.last_row[cpu] = c.row0 + i

    @cython.cfunc
    @cython.exceptval(check=False)
    def frame_of(self, ptr: cython.ulonglong) -> cython.longlong:
        """Frame that an object lies in, or -1 when addresses do not tell."""
        if self.base == 0 or ptr < self.base or (ptr - self.base) >> DIRECT_MAP_BITS:
            return -1
        return (ptr - self.base) >> 12

    @cython.cfunc
    def object_alloc(self, i: cython.longlong, cpu: cython.int, cls: cython.int) -> cython.bint:
        """One object handed out; whether there was one."""
        c: Columns = self.cols
        ptr: cython.ulonglong = c.ptr[i]
        record: cython.int
        seen: cython.int = -1
        life: cython.int
        frame: cython.longlong
        objects: ObjectsSeen = self.objects
        if ptr == 0 or ptr == ZERO_SIZE_PTR:
            self.counts[C_FAILED_ALLOC] += 1
            return False
        self.close_run(cpu, c.level[c.ctx[i] + 1])
        self.classes.c_allocs[cls] += 1
        record = objects.where.get(ptr)
        if record >= 0:
            seen = objects.cls[record]
        else:
            record = objects.new(ptr)
        if seen >= 0:
            self.counts[C_ALLOC_OF_LIVE_POINTER] += 1
            self.untraced.silent(objects.site[record], c.ts_ns[i] - objects.ns[record])
        else:
            self.live += 1
            if self.live > self.peak:
                self.peak = self.live
        objects.cls[record] = cls
        objects.site[record] = c.call_site[i]
        objects.cpu[record] = cpu
        objects.ns[record] = c.ts_ns[i]
        objects.row[record] = c.row0 + i
        frame = self.frame_of(ptr)
        if frame >= 0:
            life = self.pages.frames.get(frame)
            if self.classes.c_alloc[cls] > LARGE_KMALLOC_BYTES and self.classes.c_kind[cls] == CLASS_KMALLOC and (
                    life >= 0 and self.pages.owned[life] == 0):
                self.counts[C_LARGE_KMALLOC_PAGE] += 1
            life = self.pages.touch(frame)
            self.list_object(life, record)
            self.classes.meet(life, cls)
            if seen == -1 and self.pages.kind[life] == LIFE_START:
                self.add_free(ptr, cls, cpu)
        elif self.base == 0:
            self.own_by_flags(i, cpu, cls)
        self.last_life[cpu] = -1
        self.last_ptr[cpu] = 0
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def list_object(self, life: cython.int, record: cython.int) -> cython.void:
        """The object lies on the page of this life."""
        if self.objects.life[record] == -1:
            self.objects.life[record] = life
            self.objects.after[record] = self.pages.first[life]
            self.pages.first[life] = record

    @cython.cfunc
    def end_objects(self, i: cython.longlong) -> cython.void:
        """Pages are freed in this row: their objects are gone, whether that left events or not."""
        objects: ObjectsSeen = self.objects
        record: cython.int
        after: cython.int
        k: cython.int
        for k in range(self.pages.n_ended):
            record = self.pages.ended[k]
            while record >= 0:
                after = objects.after[record]
                if objects.cls[record] >= 0:
                    self.live -= 1
                    self.untraced.ended(self.cols.row0 + i, objects.ptr[record])
                    self.untraced.silent(objects.site[record], self.cols.ts_ns[i] - objects.ns[record])
                objects.forget(record)
                record = after
        self.pages.n_ended = 0

    @cython.cfunc
    def own_by_flags(self, i: cython.longlong, cpu: cython.int, cls: cython.int) -> cython.void:
        """Addresses do not tell: the last page this CPU got is the slab allocator's if its flags say so."""
        life: cython.int = self.last_life[cpu]
        pages: PagesSeen = self.pages
        large: cython.bint
        if life < 0 or pages.born[life] != self.last_born[cpu] or pages.owned[life]:
            return
        large = self.classes.c_kind[cls] == CLASS_KMALLOC and (
            self.cols.bytes_alloc[i] > LARGE_KMALLOC_BYTES
            and self.cols.bytes_alloc[i] == cython.cast(cython.longlong, 4096) << pages.order[life])
        if large or pages.slab_flags[life] & 1:
            pages.own(life)
            self.counts[C_SLAB_PAGE_BY_FLAGS] += 1
            if large:
                self.counts[C_LARGE_KMALLOC_PAGE] += 1

    @cython.cfunc
    def object_free(self, i: cython.longlong, cpu: cython.int, name: cython.int) -> cython.bint:
        """One object given back; whether it had been there (in the trace, or since before it)."""
        c: Columns = self.cols
        ptr: cython.ulonglong = c.ptr[i]
        record: cython.int
        cls: cython.int = -1
        life: cython.int = -1
        frame: cython.longlong
        objects: ObjectsSeen = self.objects
        before_ns: cython.longlong = -1
        before_row: cython.longlong = -1
        if ptr == 0 or ptr == ZERO_SIZE_PTR:
            self.counts[C_KFREE_NULL] += 1
            return False
        self.close_run(cpu, c.level[c.ctx[i] + 1])
        self.last_life[cpu] = -1
        self.last_ptr[cpu] = 0
        if name >= 0:
            self.classes.see_name(name)
        record = objects.where.get(ptr)
        if record >= 0:
            cls = objects.cls[record]
            before_ns = objects.ns[record]
            before_row = objects.row[record]
        else:
            record = objects.new(ptr)
        objects.cls[record] = OBJECT_FREED
        objects.ns[record] = c.ts_ns[i]
        objects.row[record] = c.row0 + i
        frame = self.frame_of(ptr)
        if frame >= 0:
            life = self.pages.touch(frame)
            self.list_object(life, record)
            if name >= 0:
                self.classes.meet_name(life, name)
        if cls >= 0:
            self.live -= 1
            self.untraced.freed(name, c.call_site[i], objects.site[record], c.ts_ns[i] - before_ns)
            if name >= 0 and self.classes.c_kind[cls] == CLASS_SITE:
                self.classes.vote(cls, name, 0)
            return True
        if cls == OBJECT_FREED:
            self.counts[C_DOUBLE_FREE] += 1
            if name >= 0 and life >= 0 and c.event[i] == EV_CACHE_FREE:
                self.untraced.want(name, c.call_site[i], c.ts_ns[i], ptr, cpu, before_ns, before_row, True)
            return False
        if life >= 0 and self.pages.kind[life] != LIFE_START:
            self.counts[C_FREE_OF_UNTRACED_ALLOC] += 1
            if name >= 0 and self.pages.born_row[life] >= 0 and c.event[i] == EV_CACHE_FREE:
                self.untraced.bulk_names[name] = 1
                self.untraced.want(name, c.call_site[i], c.ts_ns[i], ptr, cpu, self.pages.born_ns[life],
                                   self.pages.born_row[life], False)
            return False
        self.counts[C_FREE_OF_UNKNOWN] += 1
        self.add_start(ptr, name, life)
        self.live -= 1
        return True

    @cython.cfunc
    def add_start(self, ptr: cython.ulonglong, name: cython.int, life: cython.int) -> cython.void:
        if self.n_start == len(self.start_ptr):
            self.start_ptr = doubled(self.start_ptr)
            self.start_name = doubled(self.start_name)
            self.start_life = doubled(self.start_life)
        self.start_ptr[self.n_start] = ptr
        self.start_name[self.n_start] = name
        self.start_life[self.n_start] = life
        self.n_start += 1

    @cython.cfunc
    def add_free(self, ptr: cython.ulonglong, cls: cython.int, cpu: cython.int) -> cython.void:
        if self.n_free == len(self.free_ptr):
            self.free_ptr = doubled(self.free_ptr)
            self.free_class = doubled(self.free_class)
            self.free_cpu = doubled(self.free_cpu)
        self.free_ptr[self.n_free] = ptr
        self.free_class[self.n_free] = cls
        self.free_cpu[self.n_free] = cpu
        self.n_free += 1

    @cython.cfunc
    def bulk_row(self, i: cython.longlong, cpu: cython.int, alloc: cython.bint) -> cython.void:
        """
        One object of a bulk operation. Its array is a run of rows of one CPU and interrupt level
        (EXACT C 4.5): of one cache and call site, or frees of one call site.
        """
        c: Columns = self.cols
        run: cython.longlong = (cpu << 2) + c.level[c.ctx[i] + 1]
        site: cython.longlong = c.call_site[i] + 1
        key: cython.longlong = (site << 26 | c.name[i] + 1) << 1 | 1 if alloc else site << 27
        was_key: cython.longlong = self.run_key[run]
        was_last: cython.longlong = self.run_last[run]
        taken: cython.bint
        self.run_last[run] = -1  # so that the object's own row does not close the run it belongs to
        taken = self.object_alloc(i, cpu, self.classes.cache_class(i)) if alloc else self.object_free(i, cpu, c.name[i])
        if not taken:
            self.run_last[run] = was_last
            return
        if was_last >= 0 and was_key != key:
            self.bulk_last[was_last >> 3] = self.bulk_last[was_last >> 3] | (1 << (was_last & 7))
        self.run_key[run] = key
        self.run_last[run] = self.n_bulk
        self.n_bulk += 1

    @cython.cfunc
    def close_run(self, cpu: cython.int, level: cython.int) -> cython.void:
        """Whatever bulk array this CPU was at on this level has ended."""
        run: cython.longlong = (cpu << 2) + level
        k: cython.longlong = self.run_last[run]
        if k >= 0:
            self.bulk_last[k >> 3] = self.bulk_last[k >> 3] | (1 << (k & 7))
            self.run_last[run] = -1

    @cython.ccall
    def finish(self) -> cython.void:
        """After the last row."""
        i: cython.int
        for i in range(MAX_CPUS * 4):
            self.close_run(i >> 2, i & 3)
        self.pages.sweep()
