"""What ``memtrace info`` prints of a trace, line by line."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from memtrace.report.wording import shorten
from memtrace.trace.causes import CAUSES, NOTED
from memtrace.trace.summary import SiteUse, TraceInfo
from memtrace.units import format_size, format_time

if TYPE_CHECKING:
    from memtrace.trace.evidence import Guess

SHOWN_MARKERS = 12
SHOWN_CPUS = 16
WIDTH = 118
NAME_WIDTH = 80


def lines(info: TraceInfo) -> Iterator[str]:
    """The whole report; an empty line stands before each section."""
    yield from _head(info)
    yield from _section("Events", [f"{n:>12,}  {shorten(name, NAME_WIDTH)}" for name, n in info.events.items()])
    yield from _section("Problems", _problems(info))
    yield from _section("Frees without an allocation, by cause", _causes(info.unmatched_frees))
    yield from _section("Allocations whose free left no event, by cause", _causes(info.missed_frees))
    yield from _section("What else had to be inferred, or was set aside", _causes(info.inferred))
    yield from _uses("Caches by bytes allocated", info.top_caches_by_bytes)
    yield from _uses("Caches by allocations", info.top_caches_by_count)
    yield from _uses("Call sites by bytes allocated", info.top_sites_by_bytes)
    yield from _uses("Call sites by allocations", info.top_sites_by_count)
    yield from _markers(info)
    yield from _sentences("What can be concluded", info.can)
    yield from _sentences("What cannot", info.cannot)


def _head(info: TraceInfo) -> Iterator[str]:
    rate = f", {info.events_per_s:,.0f} events/s" if info.span_ns else ""
    yield f"{info.path}: {info.format}, sha256 {info.sha256[:16]}…"
    yield f"  {info.rows:,} rows in {format_time(info.span_ns)}{rate}"
    if info.span_ns > 10**9:
        begin = format_time(info.peak_second_from_ns)
        yield f"  peak      {info.peak_second_events:,} events in the second from {begin}"
    shares = ", ".join(f"{cpu}: {n:,}" for cpu, n in zip(info.cpus[:SHOWN_CPUS], info.rows_per_cpu, strict=False))
    yield f"  CPUs      {len(info.cpus)} ({shares}{', …' if len(info.cpus) > SHOWN_CPUS else ''})"
    yield f"  tasks     {info.tasks or 'not recorded'}"
    yield f"  pointers  {info.pointers}"
    yield from _guess("kernel", info.kernel)
    yield from _guess("allocator", info.allocator)
    yield f"  snapshots {info.snapshots or 'none beside it'}"
    silent = ", ".join(str(silence.cpu) for silence in info.silences[:SHOWN_CPUS])
    suspected = f"; perhaps others of CPU {silent}, see the end" if silent else ""
    yield f"  lost      {info.lost_events:,} events recorded as lost{suspected}"


def _guess(title: str, guess: Guess) -> Iterator[str]:
    known = guess.what if guess.what == guess.sure else f"{guess.what} ({guess.sure})"
    why = f": {'; '.join(guess.evidence)}" if guess.evidence else ""
    yield from textwrap.wrap(known + why, WIDTH, initial_indent=f"  {title:<10}", subsequent_indent=" " * 12)


def _section(title: str, rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield ""
        yield title
        yield from (f"  {row}" for row in rows)


def _problems(info: TraceInfo) -> list[str]:
    unit = "row" if info.format == "parquet" else "line"
    rows = []
    for cause, n in sorted(info.problems.items(), key=lambda item: (-item[1], item[0])):
        place = info.problem_rows.get(cause, 0)
        rows.append(f"{n:>12,}  {shorten(cause, NAME_WIDTH)}" + (f" (first at {unit} {place:,})" if place else ""))
    return rows


def _causes(counts: dict[str, int]) -> list[str]:
    meaning = {**dict(CAUSES), **NOTED}
    rows = []
    for cause, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        rows += textwrap.wrap(f"{cause}: {meaning[cause]}" if cause in meaning else cause, WIDTH,
                              initial_indent=f"{n:>12,}  ", subsequent_indent=" " * 16)  # fmt: skip
    return rows


def _uses(title: str, uses: list[SiteUse]) -> Iterator[str]:
    rows = [
        f"{use.allocs:>12,}  {format_size(use.bytes_requested):>10}  {format_size(use.bytes_allocated):>10}  "
        f"{shorten(use.name, NAME_WIDTH)}"
        for use in uses
    ]
    yield from _section(title, [f"{'allocs':>12}  {'requested':>10}  {'allocated':>10}", *rows] if rows else [])


def _markers(info: TraceInfo) -> Iterator[str]:
    if not info.n_markers:
        return
    rows = [
        f"row {row:>10,}  {format_time(ts_ns):>8}  {shorten(text, NAME_WIDTH)}"
        for row, ts_ns, text in info.markers[:SHOWN_MARKERS]
    ]
    if info.n_markers > SHOWN_MARKERS:
        rows.append(f"… and {info.n_markers - SHOWN_MARKERS:,} more")
    yield from _section(f"Markers ({info.n_markers:,})", rows)


def _sentences(title: str, sentences: Sequence[str]) -> Iterator[str]:
    rows = []
    for sentence in sentences:
        rows += textwrap.wrap(sentence, WIDTH, initial_indent="- ", subsequent_indent="  ")
    yield from _section(title, rows)
