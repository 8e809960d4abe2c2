"""
A run folder as pandas frames: what the figures, the page and other people's notebooks read.

Nothing here simulates or draws. ``RunFrames`` reads tables as they are asked for; the ``df_*`` functions
turn them into what one figure needs. Times are simulated ns, sizes bytes, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import MetricsError
from ..metrics.run_folder import METRICS, RunFolder
from ..units import PAGE_SIZE

MAP_ROWS = 384
"""Rows of the map of physical memory, at most: more could not be told apart on a page."""

HUGE_ORDER = 9
"""2 MiB on x86: the order that huge pages need and that users ask about."""

MAP_SAMPLES = 480
"""Samples of that map, at most."""

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
        self.folder = RunFolder.open(path)
        self.path = self.folder.path
        self.manifest = self.folder.manifest
        self._tables: dict[str, pd.DataFrame] = {}
        self._times: dict[str, np.ndarray] = {}

    @property
    def config(self) -> dict[str, Any]:
        """The replay's configuration (``ReplayConfig`` as plain data)."""
        return dict(self.manifest.get("config", {}))

    @property
    def machine(self) -> dict[str, Any]:
        """The machine of the replay's configuration (``MachineConfig`` as plain data)."""
        return dict(self.config.get("machine", {}))

    @property
    def allocator(self) -> str:
        """The slab allocator that was modelled."""
        return str(self.config.get("allocator", "slub"))

    @property
    def has_fast_path(self) -> bool:
        """SLOB keeps nothing for a CPU, so there is no hit rate to speak of."""
        return self.allocator != "slob"

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

    def read(self, table: str, columns: Sequence[str] | None = None, t_ns: Sequence[int] | np.ndarray | None = None
             ) -> pa.Table:
        """
        Read a table from disk.

        Parameters
        ----------
        table
            Its name, without ``.parquet``.
        columns
            Those wanted; None means all.
        t_ns
            Only the samples of these times; None means all. Row groups of other times are not read.
        """
        if t_ns is None:
            return self.folder.table(table, columns)
        self.folder.check(table, columns)
        place = self.path / METRICS / f"{table}.parquet"
        try:
            return pq.read_table(place, columns=None if columns is None else list(columns),
                                 filters=[("t_ns", "in", [int(t) for t in t_ns])])
        except (pa.ArrowException, OSError) as error:
            raise MetricsError(f"{place}: not readable as Parquet ({str(error).splitlines()[0]}); expected the file "
                               "that `memtrace replay` wrote. Replay the trace again.") from None

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
        return _to_pandas(self.read(table, t_ns=[t_ns]))

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
    rows = _to_pandas(run.read("caches", ["t_ns", "cache", "num_slabs", "pagesperslab"]))
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
    rows = run.read("buddy", ["t_ns", "order", "nr_free"]).group_by(["t_ns", "order"]).aggregate([("nr_free", "sum")])
    blocks = (rows.to_pandas().astype("int64")
              .pivot_table(index="t_ns", columns="order", values="nr_free_sum", aggfunc="sum", fill_value=0))
    return blocks.mul(2 ** blocks.columns.to_numpy(), axis=1).astype("int64")


def df_percpu(run: RunFrames) -> pd.DataFrame:
    """The percpu allocator over time: table percpu by t_ns, empty when the run has none."""
    if "percpu" not in run.folder.tables:
        return pd.DataFrame()
    return run.table("percpu").set_index("t_ns")


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


@dataclass(frozen=True)
class MemoryMap:
    """
    What physical memory holds, by address and time, on a grid fit for a picture.

    ``t_ns`` are the samples (ascending); ``pages[row, sample, k]`` the pages of ``MAP_CONTENTS[k]`` in a
    row. Rows ascend in address; ``row_pages`` is what each holds. ``runs`` lists the runs of pageblocks
    that the rows were cut from (node, zone, start_pfn, pages, and ``at``: where the run begins, in rows).
    ``left_out_pages`` lie in runs that no sample shows as memory: holes, and what the machine does not manage.
    """

    t_ns: np.ndarray
    pages: np.ndarray
    row_pages: np.ndarray
    runs: pd.DataFrame
    left_out_pages: int


def df_memory_map(run: RunFrames, rows: int = MAP_ROWS, samples: int = MAP_SAMPLES) -> MemoryMap | None:
    """
    The map of physical memory in at most ``rows`` rows and ``samples`` evenly chosen samples.

    None when memory was not sampled. A row is a fixed number of pageblocks (fewer pages where a zone does not
    fill them); pages of a run that falls into several rows are divided among them.
    """
    times = run.sample_times("pageblock_map")
    if not len(times):
        return None
    times = times[np.unique(np.linspace(0, len(times) - 1, min(samples, len(times))).round().astype(np.int64))]
    columns = ["t_ns", "node", "zone", "start_pfn", "pages", *MAP_CONTENTS]
    table = _to_pandas(run.read("pageblock_map", columns, t_ns=times))
    runs = (table.groupby("start_pfn").agg(node=("node", "first"), zone=("zone", "first"), pages=("pages", "max"))
            .reset_index())
    contents = np.zeros((len(runs), len(times), len(MAP_CONTENTS)))
    contents[np.searchsorted(runs["start_pfn"], table["start_pfn"]), np.searchsorted(times, table["t_ns"])] = (
        table[list(MAP_CONTENTS)].to_numpy())
    seen = contents.sum(axis=(1, 2)) > 0
    left_out = int(runs["pages"][~seen].sum())
    runs, contents = runs[seen].reset_index(drop=True), contents[seen]
    if runs.empty:
        return None
    # Runs are laid out in whole pageblocks, and a row is so many of them: then a row seldom cuts a run.
    block = 1 << run.pageblock_order
    blocks = -(-(runs["start_pfn"] % block + runs["pages"]).to_numpy() // block)
    ends = blocks.cumsum()
    per_row = -(-int(ends[-1]) // rows)
    runs["at"] = (ends - blocks) / per_row
    first = np.arange(-(-int(ends[-1]) // per_row))[:, None] * per_row
    overlap = np.minimum(first + per_row, ends) - np.maximum(first, ends - blocks)
    weights = np.maximum(overlap, 0) / blocks
    pages = np.tensordot(weights, contents, axes=1)
    return MemoryMap(times, pages, weights @ runs["pages"].to_numpy(), runs, left_out)


def df_hits(run: RunFrames) -> pd.DataFrame:
    """Allocations at the end of the run by cpu and cache: columns cpu, cache, hits, allocs (counts)."""
    rows = run.last("cpu_caches")
    sheaf = rows.get("alloc_cpu_sheaf", 0)
    return pd.DataFrame({"cpu": rows["cpu"].astype("int64"), "cache": rows["cache"].astype(object),
                         "hits": (rows["alloc_fastpath"] + sheaf).astype("int64"),
                         "allocs": (rows["alloc_fastpath"] + rows["alloc_slowpath"] + sheaf).astype("int64")})


def df_locks(run: RunFrames) -> pd.DataFrame:
    """Locks, longest total wait first; ties by acquisitions, then name."""
    return run.table("locks").sort_values(["wait_ns", "acquisitions", "lock"], ascending=[False, False, True],
                                          ignore_index=True)


NO_SITE = "(no call site)"
NO_CACHE = "(large kmalloc)"
"""What stands in for a missing call site (not recorded, or before the trace) and a missing cache."""


def df_waste(run: RunFrames) -> pd.DataFrame:
    """Call sites × caches, with ``waste_bytes`` = allocated − requested over the whole run, largest first."""
    rows = run.table("callsites").copy()
    rows["call_site"] = rows["call_site"].fillna(NO_SITE)
    rows["cache"] = rows["cache"].fillna(NO_CACHE)
    rows["waste_bytes"] = rows["bytes_allocated"] - rows["bytes_requested"]
    return rows.sort_values(["waste_bytes", "call_site", "cache"], ascending=[False, True, True], ignore_index=True)


def df_caches_at_peak(run: RunFrames) -> pd.DataFrame:
    """
    The rows of ``caches`` at the sample where slab memory was largest, largest first.

    With two more columns: ``slab_bytes``, and ``waste_bytes``, what of it nobody asked for. Objects that the
    trace never mentions have no recorded request, so that active objects are counted as /proc/slabinfo does
    and rounded up as the cache's traced live objects were (or as its size says when there is none).
    """
    rows = _to_pandas(run.read("caches", ["t_ns", "num_slabs", "pagesperslab"]))
    total = (rows["num_slabs"] * rows["pagesperslab"]).groupby(rows["t_ns"]).sum()
    if not len(total):
        return run.table("caches").assign(slab_bytes=0, waste_bytes=0)
    peak = run.sample("caches", int(total.idxmax()))
    peak["slab_bytes"] = peak["num_slabs"] * peak["pagesperslab"] * PAGE_SIZE
    traced = peak["bytes_requested"] / peak["bytes_allocated"].where(peak["bytes_allocated"] > 0)
    fill = traced.fillna(peak["object_size"] / peak["size"].where(peak["size"] > 0)).fillna(1.0)
    asked = (peak["active_objs"] * peak["size"] * fill).round().astype("int64")
    peak["waste_bytes"] = (peak["slab_bytes"] - asked).clip(lower=0)
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
