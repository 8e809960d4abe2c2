"""A page allocator that hands out what a recording shows, for replays that judge the floors above it."""

from __future__ import annotations

import cython

from memtrace.mm.constants import NIL
from memtrace.mm.page_alloc import PageAllocator


@cython.cclass
class RecordedPages(PageAllocator):
    """
    Takes the place of a machine's page allocator; decides nothing.

    Attributes
    ----------
    pfn, order
        The block that the next request of this order gets; without one (pfn -1) it gets none.
    freed
        First pfns of the blocks given back since the list was last emptied.
    """

    pfn: cython.int
    order: cython.int
    freed: list

    def __init__(self, real: PageAllocator) -> None:
        PageAllocator.__init__(self, real.frames, real.zones, real.it, list(real.cpu_node))
        self.zonelists = real.zonelists
        self.local_zonelists = real.local_zonelists
        self.gfp_zone = real.gfp_zone
        self.pfn = NIL
        self.order = 0
        self.freed = []

    @cython.ccall
    def alloc_pages(
        self, gfp: cython.longlong, order: cython.int, node: cython.int, cpu: cython.int
    ) -> cython.int:
        pfn: cython.int = self.pfn
        if pfn == NIL or order != self.order:
            return NIL
        self.pfn = NIL
        self.last_zone = self.zone_of(pfn)
        return pfn

    @cython.ccall
    @cython.exceptval(check=False)
    def free_pages(self, pfn: cython.int, order: cython.int, cpu: cython.int) -> cython.void:
        self.freed.append(pfn)
