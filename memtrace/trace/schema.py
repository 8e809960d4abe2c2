"""
The canonical trace: its columns, its events, and the chunk in which rows travel.

Numbers that compiled code uses too (``EV_*``) are plain module constants; see docs/design.md, "Constants".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Event codes, uint8. 0 is any event that memtrace does not use: kept, counted and ignored.
EV_OTHER = 0
EV_MARKER = 1
EV_KMALLOC = 2
EV_KFREE = 3
EV_CACHE_ALLOC = 4
EV_CACHE_FREE = 5
EV_PAGE_ALLOC = 6
EV_PAGE_FREE = 7
EV_PAGE_FREE_BATCHED = 8
EV_ZONE_LOCKED = 9
EV_PCPU_DRAIN = 10
EV_EXTFRAG = 11
EV_PERCPU_ALLOC = 12
EV_PERCPU_FREE = 13
EV_PERCPU_CREATE_CHUNK = 14
EV_PERCPU_DESTROY_CHUNK = 15
EV_CACHE_CREATE = 16
EV_CACHE_DESTROY = 17
EV_CACHE_SHRINK = 18
EV_CACHE_ALLOC_BULK = 19
EV_CACHE_FREE_BULK = 20
EV_CPU_ONLINE = 21
EV_CPU_OFFLINE = 22
EV_GT_BULK_OBJ = 23
EV_GT_PAGE = 24
EV_GT_SLAB = 25
EV_KFREE_BULK_CALLBACK = 26

EVENT_CODES: dict[str, int] = {
    "marker": EV_MARKER,
    "kmalloc": EV_KMALLOC,
    "kfree": EV_KFREE,
    "kmem_cache_alloc": EV_CACHE_ALLOC,
    "kmem_cache_free": EV_CACHE_FREE,
    "mm_page_alloc": EV_PAGE_ALLOC,
    "mm_page_free": EV_PAGE_FREE,
    "mm_page_free_batched": EV_PAGE_FREE_BATCHED,
    "mm_page_alloc_zone_locked": EV_ZONE_LOCKED,
    "mm_page_pcpu_drain": EV_PCPU_DRAIN,
    "mm_page_alloc_extfrag": EV_EXTFRAG,
    "percpu_alloc_percpu": EV_PERCPU_ALLOC,
    "percpu_free_percpu": EV_PERCPU_FREE,
    "percpu_create_chunk": EV_PERCPU_CREATE_CHUNK,
    "percpu_destroy_chunk": EV_PERCPU_DESTROY_CHUNK,
    "kmem_cache_create": EV_CACHE_CREATE,
    "kmem_cache_destroy": EV_CACHE_DESTROY,
    "kmem_cache_shrink": EV_CACHE_SHRINK,
    "kmem_cache_alloc_bulk": EV_CACHE_ALLOC_BULK,
    "kmem_cache_free_bulk": EV_CACHE_FREE_BULK,
    "cpu_online": EV_CPU_ONLINE,
    "cpu_offline": EV_CPU_OFFLINE,
    "gt_bulk_obj": EV_GT_BULK_OBJ,
    "gt_page": EV_GT_PAGE,
    "gt_slab": EV_GT_SLAB,
    "rcu_invoke_kfree_bulk_callback": EV_KFREE_BULK_CALLBACK,
}

# Older kernels' names of the same events (MODEL 12.2); readers rename them.
EVENT_ALIASES = {
    "kmalloc_node": "kmalloc",
    "kmem_cache_alloc_node": "kmem_cache_alloc",
    "mm_page_free_direct": "mm_page_free",
    "mm_pagevec_free": "mm_page_free_batched",
}

NO_NODE = -2
"""``node`` of an event that has no such field; -1 means "any node"."""


class Vocab:
    """Strings as small integers, in order of first appearance.

    ``code(text)`` adds; ``names[code]`` reads. Codes are stable for the life of a reader.
    """

    __slots__ = ("codes", "names")

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.names: list[str] = []

    def code(self, text: str) -> int:
        found = self.codes.get(text)
        if found is None:
            found = len(self.names)
            self.codes[text] = found
            self.names.append(text)
        return found

    def __len__(self) -> int:
        return len(self.names)


@dataclass(slots=True)
class TraceVocab:
    """The vocabularies of one trace; every chunk of its reader shares them."""

    event: Vocab = field(default_factory=Vocab)
    call_site: Vocab = field(default_factory=Vocab)
    name: Vocab = field(default_factory=Vocab)
    gfp: Vocab = field(default_factory=Vocab)
    gfp_era: str = "6.1"
    """Kernel whose bits numeric gfp_flags are (``gfp_eras``)."""
    ctx: Vocab = field(default_factory=Vocab)
    text: Vocab = field(default_factory=Vocab)


# (column, numpy type, value where the event has no such field)
CHUNK_COLUMNS: tuple[tuple[str, Any, int], ...] = (
    ("ts_ns", np.int64, 0),
    ("cpu", np.int16, 0),
    ("task", np.int32, -1),
    ("event", np.uint8, 0),  # EV_* code
    ("event_name", np.int32, -1),  # vocab.event: the name as printed, after EVENT_ALIASES
    ("call_site", np.int32, -1),  # vocab.call_site
    ("ptr", np.uint64, 0),
    ("name", np.int32, -1),  # vocab.name
    ("bytes_req", np.int64, -1),
    ("bytes_alloc", np.int64, -1),
    ("gfp_flags", np.int32, -1),  # vocab.gfp
    ("node", np.int16, NO_NODE),
    ("order", np.int16, -1),
    ("migratetype", np.int16, -1),
    ("pfn", np.int64, -1),
    ("ctx", np.int32, -1),  # vocab.ctx
    ("text", np.int32, -1),  # vocab.text; only of markers, gt_*, percpu_*, cpu_* and kmem_cache_create
    ("gt_name", np.int32, -1),  # vocab.name; read by tests alone
)


@dataclass(slots=True)
class EventChunk:
    """Consecutive rows of a trace, as equally long numpy arrays (see ``CHUNK_COLUMNS``).

    ``row0`` is the number of the first row in the trace, from 0.
    """

    row0: int
    ts_ns: np.ndarray
    cpu: np.ndarray
    task: np.ndarray
    event: np.ndarray
    event_name: np.ndarray
    call_site: np.ndarray
    ptr: np.ndarray
    name: np.ndarray
    bytes_req: np.ndarray
    bytes_alloc: np.ndarray
    gfp_flags: np.ndarray
    node: np.ndarray
    order: np.ndarray
    migratetype: np.ndarray
    pfn: np.ndarray
    ctx: np.ndarray
    text: np.ndarray
    gt_name: np.ndarray

    def __len__(self) -> int:
        return len(self.ts_ns)

    @classmethod
    def empty(cls, n: int, row0: int = 0) -> EventChunk:
        """A chunk of n rows in which every column has its "no such field" value."""
        return cls(row0, **{name: np.full(n, fill, dtype) for name, dtype, fill in CHUNK_COLUMNS})
