"""
SLOB's bookkeeping: pages, the gaps in them, and the three lists of pages with gaps (MODEL 8.1).

Free space is kept as gaps, address-ordered by page, counted in units of 2 bytes. The kernel writes gaps into the
free memory itself; here they are records of a pool, so that the model needs memory by gap and not by page.
"""

from __future__ import annotations

from array import array
from typing import Any

import cython

from memtrace.mm.constants import NIL, PAGE_SHIFT, PAGE_SIZE
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.slab_common import SlabAllocator
from memtrace.mm.stats import NR_SLOB_LISTS


@cython.cclass
class SlobLists(SlabAllocator):
    """
    Pages, gaps and lists.

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
    looked_at: cython.int
    """Pages and gaps looked at by the last operation."""

    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint, word: cython.int
    ) -> None:
        SlabAllocator.__init__(self, pages, nr_cpus, nr_nodes, memcg, word)
        self.sp_pfn = self.sp_units = self.sp_first = self.sp_list = array("i")
        self.sp_node = self.sp_other = self.sp_next = self.sp_prev = array("i")
        self.gap_at = self.gap_units = self.gap_next = array("i")
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
        self.looked_at = 0

    # -- gaps -------------------------------------------------------------------------------------

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

    # -- pages, lists ------------------------------------------------------------------------------

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
