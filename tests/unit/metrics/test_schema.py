"""Names and types of the tables are a promise to other people's scripts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from memtrace.metrics.schema import TABLES, arrow_schema, markdown
from memtrace.mm.stats import (
    CACHE_FIELDS,
    COMMON_STATS,
    PAGEBLOCK_MAP_FIELDS,
    PCP_FIELDS,
    PERCPU_FIELDS,
    SHEAF_STATS,
    SLAB_STATS,
    SLOB_STATS,
    SLUB_STATS,
    ZONE_FIELDS,
)

PINNED = {
    "caches": "t_ns:int64 cache:name object_size:int64 size:int64 objperslab:int64 pagesperslab:int64 "
              "active_objs:int64 num_objs:int64 num_slabs:int64 nr_partial:int64 cpu_slabs:int64 active_slabs:int64 "
              "limit:int64 batchcount:int64 sharedfactor:int64 sharedavail:int64 maxobjs:int64 maxfreeable:int64 "
              "bytes_requested:int64 bytes_allocated:int64",
    "cpu_caches": "t_ns:int64 cpu:int16 cache:name alloc_fastpath:int64 alloc_slowpath:int64 free_fastpath:int64 "
                  "free_slowpath:int64 alloc_slab:int64 free_slab:int64 free_frozen:int64 free_add_partial:int64 "
                  "free_remove_partial:int64 alloc_from_partial:int64 alloc_refill:int64 alloc_node_mismatch:int64 "
                  "cpuslab_flush:int64 deactivate_full:int64 deactivate_empty:int64 deactivate_to_head:int64 "
                  "deactivate_to_tail:int64 deactivate_remote_frees:int64 deactivate_bypass:int64 "
                  "order_fallback:int64 cmpxchg_double_cpu_fail:int64 cmpxchg_double_fail:int64 "
                  "cpu_partial_alloc:int64 cpu_partial_free:int64 cpu_partial_node:int64 cpu_partial_drain:int64 "
                  "alloc_cpu_sheaf:int64 free_cpu_sheaf:int64 free_rcu_sheaf:int64 sheaf_flush:int64 "
                  "sheaf_refill:int64 sheaf_alloc:int64 sheaf_free:int64 barn_get:int64 barn_get_fail:int64 "
                  "barn_put:int64 barn_put_fail:int64 "
                  "allocmiss:int64 freemiss:int64 listallocs:int64 reaped:int64 nodeallocs:int64 remotefrees:int64 "
                  "alienoverflow:int64",
    "buddy": "t_ns:int64 node:int16 zone:name order:int16 migratetype:name nr_free:int64",
    "zones": "t_ns:int64 node:int16 zone:name free_pages:int64 pcp_pages:int64 slab_pages:int64 min:int64 low:int64 "
             "high:int64 present:int64 managed:int64 spanned:int64 start_pfn:int64 boost:int64",
    "fragmentation": "t_ns:int64 node:int16 zone:name order:int16 unusable_index:int64 fragmentation_index:int64",
    "pcp": "t_ns:int64 node:int16 zone:name cpu:int16 count:int64 high:int64 batch:int64 refills:int64 drains:int64 "
           "given_back:int64 hits:int64 misses:int64",
    "pageblock_map": "t_ns:int64 node:int16 zone:name start_pfn:int64 pages:int64 free:int64 pcp:int64 slab:int64 "
                     "movable:int64 unmovable:int64 reclaimable:int64",
    "pageblock_types": "t_ns:int64 node:int16 zone:name migratetype:name nr_blocks:int64",
    "latency": "op:name path:name cpu:int16 cache:name count:int64 sum_ns:int64 min_ns:int64 max_ns:int64 p50_ns:int64 "
               "p90_ns:int64 p99_ns:int64 p999_ns:int64 bucket_ns:list<int64> bucket_count:list<int64>",
    "locks": "lock:name acquisitions:int64 contended:int64 wait_ns:int64 hold_ns:int64 max_wait_ns:int64",
    "callsites": "call_site:name cache:name allocs:int64 frees:int64 bytes_requested:int64 bytes_allocated:int64 "
                 "live_bytes:int64 peak_bytes:int64 pingpong:int64 slowpath:int64 wait_ns:int64",
    "failures": "t_ns:int64 cpu:int16 event:name order:int16 gfp_flags:name reason:name row:int64 bytes_req:int64 "
                "cache:name",
    "events": "t_ns:int64 cpu:int16 kind:name row:int64 node:int16 zone:name pfn:int64 arguments:string",
    "percpu": "t_ns:int64 chunks:int64 populated_pages:int64 units:int64 areas:int64 empty_pages:int64 "
              "bytes_requested:int64 bytes_allocated:int64",
    "markers": "t_ns:int64 row:int64 text:string",
}


def test_names_and_types() -> None:
    assert {table.name: " ".join(f"{c.name}:{c.type}" for c in table.columns) for table in TABLES} == PINNED


def test_the_model_samples_what_the_schema_lists() -> None:
    columns = {table.name: table.names for table in TABLES}
    assert columns["caches"][2:-2] == CACHE_FIELDS
    assert columns["percpu"][1:] == PERCPU_FIELDS
    counters = set(columns["cpu_caches"][3:])
    assert counters == {*SLUB_STATS, *SHEAF_STATS, *SLAB_STATS, *SLOB_STATS}
    assert columns["cpu_caches"][3:9] == COMMON_STATS
    assert set(SLUB_STATS) & set(SLAB_STATS) == set(COMMON_STATS)
    assert set(SLOB_STATS) < set(COMMON_STATS)
    assert columns["zones"][3:] == ZONE_FIELDS
    assert columns["pcp"][3:] == PCP_FIELDS[1:]
    assert columns["pageblock_map"][3:] == PAGEBLOCK_MAP_FIELDS[1:]


def test_arrow_types() -> None:
    schema = {table.name: arrow_schema(table) for table in TABLES}
    assert schema["caches"].field("cache").type == pa.dictionary(pa.int32(), pa.string())
    assert schema["caches"].field("t_ns").type == pa.int64()
    assert schema["latency"].field("bucket_ns").type == pa.list_(pa.int64())


def test_every_column_says_what_it_means() -> None:
    for table in TABLES:
        for column in table.columns:
            assert column.meaning, f"{table.name}.{column.name}"
            assert column.unit or not column.name.endswith(("_ns", "_bytes", "_pages")), f"{table.name}.{column.name}"


def test_the_page_is_up_to_date(root: Path) -> None:
    assert (root / "docs" / "metrics.md").read_text(encoding="utf-8") == markdown(), \
        "run `python -m memtrace.metrics.schema > docs/metrics.md`"
