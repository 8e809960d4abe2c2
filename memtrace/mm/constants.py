"""Constants of the model that more than one of its files needs; names are the kernel's."""

from __future__ import annotations

PAGE_SHIFT = 12
PAGE_SIZE = 4096
MAX_ORDER = 10
NR_ORDERS = 11
PAGE_ALLOC_COSTLY_ORDER = 3
NIL = -1

# Migratetypes (MODEL 1.4, 4.4+ without CMA).
MIGRATE_UNMOVABLE = 0
MIGRATE_MOVABLE = 1
MIGRATE_RECLAIMABLE = 2
MIGRATE_PCPTYPES = 3
MIGRATE_HIGHATOMIC = 3
MIGRATE_ISOLATE = 4
MIGRATE_TYPES = 5

# What the first page of a block is; every other page of it is PAGE_TAIL.
PAGE_TAIL = 0  # inside a block, in a hole, or reserved before the buddy system existed
PAGE_BUDDY = 1  # first page of a free block on a free list
PAGE_PCP = 2  # first page of a block on a per-CPU list
PAGE_USED = 3  # first page of an allocated block
UNKNOWN_OWNER = 255  # mt of pages that were in use when the simulation began, by whom is not known

# Alloc flags (MODEL 2.7, values of 6.1).
ALLOC_WMARK_MIN = 0x0
ALLOC_WMARK_LOW = 0x1
ALLOC_WMARK_HIGH = 0x2
ALLOC_WMARK_MASK = 0x3
ALLOC_NO_WATERMARKS = 0x4
ALLOC_OOM = 0x8
ALLOC_NON_BLOCK = 0x10
ALLOC_MIN_RESERVE = 0x20
ALLOC_NOFRAGMENT = 0x100
ALLOC_HIGHATOMIC = 0x200
ALLOC_KSWAPD = 0x800

ZONE_MOVABLE = 3  # on 32-bit machines too

# Per-CPU lists: 3 types x orders 0..3, and two lists for order 9 with THP (MODEL 3.1).
PCP_ORDERS = 4
NR_PCP_LISTS = 14
PCP_BATCH_SCALE_MAX = 5

# How a request takes memory of another migratetype (vm.fallback), and which way a refill has come to (MODEL 2.5).
FALLBACK_WHOLE_OR_PART = 0
FALLBACK_CLAIM_STEAL = 1
FALLBACK_LARGEST = 2
RMQUEUE_NORMAL = 0
RMQUEUE_STEAL = 1

# How much a per-CPU list may hold, and how its refills and drains grow (pcp.limit).
PCP_FIXED = 0
PCP_FREE_FACTOR = 1
PCP_AUTO = 2

# Lists of pages that reclaim may take: page cache, and anonymous pages (MODEL 10.6).
NR_LRU_LISTS = 2
LRU_FILE = 0
LRU_ANON = 1
SWAP_CLUSTER_MAX = 32
MAX_RECLAIM_RETRIES = 16

# Compaction: how an attempt ended, worst first, and how hard it tries (MODEL 10.5).
COMPACT_NOT_SUITABLE = 0
COMPACT_SKIPPED = 1
COMPACT_DEFERRED = 2
COMPACT_CONTINUE = 4
COMPACT_COMPLETE = 5
COMPACT_SUCCESS = 8
COMPACT_PRIO_SYNC_FULL = 0
COMPACT_PRIO_SYNC_LIGHT = 1
COMPACT_PRIO_ASYNC = 2
COMPACT_MAX_DEFER_SHIFT = 6
COMPACT_CLUSTER_MAX = 32

# Why an allocation of pages failed.
FAIL_NONE = 0
FAIL_IMPOSSIBLE = 1  # an order or a combination of zone bits that no kernel serves
FAIL_NO_RECLAIM = 2  # below the marks, and the flags forbid to reclaim
FAIL_NORETRY = 3  # one round of reclaim and compaction was not enough, and the flags want no second one
FAIL_COSTLY = 4  # the same, for a block larger than PAGE_ALLOC_COSTLY_ORDER
FAIL_NO_PROGRESS = 5  # nothing left to reclaim, and the flags or the zone forbid to kill
FAIL_OOM = 6  # the kernel would have killed a task

# Cache flags, bits of include/linux/slab.h in 6.1 (facts; the exact dumps print them).
SLAB_HWCACHE_ALIGN = 0x2000
SLAB_CACHE_DMA = 0x4000
SLAB_CACHE_DMA32 = 0x8000
SLAB_PANIC = 0x40000
SLAB_TYPESAFE_BY_RCU = 0x80000
SLAB_RECLAIM_ACCOUNT = 0x20000
SLAB_NOLEAKTRACE = 0x800000
SLAB_ACCOUNT = 0x4000000

KMALLOC_MAX_CACHED = 8192
KMALLOC_MAX_SIZE = 4 << 20  # one block of the highest order
ZERO_SIZE_PTR = 16

# Object marks in a slab's next array: the index of the next free object, or one of these.
OBJ_END = -1  # last on its freelist
OBJ_LIVE = -2  # handed out
OBJ_SHEAF = -3  # in a sheaf

# SLAB: lists of a node that a slab can be on, and states of an object.
SLABS_PARTIAL = 0
SLABS_FULL = 1
SLABS_FREE = 2
SLABS_NONE = 3
OBJECT_FREE = 0  # on its slab
OBJECT_LIVE = 1
OBJECT_CACHED = 2  # in an array

# Who is asked for by Itinerary.wake, with what argument.
WAKE_DEFERRED = 0
"""Deferred work of a CPU (the argument) has just been done."""
WAKE_RCU = 1
"""So many more frees (the argument) wait for a grace period."""
WAKE_PERCPU = 2
"""The percpu allocator's balance work is due, on the CPU that is the argument."""
WAKE_KFREE_RCU = 40
"""A CPU (the argument) has an object more to free after a grace period."""
WAKE_KFREE_RCU_PAGES = 41
"""It has no page for pointers."""
WAKE_KSWAPD = 20
"""kswapd of a node (the argument) has work."""
WAKE_KCOMPACTD = 21
"""kcompactd of a node (the argument) has work."""
WAKE_KSWAPD_RUN = 22
"""The recorded kswapd of a node (argument >> 1) begins a run (argument & 1) or ends it."""
