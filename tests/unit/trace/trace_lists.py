"""Short traces as lists of dicts, for the tests of this folder."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from memtrace.trace.requests import REQUEST_COLUMNS

ListReader = runpy.run_path(str(Path(__file__).parents[2] / "property" / "slow_pairing.py"))["ListReader"]
BASE = 0xFF11000000000000
SLAB_GFP = "GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY"


def page_alloc(pfn: int, order: int = 0, gfp: str = "GFP_KERNEL", **more: Any) -> dict[str, Any]:
    return {"event": "mm_page_alloc", "pfn": pfn, "order": order, "gfp_flags": gfp} | more


def page_free(pfn: int, order: int = 0, **more: Any) -> dict[str, Any]:
    return {"event": "mm_page_free", "pfn": pfn, "order": order} | more


def batched(pfn: int, **more: Any) -> dict[str, Any]:
    return {"event": "mm_page_free_batched", "pfn": pfn, "order": 0} | more


def cache_alloc(ptr: int, site: str = "site", size: int = 128, **more: Any) -> dict[str, Any]:
    return {"event": "kmem_cache_alloc", "ptr": ptr, "call_site": site, "bytes_req": size, "bytes_alloc": size} | more


def cache_free(ptr: int, name: str = "cache", **more: Any) -> dict[str, Any]:
    return {"event": "kmem_cache_free", "ptr": ptr, "name": name} | more


def kmalloc(ptr: int, size: int = 64, **more: Any) -> dict[str, Any]:
    return {"event": "kmalloc", "ptr": ptr, "bytes_req": size, "bytes_alloc": size, "call_site": "caller"} | more


def kfree(ptr: int, **more: Any) -> dict[str, Any]:
    return {"event": "kfree", "ptr": ptr} | more


def bulk(kind: str, ptr: int, name: str = "maple_node", site: str = "mas", **more: Any) -> dict[str, Any]:
    return {"event": "gt_bulk_obj", "text": kind, "ptr": ptr, "name": name, "call_site": site} | more


def new_slabs(n: int = 10, first_pfn: int = 5000) -> list[dict[str, Any]]:
    """Slab pages and their first objects, from which the direct map's base can be found."""
    rows = []
    for pfn in range(first_pfn, first_pfn + n):
        rows += [page_alloc(pfn, 0, SLAB_GFP), cache_alloc(at(pfn), "prelude", 512)]
    return rows


def at(pfn: int, offset: int = 0) -> int:
    """Pointer to a byte of a page."""
    return BASE + (pfn << 12) + offset


def requests_of(stream: Any, *columns: str) -> list[tuple[int, ...]]:
    """Chosen columns of all requests."""
    assert set(columns) <= {name for name, _ in REQUEST_COLUMNS}
    return [row for chunk in stream
            for row in zip(*(getattr(chunk, column).tolist() for column in columns), strict=True)]
