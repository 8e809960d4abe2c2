"""
The vocabulary that the model and the schedule share: operations, paths, cost classes.

The model says *which* path an operation took and *what kind* of work that was; how many nanoseconds each
kind costs stands in ``data/costs.toml``. Names are those of the kernel's own counters where it has one
(MODEL 6.14). The order of a list is the code of its members: append, never reorder.
"""

from __future__ import annotations

# Paths: (operation, name). The deepest stage that an operation reached names its path.
PATHS = (
    ("alloc", "fastpath"),
    ("alloc", "refill"),
    ("alloc", "cpu_partial"),
    ("alloc", "node_partial"),
    ("alloc", "new_slab"),
    ("alloc", "large"),
    ("alloc", "failed"),
    ("free", "fastpath"),
    ("free", "slowpath"),
    ("free", "cpu_partial"),
    ("free", "cpu_partial_drain"),
    ("free", "node_partial"),
    ("free", "discard"),
    ("free", "large"),
    ("free", "nothing"),
    ("page_alloc", "pcp"),
    ("page_alloc", "pcp_refill"),
    ("page_alloc", "buddy"),
    ("page_alloc", "failed"),
    ("page_free", "pcp"),
    ("page_free", "pcp_drain"),
    ("page_free", "buddy"),
    ("cache", "shrink"),
    ("cache", "destroy"),
    ("alloc", "slob_list"),
    ("alloc", "slob_new_page"),
    ("free", "slob_list"),
    ("free", "slob_page"),
    ("free", "slob_rcu"),
    ("percpu_alloc", "area"),
    ("percpu_alloc", "populate"),
    ("percpu_alloc", "new_chunk"),
    ("percpu_alloc", "failed"),
    ("percpu_free", "area"),
    ("alloc", "shared_refill"),
    ("alloc", "slab_refill"),
    ("alloc", "node_slab"),
    ("free", "flush_shared"),
    ("free", "flush_slabs"),
    ("free", "alien"),
    ("free", "alien_drain"),
    ("alloc", "sheaf"),
    ("alloc", "barn"),
    ("alloc", "sheaf_refill"),
    ("free", "sheaf"),
    ("free", "barn"),
    ("free", "sheaf_flush"),
    ("page_alloc", "direct_reclaim"),
    ("page_alloc", "direct_compaction"),
)
NR_PATHS = len(PATHS)
PATH_ALLOC_FAST = 0
PATH_ALLOC_REFILL = 1
PATH_ALLOC_CPU_PARTIAL = 2
PATH_ALLOC_NODE_PARTIAL = 3
PATH_ALLOC_NEW_SLAB = 4
PATH_ALLOC_LARGE = 5
PATH_ALLOC_FAILED = 6
PATH_FREE_FAST = 7
PATH_FREE_SLOW = 8
PATH_FREE_CPU_PARTIAL = 9
PATH_FREE_CPU_PARTIAL_DRAIN = 10
PATH_FREE_NODE_PARTIAL = 11
PATH_FREE_DISCARD = 12
PATH_FREE_LARGE = 13
PATH_FREE_NOTHING = 14
PATH_PAGE_ALLOC_PCP = 15
PATH_PAGE_ALLOC_REFILL = 16
PATH_PAGE_ALLOC_BUDDY = 17
PATH_PAGE_ALLOC_FAILED = 18
PATH_PAGE_FREE_PCP = 19
PATH_PAGE_FREE_DRAIN = 20
PATH_PAGE_FREE_BUDDY = 21
PATH_CACHE_SHRINK = 22
PATH_CACHE_DESTROY = 23
PATH_ALLOC_SLOB_LIST = 24
PATH_ALLOC_SLOB_NEW_PAGE = 25
PATH_FREE_SLOB_LIST = 26
PATH_FREE_SLOB_PAGE = 27
PATH_FREE_SLOB_RCU = 28
PATH_PERCPU_ALLOC = 29
PATH_PERCPU_ALLOC_POPULATE = 30
PATH_PERCPU_ALLOC_NEW_CHUNK = 31
PATH_PERCPU_ALLOC_FAILED = 32
PATH_PERCPU_FREE = 33
PATH_ALLOC_SHARED = 34  # SLAB: array filled from the node's shared array
PATH_ALLOC_SLABS = 35  # SLAB: array filled from slabs
PATH_ALLOC_NODE = 36  # SLAB: one object of another node, past the array
PATH_FREE_FLUSH_SHARED = 37  # SLAB: a batch of the array to the shared array
PATH_FREE_FLUSH_SLABS = 38  # SLAB: a batch of the array to slabs
PATH_FREE_ALIEN = 39  # SLAB: object of another node
PATH_FREE_ALIEN_DRAIN = 40  # SLAB: the same, and the full alien array was emptied
PATH_ALLOC_SHEAF = 41
PATH_ALLOC_BARN = 42
PATH_ALLOC_SHEAF_REFILL = 43
PATH_FREE_SHEAF = 44
PATH_FREE_BARN = 45
PATH_FREE_SHEAF_FLUSH = 46
PATH_PAGE_ALLOC_RECLAIM = 47
PATH_PAGE_ALLOC_COMPACT = 48

# Cost classes: a step costs fixed_ns + count * per_ns of its class (data/costs.toml names each by this key).
COSTS = (
    "slub_fast",  # alloc or free on the CPU's freelist
    "slub_refill",  # take the slab's own freelist; count 0
    "slub_cpu_partial",  # take a slab from, or put one on, the CPU partial list; count 0
    "slub_node_section",  # under list_lock; count = slabs moved
    "slub_free_slow",  # free to a slab that is not the CPU's; count 0
    "slub_cold_line",  # that slab was last touched by another CPU; count 0
    "slub_new_slab",  # build a slab; count = objects linked
    "kfree_null",  # kfree(NULL); count 0
    "pcp_hit",  # take a block from, or put one on, a per-CPU page list; count 0
    "pcp_refill",  # under zone->lock; count = blocks moved
    "pcp_drain",  # under zone->lock; count = blocks moved
    "buddy_alloc",  # under zone->lock; count = 1
    "buddy_free",  # under zone->lock; count = 1
    "zero_page",  # clear pages; count = pages
    "zone_check",  # a watermark check that failed, or a walk to the next zone; count = zones
    "fallback",  # steal from another migratetype, under zone->lock; count = blocks moved
    "large_kmalloc",  # compound page set-up; count 0
    "slob_walk",  # under slob_lock; count = pages and gaps looked at
    "percpu_area",  # find or give back a per-CPU area; count = 1
    "percpu_clear",  # clear an area; count = possible CPUs
    "slab_array",  # SLAB: push or pop on the CPU's array; count 0
    "slab_move",  # SLAB, under list_lock: objects moved between arrays; count = objects
    "slab_lists",  # SLAB, under list_lock: objects taken from, or put back into, slabs; count = objects
    "slab_alien",  # SLAB, under the alien array's lock: push on it; count 0
    "slab_grow",  # SLAB: build a slab; count = objects
    "slub_sheaf",  # take an object from, or put one on, a sheaf; count 0
    "slub_barn",  # under the barn's lock; count = sheaves moved
    "reclaim",  # take back a page of page cache; count = pages
    "compact_scan",  # look at page frames for pages to move or to move to; count = frames
    "compact_migrate",  # move a page; count = pages
)
COST_SLUB_FAST = 0
COST_SLUB_REFILL = 1
COST_SLUB_CPU_PARTIAL = 2
COST_SLUB_NODE = 3
COST_SLUB_FREE_SLOW = 4
COST_SLUB_COLD = 5
COST_SLUB_NEW_SLAB = 6
COST_KFREE_NULL = 7
COST_PCP_HIT = 8
COST_PCP_REFILL = 9
COST_PCP_DRAIN = 10
COST_BUDDY_ALLOC = 11
COST_BUDDY_FREE = 12
COST_ZERO_PAGE = 13
COST_ZONE_CHECK = 14
COST_FALLBACK = 15
COST_LARGE_KMALLOC = 16
COST_SLOB = 17
COST_PERCPU_AREA = 18
COST_PERCPU_CLEAR = 19
COST_SLAB_ARRAY = 20
COST_SLAB_MOVE = 21
COST_SLAB_LISTS = 22
COST_SLAB_ALIEN = 23
COST_SLAB_GROW = 24
COST_SLUB_SHEAF = 25
COST_SLUB_BARN = 26
COST_RECLAIM = 27
COST_COMPACT_SCAN = 28
COST_COMPACT_MIGRATE = 29
