"""Why a row of a trace did not become one plain request: the causes counted, by name and by number."""

from __future__ import annotations

CAUSES: tuple[tuple[str, str], ...] = (
    ("free_of_unknown", "frees of objects that pre-date the trace; they are created at its start"),
    ("free_of_untraced_alloc", "frees of objects on a slab page born in the trace, whose allocation left no event; "
                               "dropped"),
    ("double_free", "frees of an object that was already free (or was handed out without an event); dropped"),
    ("alloc_of_live_pointer", "allocations of a pointer still in use: a free was missed and is inserted"),
    ("kfree_null", "kfree of NULL or of ZERO_SIZE_PTR"),
    ("failed_alloc", "object allocations that failed (NULL)"),
    ("failed_page_alloc", "page allocations that failed (pfn 0 or none)"),
    ("large_kmalloc_doubled", "kmalloc events written twice for one large allocation (6.12 and later)"),
    ("large_kmalloc_page", "page allocations made by a large kmalloc"),
    ("slab_page_alloc_owned", "page allocations made by the slab allocator itself, large kmalloc included"),
    ("slab_page_by_flags", "of these, known by flags and the next event only (addresses do not tell)"),
    ("slab_flags_untouched", "page allocations with a slab page's flags on which no object was seen; kept as requests"),
    ("slab_page_free_owned", "page frees made by the slab allocator itself"),
    ("page_free_of_unknown", "frees of pages that pre-date the trace; they are created at its start"),
    ("page_free_of_free", "frees of pages last seen free: taken without an event (bulk, compaction); dropped"),
    ("page_alloc_of_live_pfn", "allocations of pages still in use: a free was missed and is inserted"),
    ("batched_page_free", "page frees that take effect at their mm_page_free_batched row"),
    ("batched_only_page_free", "mm_page_free_batched rows without an mm_page_free of the page (before 3.3)"),
    ("page_free_in_pieces", "frees of a part of an allocated block"),
    ("page_bulk_alloc", "pages taken by the bulk page allocator (gt_page)"),
    ("page_isolated", "free blocks that compaction took to move pages to (gt_page); replayed as requests"),
    ("kfree_bulk_callbacks", "kfree_rcu arrays freed; without gt_bulk_obj rows their objects are not named"),
    ("percpu_unusable", "percpu allocations without a size, and frees of NULL or of an area already free; dropped"),
    ("outcome_rows", "rows that say what the kernel did (zone_locked, drain, extfrag, gt_slab), set aside"),
    ("other_rows", "rows of events that memtrace does not use"),
    ("impossible_order", "page events with an order below 0 or above 20; dropped"),
    ("cache_event_unusable", "kmem_cache_create without a name or a size, destroy or shrink without a name; dropped"),
    ("untraced_alloc", "allocations that left no event (bulk), known by their free; inserted a typical life before it"),
    ("untraced_free_by_page", "frees that left no event (bulk, kfree_rcu), known by the free of the slab's page; "
                              "inserted there"),
    ("untraced_free_by_site", "frees that left no event and that nothing proves, of call sites whose objects mostly "
                              "end so; inserted a typical life after the allocation"),
    ("percpu_page_owned", "page allocations and frees made by the percpu allocator itself"),
    ("percpu_free_of_unknown", "frees of per-CPU areas that pre-date the trace; they are created at its start"),
    ("cpu_event", "CPUs going offline or coming online"),
)
CAUSE_NAMES = tuple(name for name, _ in CAUSES)

NOTED: dict[str, str] = {
    "cache_inferred": "allocations whose event names no cache; it was inferred from frees and pages",
    "cache_unknown": "allocations whose cache nothing in the trace names; kept apart as unknown:<call site>:<size>",
    "unknown_event": "rows of events that memtrace does not know; kept and ignored",
    "lost_events": "events lost while recording",
    "time_backwards": "rows whose time lies before the row above; set to that row's",
}
"""What the reader and the census count besides ``CAUSES``."""

C_FREE_OF_UNKNOWN = 0
C_FREE_OF_UNTRACED_ALLOC = 1
C_DOUBLE_FREE = 2
C_ALLOC_OF_LIVE_POINTER = 3
C_KFREE_NULL = 4
C_FAILED_ALLOC = 5
C_FAILED_PAGE_ALLOC = 6
C_LARGE_KMALLOC_DOUBLED = 7
C_LARGE_KMALLOC_PAGE = 8
C_SLAB_PAGE_ALLOC_OWNED = 9
C_SLAB_PAGE_BY_FLAGS = 10
C_SLAB_FLAGS_UNTOUCHED = 11
C_SLAB_PAGE_FREE_OWNED = 12
C_PAGE_FREE_OF_UNKNOWN = 13
C_PAGE_FREE_OF_FREE = 14
C_PAGE_ALLOC_OF_LIVE_PFN = 15
C_BATCHED_PAGE_FREE = 16
C_BATCHED_ONLY_PAGE_FREE = 17
C_PAGE_FREE_IN_PIECES = 18
C_PAGE_BULK_ALLOC = 19
C_PAGE_ISOLATED = 20
C_KFREE_BULK_CALLBACKS = 21
C_PERCPU_UNUSABLE = 22
C_OUTCOME_ROWS = 23
C_OTHER_ROWS = 24
C_IMPOSSIBLE_ORDER = 25
C_CACHE_EVENT_UNUSABLE = 26
C_UNTRACED_ALLOC = 27
C_UNTRACED_FREE_BY_PAGE = 28
C_UNTRACED_FREE_BY_SITE = 29
C_PERCPU_PAGE_OWNED = 30
C_PERCPU_FREE_OF_UNKNOWN = 31
C_CPU_EVENT = 32

# What became of a page event (mm_page_alloc or mm_page_free), 2 bits each in Census.page_verdict.
PAGE_KEEP = 0  # a request
PAGE_SLAB = 1  # the slab allocator's own
PAGE_BATCHED = 2  # a free that takes effect at the mm_page_free_batched row of the same page
PAGE_PERCPU = 3  # the percpu allocator's own

# Whose page request it may be, by its mask: bits of Columns.gfp_slab.
MASK_SLAB = 1  # the slab allocator's
MASK_RECLAIMABLE = 2
MASK_PERCPU_WORKER = 4  # the percpu balance worker's, and nobody else's
MASK_PERCPU = 8  # that of a percpu allocation that populates its pages itself

# Kinds of text, as the compiled loops need them.
TEXT_NONE = 0
TEXT_ALLOC = 1  # gt_bulk_obj
TEXT_FREE = 2  # gt_bulk_obj
TEXT_BULK_ALLOC = 3  # gt_page
TEXT_OTHER = 4  # gt_page putback_isolated
TEXT_ISOLATED = 5  # gt_page isolate_free

MAX_TRACE_ORDER = 20
"""Highest order believed in a trace; the kernel's own limit is 10, 17 at most on old machines."""
LARGE_KMALLOC_BYTES = 8192
"""SLUB and SLAB of 6.1 take a kmalloc of more bytes than this straight from the page allocator (MODEL 5.3)."""
ZERO_SIZE_PTR = 16
"""What kmalloc(0) returns."""
MAX_CPUS = 32768
PTR_FRAME = 1 << 61
"""From here on frame numbers stand for page blocks that are known by a pointer and not by a pfn."""
PTR_FRAME_MASK = (1 << 61) - 1

# How the cache of an allocation is known: kinds of allocation classes.
CLASS_SITE = 0  # (call site, bytes_req, bytes_alloc): no name in the event
CLASS_KMALLOC = 1  # bytes_alloc
CLASS_NAMED = 2  # name in the event
CLASS_KMALLOC_KEY = 1 << 62
CLASS_NAMED_KEY = 3 << 61

# Which of the caches of a size serves a kmalloc.
KMALLOC_NORMAL = 0
KMALLOC_CGROUP = 1
KMALLOC_RECLAIM = 2
KMALLOC_DMA = 3

# Ages of objects at their end are counted in a histogram: by octave of nanoseconds, up to three days.
AGE_OCTAVES = 48
AGE_STEPS = 4  # parts of an octave: a median is off by an eighth at most
AGE_BUCKETS = AGE_OCTAVES * AGE_STEPS
