"""Which times rest on assumed costs."""

from __future__ import annotations

from .frames import RunFrames

# Cost classes (data/costs.toml) that a path can be made of; waiting for locks comes on top.
_PAGES = ("pcp_hit", "pcp_refill", "buddy_alloc", "fallback", "zone_check", "zero_page")
_PAGES_BACK = ("pcp_hit", "pcp_drain", "buddy_free")
_PARTIAL = ("slub_refill", "slub_cpu_partial", "slub_node_section")
_FREE_SLOW = ("slub_free_slow", "slub_cold_line")
PATH_COSTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("alloc", "fastpath"): ("slub_fast",),
    ("alloc", "refill"): ("slub_refill",),
    ("alloc", "cpu_partial"): ("slub_refill", "slub_cpu_partial"),
    ("alloc", "node_partial"): _PARTIAL,
    ("alloc", "new_slab"): (*_PARTIAL, "slub_new_slab", *_PAGES),
    ("alloc", "large"): ("large_kmalloc", *_PAGES),
    ("alloc", "failed"): (*_PARTIAL, *_PAGES),
    ("free", "fastpath"): ("slub_fast",),
    ("free", "slowpath"): _FREE_SLOW,
    ("free", "cpu_partial"): (*_FREE_SLOW, "slub_cpu_partial"),
    ("free", "cpu_partial_drain"): (*_FREE_SLOW, "slub_cpu_partial", "slub_node_section", *_PAGES_BACK),
    ("free", "node_partial"): (*_FREE_SLOW, "slub_node_section"),
    ("free", "discard"): (*_FREE_SLOW, "slub_node_section", *_PAGES_BACK),
    ("free", "large"): _PAGES_BACK,
    ("free", "nothing"): ("kfree_null",),
    ("page_alloc", "pcp"): ("pcp_hit", "zone_check", "zero_page"),
    ("page_alloc", "pcp_refill"): _PAGES,
    ("page_alloc", "buddy"): _PAGES,
    ("page_alloc", "failed"): ("zone_check",),
    ("page_free", "pcp"): ("pcp_hit",),
    ("page_free", "pcp_drain"): ("pcp_hit", "pcp_drain"),
    ("page_free", "buddy"): ("buddy_free",),
}


def is_assumed(run: RunFrames, op: str, path: str) -> bool:
    """Whether a price in this path's times is assumed; so it is when a path or its prices are not known."""
    assumed = {cost["name"]: bool(cost.get("assumed", True)) for cost in run.manifest.get("costs", [])}
    return any(assumed.get(name, True) for name in PATH_COSTS.get((op, path), ("unknown",)))
