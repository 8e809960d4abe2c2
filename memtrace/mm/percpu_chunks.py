"""
The chunks of per-CPU memory, their lists and their pages; ``percpu.py`` allocates from them (MODEL 9.1, 9.3, 9.6).
"""

from __future__ import annotations

from array import array
from typing import Any

import cython

from memtrace.errors import ModelError
from memtrace.mm.constants import NIL, PAGE_SHIFT, PAGE_SIZE
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.percpu_chunk import PcpuChunk
from memtrace.mm.percpu_layout import PCPU_MIN_ALLOC_SHIFT, PCPU_MIN_ALLOC_SIZE, PercpuLayout

PCPU_SLOT_BASE_SHIFT = 5
UNKNOWN_FRAME = -2
"""Of a page that was populated before the start."""
BASE = 1 << 46
"""Where the simulated addresses of per-CPU memory begin: above any physical address."""


@cython.cclass
class PercpuChunks:
    """
    All chunks of a machine.

    A pointer is the address of unit 0's copy, CPU c's lies ``unit_of[c]`` units further. These addresses are
    virtual: ``page_of`` says which frame stands behind one.

    Attributes
    ----------
    chunks
        By index; None where one was destroyed.
    slots
        Lists of chunks, head first.
    first_chunk, reserved_chunk
        What boot made; the second is None unless space for modules is reserved. It is on no list.
    nr_empty_pop_pages
        Populated pages without areas, in chunks that are not isolated.
    """

    pages: PageAllocator
    it: Itinerary
    layout: Any
    unit_of: cython.int[:]
    node_of: cython.int[:]
    memcg: cython.bint
    possible: cython.int
    unit_pages: cython.int
    unit_size: cython.longlong
    chunk_span: cython.longlong
    """Addresses that a chunk takes."""
    chunks: list
    slots: list
    first_chunk: PcpuChunk
    reserved_chunk: Any
    free_slot: cython.int
    sidelined_slot: cython.int
    to_depopulate_slot: cython.int
    nr_empty_pop_pages: cython.int
    nr_areas: cython.longlong
    """Areas that exist."""
    area_bits: cython.longlong
    """What they take of a unit, in bits."""
    chunks_created: cython.longlong
    chunks_destroyed: cython.longlong

    def __init__(self, pages: PageAllocator, layout: PercpuLayout, memcg: bool) -> None:
        self.pages = pages
        self.it = pages.it
        self.layout = layout
        self.unit_of = array("i", layout.unit_of)
        self.node_of = array("i", layout.node_of)
        self.nr_areas = 0
        self.area_bits = 0
        self.chunks_created = 0
        self.chunks_destroyed = 0
        self.memcg = memcg
        self.possible = layout.possible_cpus
        self.unit_size = layout.unit_size
        self.unit_pages = layout.unit_size // PAGE_SIZE
        self.chunk_span = layout.unit_size * layout.nr_units
        self.chunks = []
        self.sidelined_slot = self.size_to_slot_plain(layout.unit_size) + 1
        self.free_slot = self.sidelined_slot + 1
        self.to_depopulate_slot = self.free_slot + 1
        self.slots = [[] for _ in range(self.to_depopulate_slot + 1)]
        self.nr_empty_pop_pages = 0
        self.reserved_chunk = None
        if layout.reserved_size:
            self.reserved_chunk = self.boot_chunk(layout.static_size, layout.reserved_size)
        self.first_chunk = self.boot_chunk(layout.static_size + layout.reserved_size, layout.dyn_size)
        self.nr_empty_pop_pages = self.first_chunk.nr_empty_pop_pages
        self.relocate(self.first_chunk, NIL)

    def boot_chunk(self, offset: int, size: int) -> PcpuChunk:
        """
        A chunk over ``size`` bytes of the first units, from ``offset`` on; its pages are there from the start.

        Kernel: pcpu_alloc_first_chunk()
        """
        start = offset % PAGE_SIZE
        nr_pages = -(-(start + size) // PAGE_SIZE)
        chunk = PcpuChunk(len(self.chunks), nr_pages, 0)
        self.chunks.append(chunk)
        chunk.immutable = True
        chunk.populated = bytearray(b"\1") * nr_pages
        chunk.nr_populated = nr_pages
        chunk.nr_empty_pop_pages = nr_pages
        chunk.nr_empty_pop_pages -= chunk.hide(0, start // PCPU_MIN_ALLOC_SIZE)
        end = (start + size) // PCPU_MIN_ALLOC_SIZE
        chunk.nr_empty_pop_pages -= chunk.hide(end, chunk.nr_bits - end)
        return chunk

    # -- slots ------------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def size_to_slot_plain(self, size: cython.longlong) -> cython.int:
        """Kernel: __pcpu_size_to_slot()."""
        highbit: cython.int = 0
        while size >> highbit:
            highbit += 1
        return max(highbit - PCPU_SLOT_BASE_SHIFT + 2, 1)

    @cython.cfunc
    @cython.exceptval(check=False)
    def size_to_slot(self, size: cython.longlong) -> cython.int:
        """Kernel: pcpu_size_to_slot()."""
        if size == self.unit_size:
            return self.free_slot
        return self.size_to_slot_plain(size)

    @cython.ccall
    @cython.exceptval(check=False)
    def chunk_slot(self, chunk: PcpuChunk) -> cython.int:
        """The list that a chunk belongs on. Kernel: pcpu_chunk_slot()."""
        if chunk.free_bytes < PCPU_MIN_ALLOC_SIZE or chunk.hints.contig_hint == 0:
            return 0
        return self.size_to_slot(chunk.hints.contig_hint << PCPU_MIN_ALLOC_SHIFT)

    @cython.cfunc
    def move(self, chunk: PcpuChunk, slot: cython.int, front: cython.bint) -> cython.void:
        """Kernel: __pcpu_chunk_move()."""
        if chunk is self.reserved_chunk:
            return
        if chunk.slot >= 0:
            self.slots[chunk.slot].remove(chunk)
        chunk.slot = slot
        if front:
            self.slots[slot].insert(0, chunk)
        else:
            self.slots[slot].append(chunk)

    @cython.cfunc
    def relocate(self, chunk: PcpuChunk, old_slot: cython.int) -> cython.void:
        """
        Put a chunk on the list it belongs on now: in front when its largest run grew, else at the end.

        Kernel: pcpu_chunk_relocate()
        """
        slot: cython.int = self.chunk_slot(chunk)
        if not chunk.isolated and slot != old_slot:
            self.move(chunk, slot, old_slot < slot)

    @cython.cfunc
    def update_empty_pages(self, chunk: PcpuChunk, n: cython.int) -> cython.void:
        """Kernel: pcpu_update_empty_pages()."""
        chunk.nr_empty_pop_pages += n
        if chunk is not self.reserved_chunk and not chunk.isolated:
            self.nr_empty_pop_pages += n

    @cython.ccall
    def occupy(self, chunk: PcpuChunk, bit: cython.int, bits: cython.int) -> cython.void:
        """Make these bits an area, whoever chose them."""
        old_slot: cython.int = self.chunk_slot(chunk)
        broken: cython.int = chunk.take_area(bit, bits)
        self.nr_areas += 1
        self.area_bits += bits
        if broken:
            self.update_empty_pages(chunk, -broken)
        self.relocate(chunk, old_slot)

    @cython.ccall
    def release_area(self, chunk: PcpuChunk, bit: cython.int) -> cython.void:
        """Free the area that begins at a bit."""
        old_slot: cython.int = self.chunk_slot(chunk)
        self.nr_areas -= 1
        self.area_bits -= cython.cast(cython.int, chunk.areas[bit])
        gained: cython.int = chunk.free_area(bit)
        if gained:
            self.update_empty_pages(chunk, gained)
        self.relocate(chunk, old_slot)

    @cython.cfunc
    def reintegrate(self, chunk: PcpuChunk) -> cython.void:
        """Kernel: pcpu_reintegrate_chunk()."""
        if chunk.isolated:
            chunk.isolated = False
            self.nr_empty_pop_pages += chunk.nr_empty_pop_pages
            self.relocate(chunk, NIL)

    # -- addresses --------------------------------------------------------------------------------

    @cython.ccall
    def pointer(self, chunk: PcpuChunk, bit: cython.int) -> cython.longlong:
        """Pointer of the area that begins at a bit."""
        return BASE + chunk.index * self.chunk_span + (cython.cast(cython.longlong, bit) << PCPU_MIN_ALLOC_SHIFT)

    @cython.ccall
    def offset_of(self, ptr: cython.longlong) -> cython.longlong:
        """Byte offset of a pointer within its chunk's unit."""
        return (ptr - BASE) % self.chunk_span

    @cython.ccall
    def chunk_of(self, ptr: cython.longlong) -> PcpuChunk:
        """Chunk that a pointer lies in; there must be one."""
        return self.chunks[(ptr - BASE) // self.chunk_span]

    @cython.ccall
    def bit_of(self, ptr: cython.longlong) -> cython.int:
        """First bit, in its chunk, of the area at a pointer; -1 when there is none."""
        if ptr < BASE or (ptr - BASE) // self.chunk_span >= len(self.chunks):
            return NIL
        chunk: object = self.chunks[(ptr - BASE) // self.chunk_span]
        bit: cython.longlong = ((ptr - BASE) % self.chunk_span) >> PCPU_MIN_ALLOC_SHIFT
        if chunk is None or ptr % PCPU_MIN_ALLOC_SIZE or bit not in cython.cast(PcpuChunk, chunk).areas:
            return NIL
        return bit

    def cpu_address(self, ptr: int, cpu: int) -> int:
        """Address of CPU ``cpu``'s copy. Kernel: per_cpu_ptr()."""
        if not 0 <= cpu < self.possible:
            raise ModelError(f"per_cpu_ptr of CPU {cpu}; expected a possible CPU, 0 to {self.possible - 1}")
        return int(ptr) + int(self.unit_of[cpu]) * int(self.unit_size) if ptr else 0

    def page_of(self, address: int) -> int:
        """Frame behind an address of ``cpu_address``; -1 in the first chunk, and where there is none, or none known."""
        chunk = self.chunks[(address - BASE) // self.chunk_span]
        unit, offset = divmod((address - BASE) % self.chunk_span, self.unit_size)
        return -1 if chunk.immutable else max(-1, int(chunk.pfns[unit * chunk.nr_pages + (offset >> PAGE_SHIFT)]))

    def size_of(self, ptr: int) -> int:
        """Bytes of one CPU's copy of the area at ``ptr``, which must be one."""
        return int(self.chunks[(ptr - BASE) // self.chunk_span].areas[self.bit_of(ptr)]) << PCPU_MIN_ALLOC_SHIFT

    # -- chunks and pages -------------------------------------------------------------------------

    @cython.ccall
    def create_chunk(self) -> PcpuChunk:
        """A chunk without pages. Kernel: pcpu_create_chunk()."""
        index: cython.int = 0
        while index < len(self.chunks) and self.chunks[index] is not None:
            index += 1
        chunk: PcpuChunk = PcpuChunk(index, self.unit_pages, self.layout.nr_units)
        if index == len(self.chunks):
            self.chunks.append(chunk)
        else:
            self.chunks[index] = chunk
        self.chunks_created += 1
        self.relocate(chunk, NIL)
        return chunk

    @cython.ccall
    def populate(
        self, chunk: PcpuChunk, first: cython.int, end: cython.int, gfp: cython.longlong, cpu: cython.int
    ) -> cython.bint:
        """
        Get pages [first, end) of every possible CPU's unit, or none.

        Kernel: pcpu_populate_chunk(), pcpu_alloc_pages(), pcpu_chunk_populated()
        """
        page: cython.int
        owner: cython.int
        at: cython.int
        pfn: cython.int
        for owner in range(self.possible):
            for page in range(first, end):
                at = self.unit_of[owner] * chunk.nr_pages + page
                pfn = self.pages.alloc_pages(gfp, 0, self.node_of[owner], cpu)
                chunk.pfns[at] = pfn
                if pfn < 0:
                    self.release_pages(chunk, first, end, cpu)
                    return False
        for page in range(first, end):
            chunk.populated[page] = 1
        chunk.nr_populated += end - first
        self.update_empty_pages(chunk, end - first)
        return True

    def mark_populated(self, chunk: PcpuChunk, pages: list[int]) -> None:
        """These pages are there since before the start, on frames that nobody knows."""
        for page in pages:
            chunk.populated[page] = 1
            for owner in range(self.possible):
                chunk.pfns[self.unit_of[owner] * chunk.nr_pages + page] = UNKNOWN_FRAME
        chunk.nr_populated += len(pages)
        self.update_empty_pages(chunk, len(pages))

    @cython.cfunc
    def release_pages(self, chunk: PcpuChunk, first: cython.int, end: cython.int, cpu: cython.int) -> cython.void:
        """Give back what every possible CPU has of pages [first, end)."""
        page: cython.int
        owner: cython.int
        at: cython.int
        for owner in range(self.possible):
            for page in range(first, end):
                at = self.unit_of[owner] * chunk.nr_pages + page
                if chunk.pfns[at] >= 0:
                    self.pages.free_pages(chunk.pfns[at], 0, cpu)
                chunk.pfns[at] = NIL

    @cython.cfunc
    def depopulate(self, chunk: PcpuChunk, first: cython.int, end: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: pcpu_depopulate_chunk(), pcpu_chunk_depopulated()."""
        page: cython.int
        self.release_pages(chunk, first, end, cpu)
        for page in range(first, end):
            chunk.populated[page] = 0
        chunk.nr_populated -= end - first
        self.update_empty_pages(chunk, first - end)

    # -- what samples and tests read --------------------------------------------------------------

    def live_chunks(self) -> list:
        """All chunks that exist, in order of their addresses."""
        return [chunk for chunk in self.chunks if chunk is not None]

    def populated_pages(self) -> int:
        """Pages populated, of one unit; every possible CPU has as many."""
        return sum(chunk.nr_populated for chunk in self.live_chunks())
