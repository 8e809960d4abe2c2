"""Which times rest on assumed costs."""

from __future__ import annotations

from .frames import RunFrames

# Cost classes (data/costs.toml) that a path can be made of; waiting for locks comes on top.
_PAGES = ("pcp_hit", "pcp_refill", "buddy_alloc", "fallback", "zone_check", "zero_page")
_PAGES_BACK = ("pcp_hit", "pcp_drain", "buddy_free")
_PARTIAL = ("slub_refill", "slub_cpu_partial", "slub_node_section")
_FREE_SLOW = ("slub_free_slow", "slub_cold_line")
_SLAB_REFILL = ("slab_array", "slab_move", "slab_lists")
_SLAB_FLUSH = ("slab_array", "slab_lists", *_PAGES_BACK)
PATH_COSTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("alloc", "fastpath"): ("slub_fast", "slab_array"),
    ("alloc", "refill"): ("slub_refill",),
    ("alloc", "cpu_partial"): ("slub_refill", "slub_cpu_partial"),
    ("alloc", "node_partial"): _PARTIAL,
    ("alloc", "new_slab"): (*_PARTIAL, "slub_new_slab", "slab_lists", "slab_grow", *_PAGES),
    ("alloc", "large"): ("large_kmalloc", *_PAGES),
    ("alloc", "failed"): (*_PARTIAL, "slab_lists", *_PAGES),
    ("free", "fastpath"): ("slub_fast", "slab_array"),
    ("free", "slowpath"): _FREE_SLOW,
    ("free", "cpu_partial"): (*_FREE_SLOW, "slub_cpu_partial"),
    ("free", "cpu_partial_drain"): (*_FREE_SLOW, "slub_cpu_partial", "slub_node_section", *_PAGES_BACK),
    ("free", "node_partial"): (*_FREE_SLOW, "slub_node_section"),
    ("free", "discard"): (*_FREE_SLOW, "slub_node_section", *_SLAB_FLUSH),
    ("free", "large"): _PAGES_BACK,
    ("free", "nothing"): ("kfree_null",),
    ("page_alloc", "pcp"): ("pcp_hit", "zone_check", "zero_page"),
    ("page_alloc", "pcp_refill"): _PAGES,
    ("page_alloc", "buddy"): _PAGES,
    ("page_alloc", "failed"): ("zone_check", "pcp_drain", "reclaim", "compact_scan", "compact_migrate"),
    ("page_alloc", "direct_reclaim"): (*_PAGES, "pcp_drain", "reclaim"),
    ("page_alloc", "direct_compaction"): (*_PAGES, "pcp_drain", "reclaim", "compact_scan", "compact_migrate"),
    ("page_free", "pcp"): ("pcp_hit",),
    ("page_free", "pcp_drain"): ("pcp_hit", "pcp_drain"),
    ("page_free", "buddy"): ("buddy_free",),
    ("cache", "shrink"): ("slub_node_section", "slab_lists", *_PAGES_BACK),
    ("cache", "destroy"): ("slub_node_section", "slab_lists", *_PAGES_BACK),
    ("alloc", "slob_list"): ("slob_walk",),
    ("alloc", "slob_new_page"): ("slob_walk", *_PAGES),
    ("free", "slob_list"): ("slob_walk",),
    ("free", "slob_page"): ("slob_walk", *_PAGES_BACK),
    ("free", "slob_rcu"): ("slob_walk",),
    ("percpu_alloc", "area"): ("percpu_area", "percpu_clear"),
    ("percpu_alloc", "populate"): ("percpu_area", "percpu_clear", *_PAGES),
    ("percpu_alloc", "new_chunk"): ("percpu_area", "percpu_clear", *_PAGES),
    ("percpu_alloc", "failed"): ("percpu_area",),
    ("percpu_free", "area"): ("percpu_area",),
    ("alloc", "shared_refill"): _SLAB_REFILL,
    ("alloc", "slab_refill"): _SLAB_REFILL,
    ("alloc", "node_slab"): ("slab_lists",),
    ("free", "flush_shared"): ("slab_array", "slab_move"),
    ("free", "flush_slabs"): _SLAB_FLUSH,
    ("free", "alien"): ("slab_alien",),
    ("free", "alien_drain"): ("slab_alien", "slab_lists", *_PAGES_BACK),
    ("alloc", "sheaf"): ("slub_sheaf",),
    ("alloc", "barn"): ("slub_sheaf", "slub_barn"),
    ("alloc", "sheaf_refill"): ("slub_sheaf", "slub_barn", "slub_fast", *_PARTIAL, "slub_new_slab", *_PAGES),
    ("free", "sheaf"): ("slub_sheaf",),
    ("free", "barn"): ("slub_sheaf", "slub_barn"),
    ("free", "sheaf_flush"): ("slub_sheaf", "slub_fast", *_FREE_SLOW, "slub_node_section", *_PAGES_BACK),
}
"""Costs whose name begins with an allocator's (``slab_``) are those of its paths only."""
_ALLOCATORS = ("slub", "slab", "slob")


def is_assumed(run: RunFrames, op: str, path: str) -> bool:
    """Whether a price in this path's times is assumed; so it is when a path or its prices are not known."""
    assumed = {cost["name"]: bool(cost.get("assumed", True)) for cost in run.manifest.get("costs", [])}
    others = tuple(f"{name}_" for name in _ALLOCATORS if name != run.allocator)
    names = (name for name in PATH_COSTS.get((op, path), ("unknown",)) if not name.startswith(others))
    return any(assumed.get(name, True) for name in names)
