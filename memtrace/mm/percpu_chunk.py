"""
One chunk of per-CPU memory: which of its bytes are taken, and the hints that searches go by (MODEL 9.1, 9.3).

Offsets are within a unit, and the same in each. They are counted in *bits*, one for ``PCPU_MIN_ALLOC_SIZE`` bytes;
a *block* is the bits of one page. The hints are the kernel's, with what they forget: a chunk whose largest free
run has grown within one block is not told so, and is passed over by searches that it could serve.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.mm.constants import NIL, PAGE_SIZE
from memtrace.mm.percpu_layout import BLOCK_BITS, PCPU_MIN_ALLOC_SHIFT

FREE = b"\0"
TAKEN = b"\1"


@cython.cclass
class PcpuHints:
    """
    What is remembered of the free runs of a chunk (struct pcpu_block_md of the whole chunk).

    ``contig_hint`` bits from ``contig_hint_start`` are the largest run known; ``scan_hint`` bits from
    ``scan_hint_start`` are a smaller one before it, such that everything before that is no larger.
    """

    first_free: cython.int
    contig_hint: cython.int
    contig_hint_start: cython.int
    scan_hint: cython.int
    scan_hint_start: cython.int

    def __init__(self, nr_bits: cython.int) -> None:
        self.first_free = 0
        self.contig_hint = nr_bits
        self.contig_hint_start = 0
        self.scan_hint = 0
        self.scan_hint_start = 0

    @cython.ccall
    @cython.exceptval(check=False)
    def see(self, start: cython.int, end: cython.int) -> cython.void:
        """
        Learn of a free run [start, end). One that ends before it starts has a negative length, and only moves
        ``first_free``; see ``PcpuChunk.free_area``.

        Kernel: pcpu_block_update()
        """
        n: cython.int = end - start
        self.first_free = min(self.first_free, start)
        if n > self.contig_hint:
            if start <= self.contig_hint_start:
                self.scan_hint = 0
            elif self.contig_hint > self.scan_hint:
                self.scan_hint = self.contig_hint
                self.scan_hint_start = self.contig_hint_start
            elif start < self.scan_hint_start:
                self.scan_hint = 0
            self.contig_hint = n
            self.contig_hint_start = start
        elif n == self.contig_hint:
            if better_aligned(start, self.contig_hint_start):
                self.contig_hint_start = start
                if start < self.scan_hint_start and n > self.scan_hint:
                    self.scan_hint = 0
            elif start > self.scan_hint_start or n > self.scan_hint:
                self.scan_hint = n
                self.scan_hint_start = start
        elif start < self.contig_hint_start and (
                n > self.scan_hint or (n == self.scan_hint and start > self.scan_hint_start)):
            self.scan_hint = n
            self.scan_hint_start = start

    @cython.ccall
    @cython.exceptval(check=False)
    def search_start(self, bits: cython.int) -> cython.int:
        """First bit where a run of ``bits`` may begin. Kernel: pcpu_next_hint()."""
        if self.scan_hint > 0 and self.contig_hint_start > self.scan_hint_start and bits > self.scan_hint:
            return self.scan_hint_start + self.scan_hint
        return self.first_free


@cython.cfunc
@cython.exceptval(check=False)
def better_aligned(a: cython.int, b: cython.int) -> cython.bint:
    """Does bit ``a`` divide by a larger power of two than ``b``? Bit 0 divides by all."""
    if b == 0:
        return False
    return a == 0 or (a & -a) > (b & -b)


@cython.cfunc
@cython.exceptval(check=False)
def aligned(bit: cython.int, align: cython.int) -> cython.int:
    """The first multiple of ``align``, a power of two, from ``bit`` on."""
    return (bit + align - 1) & ~(align - 1)


@cython.cclass
class PcpuChunk:
    """
    One chunk (struct pcpu_chunk).

    Attributes
    ----------
    index
        Which part of the simulated address space is its.
    taken
        By bit: 1 when it belongs to an area (or to nobody: what the first chunk holds besides dynamic areas).
    areas
        First bit of every area -> its bits.
    populated
        By page of a unit: 1 when every possible CPU's page is there.
    pfns
        By unit and page, ``unit * nr_pages + page``: the frame, -1 for none. Empty of the first chunks, whose
        frames the kernel took before the model's memory was handed over.
    contig, contig_start, left_free, right_free, block_first
        By block: bits and first bit of its largest free run, free bits at its two ends, its first free bit.
    """

    index: cython.int
    nr_pages: cython.int
    nr_bits: cython.int
    unit_bytes: cython.int
    free_bytes: cython.int
    slot: cython.int
    """Number of the list it is on, -1 for none."""
    isolated: cython.bint
    immutable: cython.bint
    nr_populated: cython.int
    nr_empty_pop_pages: cython.int
    hints: PcpuHints
    taken: bytearray
    areas: dict
    populated: bytearray
    pfns: cython.int[:]
    contig: cython.int[:]
    contig_start: cython.int[:]
    left_free: cython.int[:]
    right_free: cython.int[:]
    block_first: cython.int[:]
    nr_alloc: cython.int
    max_alloc_size: cython.int
    fit_start: cython.int
    """Where ``find_block_fit`` says that a search is to begin."""

    def __init__(self, index: cython.int, nr_pages: cython.int, nr_units: cython.int) -> None:
        self.index = index
        self.nr_pages = nr_pages
        self.nr_bits = nr_pages * BLOCK_BITS
        self.unit_bytes = nr_pages * PAGE_SIZE
        self.free_bytes = self.unit_bytes
        self.slot = NIL
        self.isolated = False
        self.immutable = False
        self.nr_populated = 0
        self.nr_empty_pop_pages = 0
        self.hints = PcpuHints(self.nr_bits)
        self.taken = bytearray(self.nr_bits)
        self.areas = {}
        self.populated = bytearray(nr_pages)
        self.pfns = array("i", [NIL]) * (nr_units * nr_pages)
        self.contig = array("i", [BLOCK_BITS]) * nr_pages
        self.contig_start = array("i", [0]) * nr_pages
        self.left_free = array("i", [BLOCK_BITS]) * nr_pages
        self.right_free = array("i", [BLOCK_BITS]) * nr_pages
        self.block_first = array("i", [0]) * nr_pages
        self.nr_alloc = 0
        self.max_alloc_size = 0
        self.fit_start = 0

    # -- hints ------------------------------------------------------------------------------------

    @cython.cfunc
    def refresh_block(self, block: cython.int) -> cython.void:
        """Look at every free run of a block; of equally long ones the best aligned is remembered."""
        begin: cython.int = block * BLOCK_BITS
        end: cython.int = begin + BLOCK_BITS
        taken: bytearray = self.taken
        start: cython.int = taken.find(FREE, begin, end)
        self.block_first[block] = BLOCK_BITS if start < 0 else start - begin
        self.left_free[block] = 0
        self.right_free[block] = 0
        self.contig[block] = 0
        self.contig_start[block] = 0
        while start >= 0:
            stop: cython.int = taken.find(TAKEN, start, end)
            if stop < 0:
                stop = end
                self.right_free[block] = stop - start
            if start == begin:
                self.left_free[block] = stop - start
            if stop - start > self.contig[block] or (
                    stop - start == self.contig[block] and better_aligned(start - begin, self.contig_start[block])):
                self.contig[block] = stop - start
                self.contig_start[block] = start - begin
            start = taken.find(FREE, stop, end)

    @cython.cfunc
    def refresh_hints(self, full: cython.bint) -> cython.void:
        """
        Look for the chunk's largest free run, from behind its scan hint unless everything is to be looked at.

        Kernel: pcpu_chunk_refresh_hint(); of a block only its largest run, and those at its ends, are looked at.
        """
        hints: PcpuHints = self.hints
        start: cython.int = hints.first_free
        if not full and hints.scan_hint > 0:
            start = hints.scan_hint_start + hints.scan_hint
            hints.contig_hint_start = hints.scan_hint_start
            hints.contig_hint = hints.scan_hint
            hints.scan_hint = 0
        else:
            hints.contig_hint = 0
        block: cython.int = start // BLOCK_BITS
        offset: cython.int = start % BLOCK_BITS
        run: cython.int = 0  # free bits up to the end of the last block
        while block < self.nr_pages:
            base: cython.int = block * BLOCK_BITS
            if run > 0:
                run += self.left_free[block]
                if self.left_free[block] == BLOCK_BITS:
                    block += 1
                    continue
                hints.see(base + self.left_free[block] - run, base + self.left_free[block])
                offset = self.left_free[block] + 1
                run = 0
                continue
            largest: cython.int = self.contig[block]
            at: cython.int = self.contig_start[block]
            if largest > 0 and at >= offset and largest + at < BLOCK_BITS:
                hints.see(base + at, base + at + largest)
                offset = at + largest + 1
                continue
            offset = 0
            run = self.right_free[block]
            block += 1
        if run > 0:
            hints.see(self.nr_bits - run, self.nr_bits)

    # -- areas ------------------------------------------------------------------------------------

    @cython.ccall
    def may_fit(self, bits: cython.int, align: cython.int) -> cython.bint:
        """Does the largest run known hold ``bits`` at this alignment? Kernel: pcpu_check_block_hint()."""
        start: cython.int = self.hints.contig_hint_start
        return aligned(start, align) - start + bits <= self.hints.contig_hint

    @cython.ccall
    def find_block_fit(self, bits: cython.int, align: cython.int, pop_only: cython.bint) -> cython.int:
        """
        Where to search for ``bits`` free bits, or -1.

        Kernel: pcpu_find_block_fit(), pcpu_next_fit_region(): of a block only its largest run is tried, and the
        one at its end together with the next blocks.
        """
        if not self.may_fit(bits, align):
            return NIL
        start: cython.int = self.hints.search_start(bits)
        while True:
            length: cython.int = self.next_fit(start, bits, align)
            if length < 0:
                return NIL
            if not pop_only:
                return self.fit_start
            start = self.first_unpopulated_end(self.fit_start, length)
            if start < 0:
                return self.fit_start

    @cython.cfunc
    def next_fit(self, start: cython.int, bits: cython.int, align: cython.int) -> cython.int:
        """The next region from ``start`` on that holds the request: its bits, and ``fit_start``; or -1."""
        block: cython.int = start // BLOCK_BITS
        offset: cython.int = start % BLOCK_BITS
        run: cython.int = 0
        while block < self.nr_pages:
            base: cython.int = block * BLOCK_BITS
            if run > 0:
                run += self.left_free[block]
                if run >= bits:
                    return run
                if self.left_free[block] == BLOCK_BITS:
                    block += 1
                    continue
            at: cython.int = self.contig_start[block]
            lost: cython.int = aligned(at, align) - at
            if self.contig[block] > 0 and at >= offset and self.contig[block] >= lost + bits:
                self.fit_start = base + self.block_first[block]
                return lost + bits + at - self.block_first[block]
            offset = 0
            at = aligned(BLOCK_BITS - self.right_free[block], align)
            run = BLOCK_BITS - at
            self.fit_start = base + at
            if run >= bits:
                return run
            block += 1
        return NIL

    @cython.cfunc
    def first_unpopulated_end(self, bit: cython.int, bits: cython.int) -> cython.int:
        """Bit behind the first unpopulated pages of a region, or -1 when all are there. Kernel: pcpu_is_populated()."""
        end: cython.int = (bit + bits + BLOCK_BITS - 1) // BLOCK_BITS
        page: cython.int = self.populated.find(FREE, bit // BLOCK_BITS, end)
        if page < 0:
            return NIL
        page = self.populated.find(TAKEN, page, end)
        return (page if page >= 0 else end) * BLOCK_BITS

    @cython.ccall
    def first_fit(self, bits: cython.int, align: cython.int, start: cython.int) -> cython.int:
        """
        First free aligned run from ``start`` on, looked for within one block more than it is long; or -1.

        Kernel: pcpu_find_zero_area() as pcpu_alloc_area() calls it
        """
        end: cython.int = min(start + bits + BLOCK_BITS, self.nr_bits)
        taken: bytearray = self.taken
        while True:
            start = taken.find(FREE, start, end)
            if start < 0:
                return NIL
            start = aligned(start, align)
            if start + bits > end:
                return NIL
            stop: cython.int = taken.find(TAKEN, start, start + bits)
            if stop < 0:
                return start
            start = stop + 1

    @cython.ccall
    def take_area(self, bit: cython.int, bits: cython.int) -> cython.int:
        """
        Make [bit, bit + bits) an area; how many wholly free blocks it broke into.

        Kernel: pcpu_alloc_area(), pcpu_block_update_hint_alloc()
        """
        hints: PcpuHints = self.hints
        emptied: cython.int = 0
        block: cython.int
        self.taken[bit:bit + bits] = TAKEN * bits
        self.areas[bit] = bits
        self.free_bytes -= bits << PCPU_MIN_ALLOC_SHIFT
        if bit == hints.first_free:
            first: cython.int = self.taken.find(FREE, bit + bits)
            hints.first_free = first if first >= 0 else self.nr_bits
        for block in range(bit // BLOCK_BITS, (bit + bits - 1) // BLOCK_BITS + 1):
            if self.contig[block] == BLOCK_BITS:
                emptied += 1
            self.refresh_block(block)
        if hints.scan_hint_start < bit + bits and bit < hints.scan_hint_start + hints.scan_hint:
            hints.scan_hint = 0
        if hints.contig_hint_start < bit + bits and bit < hints.contig_hint_start + hints.contig_hint:
            self.refresh_hints(False)
        return emptied

    @cython.ccall
    def free_area(self, bit: cython.int) -> cython.int:
        """
        Free the area that begins at ``bit``; how many blocks became wholly free.

        Kernel: pcpu_free_area(), pcpu_block_update_hint_free(), 6.1. Within one block that does not become wholly
        free, the kernel compares the run's start in the chunk with its end in the *block*; so unless that is the
        first block, the chunk does not learn of a longer run.
        """
        hints: PcpuHints = self.hints
        bits: cython.int = self.areas.pop(bit)
        first: cython.int = bit // BLOCK_BITS
        last: cython.int = (bit + bits - 1) // BLOCK_BITS
        gained: cython.int = 0
        block: cython.int
        self.taken[bit:bit + bits] = bytes(bits)
        self.free_bytes += bits << PCPU_MIN_ALLOC_SHIFT
        hints.first_free = min(hints.first_free, bit)
        for block in range(first, last + 1):
            self.refresh_block(block)
            if self.contig[block] == BLOCK_BITS:
                gained += 1
        if first != last or gained > 0:
            self.refresh_hints(True)
            return gained
        base: cython.int = first * BLOCK_BITS
        start: cython.int = self.taken.rfind(TAKEN, base, bit) + 1
        if start == 0:
            start = base
        end: cython.int = self.taken.find(TAKEN, bit, base + BLOCK_BITS)
        if end < 0:
            end = base + BLOCK_BITS
        hints.see(start, end - base)
        return 0

    @cython.ccall
    def hide(self, bit: cython.int, bits: cython.int) -> cython.int:
        """Take bits that are no area, now or ever, and are no free bytes either; blocks broken into."""
        broken: cython.int = 0
        if bits > 0:
            broken = self.take_area(bit, bits)
            del self.areas[bit]
        return broken

    @cython.ccall
    def is_empty_page(self, page: cython.int) -> cython.bint:
        """Is this page populated and without areas?"""
        return self.contig[page] == BLOCK_BITS and self.populated[page] != 0

    def median_alloc(self) -> tuple[int, int, int]:
        """Least, median and largest area in bytes; zeros when there is none."""
        sizes = sorted(bits << PCPU_MIN_ALLOC_SHIFT for bits in self.areas.values())
        return (sizes[0], sizes[len(sizes) // 2], max(sizes)) if sizes else (0, 0, 0)
