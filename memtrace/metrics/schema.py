"""
The one list of tables and columns of a run folder.

``docs/metrics.md`` is printed from it (``python -m memtrace.metrics.schema > docs/metrics.md``), the recorder
writes by it, and a test pins it: scripts rely on names and types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FORMAT_VERSION = 1
"""Of a run folder; raised when a column changes its name, type or meaning."""


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column.

    ``type`` is ``int64``, ``int32``, ``int16``, ``string``, ``name`` (strings of a small vocabulary: an arrow
    dictionary) or ``list<int64>``. ``source`` is the kernel file or counter with the same meaning, if any.
    """

    name: str
    type: str
    unit: str
    meaning: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One table; ``row`` says what a row is."""

    name: str
    row: str
    columns: tuple[Column, ...]
    note: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def _count(name: str, meaning: str, source: str = "") -> Column:
    return Column(name, "int64", "", meaning, source)


_T = Column("t_ns", "int64", "ns", "simulated time since the trace's first event")
_CPU = Column("cpu", "int16", "", "CPU number")
_NODE = Column("node", "int16", "", "NUMA node")
_ZONE = Column("zone", "name", "", "zone name", "/proc/zoneinfo")
_CACHE = Column("cache", "name", "", "slab cache; of merged caches, the first one's name", "/proc/slabinfo")
_ORDER = Column("order", "int16", "", "block order: 2**order pages")

_STAGES = (
    ("alloc_fastpath", "allocations from the CPU's freelist; SLAB: from its array (allochit); SLOB has none"),
    ("alloc_slowpath", "allocations that were not on the fast path"),
    ("free_fastpath", "frees to the CPU's slab; SLAB: to its array (freehit); SLOB has none"),
    ("free_slowpath", "frees that were not on the fast path"),
    ("alloc_slab", "slabs newly made; SLAB: grown"),
    ("free_slab", "slabs given back to the page allocator"),
)
"""Counters that mean the same for every slab allocator."""

_SLUB_STAGES = (
    ("free_frozen", "slow frees to a slab that some CPU holds"),
    ("free_add_partial", "frees that put a full slab on the node's partial list"),
    ("free_remove_partial", "frees that took an emptied slab off the node's partial list"),
    ("alloc_from_partial", "CPU slabs taken from the node's partial list"),
    ("alloc_refill", "CPU freelists refilled from their own slab"),
    ("alloc_node_mismatch", "CPU slabs put away because another node was asked for"),
    ("cpuslab_flush", "CPU slabs flushed"),
    ("deactivate_full", "CPU slabs put away full"),
    ("deactivate_empty", "CPU slabs put away empty"),
    ("deactivate_to_head", "CPU slabs put at the head of the partial list"),
    ("deactivate_to_tail", "CPU slabs put at the tail of the partial list"),
    ("deactivate_remote_frees", "CPU slabs put away that held objects freed by other CPUs"),
    ("deactivate_bypass", "deactivations not needed, as all was allocated"),
    ("order_fallback", "slabs made at the smallest order, the preferred one failing"),
    ("cmpxchg_double_cpu_fail", "retries of the CPU freelist; the model has none"),
    ("cmpxchg_double_fail", "retries of a slab's freelist; the model has none"),
    ("cpu_partial_alloc", "CPU slabs taken from the CPU's partial list"),
    ("cpu_partial_free", "slabs put on the CPU's partial list by a free"),
    ("cpu_partial_node", "slabs put on the CPU's partial list from the node's"),
    ("cpu_partial_drain", "CPU partial lists moved to the node's"),
)

_SHEAF_STAGES = (
    ("alloc_cpu_sheaf", "allocations from the CPU's sheaf"),
    ("free_cpu_sheaf", "frees to the CPU's sheaf"),
    ("free_rcu_sheaf", "objects collected in a sheaf that RCU frees"),
    ("sheaf_flush", "objects given from a sheaf to their slabs"),
    ("sheaf_refill", "objects taken from slabs to fill a sheaf"),
    ("sheaf_alloc", "sheaves newly made"),
    ("sheaf_free", "sheaves given up"),
    ("barn_get", "full sheaves taken from the node's barn"),
    ("barn_get_fail", "times the barn had none"),
    ("barn_put", "full sheaves put into the barn"),
    ("barn_put_fail", "times the barn had no room"),
)

_SLAB_STAGES = (
    ("allocmiss", "allocations that found the CPU's array empty", "cpustat allocmiss"),
    ("freemiss", "frees that found the CPU's array full", "cpustat freemiss"),
    ("listallocs", "objects moved from slabs to CPU arrays", "globalstat listallocs"),
    ("reaped", "slabs that the reaper gave back; free_slab has all", "globalstat reaped"),
    ("nodeallocs", "objects taken from another node's slabs", "globalstat nodeallocs"),
    ("remotefrees", "frees of objects of another node", "globalstat remotefrees"),
    ("alienoverflow", "times the array for another node's objects was full", "globalstat alienoverflow"),
)

TABLES: tuple[Table, ...] = (
    Table("caches", "sample × cache", (
        _T,
        _CACHE,
        Column("object_size", "int64", "bytes", "object size as asked for at creation",
               "/sys/kernel/slab/*/object_size"),
        Column("size", "int64", "bytes", "object size with alignment and metadata", "/proc/slabinfo objsize"),
        _count("objperslab", "objects in a slab of the preferred order", "/proc/slabinfo"),
        Column("pagesperslab", "int64", "pages", "pages in a slab of the preferred order", "/proc/slabinfo"),
        _count("active_objs", "objects not free on a node's slabs; those free in CPU slabs or arrays count as active",
               "/proc/slabinfo"),
        _count("num_objs", "objects that the cache's slabs have room for", "/proc/slabinfo"),
        _count("num_slabs", "slabs", "/proc/slabinfo"),
        _count("nr_partial", "slabs on the nodes' partial lists", "/sys/kernel/slab/*/partial"),
        _count("cpu_slabs", "slabs that CPUs hold: CPU slabs and CPU partial lists (SLUB; else 0)",
               "/sys/kernel/slab/*/cpu_slabs"),
        _count("active_slabs", "slabs that are not wholly free; all of SLUB's", "/proc/slabinfo"),
        _count("limit", "objects in a CPU's array (SLAB; else 0)", "/proc/slabinfo"),
        _count("batchcount", "objects moved at a time (SLAB; else 0)", "/proc/slabinfo"),
        _count("sharedfactor", "batches in a node's shared array (SLAB; else 0)", "/proc/slabinfo"),
        _count("sharedavail", "objects in the nodes' shared arrays (SLAB; else 0)", "/proc/slabinfo"),
        _count("maxobjs", "most objects taken from slabs at a time, since the replay began (SLAB; else 0)",
               "/proc/slabinfo globalstat"),
        _count("maxfreeable", "most free slabs of a node seen when an array was full, since then (SLAB; else 0)",
               "/proc/slabinfo globalstat"),
        Column("bytes_requested", "int64", "bytes", "asked for by the objects alive now"),
        Column("bytes_allocated", "int64", "bytes", "given to the objects alive now"),
    )),
    Table("cpu_caches", "sample × cpu × cache", (
        _T, _CPU, _CACHE,
        *(_count(name, meaning, f"/sys/kernel/slab/*/{name}") for name, meaning in _STAGES),
        *(_count(name, f"SLUB: {meaning}", f"/sys/kernel/slab/*/{name}") for name, meaning in _SLUB_STAGES),
        *(_count(name, f"sheaves: {meaning}", f"/sys/kernel/slab/*/{name}") for name, meaning in _SHEAF_STAGES),
        *(_count(name, f"SLAB: {meaning}", f"/proc/slabinfo {source}") for name, meaning, source in _SLAB_STAGES),
    ), "Counters since the replay began. A cache that a CPU has not used yet has no row. What the "
       "replay's slab allocator does not have is 0."),
    Table("buddy", "sample × zone × order × migratetype", (
        _T, _NODE, _ZONE, _ORDER,
        Column("migratetype", "name", "", "type of the free list", "/proc/pagetypeinfo"),
        Column("nr_free", "int64", "blocks", "free blocks on the list", "/proc/buddyinfo, /proc/pagetypeinfo"),
    )),
    Table("zones", "sample × zone", (
        _T, _NODE, _ZONE,
        Column("free_pages", "int64", "pages", "pages on the free lists", "/proc/zoneinfo nr_free_pages"),
        Column("pcp_pages", "int64", "pages", "pages on per-CPU lists"),
        Column("slab_pages", "int64", "pages", "pages in slabs", "/proc/meminfo Slab"),
        Column("min", "int64", "pages", "watermark, boost included", "/proc/zoneinfo"),
        Column("low", "int64", "pages", "watermark, boost included", "/proc/zoneinfo"),
        Column("high", "int64", "pages", "watermark, boost included", "/proc/zoneinfo"),
        Column("present", "int64", "pages", "pages that exist", "/proc/zoneinfo"),
        Column("managed", "int64", "pages", "pages that the buddy system manages", "/proc/zoneinfo"),
        Column("spanned", "int64", "pages", "pages from the zone's first to its last, holes included",
               "/proc/zoneinfo"),
        Column("start_pfn", "int64", "pfn", "first page", "/proc/zoneinfo"),
        Column("boost", "int64", "pages", "what fragmentation added to the watermarks", "/proc/zoneinfo"),
    )),
    Table("fragmentation", "sample × zone × order", (
        _T, _NODE, _ZONE, _ORDER,
        Column("unusable_index", "int64", "1/1000", "share of free memory in blocks too small for this order",
               "/sys/kernel/debug/extfrag/unusable_index"),
        Column("fragmentation_index", "int64", "1/1000",
               "why a request of this order would fail: 0 lack of memory, 1000 fragmentation; -1000 it would not",
               "/sys/kernel/debug/extfrag/extfrag_index"),
    )),
    Table("pcp", "sample × zone × cpu", (
        _T, _NODE, _ZONE, _CPU,
        Column("count", "int64", "pages", "pages on the lists", "/proc/zoneinfo pagesets"),
        Column("high", "int64", "pages", "count beyond which pages go back", "/proc/zoneinfo pagesets"),
        Column("batch", "int64", "pages", "pages moved at once", "/proc/zoneinfo pagesets"),
        _count("refills", "times a list was refilled, since the replay began"),
        _count("drains", "frees that sent pages back to the buddy system, since the replay began"),
        Column("given_back", "int64", "pages",
               "pages that went back without one: idle ones, and when all lists were emptied; since the replay began"),
        _count("hits", "allocations served from the lists, since the replay began"),
        _count("misses", "allocations that found their list empty, since the replay began"),
    )),
    Table("pageblock_map", "sample × run of pageblocks", (
        _T, _NODE, _ZONE,
        Column("start_pfn", "int64", "pfn", "first page of the run"),
        Column("pages", "int64", "pages", "pages of the run; those in none of the next columns are not managed"),
        Column("free", "int64", "pages", "on the free lists"),
        Column("pcp", "int64", "pages", "on per-CPU lists"),
        Column("slab", "int64", "pages", "in slabs"),
        Column("movable", "int64", "pages", "allocated as movable"),
        Column("unmovable", "int64", "pages", "allocated as unmovable, slabs left out"),
        Column("reclaimable", "int64", "pages", "allocated as reclaimable, slabs left out"),
    ), "Taken at about a hundred of the samples and at the last: it looks at every page."),
    Table("pageblock_types", "sample × zone × migratetype", (
        _T, _NODE, _ZONE,
        Column("migratetype", "name", "", "type of the pageblock", "/proc/pagetypeinfo"),
        Column("nr_blocks", "int64", "pageblocks", "pageblocks of this type", "/proc/pagetypeinfo"),
    )),
    Table("latency", "op × path × cpu × cache", (
        Column("op", "name", "", "alloc, free, page_alloc or page_free"),
        Column("path", "name", "", "the deepest stage that the operation reached"),
        _CPU,
        Column("cache", "name", "", "slab cache; null for pages and large kmallocs"),
        _count("count", "operations; a bulk free is one"),
        Column("sum_ns", "int64", "ns", "sum of their times, waits for locks included"),
        Column("min_ns", "int64", "ns", "shortest"),
        Column("max_ns", "int64", "ns", "longest"),
        Column("p50_ns", "int64", "ns", "half took no longer; percentiles are at most 6.25 % off, below 16 ns exact"),
        Column("p90_ns", "int64", "ns", "90 % took no longer"),
        Column("p99_ns", "int64", "ns", "99 % took no longer"),
        Column("p999_ns", "int64", "ns", "99.9 % took no longer"),
        Column("bucket_ns", "list<int64>", "ns", "lower bounds of the histogram's buckets that are not empty, "
                                                 "8 to an octave"),
        Column("bucket_count", "list<int64>", "", "operations in each"),
    ), "From the time an operation begins on its CPU to the end of its last step. Times are sums of the cost table's "
       "prices and of waits for locks."),
    Table("locks", "lock that was taken", (
        Column("lock", "name", "", "zone->lock or list_lock, with its node, zone or cache"),
        _count("acquisitions", "times taken"),
        _count("contended", "times it was not free"),
        Column("wait_ns", "int64", "ns", "waited for it in all"),
        Column("hold_ns", "int64", "ns", "held in all"),
        Column("max_wait_ns", "int64", "ns", "longest wait"),
    )),
    Table("callsites", "call site × cache", (
        Column("call_site", "name", "", "who allocated; null: before the trace began"),
        Column("cache", "name", "", "slab cache; null for large kmallocs"),
        _count("allocs", "allocations served"),
        _count("frees", "frees of objects allocated here, whoever freed them"),
        Column("bytes_requested", "int64", "bytes", "asked for in all"),
        Column("bytes_allocated", "int64", "bytes", "given in all"),
        Column("live_bytes", "int64", "bytes", "given to objects alive at the end"),
        Column("peak_bytes", "int64", "bytes", "most of it alive at once"),
        _count("pingpong", "objects freed on another CPU than they were allocated on", "perf kmem stat"),
        _count("slowpath", "allocations and frees that left the fast path"),
        Column("wait_ns", "int64", "ns", "waited for locks"),
    )),
    Table("failures", "allocation that the model could not serve", (
        _T, _CPU,
        Column("event", "name", "", "kmalloc, kmem_cache_alloc, kmem_cache_alloc_bulk or mm_page_alloc"),
        Column("order", "int16", "", "of a page block; -1 for objects"),
        Column("gfp_flags", "name", "", "mask in hexadecimal, bits as in 6.1"),
        Column("reason", "name", "", "order: larger than any block, or zone bits that contradict each other; "
               "no_reclaim: the flags forbid to wait; noretry, costly: one round of reclaim was not enough; "
               "no_progress: nothing to reclaim, and nobody may be killed; oom: a task would be killed; "
               "memory: other"),
        Column("row", "int64", "", "trace row, from 0"),
        Column("bytes_req", "int64", "bytes", "asked for; of page blocks, their size"),
        Column("cache", "name", "", "slab cache; null for pages and large kmallocs"),
    )),
    Table("events", "rare decision of the model", (
        _T, _CPU,
        Column("kind", "name", "", "extfrag: a block was taken from another migratetype; kswapd_wake, kswapd_done, "
               "kswapd_sleep; direct_reclaim; compaction: of one zone; oom: a task would be killed; "
               "hotplug: a CPU went offline or came online"),
        Column("row", "int64", "", "trace row, from 0"),
        _NODE, _ZONE,
        Column("pfn", "int64", "pfn", "first page; -1 where it has no meaning"),
        Column("arguments", "string", "", "the other arguments as name=value", "mm_page_alloc_extfrag"),
    )),
    Table("percpu", "sample", (
        _T,
        _count("chunks", "chunks, the first one included", "/sys/kernel/debug/percpu_stats nr_chunks"),
        Column("populated_pages", "int64", "pages", "pages of one CPU's unit that are there, over all chunks"),
        _count("units", "possible CPUs, each of which has as many"),
        _count("areas", "areas allocated", "/sys/kernel/debug/percpu_stats nr_cur_alloc"),
        Column("empty_pages", "int64", "pages", "populated pages without an area, of one unit",
               "/sys/kernel/debug/percpu_stats empty_pop_pages"),
        Column("bytes_requested", "int64", "bytes", "bytes that were asked for, on all possible CPUs"),
        Column("bytes_allocated", "int64", "bytes", "bytes that the areas take on all possible CPUs",
               "percpu_alloc_percpu bytes_alloc"),
    ), "The per-CPU memory of boot is one chunk more when space is reserved for modules."),
    Table("markers", "marker in the trace", (
        _T,
        Column("row", "int64", "", "trace row, from 0"),
        Column("text", "string", "", "the marker's text"),
    ), "There is a sample at each marker's time."),
)

BY_NAME = {table.name: table for table in TABLES}


def arrow_schema(table: Table) -> Any:
    """The ``pyarrow.Schema`` of a table."""
    import pyarrow as pa

    types = {"int64": pa.int64(), "int32": pa.int32(), "int16": pa.int16(), "string": pa.string(),
             "name": pa.dictionary(pa.int32(), pa.string()), "list<int64>": pa.list_(pa.int64())}
    return pa.schema([pa.field(column.name, types[column.type]) for column in table.columns])


def markdown() -> str:
    """The text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Generated by `python -m memtrace.metrics.schema`; do not edit.",
        "",
        "Tables of a run folder, `DIR/metrics/TABLE.parquet`. Samples are taken at multiples of `--sample`, at "
        "markers and at the end of the trace; a sample at time t sees every decision up to and including t. Counters "
        "count from the start of the replay. Columns of type name are strings of a small vocabulary (arrow "
        "dictionaries).",
    ]
    for table in TABLES:
        lines += ["", f"## {table.name}", "", f"One row per {table.row}. {table.note}".rstrip(), "",
                  "| column | type | unit | meaning | the kernel's |", "|---|---|---|---|---|"]
        lines += [f"| {c.name} | {c.type} | {c.unit} | {c.meaning} | {c.source} |" for c in table.columns]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
