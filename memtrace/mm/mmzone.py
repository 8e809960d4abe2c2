"""
Page frames, zones and per-CPU page lists: the state of the page allocator (MODEL 1, 2.1, 3.1).

Per-frame state lives in typed arrays indexed by pfn. All lists are circular and doubly linked through
``next``/``prev``; list number l has its head at index ``nr_frames + l``, so that a block leaves its list
without knowing which one it is on. ``prev`` of a page that is on no list is NIL.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.mm.constants import MIGRATE_MOVABLE, MIGRATE_TYPES, NIL, NR_LRU_LISTS, NR_ORDERS, NR_PCP_LISTS


@cython.cclass
class Frames:
    """
    Every page frame of the machine, by pfn.

    ``kind`` is PAGE_* of a block's first page and PAGE_TAIL of every other page; ``order`` and ``mt``
    belong to first pages: ``mt`` is the list's type for free blocks, the type at free time for per-CPU
    blocks, the requested type for allocated ones. ``slab`` is the slab a page belongs to, or -1.
    """

    nr_frames: cython.int
    nr_lists: cython.int
    next: cython.int[:]
    prev: cython.int[:]
    kind: cython.uchar[:]
    order: cython.uchar[:]
    mt: cython.uchar[:]
    slab: cython.int[:]

    def __init__(self, nr_frames: cython.int, nr_lists: cython.int) -> None:
        i: cython.int
        self.nr_frames = nr_frames
        self.nr_lists = nr_lists
        self.next = array("i", [-1]) * (nr_frames + nr_lists)
        self.prev = array("i", [-1]) * (nr_frames + nr_lists)
        self.kind = array("B", [0]) * nr_frames
        self.order = array("B", [0]) * nr_frames
        self.mt = array("B", [0]) * nr_frames
        self.slab = array("i", [-1]) * nr_frames
        for i in range(nr_frames, nr_frames + nr_lists):
            self.next[i] = i
            self.prev[i] = i

    @cython.cfunc
    @cython.exceptval(check=False)
    def add_head(self, head: cython.int, pfn: cython.int) -> cython.void:
        """Kernel: list_add()."""
        first: cython.int = self.next[head]
        self.next[pfn] = first
        self.prev[pfn] = head
        self.prev[first] = pfn
        self.next[head] = pfn

    @cython.cfunc
    @cython.exceptval(check=False)
    def add_tail(self, head: cython.int, pfn: cython.int) -> cython.void:
        """Kernel: list_add_tail()."""
        last: cython.int = self.prev[head]
        self.prev[pfn] = last
        self.next[pfn] = head
        self.next[last] = pfn
        self.prev[head] = pfn

    @cython.cfunc
    @cython.exceptval(check=False)
    def remove(self, pfn: cython.int) -> cython.void:
        """Kernel: list_del()."""
        before: cython.int = self.prev[pfn]
        after: cython.int = self.next[pfn]
        self.next[before] = after
        self.prev[after] = before
        self.prev[pfn] = NIL

    @cython.ccall
    def members(self, head: cython.int) -> list:
        """Members of a list, head to tail; for dumps, validators and tests."""
        found: list = []
        i: cython.int = self.next[head]
        while i != head:
            found.append(i)
            i = self.next[i]
            if len(found) > self.nr_frames:
                raise RuntimeError(f"list {head - self.nr_frames} does not come back to its head")
        return found


@cython.cclass
class PerCpuPages:
    """
    One CPU's page lists of one zone (struct per_cpu_pages, MODEL 3).

    ``free_factor`` is 6.1's; ``high_min`` to ``prev_free_high_order`` belong to lists that tune themselves (6.7+).
    """

    count: cython.int
    high: cython.int
    batch: cython.int
    free_factor: cython.int
    high_min: cython.int
    high_max: cython.int
    alloc_factor: cython.int
    free_count: cython.int
    prev_free_high_order: cython.bint
    list0: cython.int
    """Index of the head of list 0 in Frames; list i has its head at ``list0 + i``."""
    refills: cython.longlong
    drains: cython.longlong
    """Frees that sent pages to the buddy system."""
    given_back: cython.longlong
    """Pages that went there without one: idle ones, and when all lists were emptied."""
    hits: cython.longlong
    misses: cython.longlong
    expire: cython.int
    """Turns of the statistics worker until lists of another node's zone give pages back; 0: they do not."""
    seen_used: cython.longlong
    """Refills, drains, hits and pages given back at the worker's last turn."""

    def __init__(self, list0: cython.int) -> None:
        self.list0 = list0
        self.count = 0
        self.high = 0
        self.batch = 1
        self.free_factor = 0
        self.high_min = 0
        self.high_max = 0
        self.alloc_factor = 0
        self.free_count = 0
        self.prev_free_high_order = False
        self.refills = 0
        self.drains = 0
        self.given_back = 0
        self.hits = 0
        self.misses = 0
        self.expire = 0
        self.seen_used = 0


@cython.cclass
class Zone:
    """
    One zone of one node (struct zone).

    ``free_pages`` counts pages on the zone's own free lists, not those parked on per-CPU lists.
    ``nr_free[o]`` counts free blocks of order o of all types, ``nr_free_mt[o * MIGRATE_TYPES + t]`` those
    on the list of type t. Watermarks are in pages and do not include ``boost``.
    """

    index: cython.int
    node: cython.int
    zone_idx: cython.int
    name: object
    start_pfn: cython.int
    end_pfn: cython.int
    spanned: cython.int
    present: cython.int
    managed: cython.int
    watermark_min: cython.longlong
    watermark_low: cython.longlong
    watermark_high: cython.longlong
    boost: cython.longlong
    boosted: cython.bint
    lowmem_reserve: cython.longlong[:]
    free_pages: cython.longlong
    nr_free: cython.longlong[:]
    nr_free_mt: cython.longlong[:]
    nr_reserved_highatomic: cython.longlong
    reclaim_active: cython.bint
    below_high: cython.bint
    """The last request found fewer free pages than the high watermark (ZONE_BELOW_HIGH, 6.7+)."""
    pageblock_order: cython.int
    pageblock0: cython.int
    nr_pageblocks: cython.int
    pageblock_type: cython.uchar[:]
    list0: cython.int
    lru0: cython.int
    """Index in Frames of the head of the zone's list of page cache, oldest first; that of anonymous pages follows."""
    lru_freed: cython.longlong
    """Pages of those lists that their owners freed."""
    lru_reclaimed: cython.longlong
    """Pages of those lists that the model took back by itself."""
    compact_considered: cython.int
    compact_defer_shift: cython.int
    compact_order_failed: cython.int
    compact_migrate_pfn: cython.int
    compact_free_pfn: cython.int
    pcp: list
    slab_pages: cython.longlong
    used_pages: cython.longlong
    """Pages handed out since the buddy system took over, or found in use at the start."""
    given_pages: cython.longlong
    """Pages the zone was given at boot, or found with at the start: free, parked and used ones."""

    def __init__(
        self, index: cython.int, node: cython.int, zone_idx: cython.int, name: str, start_pfn: cython.int,
        spanned: cython.int, present: cython.int, managed: cython.int, pageblock_order: cython.int,
    ) -> None:
        self.index = index
        self.node = node
        self.zone_idx = zone_idx
        self.name = name
        self.start_pfn = start_pfn
        self.end_pfn = start_pfn + spanned
        self.spanned = spanned
        self.present = present
        self.managed = managed
        self.watermark_min = 0
        self.watermark_low = 0
        self.watermark_high = 0
        self.boost = 0
        self.boosted = False
        self.lowmem_reserve = array("q", [0]) * 5
        self.free_pages = 0
        self.nr_free = array("q", [0]) * NR_ORDERS
        self.nr_free_mt = array("q", [0]) * (NR_ORDERS * MIGRATE_TYPES)
        self.nr_reserved_highatomic = 0
        self.reclaim_active = False
        self.below_high = False
        self.pageblock_order = pageblock_order
        self.pageblock0 = start_pfn >> pageblock_order
        self.nr_pageblocks = ((self.end_pfn - 1) >> pageblock_order) - self.pageblock0 + 1
        self.pageblock_type = array("B", [MIGRATE_MOVABLE]) * self.nr_pageblocks
        self.list0 = 0
        self.lru0 = 0
        self.lru_freed = 0
        self.lru_reclaimed = 0
        self.compact_considered = 0
        self.compact_defer_shift = 0
        self.compact_order_failed = 0
        self.compact_migrate_pfn = NIL
        self.compact_free_pfn = NIL
        self.pcp = []
        self.slab_pages = 0
        self.used_pages = 0
        self.given_pages = 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def get_pageblock_migratetype(self, pfn: cython.int) -> cython.int:
        return self.pageblock_type[(pfn >> self.pageblock_order) - self.pageblock0]

    @cython.cfunc
    @cython.exceptval(check=False)
    def set_pageblock_migratetype(self, pfn: cython.int, mt: cython.int) -> cython.void:
        self.pageblock_type[(pfn >> self.pageblock_order) - self.pageblock0] = mt

    @cython.cfunc
    @cython.exceptval(check=False)
    def free_list(self, order: cython.int, mt: cython.int) -> cython.int:
        """Index in Frames of the head of the free list of (order, mt)."""
        return self.list0 + order * MIGRATE_TYPES + mt


@cython.cclass
class Node:
    """
    What reclaim and compaction know of one node (struct pglist_data, MODEL 10).

    ``kswapd_order`` and ``kswapd_highest_zoneidx`` are what was last asked for (-1: nothing); ``boosts`` are
    the watermark boosts that ``zones`` had when the present run of kswapd began.
    """

    node: cython.int
    zones: list
    kswapd_order: cython.int
    kswapd_highest_zoneidx: cython.int
    kswapd_awake: cython.bint
    kswapd_failures: cython.int
    kcompactd_order: cython.int
    kcompactd_highest_zoneidx: cython.int
    kcompactd_awake: cython.bint
    boosts: list
    boost: cython.longlong
    """Of them, what the run has yet to reclaim."""
    run_order: cython.int
    run_highest_zoneidx: cython.int
    run_returned: cython.longlong
    """Reclaimable pages that came back in the present run of kswapd, whoever freed them."""
    seen_returned: cython.longlong
    """What ``lru_freed`` and ``lru_reclaimed`` of the zones added up to at the last look."""

    def __init__(self, node: cython.int, zones: list) -> None:
        self.node = node
        self.zones = zones
        self.kswapd_order = 0
        self.kswapd_highest_zoneidx = NIL
        self.kswapd_awake = False
        self.kswapd_failures = 0
        self.kcompactd_order = 0
        self.kcompactd_highest_zoneidx = NIL
        self.kcompactd_awake = False
        self.boosts = []
        self.boost = 0
        self.run_order = 0
        self.run_highest_zoneidx = 0
        self.run_returned = 0
        self.seen_returned = 0


def nr_lists(nr_zones: int, nr_cpus: int) -> int:
    """How many lists a machine has: free lists, per-CPU lists and lists of reclaimable pages of every zone."""
    return nr_zones * (NR_ORDERS * MIGRATE_TYPES + nr_cpus * NR_PCP_LISTS + NR_LRU_LISTS)
