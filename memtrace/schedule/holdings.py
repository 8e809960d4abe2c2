"""
What the model holds for the trace: where it put the object, page block or per-CPU area of each handle.

A request names the object that it frees by the handle that its allocation was given; here stands where the
model put that object, whatever the recorded address was.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import cython
import numpy as np

from memtrace.errors import ModelError
from memtrace.mm.machine import Machine
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.slab_common import SlabAllocator
from memtrace.schedule.callsites import CallSiteTable
from memtrace.schedule.decider import Decider
from memtrace.schedule.handle_words import NONE, OBJECT_WORDS, PAGE_WORDS, RECLAIMED
from memtrace.trace.requests import Census

PAGE_SHIFT = 12
PAGE_SIZE = 4096


@cython.cclass
class Holdings(Decider):
    """
    The handles of a replay on a machine, and what lies behind them.

    Parameters
    ----------
    machine
        The model.
    cache_map
        By index into ``Census.caches``: the machine's cache, -1 for one that the trace creates later.
    cache_names
        By the same index: what creating and destroying call it.
    """

    machine: Machine
    slab: SlabAllocator
    pages: PageAllocator
    sites: CallSiteTable
    cache_map: cython.int[:]
    cache_names: list
    nr_mapped: cython.int
    objects: cython.longlong[:]
    """By object handle * OBJECT_WORDS; address 0 where the model has no object."""
    nr_objects: cython.int
    blocks: cython.longlong[:]
    """By page handle * PAGE_WORDS; pfn -1 where the model has no block."""
    nr_blocks: cython.int
    owner: cython.int[:]
    """By pfn: the page handle of a single page. Only made, and kept, once the model has taken or moved a page."""
    owned: cython.bint
    live: cython.longlong[:]
    """By 2 * cache: bytes asked for and bytes given of the objects that are alive."""
    nr_caches: cython.int
    start_placed: cython.longlong
    start_unplaced: cython.longlong
    start_pages_placed: cython.longlong
    start_pages_unplaced: cython.longlong
    reclaimed: cython.longlong
    migrated: cython.longlong
    areas: dict
    """By handle: pointer of the per-CPU area; none where the model has no area."""
    start_areas_unplaced: cython.longlong

    def __init__(self, machine: Machine, cache_map: np.ndarray, cache_names: Sequence[str] = ()) -> None:
        Decider.__init__(self)
        self.machine = machine
        self.slab = machine.slab
        self.pages = machine.pages
        self.it = machine.it
        self.sites = CallSiteTable()
        self.cache_names = list(cache_names)
        nameless = np.asarray(cache_map)[len(cache_names) :]
        if len(nameless) and int(np.min(nameless)) < 0:
            raise ModelError(f"trace cache {len(cache_names) + int(np.argmin(nameless))} has no cache in the machine, "
                             "and no name to create it by")
        self.cache_map = array("i", np.asarray(cache_map, np.int32).tolist())
        self.nr_mapped = len(cache_map)
        self.objects = array("q")
        self.nr_objects = 0
        self.blocks = array("q")
        self.nr_blocks = 0
        self.owner = array("i")
        self.owned = False
        self.live = array("q")
        self.nr_caches = 0
        self.start_placed = 0
        self.start_unplaced = 0
        self.start_pages_placed = 0
        self.start_pages_unplaced = 0
        self.reclaimed = 0
        self.migrated = 0
        self.areas = {}
        self.start_areas_unplaced = 0
        self.see_caches(max(1, len(machine.slab.caches)))

    def make_handles(self, nr_objects: int, nr_blocks: int) -> None:
        """See that the tables have room for this many handles."""
        if nr_objects > self.nr_objects:
            self.objects = _longer(self.objects, self.nr_objects * OBJECT_WORDS, nr_objects * OBJECT_WORDS, 0)
            self.nr_objects = len(self.objects) // OBJECT_WORDS
        if nr_blocks > self.nr_blocks:
            self.blocks = _longer(self.blocks, self.nr_blocks * PAGE_WORDS, nr_blocks * PAGE_WORDS, NONE)
            self.nr_blocks = len(self.blocks) // PAGE_WORDS

    def see_caches(self, nr_caches: int) -> None:
        """See that the sums by cache have room for this many."""
        self.live = _longer(self.live, 2 * self.nr_caches, 2 * nr_caches, 0)
        self.nr_caches = len(self.live) // 2

    # -- before the first request -----------------------------------------------------------------

    def create_start_objects(self, census: Census) -> None:
        """
        Give objects and page blocks that pre-date the trace their place in the model, at no cost in time.

        Object i of ``census.start_addr`` gets handle i, block i of ``census.start_pfn`` page handle i.
        """
        # As many as the whole trace needs, so that the tables need not grow while it plays.
        self.make_handles(max(census.max_handles, len(census.start_addr)),
                          max(census.max_page_handles, len(census.start_pfn)))
        objects = zip(census.start_addr.tolist(), census.start_cache.tolist(), census.start_size.tolist(), strict=True)
        for handle, (addr, cache, size) in enumerate(objects):
            if cache >= 0:
                self.adopt_object(handle, addr, self.cache_map[cache])
            elif size >= PAGE_SIZE:
                self.adopt_large(handle, addr, size)
            else:
                self.adopt_object(handle, addr, NONE)
        for handle, (pfn, order) in enumerate(zip(census.start_pfn.tolist(), census.start_order.tolist(), strict=True)):
            found = self.machine.adopt_page(pfn, order)
            self.blocks[handle * PAGE_WORDS] = found
            self.blocks[handle * PAGE_WORDS + 1] = order
            if found < 0:
                self.start_pages_unplaced += 1
            else:
                self.start_pages_placed += 1
        for handle, (_, _, off) in enumerate(census.start_percpu):
            ptr = self.machine.percpu.adopt(off)
            if ptr:
                self.areas[handle] = ptr
            else:
                self.start_areas_unplaced += 1
        self.pages.events.clear()
        self.it.reset()

    @cython.ccall
    def adopt_object(self, handle: cython.int, addr: cython.longlong, cache: cython.int) -> cython.void:
        """Give one slab object its place; what it asked for is not known, so it is taken to waste nothing."""
        found: cython.longlong = self.machine.adopt_object(addr, cache)
        if found == 0:
            self.objects[handle * cython.cast(cython.longlong, OBJECT_WORDS)] = 0
            self.start_unplaced += 1
            return
        self.place(handle, found, self.slab.last_cache, self.slab.last_bytes)
        self.enliven(self.slab.last_cache, self.slab.last_bytes, self.slab.last_bytes)

    @cython.ccall
    def adopt_large(self, handle: cython.int, addr: cython.longlong, size: cython.longlong) -> cython.void:
        """Give one large kmalloc of ``size`` bytes its place, which is a page block."""
        order: cython.int = 0
        while (cython.cast(cython.longlong, PAGE_SIZE) << order) < size:
            order += 1
        pfn: cython.longlong = self.machine.adopt_page(addr >> PAGE_SHIFT if addr >= 0 else NONE, order)
        if pfn < 0:
            self.objects[handle * cython.cast(cython.longlong, OBJECT_WORDS)] = 0
            self.start_unplaced += 1
            return
        self.place(handle, pfn << PAGE_SHIFT, NONE, cython.cast(cython.longlong, PAGE_SIZE) << order)

    @cython.cfunc
    def place(self, handle: cython.int, addr: cython.longlong, cache: cython.int, size: cython.longlong) -> cython.void:
        """Remember where an object that pre-dates the trace lies."""
        at: cython.longlong = handle * cython.cast(cython.longlong, OBJECT_WORDS)
        site: cython.int = self.sites.find(NONE, cache)
        self.sites.existed(site, size)
        self.objects[at] = addr
        self.objects[at + 1] = size
        self.objects[at + 2] = size
        self.objects[at + 3] = cython.cast(cython.longlong, site) << 16
        self.start_placed += 1

    # -- while it plays -----------------------------------------------------------------------------

    @cython.cfunc
    def enliven(self, cache: cython.int, bytes_req: cython.longlong, bytes_alloc: cython.longlong) -> cython.void:
        """Count an object of a cache as alive (or, with negative sizes, as dead)."""
        if cache < 0:
            return
        if cache >= self.nr_caches:
            self.see_caches(cache + 1)
        self.live[2 * cache] += bytes_req
        self.live[2 * cache + 1] += bytes_alloc

    @cython.cfunc
    def follow_pages(self) -> cython.void:
        """Tell owners that reclaim took their page, or that compaction moved it."""
        pfn: cython.int
        new: cython.int
        handle: cython.longlong
        if not self.owned:
            self.map_owners()
        for pfn, new in self.pages.take_journal():
            handle = self.owner[pfn]
            if handle < 0 or self.blocks[handle * PAGE_WORDS] != pfn or self.blocks[handle * PAGE_WORDS + 1] != 0:
                continue
            if new >= 0:
                self.migrated += 1
                self.blocks[handle * PAGE_WORDS] = new
                self.owner[new] = cython.cast(cython.int, handle)
            else:
                self.reclaimed += 1
                self.blocks[handle * PAGE_WORDS] = RECLAIMED

    @cython.cfunc
    def map_owners(self) -> cython.void:
        """From now on know whose each single page is."""
        handle: cython.longlong
        self.owner = array("i", [NONE]) * self.machine.frames.nr_frames
        self.owned = True
        for handle in range(self.nr_blocks):
            if self.blocks[handle * PAGE_WORDS] >= 0 and self.blocks[handle * PAGE_WORDS + 1] == 0:
                self.owner[self.blocks[handle * PAGE_WORDS]] = cython.cast(cython.int, handle)

    def live_bytes(self, nr_caches: int) -> tuple[np.ndarray, np.ndarray]:
        """Bytes asked for and bytes given of live objects, int64 by cache, of the first ``nr_caches``."""
        if nr_caches > self.nr_caches:
            self.see_caches(nr_caches)
        live = np.asarray(self.live)[: 2 * nr_caches].reshape(nr_caches, 2)
        return live[:, 0], live[:, 1]


def _longer(old: object, used: int, wanted: int, fill: int) -> array:
    """A copy of the first ``used`` words with room for ``wanted``, and some to spare."""
    new = array("q")
    new.frombytes(memoryview(old)[:used].tobytes())  # type: ignore[arg-type]
    new.extend(array("q", [fill]) * (wanted + wanted // 4 - used))
    return new
