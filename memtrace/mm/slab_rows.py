"""
Slabs as rows: what the storage of SLUB and that of SLAB have in common.

A slab is a row in typed arrays (``sl_*``); what belongs to its objects lies from ``sl_seg[slab]`` on in arrays of the
allocator's own. Rows on a list are linked both ways through ``sl_next`` and ``sl_prev``; whoever has the list knows
its ends.
"""

from __future__ import annotations

from array import array
from typing import Any

import cython

from memtrace.mm.constants import NIL, PAGE_SHIFT
from memtrace.mm.kmem_cache import KmemCache
from memtrace.mm.mmzone import Zone
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.slab_common import SlabAllocator

FIRST_ROWS = 1024
FIRST_OBJECTS = 65536


@cython.cclass
class RowCache(KmemCache):
    """A cache whose slabs are rows."""

    spare: cython.int
    """First of the cache's unused slab rows, linked through sl_next."""


@cython.cclass
class SlabRows(SlabAllocator):
    """Rows of slabs; a subclass adds columns, and makes room for them in ``grow_rows`` and ``grow_objects``."""

    nr_zones: cython.int
    nr_rows: cython.int
    row_room: cython.int
    objects_used: cython.longlong
    object_room: cython.longlong
    sl_pfn: cython.int[:]
    sl_cache: cython.int[:]
    sl_next: cython.int[:]
    sl_prev: cython.int[:]
    sl_node: cython.int[:]
    sl_seg: cython.longlong[:]

    def __init__(
        self, pages: PageAllocator, nr_cpus: cython.int, nr_nodes: cython.int, memcg: cython.bint, word: cython.int
    ) -> None:
        SlabAllocator.__init__(self, pages, nr_cpus, nr_nodes, memcg, word)
        self.nr_zones = len(pages.zones)
        self.nr_rows = 0
        self.row_room = 0
        self.objects_used = 0
        self.object_room = 0
        self.sl_pfn = array("i")
        self.sl_cache = array("i")
        self.sl_next = array("i")
        self.sl_prev = array("i")
        self.sl_node = array("i")
        self.sl_seg = array("q")

    # -- rows -------------------------------------------------------------------------------------

    @cython.cfunc
    def first_room(self) -> cython.void:
        """Make some room, once all columns are there."""
        self.grow_rows(FIRST_ROWS)
        self.grow_objects(FIRST_OBJECTS)

    @cython.cfunc
    def grow_rows(self, room: cython.int) -> cython.void:
        """Make room for more slabs."""
        extra: cython.int = room - self.row_room
        self.sl_pfn = longer(self.sl_pfn, "i", extra)
        self.sl_cache = longer(self.sl_cache, "i", extra)
        self.sl_next = longer(self.sl_next, "i", extra)
        self.sl_prev = longer(self.sl_prev, "i", extra)
        self.sl_node = longer(self.sl_node, "i", extra)
        self.sl_seg = longer(self.sl_seg, "q", extra)
        self.row_room = room

    @cython.cfunc
    def grow_objects(self, room: cython.longlong) -> cython.void:
        """Make room for more objects."""
        self.object_room = room

    @cython.cfunc
    def new_row(self, s: RowCache) -> cython.int:
        """A slab row with room for the cache's objects: a spare one, or a new one."""
        row: cython.int = s.spare
        if row != NIL:
            s.spare = self.sl_next[row]
            return row
        row = self.nr_rows
        if row == self.row_room:
            self.grow_rows(2 * self.row_room)
        if self.objects_used + s.objects > self.object_room:
            self.grow_objects(2 * self.object_room + s.objects)
        self.sl_seg[row] = self.objects_used
        self.sl_cache[row] = s.index
        self.objects_used += s.objects
        self.nr_rows += 1
        return row

    @cython.cfunc
    @cython.exceptval(check=False)
    def spare_row(self, s: RowCache, slab: cython.int, order: cython.int) -> cython.void:
        """The slab's ``2**order`` pages are no slab any more; its row is kept for the cache's next one."""
        pfn: cython.int = self.sl_pfn[slab]
        p: cython.int
        for p in range(pfn, pfn + (1 << order)):
            self.frames.slab[p] = NIL
        self.sl_pfn[slab] = NIL
        self.sl_next[slab] = s.spare
        s.spare = slab

    # -- lists ------------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def list_add(self, slab: cython.int, before: cython.int, after: cython.int) -> cython.void:
        """Kernel: __list_add(): a slab that is on no list, between two neighbours; NIL is an end."""
        self.sl_prev[slab] = before
        self.sl_next[slab] = after
        if before != NIL:
            self.sl_next[before] = slab
        if after != NIL:
            self.sl_prev[after] = slab

    @cython.cfunc
    @cython.exceptval(check=False)
    def list_del(self, slab: cython.int) -> cython.void:
        """Kernel: __list_del(): join a slab's neighbours; its own links stay as they are."""
        before: cython.int = self.sl_prev[slab]
        after: cython.int = self.sl_next[slab]
        if before != NIL:
            self.sl_next[before] = after
        if after != NIL:
            self.sl_prev[after] = before

    # -- questions --------------------------------------------------------------------------------

    @cython.cfunc
    def account_hidden(self, node: cython.int, pages: cython.int) -> cython.int:
        """Pages of slabs without a place count in the highest zone of their node that slabs may use."""
        zone: Zone
        for zone in self.pages.local_zonelists[node]:
            if zone.zone_idx <= self.pages.gfp_zone[0]:
                zone.slab_pages += pages
                return 0
        return 0

    @cython.ccall
    def cache_of(self, addr: cython.longlong) -> KmemCache:
        return self.caches[self.sl_cache[self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]]]


def longer(old: Any, typecode: str, extra: int) -> array:
    """A copy of a typed array, longer by ``extra`` zeros."""
    grown = array(typecode)
    grown.frombytes(memoryview(old).tobytes())
    grown.extend(array(typecode, [0]) * extra)
    return grown
