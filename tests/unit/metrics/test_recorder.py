"""Samples become rows: the right ones, once, whatever the size of the buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from memtrace.metrics import recorder as recorder_module
from memtrace.metrics.fragmentation import indexes
from memtrace.metrics.recorder import Recorder
from memtrace.metrics.schema import TABLES, arrow_schema
from memtrace.metrics.tables import TableWriters
from memtrace.mm.stats import (
    CACHE_FIELDS,
    MIGRATETYPES,
    PAGEBLOCK_MAP_FIELDS,
    PCP_FIELDS,
    PERCPU_FIELDS,
    SLUB_STATS,
    ZONE_FIELDS,
)
from memtrace.trace.requests import RQ_KMALLOC, RQ_PAGE_ALLOC

CACHES = ["kmalloc-8", "dentry", "<b>µ"]


class Machine:
    """Two zones, two CPUs, three caches, whose counters are random; the same ones for the same seed."""

    nr_cpus = 2
    nr_zones = 2
    nr_caches = 3
    cache_names = CACHES
    stat_names = SLUB_STATS

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.failures: list[tuple[int, ...]] = []
        self.events: list[Any] = []
        self.sampled: list[np.ndarray] = []

    def zone_node(self, zone: int) -> int:
        return zone

    def zone_name(self, zone: int) -> str:
        return "Normal"

    def lock_name(self, lock: int) -> str:
        return f"lock {lock}"

    def fill(self, buf: np.ndarray, rows: int, width: int, *first: np.ndarray) -> int:
        table = buf[: rows * width].reshape(rows, width)
        table[:] = self.rng.integers(0, 1000, (rows, width))
        for i, column in enumerate(first):
            table[:, i] = column
        self.sampled.append(table.copy())
        return rows

    def caches(self, buf: np.ndarray) -> int:
        return self.fill(buf, 3, len(CACHE_FIELDS))

    stat_names = SLUB_STATS

    def cpu_caches(self, buf: np.ndarray) -> int:
        return self.fill(buf, 2, 2 + len(SLUB_STATS), np.array([0, 1]), np.array([2, 0]))

    def buddy(self, buf: np.ndarray) -> int:
        zone, order, mt = (axis.ravel() for axis in np.meshgrid(range(2), range(11), range(5), indexing="ij"))
        return self.fill(buf, 110, 4, zone, order, mt)

    def zones(self, buf: np.ndarray) -> int:
        return self.fill(buf, 2, len(ZONE_FIELDS))

    def pcp(self, buf: np.ndarray) -> int:
        return self.fill(buf, 4, len(PCP_FIELDS), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))

    def pageblock_map(self, buf: np.ndarray, bins: int) -> int:
        return self.fill(buf, 5, len(PAGEBLOCK_MAP_FIELDS), np.array([0, 0, 0, 1, 1]))

    def pageblock_types(self, buf: np.ndarray) -> int:
        return self.fill(buf, 10, 3, np.repeat([0, 1], 5), np.tile(range(5), 2))

    def percpu(self, buf: np.ndarray) -> int:
        return self.fill(buf, 1, len(PERCPU_FIELDS))

    def live_bytes(self, nr_caches: int) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(nr_caches) * 10, np.arange(nr_caches) * 12

    def take_failures(self) -> list[tuple[int, ...]]:
        taken, self.failures = self.failures, []
        return taken

    def take_events(self) -> list[Any]:
        taken, self.events = self.events, []
        return taken


def latency(path: list[int], cache: list[int]) -> dict[str, Any]:
    """The columns of a latency table with these rows."""
    n = len(path)
    names = ("cpu", "count", "sum_ns", "min_ns", "max_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns")
    numbers = {name: np.arange(n) for name in names}
    return {"path": np.array(path, np.int64), "cache": np.array(cache, np.int64), **numbers,
            "bucket_ns": [np.arange(i) for i in range(n)], "bucket_count": [np.arange(i) for i in range(n)]}


def locks(lock: list[int]) -> dict[str, Any]:
    return {name: np.array(lock, np.int64) for name in ("lock", "acquisitions", "contended", "wait_ns", "hold_ns",
                                                        "max_wait_ns")}


def callsites(site: list[int], cache: list[int]) -> dict[str, Any]:
    sums = ("allocs", "frees", "bytes_requested", "bytes_allocated", "live_bytes", "peak_bytes", "pingpong", "slowpath",
            "wait_ns")
    return {"call_site": np.array(site, np.int64), "cache": np.array(cache, np.int64),
            **{name: np.arange(len(site)) for name in sums}}


def record(folder: Path, times: list[int], machine: Machine, map_ns: int = 0) -> None:
    folder.mkdir()
    with TableWriters(folder) as writers:
        recorder = Recorder(writers, machine, machine, machine, ["begin", "end"], ["f+0x1", "g+0x2"], map_ns)
        for t in times:
            recorder.sample(t)
        recorder.marker(3, 14, 1)
        recorder.finish(latency([0, 0, 15], [0, 2, -1]), locks([4, 7]), callsites([1, -1], [1, -1]))


def read(folder: Path, table: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{table}.parquet").to_pylist()


def test_every_table_has_its_schema(tmp_path: Path) -> None:
    record(tmp_path / "run", [0, 10], Machine(1))
    for table in TABLES:
        assert pq.read_schema(tmp_path / "run" / f"{table.name}.parquet").equals(arrow_schema(table)), table.name


def test_rows_are_what_was_sampled(tmp_path: Path) -> None:
    machine = Machine(2)
    record(tmp_path / "run", [0, 10, 10, 25], machine)
    caches = read(tmp_path / "run", "caches")
    assert [(row["t_ns"], row["cache"]) for row in caches] == [(t, name) for t in (0, 10, 25) for name in CACHES]
    assert [row["bytes_requested"] for row in caches] == [0, 10, 20] * 3
    assert [row["bytes_allocated"] for row in caches] == [0, 12, 24] * 3
    drawn = np.concatenate([table for table in machine.sampled if table.shape == (3, len(CACHE_FIELDS))])
    assert [tuple(row[name] for name in CACHE_FIELDS) for row in caches] == [tuple(row) for row in drawn.tolist()]
    pcp = read(tmp_path / "run", "pcp")
    assert [(row["node"], row["zone"], row["cpu"]) for row in pcp[:4]] == [
        (0, "Normal", 0), (0, "Normal", 1), (1, "Normal", 0), (1, "Normal", 1)]
    types = read(tmp_path / "run", "pageblock_types")
    assert [row["migratetype"] for row in types[:5]] == list(MIGRATETYPES)


def test_fragmentation_follows_from_buddy(tmp_path: Path) -> None:
    record(tmp_path / "run", [0, 7], Machine(3))
    buddy = pq.read_table(tmp_path / "run" / "buddy.parquet").column("nr_free").to_numpy().reshape(2, 2, 11, 5)
    rows = read(tmp_path / "run", "fragmentation")
    unusable, fragmentation = indexes(buddy.sum(axis=3))
    assert [row["unusable_index"] for row in rows] == unusable.ravel().tolist()
    assert [row["fragmentation_index"] for row in rows] == fragmentation.ravel().tolist()
    assert [(row["t_ns"], row["node"], row["order"]) for row in rows] == [
        (t, node, order) for t in (0, 7) for node in (0, 1) for order in range(11)]


def test_the_map_is_taken_less_often_and_at_the_end(tmp_path: Path) -> None:
    record(tmp_path / "run", [0, 10, 20, 30, 40, 50], Machine(4), map_ns=20)
    times = [row["t_ns"] for row in read(tmp_path / "run", "pageblock_map")]
    assert times == [t for t in (0, 20, 40, 50) for _ in range(5)]


def test_names_and_what_has_none(tmp_path: Path) -> None:
    record(tmp_path / "run", [0], Machine(5))
    assert [(row["op"], row["path"], row["cache"]) for row in read(tmp_path / "run", "latency")] == [
        ("alloc", "fastpath", "kmalloc-8"), ("alloc", "fastpath", "<b>µ"), ("page_alloc", "pcp", None)]
    assert [row["bucket_ns"] for row in read(tmp_path / "run", "latency")] == [[], [0], [0, 1]]
    assert [row["lock"] for row in read(tmp_path / "run", "locks")] == ["lock 4", "lock 7"]
    assert [(row["call_site"], row["cache"]) for row in read(tmp_path / "run", "callsites")] == [
        ("g+0x2", "dentry"), (None, None)]
    assert read(tmp_path / "run", "markers") == [{"t_ns": 3, "row": 14, "text": "end"}]


def test_failures_and_events(tmp_path: Path) -> None:
    machine = Machine(6)
    machine.failures = [(5, 1, 1, RQ_KMALLOC, -1, 0xCC0, 100, 1, 6), (6, 2, 0, RQ_PAGE_ALLOC, 3, 0x800, 3, -1, 2),
                        (7, 3, 0, RQ_PAGE_ALLOC, 12, 0x800, 12, -1, 1)]
    machine.events = [(8, 4, 1, "extfrag", {"zone": 1, "pfn": 512, "alloc_order": 0, "fallback_order": 9}),
                      (9, 5, 0, "other", {})]
    record(tmp_path / "run", [10], machine)
    assert read(tmp_path / "run", "failures") == [
        {"t_ns": 5, "cpu": 1, "event": "kmalloc", "order": -1, "gfp_flags": "0xcc0", "reason": "oom", "row": 1,
         "bytes_req": 100, "cache": "dentry"},
        {"t_ns": 6, "cpu": 0, "event": "mm_page_alloc", "order": 3, "gfp_flags": "0x800", "reason": "no_reclaim",
         "row": 2, "bytes_req": 32768, "cache": None},
        {"t_ns": 7, "cpu": 0, "event": "mm_page_alloc", "order": 12, "gfp_flags": "0x800", "reason": "order", "row": 3,
         "bytes_req": 4096 << 12, "cache": None}]
    assert read(tmp_path / "run", "events") == [
        {"t_ns": 8, "cpu": 1, "kind": "extfrag", "row": 4, "node": 1, "zone": "Normal", "pfn": 512,
         "arguments": "alloc_order=0 fallback_order=9"},
        {"t_ns": 9, "cpu": 0, "kind": "other", "row": 5, "node": -1, "zone": None, "pfn": -1, "arguments": ""}]


@pytest.mark.parametrize("buffer_bytes", [8, 1000, 20_000])
def test_small_buffers_write_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int) -> None:
    """Only the division into row groups depends on the buffers."""
    times = list(range(0, 300, 10))
    record(tmp_path / "large", times, Machine(7))
    monkeypatch.setattr(recorder_module, "BUFFER_BYTES", buffer_bytes)
    record(tmp_path / "small", times, Machine(7))
    for table in TABLES:
        large, small = (pq.read_table(tmp_path / name / f"{table.name}.parquet") for name in ("large", "small"))
        assert large.to_pylist() == small.to_pylist(), table.name
    assert pq.ParquetFile(tmp_path / "small" / "buddy.parquet").num_row_groups > 1


def test_one_sample_is_found_without_reading_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "BUFFER_BYTES", 8)
    record(tmp_path / "run", [0, 10, 20], Machine(8))
    file = pq.ParquetFile(tmp_path / "run" / "buddy.parquet")
    bounds = [file.metadata.row_group(i).column(0).statistics for i in range(file.num_row_groups)]
    assert [(bound.min, bound.max) for bound in bounds] == [(0, 0), (10, 10), (20, 20)]


def test_text_that_is_not_unicode(tmp_path: Path) -> None:
    """Bytes that a reader could not decode are written so that every Parquet reader can."""
    with TableWriters(tmp_path) as writers:
        writers.add("markers", {"t_ns": [1], "row": [2], "text": ["a\udcffb"]})
    assert read(tmp_path, "markers")[0]["text"] == "a\\udcffb"


def test_nothing_was_sampled(tmp_path: Path) -> None:
    with TableWriters(tmp_path) as writers:
        recorder = Recorder(writers, Machine(9), Machine(9), Machine(9), [], [], 0)
        recorder.finish(latency([], []), locks([]), callsites([], []))
    assert all(pq.read_table(tmp_path / f"{table.name}.parquet").num_rows == 0 for table in TABLES)
