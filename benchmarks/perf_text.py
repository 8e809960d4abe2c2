"""Write a Parquet trace as the text that ``perf script`` prints, to have text of any size to read."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

_FIELDS = {
    "kmalloc": "call_site={call_site} ptr={ptr} bytes_req={bytes_req} bytes_alloc={bytes_alloc} "
    "gfp_flags={gfp_flags} node={node} accounted=false",
    "kmem_cache_alloc": "call_site={call_site} ptr={ptr} name={name} bytes_req={bytes_req} bytes_alloc={bytes_alloc} "
    "gfp_flags={gfp_flags} node={node} accounted=false",
    "kfree": "call_site={call_site} ptr={ptr}",
    "kmem_cache_free": "call_site={call_site} ptr={ptr} name={name}",
    "mm_page_alloc": "page={pfn} pfn={pfn} order={order} migratetype={migratetype} gfp_flags={gfp_flags}",
    "mm_page_free": "page={pfn} pfn={pfn} order={order}",
    "mm_page_free_batched": "page={pfn} pfn={pfn} order=0",
    "mm_page_alloc_zone_locked": "page={pfn} pfn={pfn} order={order} migratetype={migratetype} percpu_refill=1",
}


def write_perf_text(trace: Path, target: Path) -> None:
    """Write the kmem rows of ``trace``; markers and percpu events, which perf prints otherwise, are left out."""
    with open(target, "w", encoding="ascii") as file:
        for batch in pq.ParquetFile(trace).iter_batches(100_000):
            for row in batch.to_pylist():
                fields = _FIELDS.get(row["event"])
                if fields is None:
                    continue
                seconds, ns = divmod(row["ts_ns"], 10**9)
                row["ptr"] = f"0x{row['ptr']:x}" if row["ptr"] else "(nil)"
                row["pfn"] = f"0x{row['pfn']:x}" if row["pfn"] is not None else ""
                file.write(f"{'task':>16} {row['task'] or 0:>5} [{row['cpu']:03}] {seconds + 100:>5}.{ns:09}: "
                           f"kmem:{row['event']}: {fields.format_map(row)}\n")  # fmt: skip
