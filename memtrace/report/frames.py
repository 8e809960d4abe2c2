"""
A run folder as pandas frames: what the figures, the page and other people's notebooks read.

Nothing here simulates or draws. ``RunFrames`` reads tables as they are asked for; the ``df_*`` functions
turn them into what one figure needs. Times are simulated ns, sizes bytes, unless a name says otherwise.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import MetricsError
from ..units import PAGE_SIZE

MAP_BINS = 256
"""Address bins of the map of physical memory, at most: more could not be told apart on a page."""

MAP_CONTENTS = ("free", "pcp", "slab", "movable", "unmovable", "reclaimable")
"""What a pageblock's pages can be in ``pageblock_map``, as its columns name it."""


class RunFrames:
    """
    One run folder.

    Of manifest.json it reads, and does without what is missing: ``config`` (``ReplayConfig`` as plain data),
    ``trace`` (path, rows, digest), ``start`` (a sentence), ``compiled``, ``command``, ``versions``, ``counts``
    and ``causes`` (number and meaning by cause), ``unused_rows``, ``notes`` (sentences) and ``costs`` (name,
    fixed_ns, per_ns, assumed, source).

    Parameters
    ----------
    path
        The folder that ``memtrace replay`` wrote.

    Raises
    ------
    MetricsError
        When it is not one, or a table of it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._tables: dict[str, pd.DataFrame] = {}
        self._times: dict[str, np.ndarray] = {}
        manifest = self.path / "manifest.json"
        try:
            self.manifest: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        except OSError:
            raise MetricsError(
                f"{self.path}: no readable manifest.json; expected a folder written by `memtrace replay -o DIR`. "
                "Give that folder.") from None
        except ValueError as error:
            raise MetricsError(f"{manifest}: not JSON ({error}); expected the file that `memtrace replay` wrote. "
                               "Replay the trace again.") from None
        if not isinstance(self.manifest, dict):
            raise MetricsError(f"{manifest}: holds a {type(self.manifest).__name__}; expected an object. "
                               "Replay the trace again.")

    @property
    def config(self) -> dict[str, Any]:
        """The replay's configuration (``ReplayConfig`` as plain data)."""
        return dict(self.manifest.get("config", {}))

    @property
    def machine(self) -> dict[str, Any]:
        """The machine of the replay's configuration (``MachineConfig`` as plain data)."""
        return dict(self.config.get("machine", {}))

    @property
    def trace_rows(self) -> int:
        """Rows of the trace; 0 when not recorded."""
        return int(self.manifest.get("trace", {}).get("rows", 0))

    @property
    def unused_rows(self) -> int | None:
        """Rows of the trace that should have become requests and could not; None when not recorded."""
        unused = self.manifest.get("unused_rows")
        return None if unused is None else int(unused)

    @property
    def counts(self) -> dict[str, int]:
        """How often each thing happened that could not be used or had to be inferred."""
        return {str(cause): int(n) for cause, n in self.manifest.get("counts", {}).items()}

    def cause_meaning(self, cause: str) -> str:
        """What a cause in ``counts`` means; empty when the run does not say."""
        return str(self.manifest.get("causes", {}).get(cause, ""))

    @property
    def start_text(self) -> str:
        """Sentence on the state that the replay started from, and what is synthetic about it."""
        return str(self.manifest.get("start", ""))

    @property
    def cpus(self) -> int:
        return int(self.machine.get("cpus", 1))

    @property
    def pageblock_order(self) -> int:
        return int(self.machine.get("pageblock_order", 9))

    @property
    def end_ns(self) -> int:
        """Time of the last sample; 0 when there is none."""
        times = self.sample_times("zones")
        return int(times[-1]) if len(times) else 0

    def lowmem_reserve(self) -> dict[tuple[int, str], list[int]]:
        """Pages of each (node, zone) kept from requests that could go higher; empty where not recorded."""
        return {(int(zone["node"]), str(zone["name"])): list(zone.get("lowmem_reserve") or ())
                for zone in self.machine.get("zones", [])}

    def table_names(self) -> list[str]:
        """Tables that the folder has."""
        return sorted(path.stem for path in (self.path / "metrics").glob("*.parquet"))

    def file(self, table: str) -> pq.ParquetFile:
        """The open Parquet file of a table."""
        path = self.path / "metrics" / f"{table}.parquet"
        try:
            return pq.ParquetFile(path)
        except OSError:
            near = difflib.get_close_matches(table, self.table_names(), 1)
            hint = f'; did you mean "{near[0]}"?' if near else "."
            raise MetricsError(f"{self.path}: no table metrics/{table}.parquet{hint} Replay the trace again, or see "
                               f"`memtrace show {self.path} --list`.") from None
        except pa.ArrowException as error:
            why = str(error).splitlines()[0]
            raise MetricsError(f"{path}: not readable as Parquet ({why}); expected the file that `memtrace replay` wrote. "
                               "Replay the trace again.") from None

    def read(self, table: str, columns: Sequence[str] | None = None, t_ns: int | None = None) -> pa.Table:
        """
        Read a table from disk.

        Parameters
        ----------
        table
            Its name, without ``.parquet``.
        columns
            Those wanted; None means all.
        t_ns
            Only the sample of this time; None means all. Row groups of other times are not read.
        """
        with self.file(table) as file:
            have = file.schema_arrow.names
            for column in columns or ():
                if column not in have:
                    near = difflib.get_close_matches(column, have, 1)
                    hint = f'; did you mean "{near[0]}"?' if near else "."
                    raise MetricsError(f'{self.path}/metrics/{table}.parquet has no column "{column}"{hint} '
                                       f"`memtrace show {self.path} --list` prints all of them.")
            if t_ns is None:
                return file.read(columns=list(columns) if columns else None)
        filters = [("t_ns", "==", t_ns)]
        return pq.read_table(self.path / "metrics" / f"{table}.parquet", filters=filters,
                             columns=list(columns) if columns else None)

    def table(self, table: str) -> pd.DataFrame:
        """A whole table as a frame, read once. Not for ``cpu_caches`` and ``pageblock_map``, which are large."""
        if table not in self._tables:
            self._tables[table] = _to_pandas(self.read(table))
        return self._tables[table]

    def sample_times(self, table: str) -> np.ndarray:
        """Times at which ``table`` was sampled, ns, ascending, int64."""
        if table not in self._times:
            times = pc.unique(self.read(table, ["t_ns"])["t_ns"])
            self._times[table] = np.sort(times.to_numpy(zero_copy_only=False).astype(np.int64))
        return self._times[table]

    def sample(self, table: str, t_ns: int) -> pd.DataFrame:
        """The rows of one sample."""
        return _to_pandas(self.read(table, t_ns=t_ns))

    def last(self, table: str) -> pd.DataFrame:
        """The rows of the last sample; all columns and no rows when nothing was sampled."""
        times = self.sample_times(table)
        return self.sample(table, int(times[-1])) if len(times) else self.table(table)


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """Frame with plain strings: a category's unused members would come up again in every group."""
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(pa.string()))
    return table.to_pandas()


def share(part: float, whole: float) -> float:
    """``part / whole`` in percent, 0 when there is no whole."""
    return 100.0 * part / whole if whole else 0.0


def df_cache_bytes(run: RunFrames, top: int = 10) -> tuple[pd.DataFrame, int]:
    """
    Slab memory by cache over time.

    Returns
    -------
    Bytes, one row a sample (index t_ns), one column a cache: the ``top`` with the highest peaks, largest
    first, then ``other``, the sum of the rest, when there are more; and how many caches ``other`` holds.
    """
    rows = run.table("caches")
    size = (rows["num_slabs"] * rows["pagesperslab"] * PAGE_SIZE).astype("float64")
    # A cache that was destroyed, or not yet created, holds nothing.
    wide = (pd.DataFrame({"t_ns": rows["t_ns"], "cache": rows["cache"], "bytes": size})
            .pivot_table(index="t_ns", columns="cache", values="bytes", aggfunc="sum").fillna(0.0))
    wide = wide.loc[:, wide.max() > 0] if wide.shape[1] else wide
    peaks = wide.max().sort_values(ascending=False, kind="stable")
    first, rest = list(peaks.index[:top]), list(peaks.index[top:])
    out = wide[first].copy()
    if rest:
        out[OTHER_CACHES] = wide[rest].sum(axis=1)
    return out, len(rest)


OTHER_CACHES = "\0other"
"""Column of ``df_cache_bytes`` for the rest: a name that no kernel's cache can have."""


def df_free_pages(run: RunFrames) -> pd.DataFrame:
    """Free pages by order over time, whole machine: index t_ns, columns order."""
    rows = run.table("buddy")
    pages = rows["nr_free"] * (2 ** rows["order"].astype("int64"))
    return (pd.DataFrame({"t_ns": rows["t_ns"], "order": rows["order"].astype("int64"), "pages": pages})
            .pivot_table(index="t_ns", columns="order", values="pages", aggfunc="sum", fill_value=0))


def df_unusable(run: RunFrames) -> pd.DataFrame:
    """
    Unusable free index of the whole machine by order over time: index t_ns, columns order, values 0..1.

    The share of free memory that lies in blocks too small for a request of that order; computed from the
    free blocks of all zones together (MODEL 4.1), 1 when nothing is free.
    """
    pages = df_free_pages(run)
    total = pages.sum(axis=1)
    usable = pages.iloc[:, ::-1].cumsum(axis=1).iloc[:, ::-1]
    index = 1.0 - usable.div(total.where(total > 0), axis=0)
    return index.fillna(1.0)


def df_memory_map(run: RunFrames) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    What physical memory holds, by address and time.

    Returns
    -------
    Long frame with columns t_ns, bin and one column of pages for each of ``MAP_CONTENTS``; and the bins:
    index bin, columns node, zone, start_pfn, end_pfn. A bin is a run of neighbouring pageblocks of one zone.
    """
    zones = _map_zones(run)
    table = run.read("pageblock_map", ["t_ns", "start_pfn", *MAP_CONTENTS])
    starts = table["start_pfn"].to_numpy().astype(np.int64)
    edges = zones["start_pfn"].to_numpy()
    which = np.searchsorted(edges, starts, side="right") - 1
    table = table.append_column("bin", pa.array(which, pa.int32()))
    sums = table.group_by(["t_ns", "bin"]).aggregate([(name, "sum") for name in MAP_CONTENTS]).to_pandas()
    sums.columns = [str(name).removesuffix("_sum") for name in sums.columns]
    return sums.sort_values(["t_ns", "bin"], ignore_index=True), zones


def _map_zones(run: RunFrames) -> pd.DataFrame:
    """Bins of ``df_memory_map``: neighbouring pageblocks of one zone, so many that there are about ``MAP_BINS``."""
    times = run.sample_times("pageblock_map")
    blocks = (run.sample("pageblock_map", int(times[0])) if len(times) else run.table("pageblock_map"))
    blocks = blocks.sort_values("start_pfn", ignore_index=True)
    per_bin = max(1, -(-len(blocks) // MAP_BINS))
    zone_id = blocks.groupby(["node", "zone"], sort=False).ngroup().to_numpy()
    within = np.zeros(len(blocks), np.int64)
    new_bin = np.zeros(len(blocks), bool)
    for i in range(len(blocks)):
        fresh = i == 0 or zone_id[i] != zone_id[i - 1] or within[i - 1] + 1 == per_bin
        within[i] = 0 if fresh else within[i - 1] + 1
        new_bin[i] = fresh
    blocks["bin"] = np.cumsum(new_bin) - 1
    out = blocks.groupby("bin").agg(node=("node", "first"), zone=("zone", "first"), start_pfn=("start_pfn", "first"),
                                    pages=("pages", "sum"), last=("start_pfn", "last"))
    out["end_pfn"] = out["last"] + (1 << run.pageblock_order)
    return out.drop(columns="last")


def df_hits(run: RunFrames) -> pd.DataFrame:
    """Allocations at the end of the run by cpu and cache: columns cpu, cache, hits, allocs (counts)."""
    rows = run.last("cpu_caches")
    return pd.DataFrame({"cpu": rows["cpu"].astype("int64"), "cache": rows["cache"].astype(object),
                         "hits": rows["alloc_fastpath"].astype("int64"),
                         "allocs": (rows["alloc_fastpath"] + rows["alloc_slowpath"]).astype("int64")})


def df_locks(run: RunFrames) -> pd.DataFrame:
    """Locks, longest total wait first; ties by acquisitions, then name."""
    return run.table("locks").sort_values(["wait_ns", "acquisitions", "lock"], ascending=[False, False, True],
                                          ignore_index=True)


def df_waste(run: RunFrames) -> pd.DataFrame:
    """Call sites × caches, with ``waste_bytes`` = allocated − requested over the whole run, largest first."""
    rows = run.table("callsites").copy()
    rows["waste_bytes"] = rows["bytes_allocated"] - rows["bytes_requested"]
    return rows.sort_values(["waste_bytes", "call_site", "cache"], ascending=[False, True, True], ignore_index=True)


def df_caches_at_peak(run: RunFrames) -> pd.DataFrame:
    """The rows of ``caches`` at the sample where slab memory was largest, with ``slab_bytes``, largest first."""
    rows = run.table("caches")
    size = rows["num_slabs"] * rows["pagesperslab"] * PAGE_SIZE
    total = size.groupby(rows["t_ns"]).sum()
    if not len(total):
        return rows.assign(slab_bytes=size)
    peak = rows[rows["t_ns"] == total.idxmax()].assign(slab_bytes=size)
    return peak.sort_values(["slab_bytes", "cache"], ascending=[False, True], ignore_index=True)


def df_latency(run: RunFrames) -> pd.DataFrame:
    """
    Operation times by path, all CPUs and caches together.

    Returns
    -------
    One row an (op, path) that occurred, in the order of the table: op, path, count, sum_ns, min_ns, max_ns,
    p50_ns, p90_ns, p99_ns, p999_ns.
    """
    rows = run.table("latency")
    out = []
    for (op, path), part in rows.groupby(["op", "path"], sort=False):
        out.append({"op": op, "path": path, "count": int(part["count"].sum()), "sum_ns": int(part["sum_ns"].sum()),
                    "min_ns": int(part["min_ns"].min()), "max_ns": int(part["max_ns"].max()), **percentiles(part)})
    columns = ["op", "path", "count", "sum_ns", "min_ns", "max_ns", *PERCENTILES]
    return pd.DataFrame(out, columns=columns)


PERCENTILES = {"p50_ns": 500, "p90_ns": 900, "p99_ns": 990, "p999_ns": 999}
"""Column, and rank in thousandths."""


def percentiles(rows: pd.DataFrame) -> dict[str, int]:
    """
    Percentiles in ns of several rows of ``latency`` taken together, from their histograms.

    A bucket's values are taken to lie in its middle (8 buckets to an octave, so at most 6.25 % off), within
    the smallest and largest time seen; 0 when the rows hold no operation.
    """
    bounds = np.concatenate([np.zeros(0, np.int64), *(np.asarray(b, np.int64) for b in rows["bucket_ns"])])
    counts = np.concatenate([np.zeros(0, np.int64), *(np.asarray(c, np.int64) for c in rows["bucket_count"])])
    if not counts.sum():
        return dict.fromkeys(PERCENTILES, 0)
    order = np.argsort(bounds, kind="stable")
    bounds, upto = bounds[order], counts[order].cumsum()
    # Exact below 16; above, a bucket is an eighth of its octave wide.
    width = np.maximum(1, 2 ** (np.floor(np.log2(np.maximum(bounds, 1))).astype(np.int64)) // 8)
    middle = np.clip(bounds + (width - 1) // 2, int(rows["min_ns"].min()), int(rows["max_ns"].max()))
    ranks = {name: int(np.searchsorted(upto, -(-int(upto[-1]) * rank // 1000))) for name, rank in PERCENTILES.items()}
    return {name: int(middle[at]) for name, at in ranks.items()}
