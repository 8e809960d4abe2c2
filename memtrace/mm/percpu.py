"""
The percpu allocator: areas of which every possible CPU has a copy (MODEL 9, EXACT B 2.13-14; kernel 6.1).

Chunks stand in lists by the size of their largest free run (*slots*). An area is placed first-fit by address in the
first chunk that can hold it; its pages are there already or are asked for then. ``balance`` is the work that the
kernel leaves to a worker: it is asked for with ``WAKE_PERCPU``.
"""

from __future__ import annotations

import cython

from memtrace.mm.constants import NIL, PAGE_SIZE, WAKE_PERCPU
from memtrace.mm.gfp import (
    GFP_BIT_DIRECT_RECLAIM,
    GFP_BIT_HIGHMEM,
    GFP_BIT_NORETRY,
    GFP_BIT_NOWARN,
    GFP_KERNEL,
    GFP_NOIO,
)
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.paths import (
    COST_PERCPU_AREA,
    COST_PERCPU_CLEAR,
    PATH_PERCPU_ALLOC,
    PATH_PERCPU_ALLOC_FAILED,
    PATH_PERCPU_ALLOC_NEW_CHUNK,
    PATH_PERCPU_ALLOC_POPULATE,
    PATH_PERCPU_FREE,
)
from memtrace.mm.percpu_chunk import PcpuChunk
from memtrace.mm.percpu_chunks import PercpuChunks
from memtrace.mm.percpu_layout import (
    PCPU_EMPTY_POP_PAGES_HIGH,
    PCPU_EMPTY_POP_PAGES_LOW,
    PCPU_MIN_ALLOC_SHIFT,
    PCPU_MIN_ALLOC_SIZE,
    PCPU_MIN_UNIT_SIZE,
    PercpuLayout,
)

PCPU_SLOT_FAIL_THRESHOLD = 3
GFP_KEPT = GFP_KERNEL | GFP_BIT_NORETRY | GFP_BIT_NOWARN
GFP_BALANCE = GFP_NOIO | GFP_BIT_NORETRY | GFP_BIT_NOWARN
ADOPTED_BYTES = 8
POPULATED = b"\1"
UNPOPULATED = b"\0"


@cython.cclass
class PercpuAllocator(PercpuChunks):
    """The allocator over the chunks; see there for the parameters."""

    atomic_alloc_failed: cython.bint
    found: PcpuChunk
    """Chunk of the area that ``find_area`` took last."""
    slack_of: dict
    """Pointer -> bytes of one copy that nobody asked for, of areas allocated or claimed since the start."""
    slack: cython.longlong
    """Their sum."""
    nr_alloc: cython.longlong
    nr_dealloc: cython.longlong
    nr_max_alloc: cython.longlong
    alloc_failures: cython.longlong
    bad_frees: cython.longlong
    """Frees of what is no area; a correct caller never causes one."""

    def __init__(self, pages: PageAllocator, layout: PercpuLayout, memcg: bool) -> None:
        PercpuChunks.__init__(self, pages, layout, memcg)
        self.atomic_alloc_failed = False
        self.found = self.first_chunk
        self.slack_of = {}
        self.slack = 0
        self.reset_statistics()

    def reset_statistics(self) -> None:
        """Forget every counter; the state stays."""
        self.nr_alloc = 0
        self.nr_dealloc = 0
        self.nr_max_alloc = self.nr_areas
        self.alloc_failures = 0
        self.chunks_created = 0
        self.chunks_destroyed = 0
        self.bad_frees = 0

    # -- alloc and free ---------------------------------------------------------------------------

    @cython.ccall
    def alloc(
        self, size: cython.longlong, align: cython.longlong, reserved: cython.bint, gfp: cython.longlong,
        cpu: cython.int,
    ) -> cython.longlong:
        """
        One area, zeroed, for every possible CPU.

        Kernel: pcpu_alloc(), 6.1 (MODEL 9.3)
        Departs: nobody waits for pcpu_lock, and a new chunk's bookkeeping takes no memory (docs/deviations.md)

        Returns
        -------
        Its pointer, or 0: no memory, or a size or alignment that the kernel refuses.
        """
        chunk: PcpuChunk
        path: cython.int = PATH_PERCPU_ALLOC
        atomic: cython.bint = not gfp & GFP_BIT_DIRECT_RECLAIM
        wanted: cython.longlong = size
        align = max(align, PCPU_MIN_ALLOC_SIZE)
        size = (size + PCPU_MIN_ALLOC_SIZE - 1) & ~cython.cast(cython.longlong, PCPU_MIN_ALLOC_SIZE - 1)
        if size <= 0 or size > PCPU_MIN_UNIT_SIZE or align > PAGE_SIZE or align & (align - 1):
            self.it.path = PATH_PERCPU_ALLOC_FAILED
            return 0
        self.it.step(COST_PERCPU_AREA, 1)
        bits: cython.int = size >> PCPU_MIN_ALLOC_SHIFT
        bit: cython.int = self.find_area(bits, align >> PCPU_MIN_ALLOC_SHIFT, reserved, atomic)
        if bit < 0 and not atomic and not (reserved and self.reserved_chunk is not None):
            if not self.slots[self.free_slot]:
                self.create_chunk()
                path = PATH_PERCPU_ALLOC_NEW_CHUNK
            bit = self.find_area(bits, align >> PCPU_MIN_ALLOC_SHIFT, False, False)
        if bit < 0:
            return self.failed(atomic, cpu)
        chunk = self.found
        if not atomic:
            populated: cython.int = self.populate_area(chunk, bit, bits, (gfp & GFP_KEPT) | GFP_BIT_HIGHMEM, cpu)
            if populated < 0:
                self.release_area(chunk, bit)
                return self.failed(False, cpu)
            if populated > 0 and path == PATH_PERCPU_ALLOC:
                path = PATH_PERCPU_ALLOC_POPULATE
        self.nr_alloc += 1
        chunk.nr_alloc += 1
        chunk.max_alloc_size = max(chunk.max_alloc_size, bits << PCPU_MIN_ALLOC_SHIFT)
        self.nr_max_alloc = max(self.nr_max_alloc, self.nr_areas)
        if self.nr_empty_pop_pages < PCPU_EMPTY_POP_PAGES_LOW:
            self.it.wake(WAKE_PERCPU, cpu)
        self.it.step(COST_PERCPU_CLEAR, self.possible)
        self.it.path = path
        self.slack_of[self.pointer(chunk, bit)] = size - wanted
        self.slack += size - wanted
        return self.pointer(chunk, bit)

    @cython.cfunc
    def failed(self, atomic: cython.bint, cpu: cython.int) -> cython.longlong:
        """An allocation that could not be served; after an atomic one the worker makes room for the next."""
        self.alloc_failures += 1
        if atomic:
            self.atomic_alloc_failed = True
            self.it.wake(WAKE_PERCPU, cpu)
        self.it.path = PATH_PERCPU_ALLOC_FAILED
        return 0

    @cython.ccall
    def adopt(self, offset: cython.longlong) -> cython.longlong:
        """
        The area that pre-dates the trace and lay at this offset, -1 unknown: its pointer, or 0 when there is no room.

        It is one that the starting state has there; else a new one is placed, of ``ADOPTED_BYTES``, since no event
        tells the size of an area that is only seen being freed.
        """
        chunk: PcpuChunk
        for chunk in self.live_chunks():
            ptr: cython.longlong = self.pointer(chunk, max(offset, 0) >> PCPU_MIN_ALLOC_SHIFT)
            if offset >= 0 and self.bit_of(ptr) >= 0 and ptr not in self.slack_of:
                self.slack_of[ptr] = 0
                return ptr
        return self.alloc(ADOPTED_BYTES, ADOPTED_BYTES, False, GFP_KERNEL, 0)

    @cython.ccall
    def find_area(
        self, bits: cython.int, align: cython.int, reserved: cython.bint, atomic: cython.bint
    ) -> cython.int:
        """
        Take an area of ``bits``, aligned to ``align`` bits: its first bit, in chunk ``found``; or -1.

        Kernel: pcpu_alloc(), "restart"
        """
        chunk: PcpuChunk
        slot: cython.int
        bit: cython.int
        if reserved and self.reserved_chunk is not None:
            chunk = self.reserved_chunk
            self.found = chunk
            return self.place(chunk, bits, align, atomic)
        for slot in range(self.size_to_slot(bits << PCPU_MIN_ALLOC_SHIFT), self.free_slot + 1):
            for chunk in list(self.slots[slot]):
                if chunk.find_block_fit(bits, align, atomic) < 0:
                    if slot < PCPU_SLOT_FAIL_THRESHOLD:
                        self.move(chunk, 0, True)
                    continue
                bit = self.place(chunk, bits, align, atomic)
                if bit >= 0:
                    self.reintegrate(chunk)
                    self.found = chunk
                    return bit
        return NIL

    @cython.ccall
    def place(self, chunk: PcpuChunk, bits: cython.int, align: cython.int, atomic: cython.bint) -> cython.int:
        """Take an area in this chunk: its first bit, or -1. Kernel: pcpu_alloc_area()."""
        bit: cython.int = chunk.find_block_fit(bits, align, atomic)
        if bit >= 0:
            bit = chunk.first_fit(bits, align, bit)
        if bit >= 0:
            self.occupy(chunk, bit, bits)
        return bit

    @cython.ccall
    def free(self, ptr: cython.longlong, cpu: cython.int) -> cython.void:
        """Kernel: free_percpu() (MODEL 9.4); NULL is nothing."""
        chunk: PcpuChunk
        self.it.path = PATH_PERCPU_FREE
        if ptr == 0:
            return
        bit: cython.int = self.bit_of(ptr)
        if bit < 0:
            self.bad_frees += 1
            return
        chunk = self.chunk_of(ptr)
        self.it.step(COST_PERCPU_AREA, 1)
        self.release_area(chunk, bit)
        self.slack -= cython.cast(cython.longlong, self.slack_of.pop(ptr, 0))
        self.nr_dealloc += 1
        if not chunk.isolated and chunk.free_bytes == self.unit_size:
            if len(self.slots[self.free_slot]) > 1 or (
                    self.slots[self.free_slot] and self.slots[self.free_slot][0] is not chunk):
                self.it.wake(WAKE_PERCPU, cpu)
        elif self.should_reclaim(chunk):
            if not chunk.isolated:
                chunk.isolated = True
                self.nr_empty_pop_pages -= chunk.nr_empty_pop_pages
            self.move(chunk, self.to_depopulate_slot, True)
            self.it.wake(WAKE_PERCPU, cpu)

    @cython.cfunc
    def should_reclaim(self, chunk: PcpuChunk) -> cython.bint:
        """Kernel: pcpu_should_reclaim_chunk()."""
        if chunk.immutable:
            return False
        if chunk.isolated:
            return chunk.nr_empty_pop_pages > 0
        return (self.nr_empty_pop_pages > PCPU_EMPTY_POP_PAGES_HIGH + chunk.nr_empty_pop_pages
                and chunk.nr_empty_pop_pages >= chunk.nr_pages // 4)

    @cython.ccall
    def populate_area(
        self, chunk: PcpuChunk, bit: cython.int, bits: cython.int, gfp: cython.longlong, cpu: cython.int
    ) -> cython.int:
        """Get the pages of an area that are not there: how many of a unit, or -1 when memory is short."""
        page: cython.int = (bit << PCPU_MIN_ALLOC_SHIFT) // PAGE_SIZE
        end: cython.int = (((bit + bits) << PCPU_MIN_ALLOC_SHIFT) + PAGE_SIZE - 1) // PAGE_SIZE
        done: cython.int = 0
        while page < end:
            if chunk.populated[page]:
                page += 1
                continue
            last: cython.int = page
            while last < end and not chunk.populated[last]:
                last += 1
            if not self.populate(chunk, page, last, gfp, cpu):
                return NIL
            done += last - page
            page = last
        return done

    # -- balance ----------------------------------------------------------------------------------

    @cython.ccall
    def balance(self, cpu: cython.int) -> cython.void:
        """
        Bring the number of free chunks and of empty populated pages to what they should be.

        Kernel: pcpu_balance_workfn() (MODEL 9.5)
        """
        self.balance_free(False, cpu)
        self.reclaim_populated(cpu)
        self.balance_populated(cpu)
        self.balance_free(True, cpu)

    @cython.cfunc
    def balance_free(self, empty_only: cython.bint, cpu: cython.int) -> cython.void:
        """Destroy all wholly free chunks but the first; or only those without pages."""
        chunk: PcpuChunk
        for chunk in self.slots[self.free_slot][1:]:
            if empty_only and chunk.nr_empty_pop_pages > 0:
                continue
            self.slots[self.free_slot].remove(chunk)
            page: cython.int = chunk.populated.find(POPULATED)
            while page >= 0:
                end: cython.int = chunk.populated.find(UNPOPULATED, page)
                if end < 0:
                    end = chunk.nr_pages
                self.depopulate(chunk, page, end, cpu)
                page = chunk.populated.find(POPULATED, end)
            self.chunks[chunk.index] = None
            self.chunks_destroyed += 1

    @cython.cfunc
    def reclaim_populated(self, cpu: cython.int) -> cython.void:
        """Take empty pages from chunks that have many, from the last page down. Kernel: pcpu_reclaim_populated()."""
        chunk: PcpuChunk
        waiting: list = self.slots[self.to_depopulate_slot]
        while waiting:
            chunk = waiting[0]
            if self.shed_empty_pages(chunk, cpu) or chunk.free_bytes == self.unit_size:
                self.reintegrate(chunk)
            else:
                self.move(chunk, self.sidelined_slot, False)

    @cython.cfunc
    def shed_empty_pages(self, chunk: PcpuChunk, cpu: cython.int) -> cython.bint:
        """Whether it had to stop because other chunks have too few empty pages."""
        end: cython.int = NIL
        page: cython.int = chunk.nr_pages - 1
        while page >= 0:
            if chunk.nr_empty_pop_pages == 0:
                return False
            if self.nr_empty_pop_pages < PCPU_EMPTY_POP_PAGES_HIGH:
                return True
            if chunk.is_empty_page(page):
                if end < 0:
                    end = page
                if page > 0:
                    page -= 1
                    continue
                page -= 1
            if end >= 0:
                self.depopulate(chunk, page + 1, end + 1, cpu)
                end = NIL
            page -= 1
        return False

    @cython.cfunc
    def balance_populated(self, cpu: cython.int) -> cython.void:
        """Keep some empty pages for atomic allocations, in the fullest chunks. Kernel: pcpu_balance_populated()."""
        slot: cython.int
        while True:
            wanted: cython.int = PCPU_EMPTY_POP_PAGES_HIGH
            if self.atomic_alloc_failed:
                self.atomic_alloc_failed = False
            else:
                wanted = min(max(wanted - self.nr_empty_pop_pages, 0), wanted)
            for slot in range(self.size_to_slot(PAGE_SIZE), self.free_slot + 1):
                if wanted > 0:
                    wanted = self.populate_some(slot, wanted, cpu)
            if wanted <= 0:
                return
            self.create_chunk()

    @cython.cfunc
    def populate_some(self, slot: cython.int, wanted: cython.int, cpu: cython.int) -> cython.int:
        """Populate up to ``wanted`` pages of a slot's first chunk that lacks any: what is still wanted."""
        chunk: PcpuChunk
        for chunk in list(self.slots[slot]):
            if chunk.nr_populated == chunk.nr_pages:
                continue
            page: cython.int = chunk.populated.find(UNPOPULATED)
            while page >= 0 and wanted > 0:
                end: cython.int = chunk.populated.find(POPULATED, page)
                if end < 0:
                    end = chunk.nr_pages
                end = min(end, page + wanted)
                if not self.populate(chunk, page, end, GFP_BALANCE | GFP_BIT_HIGHMEM, cpu):
                    return 0
                wanted -= end - page
                page = chunk.populated.find(UNPOPULATED, end)
            return wanted
        return wanted

    @property
    def bytes_requested(self) -> int:
        """Bytes that were asked for, on all possible CPUs; areas that pre-date the start ask for all they have."""
        return (int(self.area_bits) * PCPU_MIN_ALLOC_SIZE - int(self.slack)) * int(self.possible)

    @property
    def bytes_allocated(self) -> int:
        """Bytes that all areas take on all possible CPUs."""
        return self.full_size(int(self.area_bits) * PCPU_MIN_ALLOC_SIZE)

    def full_size(self, size: int) -> int:
        """
        Bytes that an area of ``size`` takes on all CPUs, as the event's bytes_alloc says.

        Kernel: pcpu_obj_full_size(): with memory control groups a pointer for every 4 bytes too (EXACT B 1.4)
        """
        size = -(-size // PCPU_MIN_ALLOC_SIZE) * PCPU_MIN_ALLOC_SIZE
        return size * self.possible + (size // PCPU_MIN_ALLOC_SIZE * 8 if self.memcg else 0)
