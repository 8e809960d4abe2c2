"""What a trace holds, and what can be concluded from it: the facts behind ``memtrace info``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .causes import C_LARGE_KMALLOC_DOUBLED, CAUSE_NAMES
from .census import take_census
from .conclusions import can_tell, cannot_tell
from .evidence import Guess
from .requests import Census
from .scan import TraceScan
from .schema import EV_MARKER
from .silences import Silence
from .source import TraceReader

TOP = 10
UNMATCHED_FREES = (
    "free_of_unknown", "free_of_untraced_alloc", "double_free", "untraced_alloc", "page_free_of_unknown",
    "page_free_of_free", "percpu_free_of_unknown",
)  # fmt: skip
"""Causes of frees that no allocation of the trace explains."""
MISSED_FREES = ("alloc_of_live_pointer", "page_alloc_of_live_pfn", "untraced_free_by_page", "untraced_free_by_site")
"""Causes of allocations that no free of the trace ends, though something must have."""


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
    events_per_s: float
    """Over the whole trace; 0 when it has no length."""
    peak_second_events: int
    peak_second_from_ns: int
    """The second with most events, found to a hundredth of one; of a shorter trace, all of it."""
    cpus: list[int]
    """Numbers of the CPUs that have rows."""
    rows_per_cpu: list[int]
    tasks: int
    events: dict[str, int]
    """Rows by event name, most frequent first."""
    problems: dict[str, int]
    problem_rows: dict[str, int]
    lost_events: int
    silences: list[Silence]
    """Perhaps lost events: a suspicion."""
    unmatched_frees: dict[str, int]
    missed_frees: dict[str, int]
    inferred: dict[str, int]
    """What the census counts, by cause: UNMATCHED_FREES, MISSED_FREES, and all else."""
    top_sites_by_bytes: list[SiteUse]
    top_sites_by_count: list[SiteUse]
    top_caches_by_bytes: list[SiteUse]
    top_caches_by_count: list[SiteUse]
    pointers: str
    kernel: Guess
    allocator: Guess
    snapshots: str
    """Folder of the snapshots that lie beside the trace, "" when there are none."""
    time_step_ns: int
    """All times are multiples of it: the resolution of the recording."""
    markers: list[tuple[int, int, str]]
    """(row, ts_ns, text), the first MAX_MARKERS."""
    n_markers: int
    can: list[str] = field(default_factory=list)
    cannot: list[str] = field(default_factory=list)
    """What the trace can and cannot tell, as sentences."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    scan = TraceScan(reader)
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
    silences = scan.silences.suspicious()
    doubled = census.counts.get(CAUSE_NAMES[C_LARGE_KMALLOC_DOUBLED], 0)
    kernel = scan.evidence.kernel(scan.kinds, scan.having["name"], scan.having["node"], doubled)
    peak_events, peak_from = scan.peak_second()
    return TraceInfo(
        path=reader.path,
        format=reader.format,
        sha256=reader.digest(),
        rows=scan.rows,
        span_ns=scan.last_ns,
        events_per_s=round(scan.rows * 1e9 / scan.last_ns, 3) if scan.last_ns else 0.0,
        peak_second_events=peak_events,
        peak_second_from_ns=peak_from,
        cpus=cpus.tolist(),
        rows_per_cpu=scan.cpus[cpus].tolist(),
        tasks=len(scan.tasks),
        events=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        problems=dict(reader.problems),
        problem_rows=dict(reader.problem_rows),
        lost_events=reader.problems.get("lost_events", 0),
        silences=silences,
        unmatched_frees=_causes(census, UNMATCHED_FREES),
        missed_frees=_causes(census, MISSED_FREES),
        inferred=_causes(census, [name for name in census.counts if name not in UNMATCHED_FREES + MISSED_FREES]),
        top_sites_by_bytes=_top(sites, by_bytes=True),
        top_sites_by_count=_top(sites, by_bytes=False),
        top_caches_by_bytes=_top(caches, by_bytes=True),
        top_caches_by_count=_top(caches, by_bytes=False),
        pointers=scan.pointer_kind(),
        kernel=kernel,
        allocator=scan.evidence.allocator(kernel),
        snapshots="",
        time_step_ns=scan.step_ns,
        markers=scan.markers,
        n_markers=int(scan.kinds[EV_MARKER]),
        can=list(can_tell(scan)),
        cannot=[*cannot_tell(scan, reader.problems, silences), *census.notes],
    )


def _causes(census: Census, names: Iterable[str]) -> dict[str, int]:
    return {name: census.counts[name] for name in names if census.counts.get(name)}


def _top(uses: list[SiteUse], by_bytes: bool) -> list[SiteUse]:
    return sorted(uses, key=lambda use: (-(use.bytes_allocated if by_bytes else use.allocs), use.name))[:TOP]


def _sites(scan: TraceScan) -> list[SiteUse]:
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
