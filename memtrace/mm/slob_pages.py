"""
SLOB's heap: a block from the first page with room, the first fit in it; next fit over pages (MODEL 8.2, 8.3).

Deciding (``find_*``) and doing (``take_found``) are apart, so that a forced run can stand between them.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.mm.constants import NIL, PAGE_SHIFT, PAGE_SIZE
from memtrace.mm.gfp import GFP_BIT_ZERO
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.paths import (
    COST_SLOB,
    PATH_ALLOC_FAILED,
    PATH_ALLOC_SLOB_LIST,
    PATH_ALLOC_SLOB_NEW_PAGE,
    PATH_FREE_SLOB_LIST,
    PATH_FREE_SLOB_PAGE,
)
from memtrace.mm.slob_lists import SlobLists
from memtrace.mm.stats import NR_SLOB_LISTS

_BREAK1 = 256
_BREAK2 = 1024
_UNITS = 2048


@cython.cclass
class SlobPages(SlobLists):
    """Blocks by list, size and alignment. The one lock, slob_lock, is lock number ``nr_zones``."""

    lock: cython.int
    found_row: cython.int
    """Where the last search ended: page, gap, the gap before it or -1, and units from the gap's start."""
    found_gap: cython.int
    found_before: cython.int
    found_delta: cython.int
    new_pages: cython.longlong[:]
    """By cpu * 3 + list: pages taken from the page allocator; ``freed_pages``: given back."""
    freed_pages: cython.longlong[:]
    one_list: cython.bint
    """All sizes share the first list (until 2.6.24)."""

    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint, word: cython.int
    ) -> None:
        SlobLists.__init__(self, pages, nr_cpus, nr_nodes, memcg, word)
        self.one_list = False
        self.new_pages = array("q", [0]) * (NR_SLOB_LISTS * nr_cpus)
        self.freed_pages = array("q", [0]) * (NR_SLOB_LISTS * nr_cpus)
        self.lock = len(pages.zones)
        self.found_row = self.found_gap = self.found_before = NIL
        self.found_delta = 0

    # -- blocks -----------------------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(check=False)
    def list_of(self, size: cython.int) -> cython.int:
        """The list for blocks of this size, header included."""
        if size < _BREAK1 or self.one_list:
            return 0
        return 1 if size < _BREAK2 else 2

    @cython.ccall
    def slob_alloc(
        self, size: cython.int, gfp: cython.longlong, align: cython.int, node: cython.int, align_offset: cython.int,
        cpu: cython.int,
    ) -> cython.longlong:
        """
        A block of ``size`` bytes, or 0.

        Kernel: slob_alloc() (MODEL 8.2)
        Departs: a new page is asked for and used at once; in the kernel another CPU may come in between
        (EXACT D 3.3)
        Cost: O(pages of the list + gaps of the pages looked into), all under slob_lock
        """
        which: cython.int = self.list_of(size)
        addr: cython.longlong = self.alloc_from_list(which, size, align, node, align_offset)
        self.it.locked(self.lock, COST_SLOB, self.looked_at)
        if addr != 0:
            self.it.path = PATH_ALLOC_SLOB_LIST
            return addr
        pfn: cython.int = self.pages.alloc_pages(gfp & ~cython.cast(cython.longlong, GFP_BIT_ZERO), 0, node, cpu)
        if pfn == NIL:
            self.it.path = PATH_ALLOC_FAILED
            return 0
        self.new_pages[cpu * NR_SLOB_LISTS + which] += 1
        addr = self.alloc_from_new_page(pfn, which, size, align, align_offset)
        self.it.locked(self.lock, COST_SLOB, 1)
        self.it.path = PATH_ALLOC_SLOB_NEW_PAGE
        return addr

    @cython.ccall
    def alloc_from_list(
        self, which: cython.int, size: cython.int, align: cython.int, node: cython.int, align_offset: cython.int
    ) -> cython.longlong:
        """A block from the pages of a list, or 0; the page it came from becomes the list's first."""
        units: cython.int = (size + 1) >> 1
        if not self.find_block(which, units, align, node, align_offset):
            return 0
        return self.take_found(units)

    @cython.ccall
    @cython.exceptval(check=False)
    def find_block(
        self, which: cython.int, units: cython.int, align: cython.int, node: cython.int, align_offset: cython.int
    ) -> cython.bint:
        """Walk a list from its head for the first page with room; what is found is noted for ``take_found``."""
        row: cython.int = self.sp_next[which]
        self.looked_at = 0
        while row != which:
            self.looked_at += 1
            fits: cython.bint = self.sp_units[row] >= units and (node == NIL or self.sp_node[row] == node)
            if fits and self.find_in_page(row, units, align, align_offset):
                return True
            row = self.sp_next[row]
        return False

    @cython.ccall
    @cython.exceptval(check=False)
    def found_address(self) -> cython.longlong:
        """Address of the block that was found."""
        at: cython.int = self.gap_at[self.found_gap] + self.found_delta
        return (cython.cast(cython.longlong, self.sp_pfn[self.found_row]) << PAGE_SHIFT) + 2 * at

    @cython.ccall
    def take_found(self, units: cython.int) -> cython.longlong:
        """Take the block that was found: its page leaves the list when that fills it, else becomes the first."""
        row: cython.int = self.found_row
        head: cython.int = self.sp_list[row]
        addr: cython.longlong = self.found_address()
        self.cut(row, self.found_before, self.found_gap, self.found_delta, units)
        self.change_units(row, -units)
        if self.sp_units[row] == 0:
            self.remove(row)
        elif self.sp_next[head] != row:
            self.rotate_to_front(head, row)
        return addr

    @cython.ccall
    def alloc_from_new_page(
        self, pfn: cython.int, which: cython.int, size: cython.int, align: cython.int, align_offset: cython.int
    ) -> cython.longlong:
        """A block from a page just obtained."""
        units: cython.int = (size + 1) >> 1
        self.open_page(pfn, which)
        self.find_in_page_of(pfn, units, align, align_offset)
        return self.take_found(units)

    @cython.ccall
    @cython.exceptval(check=False)
    def open_page(self, pfn: cython.int, which: cython.int) -> cython.void:
        """A page just obtained, all free, goes to the head of a list."""
        row: cython.int = self.add_page(pfn, which)
        gap: cython.int = self.new_gap(0, _UNITS, NIL)
        self.sp_first[row] = gap
        self.change_units(row, _UNITS)
        self.add_head(which, row)

    @cython.ccall
    @cython.exceptval(check=False)
    def find_in_page_of(
        self, pfn: cython.int, units: cython.int, align: cython.int, align_offset: cython.int
    ) -> cython.bint:
        """``find_block`` in one page."""
        return self.find_in_page(self.frames.slab[pfn], units, align, align_offset)

    @cython.cfunc
    @cython.exceptval(check=False)
    def find_in_page(
        self, row: cython.int, units: cython.int, align: cython.int, align_offset: cython.int
    ) -> cython.bint:
        """
        First fit in one page: the first gap that holds ``units`` behind its first aligned place.

        Kernel: slob_page_alloc() (MODEL 8.2). What lies before the aligned place stays free on its own.
        """
        before: cython.int = NIL
        gap: cython.int = self.sp_first[row]
        while gap != NIL:
            self.looked_at += 1
            at: cython.int = self.gap_at[gap]
            aligned: cython.int = ((2 * at + align_offset + align - 1) & ~(align - 1)) - align_offset
            delta: cython.int = (aligned >> 1) - at
            if self.gap_units[gap] >= units + delta:
                self.found_row = row
                self.found_before = before
                self.found_gap = gap
                self.found_delta = delta
                return True
            before = gap
            gap = self.gap_next[gap]
        return False

    @cython.ccall
    @cython.exceptval(check=False)
    def find_place(self, block: cython.longlong, units: cython.int) -> cython.bint:
        """Find the free block that begins at this address, when all its units are free; as ``find_block``."""
        row: cython.int = self.frames.slab[cython.cast(cython.int, block >> PAGE_SHIFT)]
        place: cython.int = cython.cast(cython.int, block & (PAGE_SIZE - 1)) >> 1
        before: cython.int = NIL
        gap: cython.int = self.sp_first[row] if row != NIL else NIL
        while gap != NIL:
            if self.gap_at[gap] <= place and place + units <= self.gap_at[gap] + self.gap_units[gap]:
                self.found_row = row
                self.found_before = before
                self.found_gap = gap
                self.found_delta = place - self.gap_at[gap]
                return True
            before = gap
            gap = self.gap_next[gap]
        return False

    @cython.ccall
    @cython.exceptval(check=False)
    def slob_free(self, block: cython.longlong, size: cython.int, cpu: cython.int) -> cython.void:
        """
        Give a block back.

        Kernel: slob_free() (MODEL 8.3)
        Cost: O(gaps of the page), under slob_lock
        """
        pfn: cython.int = cython.cast(cython.int, block >> PAGE_SHIFT)
        which: cython.int = self.sp_list[self.frames.slab[pfn]]
        emptied: cython.bint = self.free_block(block, size)
        self.it.locked(self.lock, COST_SLOB, self.looked_at)
        self.it.path = PATH_FREE_SLOB_LIST
        if emptied:
            self.freed_pages[cpu * NR_SLOB_LISTS + which] += 1
            self.pages.free_pages(pfn, 0, cpu)
            self.it.path = PATH_FREE_SLOB_PAGE

    @cython.ccall
    @cython.exceptval(check=False)
    def free_block(self, block: cython.longlong, size: cython.int) -> cython.bint:
        """
        Make a block free; True when that empties its page, which then is SLOB's no more.

        A page that was full goes to the head of the list for the size being freed; another stays where it is.
        """
        row: cython.int = self.frames.slab[cython.cast(cython.int, block >> PAGE_SHIFT)]
        units: cython.int = (size + 1) >> 1
        at: cython.int = cython.cast(cython.int, block & (PAGE_SIZE - 1)) >> 1
        self.looked_at = 1
        if self.sp_units[row] + units == _UNITS:
            self.drop_page(row)
            return True
        if self.sp_units[row] == 0:
            self.list_pages[self.sp_list[row]] -= 1
            self.sp_list[row] = self.list_of(size)
            self.list_pages[self.sp_list[row]] += 1
            self.sp_first[row] = self.new_gap(at, units, NIL)
            self.change_units(row, units)
            self.add_head(self.sp_list[row], row)
        else:
            self.insert_gap(row, at, units)
            self.change_units(row, units)
        return False
