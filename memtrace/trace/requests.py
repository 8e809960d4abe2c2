"""
Requests: what a trace asked of the kernel, after pairing, without what the kernel did.

This is the only form in which ``schedule`` sees a trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .page_lists import PageLists

# Request codes, uint8.
RQ_NONE = 0  # a row with no request in it: not emitted
RQ_KMALLOC = 1  # size = bytes_req
RQ_KFREE = 2
RQ_CACHE_ALLOC = 3  # cache = index into Census.caches
RQ_CACHE_FREE = 4
RQ_PAGE_ALLOC = 5  # size = order
RQ_PAGE_FREE = 6  # size = order as recorded
RQ_BULK_ALLOC = 7  # one object of a kmem_cache_alloc_bulk; cache as above
RQ_BULK_FREE = 8  # one object of a bulk free; FLAG_LAST on the last of its array
RQ_KFREE_NULL = 9  # kfree(NULL) or kfree(ZERO_SIZE_PTR): an event, nothing to free
RQ_MARKER = 10  # take a sample; size = vocab.text code
RQ_CACHE_CREATE = 11  # cache as above; size = object size, addr = what cache_text.parse_cache_text gives
RQ_CACHE_DESTROY = 12
RQ_CACHE_SHRINK = 13
RQ_PERCPU_ALLOC = 14  # size = bytes for each CPU, offset = alignment, addr = recorded offset in a unit or -1
RQ_PERCPU_FREE = 15
RQ_CPU_OFFLINE = 16  # size = the CPU
RQ_CPU_ONLINE = 17
RQ_KSWAPD_BEGIN = 18  # the recorded kswapd of node begins a run
RQ_KSWAPD_END = 19
RQ_DRAIN_ALL = 20  # a recorded request emptied all per-CPU page lists
NR_REQUESTS = 21

FLAG_LAST = 1  # last object of its bulk array on this CPU; of RQ_PAGE_FREE: the handle ends with it
FLAG_MISSED = 2  # not in the trace: a free that must have happened (its pointer was handed out again)
# (A missed RQ_PAGE_FREE and the free of a whole block are offset 0 and the block's order, with FLAG_LAST.)
FLAG_RESERVED = 8  # a per-CPU area of a module, from the reserved chunk
FLAG_UNTRACED_PAGE = 4  # gt_page bulk_alloc: taken by __alloc_pages_bulk, which skips mm_page_alloc

REQUEST_COLUMNS: tuple[tuple[str, Any], ...] = (
    ("row", np.int64),  # trace row; ties in time are broken by it
    ("ts_ns", np.int64),
    ("op", np.uint8),
    ("flags", np.uint8),
    ("cpu", np.int16),
    ("node", np.int16),  # -1 any
    ("handle", np.int32),  # of the object or page block; recycled after its free; -1 none
    ("cache", np.int32),  # Census.caches index; -1 none
    ("site", np.int32),  # vocab.call_site code; -1 none
    ("gfp", np.int64),  # mask in the bits of 6.1 (mm/gfp.py)
    ("size", np.int64),
    ("addr", np.int64),  # recorded physical address of the object (ptr - direct-map base), or pfn << 12
    #                      of the page block; -1 unknown. Compared with, never obeyed.
    ("offset", np.int32),  # of RQ_PAGE_FREE: first page freed, counted from the start of the handle's block.
    #                        A block may be freed in pieces of 2**size pages; the last has FLAG_LAST. Else 0.
)


@dataclass(slots=True)
class Requests:
    """A chunk of requests as equally long numpy arrays, in row order (see ``REQUEST_COLUMNS``)."""

    row: np.ndarray
    ts_ns: np.ndarray
    op: np.ndarray
    flags: np.ndarray
    cpu: np.ndarray
    node: np.ndarray
    handle: np.ndarray
    cache: np.ndarray
    site: np.ndarray
    gfp: np.ndarray
    size: np.ndarray
    addr: np.ndarray
    offset: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


@dataclass(slots=True)
class TraceCache:
    """A slab cache as the trace shows it.

    ``object_size`` is its bytes_req, ``size`` its bytes_alloc (0 when never seen); ``reclaimable`` when
    its pages were asked for with __GFP_RECLAIMABLE. ``inferred`` when no event named it.
    """

    name: str
    object_size: int = 0
    size: int = 0
    reclaimable: bool = False
    inferred: bool = False
    allocs: int = 0
    created: bool = False
    """Its creation is the first that the trace shows of it: it does not exist before."""


@dataclass(slots=True)
class Census:
    """What the first reading of a trace found; needed to turn its rows into requests.

    Objects and pages that pre-date the trace come first in the handle space: object handles
    ``0 .. len(start_addr)-1``, page handles ``0 .. len(start_pfn)-1`` (two separate spaces).
    """

    rows: int = 0
    first_row: int = 0
    span_ns: int = 0
    end_ns: int = 0
    """Time of the last row; ``span_ns`` counts from the first one read."""
    cpus: int = 0
    has_tasks: bool = False
    max_pfn: int = -1
    """Highest page frame that any row names, -1 when none does."""
    direct_map_base: int = 0
    """``ptr - base`` is the physical address; 0 when it could not be found (hashed pointers)."""
    base_support: float = 0.0
    """Share of the pairs looked at that agree with ``direct_map_base``."""
    caches: list[TraceCache] = field(default_factory=list)
    start_addr: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Recorded physical addresses of objects alive at the start (first seen being freed), or -1."""
    start_cache: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """Their caches (Census.caches index), -1 for kmalloc objects whose size is unknown."""
    start_free_addr: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Recorded addresses first seen being *allocated* inside a slab page that pre-dates the trace:
    objects that were free at the start. In row order."""
    start_free_cache: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    start_free_cpu: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    start_pfn: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """First pfn of page blocks alive at the start (first seen being freed)."""
    start_order: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    start_size: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """bytes_alloc of the objects of ``start_addr``, 0 unknown. More than a page's worth with cache -1 is a
    large kmalloc."""
    max_handles: int = 0
    """Objects alive at once, at most, over the whole trace."""
    max_page_handles: int = 0
    """Page blocks alive at once: a bound, a little above the true number."""
    start_percpu: list[tuple[int, int, int]] = field(default_factory=list)
    """(pointer, base_addr, off) as recorded, -1 unknown, of per-CPU areas alive at the start, by handle."""
    page_lists: PageLists = field(default_factory=PageLists)
    """Per-CPU page lists at the start."""
    percpu: bool = False
    """The trace shows per-CPU allocations, so their pages are the model's to ask for."""
    events: dict[str, int] = field(default_factory=dict)
    """Rows by event name."""
    counts: dict[str, int] = field(default_factory=dict)
    """Everything that could not be used or had to be inferred, by cause."""
    lost: int = 0
    notes: list[str] = field(default_factory=list)
    """Sentences for the report: what this trace cannot tell."""
    kswapd: list[tuple[int, int, bool]] = field(default_factory=list)
    """(row, node, begins) of the recorded kswapds' runs, see kswapd_runs."""
    drain_all: list[int] = field(default_factory=list)
    """Rows at which a recorded request began to empty all per-CPU page lists, see drain_all."""
    plan: PairingPlan | None = None
    """What the second reading needs of the first; of no interest to others."""


@dataclass(slots=True)
class PairingPlan:
    """
    Decisions of the first reading that depend on later rows, for the second.

    Attributes
    ----------
    start_ptr
        Pointers of the objects alive at the start, by handle.
    start_frame
        First frames of the page blocks alive at the start, by page handle (a pfn, or made of a pointer).
    cache_of_name
        Census.caches index by vocab.name code, -1 for names that are no cache's.
    class_keys, class_cache
        Keys of allocation classes without a name in the event, and their Census.caches index.
    page_verdict
        PAGE_* of page event i (mm_page_alloc and mm_page_free, in row order) in bits ``2 * (i % 4)`` of byte
        ``i // 4``.
    bulk_last
        Bit ``i % 8`` of byte ``i // 8``: accepted bulk row i is the last of its array.
    doubled_rows
        Rows of the first of two kmalloc events for one large allocation, ascending.
    ended_row, ended_ptr
        Objects whose free left no event and whose page is freed in a row, ascending: freed just before it.
    extra_*
        Requests that left no event and whose time is estimated, ascending: an allocation (``extra_cache`` is its
        Census.caches index) or a free (-1) on ``extra_cpu`` of the object ``extra_ptr``, before the first row that is
        neither before ``extra_ns`` nor before ``extra_row``.
    start_percpu, owns_percpu
        ``Census.start_percpu`` and ``Census.percpu``.
    """

    start_ptr: np.ndarray
    start_frame: np.ndarray
    cache_of_name: np.ndarray
    class_keys: np.ndarray
    class_cache: np.ndarray
    page_verdict: np.ndarray
    bulk_last: np.ndarray
    doubled_rows: np.ndarray
    ended_row: np.ndarray
    ended_ptr: np.ndarray
    extra_ns: np.ndarray
    extra_row: np.ndarray
    extra_ptr: np.ndarray
    extra_cache: np.ndarray
    extra_cpu: np.ndarray
    start_percpu: list[tuple[int, int, int]] = field(default_factory=list)
    owns_percpu: bool = False
