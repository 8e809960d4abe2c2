"""
Lives of page blocks, as the census follows them: from mm_page_alloc to mm_page_free, and what touched them.

A slab allocator's pages are told by their objects: a block that any object event touches while it lives is
the allocator's own (MODEL 12.5). That is known only later than the mm_page_alloc row, so the verdict on
each page event is kept, two bits each, for the second reading.
"""

from __future__ import annotations

import cython
import numpy as np

from memtrace.trace.arrays import doubled, filled
from memtrace.trace.causes import (
    C_BATCHED_ONLY_PAGE_FREE,
    C_BATCHED_PAGE_FREE,
    C_PAGE_ALLOC_OF_LIVE_PFN,
    C_PAGE_FREE_OF_FREE,
    C_PAGE_FREE_OF_UNKNOWN,
    C_PERCPU_PAGE_OWNED,
    C_SLAB_FLAGS_UNTOUCHED,
    C_SLAB_PAGE_ALLOC_OWNED,
    C_SLAB_PAGE_FREE_OWNED,
    PAGE_BATCHED,
    PAGE_PERCPU,
    PAGE_SLAB,
)
from memtrace.trace.ptrmap import FrameMap

# Kinds of lives.
LIFE_FREE = 0  # the record is not in use
LIFE_ALLOC = 1  # begun by mm_page_alloc
LIFE_BULK = 2  # begun by gt_page bulk_alloc
LIFE_START = 3  # one frame of a slab page that pre-dates the trace: touched before any page event
LIFE_UNSEEN = 4  # one frame of a slab page whose allocation left no event

FRAME_NEVER = -1  # no event has named this frame yet
FRAME_FREED = -2  # last seen being freed


@cython.cclass
class PagesSeen:
    """
    All page blocks alive now, and the verdicts on the page events so far.

    Attributes
    ----------
    frames
        Frame -> life, FRAME_FREED or FRAME_NEVER.
    freed_at
        Frame -> ordinal of its last mm_page_free, until it is allocated again.
    verdict
        PAGE_* of page event number i in bits ``2 * (i % 4)`` of byte ``i // 4``.
    ordinal
        Page events (mm_page_alloc and mm_page_free) so far.
    kind, order, left, head, born, cls, name, slab_flags
        By life: LIFE_*; order (of LIFE_START: as freed) and first frame of the block; frames not freed yet;
        ordinal of its mm_page_alloc (-1 none); allocation class and name (vocab.name) last seen on it, -1 unknown;
        Columns.gfp_slab of its request. ``owned`` is PAGE_SLAB or PAGE_PERCPU when it is theirs, else 0.
    first, born_ns, born_row
        By life: the first record of its objects (-1 none); time and row of its allocation, -1 unknown.
    ended
        First records of lives that have ended since somebody looked: ``n_ended``.
    live, peak
        Blocks alive now, and at most, that are not known to be the slab allocator's.
    max_delay
        Most page events between a free and its batched row.
    """

    frames: FrameMap
    freed_at: FrameMap
    verdict: cython.uchar[:]
    ordinal: cython.longlong
    kind: cython.uchar[:]
    owned: cython.uchar[:]
    slab_flags: cython.uchar[:]
    order: cython.int[:]
    left: cython.int[:]
    head: cython.longlong[:]
    born: cython.longlong[:]
    cls: cython.int[:]
    name: cython.int[:]
    first: cython.int[:]
    born_ns: cython.longlong[:]
    born_row: cython.longlong[:]
    ended: cython.int[:]
    n_ended: cython.int
    next_free: cython.int[:]
    n_lives: cython.int
    free_life: cython.int
    live: cython.longlong
    peak: cython.longlong
    max_delay: cython.longlong
    counts: cython.longlong[:]
    start_pfn: cython.longlong[:]
    start_order: cython.short[:]
    n_start: cython.longlong

    def __init__(self, counts: cython.longlong[:]) -> None:
        n = 1024
        self.frames = FrameMap()
        self.freed_at = FrameMap()
        self.verdict = filled(n, np.uint8)
        self.ordinal = 0
        self.kind = filled(n, np.uint8)
        self.owned = filled(n, np.uint8)
        self.slab_flags = filled(n, np.uint8)
        self.order = filled(n, np.int32)
        self.left = filled(n, np.int32)
        self.head = filled(n, np.int64)
        self.born = filled(n, np.int64)
        self.cls = filled(n, np.int32)
        self.name = filled(n, np.int32)
        self.first = filled(n, np.int32)
        self.born_ns = filled(n, np.int64)
        self.born_row = filled(n, np.int64)
        self.ended = filled(64, np.int32)
        self.n_ended = 0
        self.next_free = filled(n, np.int32)
        self.n_lives = 0
        self.free_life = -1
        self.live = 0
        self.peak = 0
        self.max_delay = 0
        self.counts = counts
        self.start_pfn = filled(n, np.int64)
        self.start_order = filled(n, np.int16)
        self.n_start = 0

    @cython.cfunc
    def reserve(self, rows: cython.longlong) -> cython.void:
        """Make room for the verdicts of a chunk of this many rows."""
        while (self.ordinal + rows) // 4 + 1 > len(self.verdict):
            self.verdict = doubled(self.verdict)

    @cython.cfunc
    @cython.exceptval(check=False)
    def judge(self, ordinal: cython.longlong, verdict: cython.int) -> cython.void:
        """Set the verdict on a page event, which had none."""
        self.verdict[ordinal >> 2] = self.verdict[ordinal >> 2] | (verdict << ((ordinal & 3) << 1))

    @cython.cfunc
    def new_life(self, kind: cython.int, head: cython.longlong, order: cython.int, n: cython.int) -> cython.int:
        life: cython.int = self.free_life
        if life >= 0:
            self.free_life = self.next_free[life]
        else:
            life = self.n_lives
            if life == len(self.kind):
                self.grow_lives()
            self.n_lives += 1
        self.kind[life] = kind
        self.owned[life] = 1 if kind >= LIFE_START else 0
        self.slab_flags[life] = 0
        self.order[life] = order
        self.left[life] = n
        self.head[life] = head
        self.born[life] = -1
        self.cls[life] = -1
        self.name[life] = -1
        self.first[life] = -1
        self.born_ns[life] = -1
        self.born_row[life] = -1
        return life

    @cython.cfunc
    def grow_lives(self) -> cython.void:
        self.kind = doubled(self.kind)
        self.owned = doubled(self.owned)
        self.slab_flags = doubled(self.slab_flags)
        self.order = doubled(self.order)
        self.left = doubled(self.left)
        self.head = doubled(self.head)
        self.born = doubled(self.born)
        self.cls = doubled(self.cls)
        self.name = doubled(self.name)
        self.first = doubled(self.first)
        self.born_ns = doubled(self.born_ns)
        self.born_row = doubled(self.born_row)
        self.next_free = doubled(self.next_free)

    @cython.cfunc
    def end_life(self, life: cython.int) -> cython.void:
        """The block is free. Lives that pre-date the trace keep their record: start objects point at them."""
        if self.owned[life] == 0:
            self.live -= 1
            if self.slab_flags[life] & 1:
                self.counts[C_SLAB_FLAGS_UNTOUCHED] += 1
        self.end_objects(life)
        if self.kind[life] != LIFE_START:
            self.kind[life] = LIFE_FREE
            self.next_free[life] = self.free_life
            self.free_life = life

    @cython.cfunc
    def end_objects(self, life: cython.int) -> cython.void:
        """Pages of a slab are freed one and all, so its objects are gone with the first of them."""
        self.born_row[life] = -1  # when what still is on it was allocated, if anything, cannot be told any more
        if self.first[life] < 0:
            return
        if self.n_ended == len(self.ended):
            self.ended = doubled(self.ended)
        self.ended[self.n_ended] = self.first[life]
        self.n_ended += 1
        self.first[life] = -1

    @cython.cfunc
    def own(self, life: cython.int) -> cython.void:
        """The block turns out to be the slab allocator's."""
        k: cython.longlong = self.born[life]
        self.owned[life] = PAGE_SLAB
        self.live -= 1
        if k >= 0:
            self.judge(k, PAGE_SLAB)
            self.counts[C_SLAB_PAGE_ALLOC_OWNED] += 1

    @cython.cfunc
    def own_percpu(self, life: cython.int) -> cython.void:
        """The block, which its request has just been seen of, is the percpu allocator's."""
        self.owned[life] = PAGE_PERCPU
        self.live -= 1
        self.judge(self.born[life], PAGE_PERCPU)
        self.counts[C_PERCPU_PAGE_OWNED] += 1

    @cython.cfunc
    def touch(self, frame: cython.longlong) -> cython.int:
        """An object event names an address in this frame: its life, begun here when it was not known."""
        life: cython.int = self.frames.get(frame)
        if life >= 0:
            if self.kind[life] == LIFE_ALLOC and self.owned[life] == 0:
                self.own(life)
            return life
        life = self.new_life(LIFE_START if life == FRAME_NEVER else LIFE_UNSEEN, frame, 0, 1)
        self.frames.put(frame, life)
        return life

    @cython.cfunc
    def alloc(self, frame: cython.longlong, n: cython.int, order: cython.int, bulk: cython.bint,
              slab_flags: cython.int) -> cython.int:
        """A block of n frames is handed out; ``ordinal`` is its page event's unless it is a bulk one."""
        life: cython.int
        old: cython.int
        i: cython.longlong
        missed: cython.bint = False
        for i in range(frame, frame + n):
            old = self.frames.get(i)
            if old >= 0:
                missed = True
                self.forget(old)
        if missed:
            self.counts[C_PAGE_ALLOC_OF_LIVE_PFN] += 1
        life = self.new_life(LIFE_BULK if bulk else LIFE_ALLOC, frame, order, n)
        self.slab_flags[life] = slab_flags
        if not bulk:
            self.born[life] = self.ordinal
        for i in range(frame, frame + n):
            self.frames.put(i, life)
        self.freed_at.put(frame, -1)
        self.live += 1
        if self.live > self.peak:
            self.peak = self.live
        return life

    @cython.cfunc
    def forget(self, life: cython.int) -> cython.void:
        """End a life whose free was missed."""
        i: cython.longlong
        n: cython.longlong = 1 if self.kind[life] >= LIFE_START else self.extent(life)
        for i in range(self.head[life], self.head[life] + n):
            if self.frames.get(i) == life:
                self.frames.put(i, FRAME_FREED)
        self.end_life(life)

    @cython.cfunc
    @cython.exceptval(check=False)
    def extent(self, life: cython.int) -> cython.longlong:
        one: cython.longlong = 1
        return 1 if self.head[life] >> 61 else one << self.order[life]

    @cython.cfunc
    def free(self, frame: cython.longlong, n: cython.int, order: cython.int, batched: cython.bint) -> cython.void:
        """A block of n frames is freed: by page event ``ordinal``, or by a batched row without one."""
        life: cython.int
        i: cython.longlong
        owned: cython.int = 0
        live: cython.bint = False
        never: cython.bint = True
        for i in range(frame, frame + n):
            life = self.frames.get(i)
            if life != FRAME_NEVER:
                never = False
            if life >= 0:
                if self.owned[life]:
                    owned = self.owned[life]
                    if i == frame and self.kind[life] == LIFE_START:
                        self.order[life] = order  # tells a large kmalloc's block by its size
                else:
                    live = True
                self.end_objects(life)
                self.left[life] -= 1
                if self.left[life] == 0:
                    self.end_life(life)
            self.frames.put(i, FRAME_FREED)
        if owned:
            self.counts[C_SLAB_PAGE_FREE_OWNED if owned == PAGE_SLAB else C_PERCPU_PAGE_OWNED] += 1
            if not batched:
                self.judge(self.ordinal, owned)
        elif never:
            self.counts[C_PAGE_FREE_OF_UNKNOWN] += 1
            if self.n_start == len(self.start_pfn):
                self.start_pfn = doubled(self.start_pfn)
                self.start_order = doubled(self.start_order)
            self.start_pfn[self.n_start] = frame
            self.start_order[self.n_start] = order
            self.n_start += 1
            self.live -= 1
        elif not live:
            self.counts[C_PAGE_FREE_OF_FREE] += 1
        if not batched:
            self.freed_at.put(frame, -1 if owned else self.ordinal)

    @cython.cfunc
    def batched(self, frame: cython.longlong, n: cython.int) -> cython.void:
        """mm_page_free_batched: the free of this page, seen a little earlier, takes effect here."""
        k: cython.longlong = self.freed_at.get(frame)
        if k >= 0:
            self.freed_at.put(frame, -1)
            self.judge(k, PAGE_BATCHED)
            self.counts[C_BATCHED_PAGE_FREE] += 1
            if self.ordinal - k > self.max_delay:
                self.max_delay = self.ordinal - k
        elif self.frames.get(frame) >= 0:
            self.counts[C_BATCHED_ONLY_PAGE_FREE] += 1
            self.free(frame, n, 0, True)

    @cython.ccall
    def sweep(self) -> cython.void:
        """After the last row: count blocks still alive that carry a slab page's flags and nothing else."""
        life: cython.int
        for life in range(self.n_lives):
            if self.kind[life] == LIFE_ALLOC and self.owned[life] == 0 and self.slab_flags[life] & 1:
                self.counts[C_SLAB_FLAGS_UNTOUCHED] += 1
