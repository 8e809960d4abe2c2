"""
Run folders made up for the report's tests: the tables of a replay without a replay.

``write_run(folder, NORMAL | TINY | EMPTY | HOSTILE)``. Numbers are seeded and consistent enough to be drawn
(counts add up, histograms match their sums), and mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from memtrace.metrics.manifest import manifest as make_manifest
from memtrace.metrics.manifest import to_text
from memtrace.metrics.schema import TABLES, arrow_schema

ORDERS = 11
MIGRATETYPES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "Isolate")
EVIL = "<script>alert(1)</script>"
HOSTILE_NAMES = (
    EVIL,
    "",
    "x" * 5000,
    "кэш-缓存-🐧",
    "\u202eevil\u202c",
    "شبكة",
    "a\x00b\x1b[31mc\nd",
    '$x^2$ & "q" \'',
    "--><!--",
    "</title></svg>",
    "\u200b",
    " ",
)
PATHS = (
    ("alloc", "fastpath", 6),
    ("alloc", "refill", 18),
    ("alloc", "cpu_partial", 20),
    ("alloc", "node_partial", 40),
    ("alloc", "new_slab", 400),
    ("free", "fastpath", 6),
    ("free", "slowpath", 41),
    ("free", "discard", 150),
    ("page_alloc", "pcp", 70),
    ("page_alloc", "pcp_refill", 600),
    ("page_alloc", "buddy", 900),
    ("page_free", "pcp", 70),
    ("page_free", "pcp_drain", 480),
)


@dataclass(frozen=True)
class Shape:
    """How large a made-up run is; ``zones`` are (node, name, start_pfn, pages)."""

    name: str
    cpus: int
    caches: tuple[str, ...]
    sites: tuple[str, ...]
    samples: int
    span_ns: int
    zones: tuple[tuple[int, str, int, int], ...]
    contended: bool = True
    operations: bool = True


_KMALLOC = tuple(f"kmalloc-{size}" for size in (8, 16, 32, 64, 96, 128, 192, 256, 512, "1k", "2k", "4k", "8k"))
_NAMED = (
    "dentry",
    "inode_cache",
    "ext4_inode_cache",
    "vm_area_struct",
    "maple_node",
    "filp",
    "task_struct",
    "skbuff_head_cache",
    "radix_tree_node",
    "buffer_head",
    "anon_vma",
    "signal_cache",
    "pid",
    "mm_struct",
    "jbd2_revoke_record_s",
)
_SITES = tuple(
    f"{name}+0x{17 * i:x}/0x{29 * i + 40:x}"
    for i, name in enumerate(
        (
            "alloc_inode",
            "__d_alloc",
            "load_elf_binary",
            "seq_open",
            "alloc_pipe_info",
            "sk_prot_alloc",
            "__alloc_skb",
            "single_open",
            "ext4_htree_store_dirent",
            "kernfs_fop_open",
            "security_inode_alloc",
            "copy_process",
            "a_function_with_a_remarkably_long_name_in_some_driver_module",
            "tty_buffer_alloc",
        ),
        1,
    )
)
_ONE_NODE = ((0, "DMA", 1, 3998), (0, "DMA32", 4096, 126937))

NORMAL = Shape("normal", 4, _KMALLOC + _NAMED, _SITES, 200, 28_200_000_000, _ONE_NODE)
TINY = Shape("tiny", 1, ("kmalloc-64",), ("f+0x1/0x2",), 5, 900, ((0, "DMA", 1, 3998),), contended=False)
EMPTY = Shape("empty", 1, (), (), 1, 0, ((0, "DMA", 1, 3998),), contended=False, operations=False)
HOSTILE = Shape(
    "hostile",
    64,
    HOSTILE_NAMES + tuple(f"cache_{i:03d}_{'long' * (i % 9)}" for i in range(288)),
    HOSTILE_NAMES + tuple(f"site_{i}+0x{i:x}/0x400" for i in range(400)),
    60,
    3_600_000_000_000,
    (
        (0, "DMA", 1, 3998),
        (0, "DMA32", 4096, 520_192),
        (0, "Normal", 1 << 20, 1 << 20),
        (1, "Normal", 2 << 20, 1 << 20),
        (2, "Normal", 3 << 20, 3 << 20),
        (3, "Normal", 6 << 20, 1 << 20),
    ),
)


def write_run(folder: Path, shape: Shape) -> Path:
    """Write a run folder of ``shape``, and return it."""
    rng = np.random.default_rng(1)
    times = np.unique(
        np.linspace(shape.span_ns // max(shape.samples, 1), shape.span_ns, shape.samples).astype(np.int64)
    )
    (folder / "metrics").mkdir(parents=True)
    tables = {
        "caches": _caches(rng, shape, times),
        "cpu_caches": _cpu_caches(rng, shape, times),
        **_zones(rng, shape, times),
        "latency": _latency(rng, shape),
        "locks": _locks(rng, shape),
        "callsites": _callsites(rng, shape),
        "markers": pd.DataFrame({"t_ns": times[:1], "row": [1], "text": [EVIL]}),
    }
    for table in TABLES:
        schema = arrow_schema(table)
        frame = tables.get(table.name, pd.DataFrame())
        columns = {
            field.name: pa.array(
                frame[field.name].tolist() if field.name in frame else [0] * len(frame),
                pa.string() if pa.types.is_dictionary(field.type) else field.type,
            )
            for field in schema
        }
        path = folder / "metrics" / f"{table.name}.parquet"
        pq.write_table(pa.table(columns).cast(schema), path, compression="zstd", row_group_size=64_000)
    (folder / "manifest.json").write_text(to_text(manifest(shape)), encoding="utf-8")
    return folder


def manifest(shape: Shape) -> dict:
    """What a replay says of itself."""
    costs = {
        "slub_fast": False,
        "slub_refill": True,
        "slub_cpu_partial": True,
        "slub_node_section": False,
        "slub_free_slow": False,
        "slub_cold_line": False,
        "slub_new_slab": True,
        "kfree_null": True,
        "pcp_hit": True,
        "pcp_refill": True,
        "pcp_drain": True,
        "buddy_alloc": True,
        "buddy_free": True,
        "zero_page": False,
        "zone_check": True,
        "fallback": True,
        "large_kmalloc": True,
    }
    zones = [
        {"node": node, "name": name, "index": i, "start_pfn": start, "spanned": pages, "present": pages,
         "managed": pages, "lowmem_reserve": [0, 448, 448, 448]}
        for i, (node, name, start, pages) in enumerate(shape.zones)
    ]
    machine = {"name": "qemu-512m", "cpus": shape.cpus, "node_cpus": [list(range(shape.cpus))], "pageblock_order": 9,
               "source": "snapshot", "bits": 64, "zones": zones}
    return make_manifest(
        config={"machine": machine, "kernel": {"name": "6.1"}, "allocator": "slub", "timing": "recorded",
                "engine": "fused", "sample_ns": 10_000_000, "check_every": 0, "seed": 0},
        command=["memtrace", "replay", f"{EVIL}.parquet", "-o", "X"],
        versions={"memtrace": "0.1.0", "python": "3.11.2"},
        compiled=True,
        trace={"path": f"{EVIL}.parquet", "digest": "9f" * 32, "rows": 1_575_541, "span_ns": shape.span_ns},
        start="The snapshot's counts are exact; where free blocks lie in memory is synthetic.",
        counts={"free_of_unknown": 1234, "kfree_null": 17, "double_free": 0, EVIL: 3},
        causes={"free_of_unknown": "frees of objects that pre-date the trace", "kfree_null": "of NULL", EVIL: EVIL},
        unused_rows=3,
        notes=["kfree_rcu and bulk frees leave no event, so some objects seem to live for ever.", EVIL],
        costs=[{"name": name, "fixed_ns": 5.5, "per_ns": 0, "assumed": assumed, "source": f"a paper {EVIL}"}
               for name, assumed in costs.items()],
        operations=1_400_000,
        rows={},
        timings={"replay_s": 0.51, "total_s": 2.2},
    )


def _caches(rng: np.random.Generator, shape: Shape, times: np.ndarray) -> pd.DataFrame:
    frames = []
    for i, name in enumerate(shape.caches):
        size = 8 << (i % 11)
        pages = 1 << min(3, max(0, i % 11 - 6))
        objs = pages * 4096 // size
        slabs = np.maximum(1, np.cumsum(rng.integers(-3, 5, len(times))) + int(900 / (1 + i)))
        live = (slabs * objs * rng.uniform(0.6, 1.0, len(times))).astype(np.int64)
        frames.append(
            pd.DataFrame(
                {
                    "t_ns": times,
                    "cache": name,
                    "object_size": max(8, size - 3),
                    "size": size,
                    "objperslab": objs,
                    "pagesperslab": pages,
                    "active_objs": live,
                    "num_objs": slabs * objs,
                    "num_slabs": slabs,
                    "nr_partial": slabs // 7,
                    "cpu_slabs": shape.cpus,
                    "bytes_requested": live * max(8, size - 3),
                    "bytes_allocated": live * size,
                }
            )
        )
    names = [
        "t_ns",
        "cache",
        "object_size",
        "size",
        "objperslab",
        "pagesperslab",
        "active_objs",
        "num_objs",
        "num_slabs",
        "nr_partial",
        "cpu_slabs",
        "bytes_requested",
        "bytes_allocated",
    ]
    if not frames:
        return _no_rows(names, {"cache"})
    return pd.concat(frames).sort_values("t_ns", kind="stable", ignore_index=True)[names]


def _cpu_caches(rng: np.random.Generator, shape: Shape, times: np.ndarray) -> pd.DataFrame:
    names = ["t_ns", "cpu", "cache", "alloc_fastpath", "alloc_slowpath", "free_fastpath", "free_slowpath", "alloc_slab"]
    if not shape.caches:
        return _no_rows(names, {"cache"})
    n = len(shape.caches) * shape.cpus
    rank = np.repeat(np.arange(len(shape.caches)), shape.cpus)
    frames = []
    for t in times[-2:]:
        allocs = (2e6 / (1 + rank) ** 1.6 * rng.uniform(0, 1, n) * (rng.uniform(0, 1, n) > 0.1)).astype(np.int64)
        fast = (allocs * rng.beta(8, 1.2, n)).astype(np.int64)
        frames.append(
            pd.DataFrame(
                {
                    "t_ns": t,
                    "cpu": np.tile(np.arange(shape.cpus), len(shape.caches)),
                    "cache": np.repeat(np.array(shape.caches, object), shape.cpus),
                    "alloc_fastpath": fast,
                    "alloc_slowpath": allocs - fast,
                    "free_fastpath": fast // 2,
                    "free_slowpath": allocs // 3,
                    "alloc_slab": allocs // 40,
                }
            )
        )
    rows = pd.concat(frames, ignore_index=True)
    return rows[(rows["alloc_fastpath"] + rows["alloc_slowpath"]) > 0].reset_index(drop=True)


def _zones(rng: np.random.Generator, shape: Shape, times: np.ndarray) -> dict[str, pd.DataFrame]:
    buddy, zones, fragmentation, pcp, blocks, types = [], [], [], [], [], []
    for t_at, t in enumerate(times):
        for node, zone, start, pages in shape.zones:
            left = int(pages * (0.9 - 0.6 * t_at / len(times)))
            free = np.zeros((ORDERS, len(MIGRATETYPES)), np.int64)
            for order in range(ORDERS - 1, -1, -1):
                n = int((left >> order) * (rng.uniform(0.4, 0.9) if order else 1.0))
                free[order, :3] = rng.multinomial(n, (0.2, 0.7, 0.1))
                left -= n << order
            buddy += [
                (t, node, zone, order, name, int(free[order, m]))
                for m, name in enumerate(MIGRATETYPES)
                for order in range(ORDERS)
            ]
            by_order = free.sum(axis=1)
            total = int((by_order << np.arange(ORDERS)).sum())
            zones.append((t, node, zone, total, 120, 900, 22, 27, 32, pages, pages - 100, pages + 97, start, 0))
            for order in range(ORDERS):
                usable = int((by_order[order:] << np.arange(order, ORDERS)).sum())
                fragmentation.append((t, node, zone, order, (total - usable) * 1000 // total if total else 1000, -1000))
            pcp += [(t, node, zone, cpu, 7 * cpu % 50, 10, 3, 0, 500, 20, 208, 31) for cpu in range(shape.cpus)]
            types += [(t, node, zone, name, n) for name, n in zip(MIGRATETYPES, (46, 74, 4, 0, 0), strict=True)]
            first = np.arange(start & ~511, start + pages, 512)
            size = np.minimum(first + 512, start + pages) - np.maximum(first, start)
            used = np.minimum(
                size, (size * rng.beta(0.3, 0.3 + 2 * (1 - t_at / len(times)), len(size))).astype(np.int64)
            )
            kind = (first // 512 * 7919 % 23) // 6
            blocks.append(
                pd.DataFrame(
                    {
                        "t_ns": t,
                        "node": node,
                        "zone": zone,
                        "start_pfn": first,
                        "pages": size,
                        "free": size - used,
                        "pcp": 0,
                        "slab": np.where(kind == 0, used, 0),
                        "movable": np.where(kind == 1, used, 0),
                        "unmovable": np.where(kind == 2, used, 0),
                        "reclaimable": np.where(kind == 3, used, 0),
                    }
                )
            )
    zone_columns = [
        "t_ns",
        "node",
        "zone",
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
    ]
    return {
        "buddy": pd.DataFrame(buddy, columns=["t_ns", "node", "zone", "order", "migratetype", "nr_free"]),
        "zones": pd.DataFrame(zones, columns=zone_columns),
        "fragmentation": pd.DataFrame(
            fragmentation, columns=["t_ns", "node", "zone", "order", "unusable_index", "fragmentation_index"]
        ),
        "pcp": pd.DataFrame(
            pcp,
            columns=["t_ns", "node", "zone", "cpu", "count", "refills", "drains", "given_back", "hits", "misses",
                     "high", "batch"],
        ),
        "percpu": pd.DataFrame([
            (t_ns, 1 + k % 2, 8 + k, 4, 100 + k, 4, 20_000 + 100 * k, 24_000 + 100 * k)
            for k, t_ns in enumerate(sorted({row[0] for row in zones}))
        ], columns=["t_ns", "chunks", "populated_pages", "units", "areas", "empty_pages", "bytes_requested",
                    "bytes_allocated"]),
        "pageblock_types": pd.DataFrame(types, columns=["t_ns", "node", "zone", "migratetype", "nr_blocks"]),
        "pageblock_map": pd.concat(blocks, ignore_index=True),
    }


def _latency(rng: np.random.Generator, shape: Shape) -> pd.DataFrame:
    out = []
    for op, path, base in PATHS if shape.operations else ():
        for cpu in range(min(shape.cpus, 4)):
            values = np.maximum(1, (base * rng.lognormal(0.0, 0.25, 300)).astype(np.int64))
            octave = np.maximum(np.floor(np.log2(values)).astype(np.int64) - 3, 0)
            bounds, counts = np.unique((values >> octave) << octave, return_counts=True)
            p = np.percentile(values, [50, 90, 99, 99.9]).astype(np.int64)
            out.append(
                (
                    op,
                    path,
                    cpu,
                    shape.caches[0],
                    len(values),
                    values.sum(),
                    values.min(),
                    values.max(),
                    *p,
                    bounds.tolist(),
                    counts.tolist(),
                )
            )
    names = [
        "op",
        "path",
        "cpu",
        "cache",
        "count",
        "sum_ns",
        "min_ns",
        "max_ns",
        "p50_ns",
        "p90_ns",
        "p99_ns",
        "p999_ns",
        "bucket_ns",
        "bucket_count",
    ]
    return pd.DataFrame(out, columns=names) if out else _no_rows(names, {"op", "path", "cache"})


def _locks(rng: np.random.Generator, shape: Shape) -> pd.DataFrame:
    names = ["lock", "acquisitions", "contended", "wait_ns", "hold_ns", "max_wait_ns"]
    out = []
    for i, name in enumerate([f"list_lock {cache}" for cache in shape.caches] if shape.operations else ()):
        taken = int(5e5 / (i + 1))
        waits = taken // 50 if shape.contended else 0
        out.append((name, taken, waits, waits * int(rng.integers(20, 90)), taken * 30, 900 if waits else 0))
    return pd.DataFrame(out, columns=names) if out else _no_rows(names, {"lock"})


def _callsites(rng: np.random.Generator, shape: Shape) -> pd.DataFrame:
    names = [
        "call_site",
        "cache",
        "allocs",
        "frees",
        "bytes_requested",
        "bytes_allocated",
        "live_bytes",
        "peak_bytes",
        "pingpong",
        "slowpath",
        "wait_ns",
    ]
    out = []
    for i, site in enumerate(shape.sites):
        allocs = int(3e5 / (1 + i))
        size = 8 << (i % 9)
        out.append(
            (
                site,
                shape.caches[i % len(shape.caches)],
                allocs,
                allocs - 5,
                int(allocs * size * rng.uniform(0.5, 1)),
                allocs * size,
                5 * size,
                90 * size,
                allocs // 9,
                allocs // 20,
                0,
            )
        )
    return pd.DataFrame(out, columns=names) if out else _no_rows(names, {"call_site", "cache"})


def _no_rows(names: list[str], text: set[str]) -> pd.DataFrame:
    lists = {"bucket_ns", "bucket_count"}
    return pd.DataFrame(
        {name: pd.Series([], dtype="str" if name in text else object if name in lists else "int64") for name in names}
    )
