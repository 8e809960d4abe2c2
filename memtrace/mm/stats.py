"""Names of the model's counters and sampled fields, in the order in which arrays hold them."""

from __future__ import annotations

# /sys/kernel/slab/<cache>/<name>, CONFIG_SLUB_STATS, 6.1 (MODEL 6.14).
SLUB_STATS = (
    "alloc_fastpath",
    "alloc_slowpath",
    "free_fastpath",
    "free_slowpath",
    "free_frozen",
    "free_add_partial",
    "free_remove_partial",
    "alloc_from_partial",
    "alloc_slab",
    "alloc_refill",
    "alloc_node_mismatch",
    "free_slab",
    "cpuslab_flush",
    "deactivate_full",
    "deactivate_empty",
    "deactivate_to_head",
    "deactivate_to_tail",
    "deactivate_remote_frees",
    "deactivate_bypass",
    "order_fallback",
    "cmpxchg_double_cpu_fail",
    "cmpxchg_double_fail",
    "cpu_partial_alloc",
    "cpu_partial_free",
    "cpu_partial_node",
    "cpu_partial_drain",
)
NR_SLUB_STATS = 26
# What 6.18 counts beside these, in the caches that have sheaves.
SHEAF_STATS = (
    "alloc_cpu_sheaf",
    "free_cpu_sheaf",
    "free_rcu_sheaf",
    "sheaf_flush",
    "sheaf_refill",
    "sheaf_alloc",
    "sheaf_free",
    "barn_get",
    "barn_get_fail",
    "barn_put",
    "barn_put_fail",
)
NR_SHEAF_STATS = 11
ALLOC_CPU_SHEAF = 0
FREE_CPU_SHEAF = 1
FREE_RCU_SHEAF = 2
SHEAF_FLUSH = 3
SHEAF_REFILL = 4
SHEAF_ALLOC = 5
SHEAF_FREE = 6
BARN_GET = 7
BARN_GET_FAIL = 8
BARN_PUT = 9
BARN_PUT_FAIL = 10
ALLOC_FASTPATH = 0
ALLOC_SLOWPATH = 1
FREE_FASTPATH = 2
FREE_SLOWPATH = 3
FREE_FROZEN = 4
FREE_ADD_PARTIAL = 5
FREE_REMOVE_PARTIAL = 6
ALLOC_FROM_PARTIAL = 7
ALLOC_SLAB = 8
ALLOC_REFILL = 9
ALLOC_NODE_MISMATCH = 10
FREE_SLAB = 11
CPUSLAB_FLUSH = 12
DEACTIVATE_FULL = 13
DEACTIVATE_EMPTY = 14
DEACTIVATE_TO_HEAD = 15
DEACTIVATE_TO_TAIL = 16
DEACTIVATE_REMOTE_FREES = 17
DEACTIVATE_BYPASS = 18
ORDER_FALLBACK = 19
CPU_PARTIAL_ALLOC = 22
CPU_PARTIAL_FREE = 23
CPU_PARTIAL_NODE = 24
CPU_PARTIAL_DRAIN = 25

# What every allocator counts by CPU and cache; one that lacks a path leaves its counter at 0.
COMMON_STATS = ("alloc_fastpath", "alloc_slowpath", "free_fastpath", "free_slowpath", "alloc_slab", "free_slab")

# SLAB's counters by CPU (MODEL 7.10). The common ones are allochit, the rest of the allocations, freehit, the rest
# of the frees, grown, and slabs given back for whatever reason.
SLAB_STATS = (
    "alloc_fastpath",
    "alloc_slowpath",
    "free_fastpath",
    "free_slowpath",
    "alloc_slab",
    "free_slab",
    "allocmiss",
    "freemiss",
    "listallocs",
    "reaped",
    "nodeallocs",
    "remotefrees",
    "alienoverflow",
)
NR_SLAB_STATS = 13
SLAB_ALLOCHIT = 0
SLAB_ALLOCSLOW = 1
SLAB_FREEHIT = 2
SLAB_FREESLOW = 3
SLAB_GROWN = 4
SLAB_FREED = 5
SLAB_ALLOCMISS = 6
SLAB_FREEMISS = 7
SLAB_LISTALLOCS = 8
SLAB_REAPED = 9
SLAB_NODEALLOCS = 10
SLAB_REMOTEFREES = 11
SLAB_ALIENOVERFLOW = 12

# SLOB counts nothing itself; these are memtrace's (docs/metrics.md).
SLOB_STATS = ("alloc_slowpath", "free_slowpath", "alloc_slab", "free_slab")
NR_SLOB_STATS = 4
SLOB_LISTS = ("slob small", "slob medium", "slob large")
"""Pseudo caches of SLOB's three lists, which stand for kmalloc and for the pages."""
NR_SLOB_LISTS = 3

MIGRATETYPES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "Isolate")

FAIL_REASONS = ("memory", "order", "no_reclaim", "noretry", "costly", "no_progress", "oom")
"""By FAIL_*: why an allocation failed."""

CACHE_FIELDS = (
    "object_size",
    "size",
    "objperslab",
    "pagesperslab",
    "active_objs",
    "num_objs",
    "num_slabs",
    "nr_partial",
    "cpu_slabs",
    "active_slabs",
    "limit",
    "batchcount",
    "sharedfactor",
    "sharedavail",
    "maxobjs",
    "maxfreeable",
)
NR_CACHE_FIELDS = 16
ZONE_FIELDS = (
    "free_pages",
    "pcp_pages",
    "slab_pages",
    "min",
    "low",
    "high",
    "present",
    "managed",
    "spanned",
    "start_pfn",
    "boost",
)
PCP_FIELDS = ("zone_index", "cpu", "count", "high", "batch", "refills", "drains", "given_back", "hits", "misses")
PERCPU_FIELDS = ("chunks", "populated_pages", "units", "areas", "empty_pages", "bytes_requested", "bytes_allocated")
PAGEBLOCK_MAP_FIELDS = (
    "zone_index",
    "start_pfn",
    "pages",
    "free",
    "pcp",
    "slab",
    "movable",
    "unmovable",
    "reclaimable",
)
