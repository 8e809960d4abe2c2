"""
SLOB's heap: pages with free space on three lists, first fit within a page, next fit over pages (MODEL 8.1-8.3).

Free space is kept as gaps, address-ordered by page, counted in units of 2 bytes. The kernel writes gaps into the
free memory itself; here they are records of a pool, so that the model needs memory by gap and not by page.
"""

from __future__ import annotations

from array import array
from typing import Any

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
from memtrace.mm.slab_common import SlabAllocator
from memtrace.mm.stats import NR_SLOB_LISTS

_BREAK1 = 256
_BREAK2 = 1024
_UNITS = 2048


@cython.cclass
class SlobPages(SlabAllocator):
    """
    Pages, gaps and lists. The one lock, slob_lock, is lock number ``nr_zones``.

    Page row r describes one page; rows 0 to 2 are the heads of the lists small, medium and large, which are
    circular. A page that is full is on no list.
    """

    sp_pfn: cython.int[:]
    sp_units: cython.int[:]
    """Free units of the page."""
    sp_first: cython.int[:]
    """First gap, or -1."""
    sp_list: cython.int[:]
    """List the page is on, or was on when it became full."""
    sp_node: cython.int[:]
    sp_other: cython.int[:]
    """Units held by no live object: by objects the model does not know, or waiting for a grace period."""
    sp_next: cython.int[:]
    sp_prev: cython.int[:]
    nr_rows: cython.int
    spare_row: cython.int
    gap_at: cython.int[:]
    """First unit of the gap, counted from its page's start."""
    gap_units: cython.int[:]
    gap_next: cython.int[:]
    nr_gaps: cython.int
    spare_gap: cython.int
    list_pages: cython.longlong[:]
    """Pages of a list, those that are full included."""
    list_partial: cython.longlong[:]
    """Pages on a list."""
    list_units: cython.longlong[:]
    """Free units of the pages of a list."""
    lock: cython.int
    looked_at: cython.int
    """Pages and gaps looked at by the last operation."""
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
        SlabAllocator.__init__(self, pages, nr_cpus, nr_nodes, memcg, word)
        self.sp_pfn = self.sp_units = self.sp_first = self.sp_list = array("i")
        self.sp_node = self.sp_other = self.sp_next = self.sp_prev = array("i")
        self.gap_at = self.gap_units = self.gap_next = array("i")
        self.one_list = False
        self.nr_rows = NR_SLOB_LISTS
        self.spare_row = NIL
        self.nr_gaps = 0
        self.spare_gap = NIL
        self.more_rows()
        self.more_gaps()
        for head in range(NR_SLOB_LISTS):
            self.sp_pfn[head] = NIL
            self.sp_next[head] = head
            self.sp_prev[head] = head
        self.list_pages = array("q", [0]) * NR_SLOB_LISTS
        self.list_partial = array("q", [0]) * NR_SLOB_LISTS
        self.list_units = array("q", [0]) * NR_SLOB_LISTS
        self.new_pages = array("q", [0]) * (NR_SLOB_LISTS * nr_cpus)
        self.freed_pages = array("q", [0]) * (NR_SLOB_LISTS * nr_cpus)
        self.lock = len(pages.zones)
        self.looked_at = 0
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

    @cython.cfunc
    def cut(
        self, row: cython.int, before: cython.int, gap: cython.int, delta: cython.int, units: cython.int
    ) -> cython.int:
        """Take ``units`` out of a gap, ``delta`` units from its start; ``before`` is the gap in front of it, or -1."""
        rest: cython.int = self.gap_units[gap] - delta - units
        after: cython.int = self.gap_next[gap]
        if delta:
            self.gap_units[gap] = delta
            if rest:
                # Two statements: making a gap may move the pool.
                after = self.new_gap(self.gap_at[gap] + delta + units, rest, after)
                self.gap_next[gap] = after
        elif rest:
            self.gap_at[gap] += units
            self.gap_units[gap] = rest
        else:
            if before == NIL:
                self.sp_first[row] = after
            else:
                self.gap_next[before] = after
            self.drop_gap(gap)
        return 0

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

    @cython.cfunc
    @cython.exceptval(check=False)
    def insert_gap(self, row: cython.int, at: cython.int, units: cython.int) -> cython.void:
        """Add free space in address order, merged with the gaps it touches."""
        before: cython.int = NIL
        after: cython.int = self.sp_first[row]
        gap: cython.int
        while after != NIL and self.gap_at[after] < at:
            self.looked_at += 1
            before = after
            after = self.gap_next[after]
        if before != NIL and self.gap_at[before] + self.gap_units[before] == at:
            self.gap_units[before] += units
            gap = before
        else:
            gap = self.new_gap(at, units, after)
            if before == NIL:
                self.sp_first[row] = gap
            else:
                self.gap_next[before] = gap
        if after != NIL and self.gap_at[gap] + self.gap_units[gap] == self.gap_at[after]:
            self.gap_units[gap] += self.gap_units[after]
            self.gap_next[gap] = self.gap_next[after]
            self.drop_gap(after)

    # -- pages, gaps, lists -----------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(check=False)
    def add_page(self, pfn: cython.int, which: cython.int) -> cython.int:
        """Register a page as SLOB's: full, on no list; its row."""
        row: cython.int = self.spare_row
        zone: cython.int = self.pages.zone_of(pfn)
        if row != NIL:
            self.spare_row = self.sp_next[row]
        else:
            row = self.nr_rows
            self.nr_rows += 1
            if row == len(self.sp_pfn):
                self.more_rows()
        self.sp_pfn[row] = pfn
        self.sp_units[row] = 0
        self.sp_first[row] = NIL
        self.sp_list[row] = which
        self.sp_node[row] = self.pages.zones[zone].node
        self.sp_other[row] = 0
        self.list_pages[which] += 1
        self.frames.slab[pfn] = row
        self.account_slab_pages(pfn, 1)
        return row

    @cython.ccall
    @cython.exceptval(check=False)
    def drop_page(self, row: cython.int) -> cython.void:
        """Forget a page and its gaps."""
        gap: cython.int = self.sp_first[row]
        after: cython.int
        if self.sp_units[row]:
            self.remove(row)
            self.change_units(row, -self.sp_units[row])
        while gap != NIL:
            after = self.gap_next[gap]
            self.drop_gap(gap)
            gap = after
        self.frames.slab[self.sp_pfn[row]] = NIL
        self.account_slab_pages(self.sp_pfn[row], -1)
        self.list_pages[self.sp_list[row]] -= 1
        self.sp_pfn[row] = NIL
        self.sp_next[row] = self.spare_row
        self.spare_row = row

    @cython.cfunc
    @cython.exceptval(check=False)
    def change_units(self, row: cython.int, units: cython.int) -> cython.void:
        self.sp_units[row] += units
        self.list_units[self.sp_list[row]] += units

    @cython.cfunc
    @cython.exceptval(check=False)
    def new_gap(self, at: cython.int, units: cython.int, after: cython.int) -> cython.int:
        gap: cython.int = self.spare_gap
        if gap != NIL:
            self.spare_gap = self.gap_next[gap]
        else:
            gap = self.nr_gaps
            self.nr_gaps += 1
            if gap == len(self.gap_at):
                self.more_gaps()
        self.gap_at[gap] = at
        self.gap_units[gap] = units
        self.gap_next[gap] = after
        return gap

    @cython.cfunc
    @cython.exceptval(check=False)
    def drop_gap(self, gap: cython.int) -> cython.void:
        self.gap_next[gap] = self.spare_gap
        self.spare_gap = gap

    @cython.cfunc
    @cython.exceptval(check=False)
    def add_head(self, head: cython.int, row: cython.int) -> cython.void:
        """Kernel: list_add()."""
        self.link(head, row, self.sp_next[head])
        self.list_partial[head] += 1

    @cython.ccall
    @cython.exceptval(check=False)
    def add_tail(self, head: cython.int, row: cython.int) -> cython.void:
        """Put a page behind all others of a list."""
        self.link(self.sp_prev[head], row, head)
        self.list_partial[head] += 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def remove(self, row: cython.int) -> cython.void:
        """Kernel: list_del()."""
        self.unlink(row)
        self.list_partial[self.sp_list[row]] -= 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def rotate_to_front(self, head: cython.int, row: cython.int) -> cython.void:
        """Kernel: list_rotate_to_front(): the pages before this one go to the end, so the head moves before it."""
        self.unlink(head)
        self.link(self.sp_prev[row], head, row)

    @cython.cfunc
    @cython.exceptval(check=False)
    def link(self, before: cython.int, row: cython.int, after: cython.int) -> cython.void:
        self.sp_prev[row] = before
        self.sp_next[row] = after
        self.sp_next[before] = row
        self.sp_prev[after] = row

    @cython.cfunc
    @cython.exceptval(check=False)
    def unlink(self, row: cython.int) -> cython.void:
        self.sp_next[self.sp_prev[row]] = self.sp_next[row]
        self.sp_prev[self.sp_next[row]] = self.sp_prev[row]

    # -- for dumps, forced runs and tests ---------------------------------------------------------

    def pages_of(self, which: int) -> list[tuple[int, list[tuple[int, int]]]]:
        """(pfn, gaps) of the pages on a list, head first; a gap is (first unit, units)."""
        found = []
        row = self.sp_next[which]
        while row != which:
            found.append((self.sp_pfn[row], self.gaps_of(row)))
            row = self.sp_next[row]
        return found

    def gaps_of(self, row: int) -> list[tuple[int, int]]:
        """Gaps of a page, ascending, as (first unit, units)."""
        gaps, gap = [], self.sp_first[row]
        while gap != NIL:
            gaps.append((self.gap_at[gap], self.gap_units[gap]))
            gap = self.gap_next[gap]
        return gaps

    def taken_parts(self, block: int, units: int) -> list[tuple[int, int]]:
        """(address, bytes) of the parts of a range that are not free."""
        first = (block & (PAGE_SIZE - 1)) >> 1
        parts, at = [], first
        for start, length in [*self.gaps_of(self.frames.slab[block >> PAGE_SHIFT]), (first + units, 0)]:
            if start > at:
                parts.append((block + 2 * (at - first), 2 * (min(start, first + units) - at)))
            at = max(at, start + length)
            if at >= first + units:
                break
        return parts

    def more_rows(self) -> None:
        """Double the room for pages."""
        extra = max(64, len(self.sp_pfn))
        self.sp_pfn, self.sp_units = _longer(self.sp_pfn, extra), _longer(self.sp_units, extra)
        self.sp_first, self.sp_list = _longer(self.sp_first, extra), _longer(self.sp_list, extra)
        self.sp_node, self.sp_other = _longer(self.sp_node, extra), _longer(self.sp_other, extra)
        self.sp_next, self.sp_prev = _longer(self.sp_next, extra), _longer(self.sp_prev, extra)

    def more_gaps(self) -> None:
        """Double the room for gaps."""
        extra = max(64, len(self.gap_at))
        self.gap_at, self.gap_units = _longer(self.gap_at, extra), _longer(self.gap_units, extra)
        self.gap_next = _longer(self.gap_next, extra)


def _longer(old: Any, extra: int) -> array:
    """A copy of a typed array, longer by ``extra`` zeros."""
    grown = array("i")
    grown.frombytes(memoryview(old).tobytes())
    grown.extend(array("i", [0]) * extra)
    return grown
