"""What a trace holds, and what can be concluded from it: the facts behind ``memtrace info``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .causes import ZERO_SIZE_PTR
from .census import take_census
from .requests import Census
from .schema import (
    EV_CACHE_ALLOC,
    EV_CACHE_FREE,
    EV_GT_BULK_OBJ,
    EV_GT_PAGE,
    EV_GT_SLAB,
    EV_KFREE,
    EV_KMALLOC,
    EV_MARKER,
    EV_PAGE_ALLOC,
    EV_PAGE_FREE,
    NO_NODE,
    EventChunk,
)
from .source import TraceReader

TOP = 10
MAX_MARKERS = 200
MAX_CPUS = 4096
_32_BITS = np.uint64(1 << 32)
_KIND_CODES = 256


@dataclass
class SiteUse:
    """What one call site, or one cache, asked for over the whole trace."""

    name: str
    allocs: int
    bytes_requested: int
    bytes_allocated: int


@dataclass
class TraceInfo:
    """A trace in numbers; `as_dict` is what ``memtrace info --json`` prints."""

    path: str
    format: str
    sha256: str
    rows: int
    span_ns: int
    cpus: list[int]
    """Numbers of the CPUs that have rows."""
    rows_per_cpu: list[int]
    tasks: int
    events: dict[str, int]
    """Rows by event name, most frequent first."""
    problems: dict[str, int]
    problem_rows: dict[str, int]
    lost_events: int
    unmatched: dict[str, int]
    """By cause, as the census counts them."""
    top_sites_by_bytes: list[SiteUse]
    top_sites_by_count: list[SiteUse]
    top_caches_by_bytes: list[SiteUse]
    top_caches_by_count: list[SiteUse]
    pointers: str
    kernel: str
    time_step_ns: int
    """All times are multiples of it: the resolution of the recording."""
    markers: list[tuple[int, int, str]]
    """(row, ts_ns, text), the first MAX_MARKERS."""
    n_markers: int
    notes: list[str] = field(default_factory=list)
    """What the trace can and cannot tell, as sentences."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Scan:
    """The sums of one pass over the chunks."""

    def __init__(self, reader: TraceReader) -> None:
        self.vocab = reader.vocab
        self.rows = 0
        self.last_ns = 0
        self.step_ns = 0
        self.cpus = np.zeros(MAX_CPUS, np.int64)
        self.events = np.zeros(0, np.int64)
        self.kinds = np.zeros(_KIND_CODES, np.int64)
        self.named = np.zeros(_KIND_CODES, np.int64)
        self.with_node = np.zeros(_KIND_CODES, np.int64)
        self.tasks: np.ndarray = np.zeros(0, np.int32)
        self.sites = [np.zeros(0, np.int64) for _ in range(3)]
        self.caches: dict[str, list[int]] = {}
        self.pointers = 0
        self.high_pointers = 0
        self.aligned_pointers = 0
        self.largest_pointer = 0
        self.markers: list[tuple[int, int, str]] = []

    def add(self, chunk: EventChunk) -> None:
        self.rows += len(chunk)
        self.last_ns = int(chunk.ts_ns[-1])
        if self.step_ns != 1:
            self.step_ns = int(np.gcd(self.step_ns, np.gcd.reduce(chunk.ts_ns)))
        self.cpus += np.bincount(chunk.cpu, minlength=MAX_CPUS)
        self.events = _grown(self.events, np.bincount(chunk.event_name, minlength=len(self.vocab.event)))
        self.kinds += np.bincount(chunk.event, minlength=_KIND_CODES)
        self.named += np.bincount(chunk.event[chunk.name >= 0], minlength=_KIND_CODES)
        self.with_node += np.bincount(chunk.event[chunk.node != NO_NODE], minlength=_KIND_CODES)
        self.tasks = np.union1d(self.tasks, chunk.task[chunk.task >= 0])
        self._add_allocations(chunk)
        self._add_pointers(chunk)
        room = MAX_MARKERS - len(self.markers)
        for i in np.flatnonzero(chunk.event == EV_MARKER)[: max(room, 0)].tolist():
            code = int(chunk.text[i])
            text = self.vocab.text.names[code] if code >= 0 else ""
            self.markers.append((chunk.row0 + i + 1, int(chunk.ts_ns[i]), text))

    def _add_allocations(self, chunk: EventChunk) -> None:
        allocs = np.flatnonzero((chunk.event == EV_KMALLOC) | (chunk.event == EV_CACHE_ALLOC))
        if not len(allocs):
            return
        site = chunk.call_site[allocs] + 1
        requested = np.maximum(chunk.bytes_req[allocs], 0)
        allocated = np.maximum(chunk.bytes_alloc[allocs], 0)
        n = len(self.vocab.call_site) + 1
        for i, weights in enumerate((None, requested, allocated)):
            found = np.bincount(site, weights, minlength=n).astype(np.int64)  # exact below 2**53
            self.sites[i] = _grown(self.sites[i], found)

    def _add_pointers(self, chunk: EventChunk) -> None:
        objects = (chunk.event == EV_KMALLOC) | (chunk.event == EV_CACHE_ALLOC)
        pointers = chunk.ptr[objects & (chunk.ptr != 0) & (chunk.ptr != ZERO_SIZE_PTR)]
        if len(pointers):
            self.pointers += len(pointers)
            self.high_pointers += int(np.count_nonzero(pointers >= _32_BITS))
            self.aligned_pointers += int(np.count_nonzero(pointers % np.uint64(4) == 0))
            self.largest_pointer = max(self.largest_pointer, int(pointers.max()))


def summarise(reader: TraceReader, progress: Callable[[int], None] | None = None) -> TraceInfo:
    """
    Reads a trace through and says what is in it.

    Parameters
    ----------
    reader
        The open trace; it is read several times.
    progress
        Called with the number of rows read, first by this pass and then by the census.
    """
    scan = _Scan(reader)
    for chunk in reader.chunks():
        scan.add(chunk)
        if progress is not None:
            progress(scan.rows)
    census = take_census(reader, progress=progress)
    sites = _sites(scan)
    caches = _caches(census)
    cpus = np.flatnonzero(scan.cpus)
    names = reader.vocab.event.names
    counts = {names[i]: int(n) for i, n in enumerate(scan.events) if n}
    return TraceInfo(
        path=reader.path,
        format=reader.format,
        sha256=reader.digest(),
        rows=scan.rows,
        span_ns=scan.last_ns,
        cpus=cpus.tolist(),
        rows_per_cpu=scan.cpus[cpus].tolist(),
        tasks=len(scan.tasks),
        events=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        problems=dict(reader.problems),
        problem_rows=dict(reader.problem_rows),
        lost_events=reader.problems.get("lost_events", 0),
        unmatched={cause: n for cause, n in census.counts.items() if n},
        top_sites_by_bytes=_top(sites, by_bytes=True),
        top_sites_by_count=_top(sites, by_bytes=False),
        top_caches_by_bytes=_top(caches, by_bytes=True),
        top_caches_by_count=_top(caches, by_bytes=False),
        pointers=_pointers(scan),
        kernel=_kernel(scan),
        time_step_ns=scan.step_ns,
        markers=scan.markers,
        n_markers=int(scan.kinds[EV_MARKER]),
        notes=[*_notes(scan, reader), *census.notes],
    )


def _grown(old: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Sum of two arrays, as long as the longer one."""
    total = np.zeros(max(len(old), len(found)), np.int64)
    total[: len(old)] = old
    total[: len(found)] += found
    return total


def _top(uses: list[SiteUse], by_bytes: bool) -> list[SiteUse]:
    return sorted(uses, key=lambda use: (-(use.bytes_allocated if by_bytes else use.allocs), use.name))[:TOP]


def _sites(scan: _Scan) -> list[SiteUse]:
    names = ["(no call site)", *scan.vocab.call_site.names]
    return [
        SiteUse(name, int(allocs), int(requested), int(allocated))
        for name, allocs, requested, allocated in zip(names, *scan.sites, strict=False)
        if allocs
    ]


def _caches(census: Census) -> list[SiteUse]:
    return [
        SiteUse(cache.name, cache.allocs, cache.allocs * cache.object_size, cache.allocs * cache.size)
        for cache in census.caches
        if cache.allocs
    ]


def _pointers(scan: _Scan) -> str:
    """Whether pointers are addresses. Hashed ones are 32 random bits; slab objects are aligned to 4 at least."""
    if not scan.pointers:
        return "none"
    if scan.high_pointers:
        return "addresses (64-bit)"
    if scan.aligned_pointers < 0.6 * scan.pointers and scan.pointers > 20:
        return "hashed"
    if scan.largest_pointer >= 1 << 28:
        return "addresses (32-bit)"
    return "small numbers"


def _kernel(scan: _Scan) -> str:
    """The kernels that print these fields (MODEL 12.2)."""
    allocs, frees = scan.kinds[EV_CACHE_ALLOC], scan.kinds[EV_CACHE_FREE]
    if scan.named[EV_CACHE_ALLOC]:
        return "6.18 or later (kmem_cache_alloc has the cache's name)"
    if not allocs and not frees and not scan.kinds[EV_KMALLOC]:
        return "unknown (no slab events)"
    if frees and not scan.named[EV_CACHE_FREE]:
        return "2.6.31 to 5.11 (kmem_cache_free has no name)"
    if scan.kinds[EV_KMALLOC] and scan.with_node[EV_KMALLOC] == scan.kinds[EV_KMALLOC] and frees:
        return "6.1 to 6.17 (kmem_cache_free has a name, every kmalloc a node, kmem_cache_alloc no name)"
    if frees:
        return "5.12 to 6.0 (kmem_cache_free has a name, not every kmalloc a node)"
    return "unknown (no kmem_cache_free)"


def _notes(scan: _Scan, reader: TraceReader) -> list[str]:
    notes = []
    kinds = scan.kinds
    if _pointers(scan) == "hashed":
        notes.append("Pointers are hashed: objects can be told apart, but not where they lie, so slab pages are "
                     "recognised by flags alone. Record with perf, or with trace option hash-ptr off.")  # fmt: skip
    if kinds[EV_CACHE_ALLOC] and not scan.named[EV_CACHE_ALLOC]:
        notes.append("Allocations carry no cache name: caches are inferred from frees, neighbours and call sites.")
    if not kinds[EV_PAGE_ALLOC]:
        notes.append("No mm_page_alloc events: only what the slab allocator needs is known of the page allocator.")
    elif not kinds[EV_PAGE_FREE]:
        notes.append("No mm_page_free events: pages are never given back, so memory only fills.")
    if not kinds[EV_KMALLOC] and not kinds[EV_CACHE_ALLOC]:
        notes.append("No slab allocations: nothing can be said about caches.")
    elif not kinds[EV_KFREE] and not kinds[EV_CACHE_FREE]:
        notes.append("No frees: every object lives to the end.")
    if len(np.flatnonzero(scan.cpus)) == 1:
        notes.append("One CPU: no lock is ever waited for.")
    if scan.step_ns >= 1000:
        notes.append(f"Times are multiples of {scan.step_ns} ns: shorter waits cannot be compared with the recording.")
    if not len(scan.tasks):
        notes.append("No tasks: replayed on fewer CPUs, operations are folded by CPU number.")
    if kinds[EV_GT_BULK_OBJ] or kinds[EV_GT_PAGE] or kinds[EV_GT_SLAB]:
        notes.append("An instrumented kernel: gt_* rows show what ordinary tracing does not.")
    elif kinds[EV_KFREE] or kinds[EV_CACHE_FREE]:
        notes.append("Bulk allocations and frees (maple_node, kfree_rcu, network buffers) leave no events: some "
                     "objects appear or vanish unseen.")  # fmt: skip
    if reader.problems.get("lost_events"):
        notes.append("Events were lost while recording: everything after the first loss is uncertain.")
    return notes
