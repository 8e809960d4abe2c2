"""
Samples of the model, and what was measured in between, as the tables of a run folder.

A sample is copied from the model into int64 buffers, row after row; when a buffer is full it becomes a row
group of its Parquet file. So a sample costs microseconds, and memory does not grow with the trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..mm.constants import FAIL_IMPOSSIBLE, MAX_ORDER
from ..mm.paths import PATHS
from ..mm.stats import (
    CACHE_FIELDS,
    FAIL_REASONS,
    MIGRATETYPES,
    PAGEBLOCK_MAP_FIELDS,
    PCP_FIELDS,
    PERCPU_FIELDS,
    ZONE_FIELDS,
)
from ..trace.requests import RQ_BULK_ALLOC, RQ_CACHE_ALLOC, RQ_KMALLOC, RQ_PAGE_ALLOC, RQ_PERCPU_ALLOC
from ..units import PAGE_SIZE
from .arrays import named
from .fragmentation import indexes
from .schema import BY_NAME
from .tables import TableWriters

BUFFER_BYTES = 16 << 20
NR_ORDERS = MAX_ORDER + 1
MAP_BINS = 256
"""Runs of pageblocks that ``pageblock_map`` has for one zone, at most."""
ALLOC_EVENTS = {RQ_KMALLOC: "kmalloc", RQ_CACHE_ALLOC: "kmem_cache_alloc", RQ_BULK_ALLOC: "kmem_cache_alloc_bulk",
                RQ_PAGE_ALLOC: "mm_page_alloc", RQ_PERCPU_ALLOC: "percpu_alloc_percpu"}


class Machine(Protocol):
    """What is read of the model besides its counters."""

    nr_cpus: int
    nr_zones: int

    @property
    def nr_caches(self) -> int: ...
    @property
    def cache_names(self) -> list[str]: ...
    def zone_node(self, zone: int) -> int: ...
    def zone_name(self, zone: int) -> str: ...
    def lock_name(self, lock: int) -> str: ...


class VmStat(Protocol):
    """The model's counters: each method fills a buffer and says how many rows (see ``mm.vmstat``)."""

    @property
    def stat_names(self) -> tuple[str, ...]: ...
    def caches(self, buf: np.ndarray) -> int: ...
    def cpu_caches(self, buf: np.ndarray) -> int: ...
    def buddy(self, buf: np.ndarray) -> int: ...
    def zones(self, buf: np.ndarray) -> int: ...
    def pcp(self, buf: np.ndarray) -> int: ...
    def pageblock_map(self, buf: np.ndarray, bins: int) -> int: ...
    def pageblock_types(self, buf: np.ndarray) -> int: ...
    def percpu(self, buf: np.ndarray) -> int: ...


class Operations(Protocol):
    """Whoever executes the requests."""

    def live_bytes(self, nr_caches: int) -> tuple[np.ndarray, np.ndarray]: ...
    def take_failures(self) -> list[tuple[int, ...]]: ...
    def take_events(self) -> list[tuple[int, int, int, str, dict[str, int]]]: ...


class Samples:
    """Rows of one table, ``width`` int64 each, and the time of each row."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.used = 0
        self.buffer = np.empty(0, np.int64)
        self.times: list[int] = []
        self.counts: list[int] = []

    def room(self, rows: int) -> np.ndarray:
        """The free part of the buffer, with room for ``rows`` rows at least."""
        if (self.used + rows) * self.width > len(self.buffer):
            # Room for one more sample than makes it full, so that it seldom grows.
            bigger = np.empty(BUFFER_BYTES // 8 + 2 * rows * self.width, np.int64)
            bigger[: self.used * self.width] = self.buffer[: self.used * self.width]
            self.buffer = bigger
        return self.buffer[self.used * self.width :]

    def filled(self, t_ns: int, rows: int) -> None:
        """Keep the first rows of what ``room`` returned."""
        self.used += rows
        self.times.append(t_ns)
        self.counts.append(rows)

    @property
    def full(self) -> bool:
        return self.used * self.width * 8 >= BUFFER_BYTES

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows, shape (rows, width), and the time of each; then there are none."""
        rows = self.buffer[: self.used * self.width].reshape(self.used, self.width)
        times = np.repeat(np.array(self.times, np.int64), self.counts)
        self.used = 0
        self.times, self.counts = [], []
        return rows, times


class Recorder:
    """
    Writes the tables of one replay.

    Parameters
    ----------
    writers
        Where rows go.
    machine, vmstat, operations
        What is sampled.
    texts, call_sites
        Vocabularies of the trace; may still grow while it is read.
    map_ns
        Take ``pageblock_map`` only so often, in simulated ns: it looks at every page.
    """

    def __init__(self, writers: TableWriters, machine: Machine, vmstat: VmStat, operations: Operations,
                 texts: Sequence[str], call_sites: Sequence[str], map_ns: int) -> None:
        self.writers = writers
        self.machine = machine
        self.vmstat = vmstat
        self.operations = operations
        self.texts = texts
        self.call_sites = call_sites
        self.map_ns = map_ns
        self.last_map_ns = -1
        self.last_ns = -1
        self.nr_samples = 0
        zones = range(machine.nr_zones)
        self.zone_names = list(dict.fromkeys(machine.zone_name(zone) for zone in zones))
        self.zone_code = np.array([self.zone_names.index(machine.zone_name(zone)) for zone in zones], np.int64)
        self.zone_node = np.array([machine.zone_node(zone) for zone in zones], np.int64)
        self.caches = Samples(len(CACHE_FIELDS))
        self.live = Samples(2)
        self.stat_names = vmstat.stat_names
        self.cpu_caches = Samples(2 + len(self.stat_names))
        self.buddy = Samples(4)
        self.zones = Samples(len(ZONE_FIELDS))
        self.pcp = Samples(len(PCP_FIELDS))
        self.map = Samples(len(PAGEBLOCK_MAP_FIELDS))
        self.types = Samples(3)
        self.percpu = Samples(len(PERCPU_FIELDS))
        self.markers: list[tuple[int, int, str]] = []

    # -- while the trace plays --------------------------------------------------------------------

    def sample(self, t_ns: int) -> None:
        """Take a sample, unless there is one of this time already."""
        if t_ns == self.last_ns:
            return
        self.last_ns = t_ns
        self.nr_samples += 1
        nr_caches = self.machine.nr_caches
        nr_zones = self.machine.nr_zones
        nr_cpus = self.machine.nr_cpus
        vmstat = self.vmstat
        self.caches.filled(t_ns, vmstat.caches(self.caches.room(nr_caches)))
        live = self.live.room(nr_caches)[: 2 * nr_caches].reshape(nr_caches, 2)
        live[:, 0], live[:, 1] = self.operations.live_bytes(nr_caches)
        self.live.filled(t_ns, nr_caches)
        self.cpu_caches.filled(t_ns, vmstat.cpu_caches(self.cpu_caches.room(nr_caches * nr_cpus)))
        self.buddy.filled(t_ns, vmstat.buddy(self.buddy.room(nr_zones * NR_ORDERS * len(MIGRATETYPES))))
        self.zones.filled(t_ns, vmstat.zones(self.zones.room(nr_zones)))
        self.pcp.filled(t_ns, vmstat.pcp(self.pcp.room(nr_zones * nr_cpus)))
        self.types.filled(t_ns, vmstat.pageblock_types(self.types.room(nr_zones * len(MIGRATETYPES))))
        self.percpu.filled(t_ns, vmstat.percpu(self.percpu.room(1)))
        if self.last_map_ns < 0 or t_ns >= self.last_map_ns + self.map_ns:
            self.sample_map(t_ns)
        self.take_events()
        for samples, flush in ((self.caches, self.flush_caches), (self.cpu_caches, self.flush_cpu_caches),
                               (self.buddy, self.flush_buddy), (self.zones, self.flush_zones),
                               (self.pcp, self.flush_pcp), (self.types, self.flush_types),
                               (self.percpu, self.flush_percpu)):
            if samples.full:
                flush()

    def sample_map(self, t_ns: int) -> None:
        """What the pages hold."""
        self.last_map_ns = t_ns
        # A zone whose pageblocks do not divide evenly has one run more.
        room = self.map.room(self.machine.nr_zones * (MAP_BINS + 1))
        self.map.filled(t_ns, self.vmstat.pageblock_map(room, MAP_BINS))
        if self.map.full:
            self.flush_map()

    def marker(self, t_ns: int, row: int, text: int) -> None:
        """Note a marker; its sample is asked for separately."""
        self.markers.append((t_ns, row, self.texts[text] if text >= 0 else ""))

    def take_events(self) -> None:
        """Write down what failed, and what was rare, since the last sample."""
        failures = self.operations.take_failures()
        if failures:
            self.add_failures(np.array(failures, np.int64))
        events = self.operations.take_events()
        if events:
            self.add_events(events)

    # -- buffers to rows --------------------------------------------------------------------------

    def place(self, zone: np.ndarray) -> dict[str, Any]:
        """Columns node and zone from zone indexes."""
        return {"node": self.zone_node[zone], "zone": named(self.zone_code[zone], self.zone_names)}

    def cache_column(self, codes: np.ndarray) -> Any:
        return named(codes, self.machine.cache_names)

    def flush_caches(self) -> None:
        index = np.concatenate([np.arange(n) for n in self.caches.counts] or [np.zeros(0, np.int64)])
        rows, times = self.caches.take()
        live, _ = self.live.take()
        there = rows[:, CACHE_FIELDS.index("object_size")] > 0  # of a destroyed cache only the number is left
        index, rows, times, live = index[there], rows[there], times[there], live[there]
        columns = {name: rows[:, i] for i, name in enumerate(CACHE_FIELDS)}
        self.writers.add("caches", {"t_ns": times, "cache": self.cache_column(index), **columns,
                                    "bytes_requested": live[:, 0], "bytes_allocated": live[:, 1]})

    def flush_cpu_caches(self) -> None:
        rows, times = self.cpu_caches.take()
        # What this machine's allocator does not count is 0, not null: with nulls, pandas would make it float.
        columns = dict.fromkeys(BY_NAME["cpu_caches"].names[3:], np.zeros(len(rows), np.int64))
        columns |= {name: rows[:, 2 + i] for i, name in enumerate(self.stat_names)}
        self.writers.add("cpu_caches", {"t_ns": times, "cpu": rows[:, 0], "cache": self.cache_column(rows[:, 1]),
                                        **columns})

    def flush_buddy(self) -> None:
        rows, times = self.buddy.take()
        self.writers.add("buddy", {"t_ns": times, **self.place(rows[:, 0]), "order": rows[:, 1],
                                   "migratetype": named(rows[:, 2], MIGRATETYPES), "nr_free": rows[:, 3]})
        by_list = rows.reshape(-1, self.machine.nr_zones, NR_ORDERS, len(MIGRATETYPES), 4)
        unusable, fragmentation = indexes(by_list[..., 3].sum(axis=-1))
        first = np.arange(0, len(rows), len(MIGRATETYPES))
        self.writers.add("fragmentation", {
            "t_ns": times[first], **self.place(rows[first, 0]), "order": rows[first, 1],
            "unusable_index": unusable.reshape(-1), "fragmentation_index": fragmentation.reshape(-1)})

    def flush_zones(self) -> None:
        zone = np.tile(np.arange(self.machine.nr_zones), len(self.zones.counts))
        rows, times = self.zones.take()
        self.writers.add("zones", {"t_ns": times, **self.place(zone),
                                   **{name: rows[:, i] for i, name in enumerate(ZONE_FIELDS)}})

    def flush_pcp(self) -> None:
        rows, times = self.pcp.take()
        self.writers.add("pcp", {"t_ns": times, **self.place(rows[:, 0]),
                                 **{name: rows[:, i] for i, name in enumerate(PCP_FIELDS) if i}})

    def flush_map(self) -> None:
        rows, times = self.map.take()
        self.writers.add("pageblock_map", {"t_ns": times, **self.place(rows[:, 0]),
                                           **{name: rows[:, i] for i, name in enumerate(PAGEBLOCK_MAP_FIELDS) if i}})

    def flush_percpu(self) -> None:
        rows, times = self.percpu.take()
        self.writers.add("percpu", {"t_ns": times, **{name: rows[:, i] for i, name in enumerate(PERCPU_FIELDS)}})

    def flush_types(self) -> None:
        rows, times = self.types.take()
        self.writers.add("pageblock_types", {"t_ns": times, **self.place(rows[:, 0]),
                                             "migratetype": named(rows[:, 1], MIGRATETYPES), "nr_blocks": rows[:, 2]})

    def add_failures(self, rows: np.ndarray) -> None:
        """Rows of (t_ns, row, cpu, op, order, gfp, size, cache, reason)."""
        order = rows[:, 4]
        size = np.where(order < 0, rows[:, 6], PAGE_SIZE << np.clip(order, 0, 30))
        hopeless = size > PAGE_SIZE << MAX_ORDER
        self.writers.add("failures", {
            "t_ns": rows[:, 0],
            "cpu": rows[:, 2],
            "event": [ALLOC_EVENTS[op] for op in rows[:, 3].tolist()],
            "order": order,
            "gfp_flags": [hex(gfp) for gfp in rows[:, 5].tolist()],
            "reason": named(np.where(hopeless, FAIL_IMPOSSIBLE, rows[:, 8]), FAIL_REASONS),
            "row": rows[:, 1],
            "bytes_req": size,
            "cache": self.cache_column(rows[:, 7]),
        })

    def add_events(self, events: list[tuple[int, int, int, str, dict[str, int]]]) -> None:
        """(t_ns, row, cpu, kind, arguments): zone and pfn become columns, other arguments text."""
        zone = np.array([arguments.get("zone", -1) for *_, arguments in events], np.int64)
        known = zone >= 0
        self.writers.add("events", {
            "t_ns": [event[0] for event in events],
            "cpu": [event[2] for event in events],
            "kind": [event[3] for event in events],
            "row": [event[1] for event in events],
            "node": np.where(known, self.zone_node[zone], -1),
            "zone": named(np.where(known, self.zone_code[zone], -1), self.zone_names),
            "pfn": [arguments.get("pfn", -1) for *_, arguments in events],
            "arguments": [_as_text(arguments) for *_, arguments in events],
        })

    # -- at the end -------------------------------------------------------------------------------

    def finish(self, latency: Mapping[str, Any], locks: Mapping[str, Any], callsites: Mapping[str, Any]) -> None:
        """
        Write what is left in the buffers, and the tables of the whole run.

        Parameters
        ----------
        latency, locks, callsites
            ``columns()`` of ``LatencyTable``, ``LockTable`` and ``CallSiteTable``.
        """
        if self.last_map_ns != self.last_ns:
            self.sample_map(self.last_ns)
        for flush in (self.flush_caches, self.flush_cpu_caches, self.flush_buddy, self.flush_zones, self.flush_pcp,
                      self.flush_map, self.flush_types, self.flush_percpu):
            flush()
        self.take_events()
        self.writers.add("markers", {name: [marker[i] for marker in self.markers]
                                     for i, name in enumerate(("t_ns", "row", "text"))})
        path = latency["path"]
        ops = list(dict.fromkeys(op for op, _ in PATHS))
        op_of_path = np.array([ops.index(op) for op, _ in PATHS], np.int64)
        paths = list(dict.fromkeys(name for _, name in PATHS))
        code_of_path = np.array([paths.index(name) for _, name in PATHS], np.int64)
        self.writers.add("latency", {**latency, "op": named(op_of_path[path], ops),
                                     "path": named(code_of_path[path], paths),
                                     "cache": self.cache_column(latency["cache"])})
        self.writers.add("locks", {**locks, "lock": [self.machine.lock_name(lock) for lock in locks["lock"].tolist()]})
        self.writers.add("callsites", {**callsites, "call_site": named(callsites["call_site"], self.call_sites),
                                       "cache": self.cache_column(callsites["cache"])})


def _as_text(arguments: Mapping[str, int]) -> str:
    # A truth value is an int in compiled code and a bool in interpreted code.
    return " ".join(f"{name}={int(value)}" for name, value in arguments.items() if name not in ("zone", "pfn"))
