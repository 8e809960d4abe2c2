"""The numbers that matter, one card each."""

from __future__ import annotations

from dataclasses import dataclass

from ..units import PAGE_SIZE, format_size, format_time
from .assumed import is_assumed
from .frames import HUGE_ORDER, RunFrames, df_caches_at_peak, df_hits, df_latency, df_unusable, percentiles, share
from .wording import shorten, visible


@dataclass(frozen=True, slots=True)
class Card:
    """One number: what it is, its value, and a line that makes it mean something."""

    what: str
    value: str
    more: str
    warn: bool = False


def headline(run: RunFrames) -> list[Card]:
    """The cards of the report, in order."""
    cards = [_slab(run), _hits(run), _fragmentation(run), _p99(run), _waits(run), _unused(run)]
    shortage = _shortage(run)
    return [*cards[:-1], shortage, cards[-1]] if shortage else cards


def _slab(run: RunFrames) -> Card:
    peak = df_caches_at_peak(run)
    total = int(peak["slab_bytes"].sum())
    if not total:
        return Card("Peak slab memory", "0 B", "no cache held a slab")
    wasted = share(int(peak["waste_bytes"].sum()), total)
    return Card("Peak slab memory", format_size(total),
                f"{wasted:.1f} % of it wasted on rounding, free objects and slab remainders; largest cache: "
                f"{shorten(visible(peak['cache'].iloc[0]), 40)}")


def _hits(run: RunFrames) -> Card:
    hits = df_hits(run)
    allocs, fast = int(hits["allocs"].sum()), int(hits["hits"].sum())
    if not allocs:
        return Card("Fast-path hit rate", "–", "no slab allocation was replayed")
    if not run.has_fast_path:
        return Card("Fast-path hit rate", "none", f"SLOB keeps nothing for a CPU: each of {allocs:,} allocations "
                                                  "searched its lists under one lock")
    return Card("Fast-path hit rate", f"{share(fast, allocs):.2f} %", f"of {allocs:,} slab allocations")


def _fragmentation(run: RunFrames) -> Card:
    index = df_unusable(run)
    if index.empty:
        return Card("External fragmentation at the end", "–", "the free lists were not sampled")
    order = min(HUGE_ORDER, int(index.columns.max()))
    return Card("External fragmentation at the end", f"{100 * index[order].iloc[-1]:.1f} %",
                f"of free memory is in blocks smaller than order {order} ({format_size(PAGE_SIZE << order)}); "
                f"{100 * index[order].iloc[0]:.1f} % at the first sample")


def _p99(run: RunFrames) -> Card:
    what = "99th percentile of allocation time"
    rows = run.table("latency")
    allocs = rows[rows["op"] == "alloc"]
    count = int(allocs["count"].sum())
    if not count:
        return Card(what, "–", "no slab allocation was replayed")
    values = percentiles(allocs)
    assumed = any(is_assumed(run, "alloc", path) for path in set(allocs["path"]))
    return Card(what, f"{format_time(values['p99_ns'])}{' *' if assumed else ''}",
                f"simulated; half take at most {format_time(values['p50_ns'])}"
                + ("; * rests on assumed costs, see the table of costs" if assumed else ""))


def _waits(run: RunFrames) -> Card:
    locks, latency = run.table("locks"), df_latency(run)
    wait, busy = int(locks["wait_ns"].sum()), int(latency["sum_ns"].sum())
    if not busy:
        return Card("Time spent waiting for locks", "–", "no operation was replayed")
    if not wait:
        taken = int(locks["acquisitions"].sum())
        return Card("Time spent waiting for locks", "0 %", f"no lock was contended in {taken:,} acquisitions")
    return Card("Time spent waiting for locks", f"{share(wait, busy):.2g} %",
                f"{format_time(wait)} of {format_time(busy)} in the allocators, all CPUs together")


def _shortage(run: RunFrames) -> Card | None:
    """What was done because memory was short; None when it never was."""
    kinds = run.table("events")["kind"].astype(str).value_counts()
    woken, direct, oom = (int(kinds.get(kind, 0)) for kind in ("kswapd_wake", "direct_reclaim", "oom"))
    failed = len(run.table("failures"))
    if not woken + direct + oom + failed:
        return None
    reclaimed = run.manifest.get("counts", {}).get("model_reclaimed", 0)
    return Card("Allocations that failed", f"{failed:,}",
                f"kswapd woken {woken:,} times, {direct:,} direct reclaims, {oom:,} times out of memory; "
                f"{reclaimed:,} pages of page cache taken back beyond what the trace's kernel did", warn=failed > 0)


def _unused(run: RunFrames) -> Card:
    """Rows of the trace that could not be used, when the manifest says how many."""
    unused, rows = run.unused_rows, run.trace_rows
    if unused is None:
        return Card("Rows that could not be used", "–", "this run does not say")
    if not unused:
        return Card("Rows that could not be used", "0", f"every request among the {rows:,} rows was replayed")
    more = f"{share(unused, rows):.2g} % of {rows:,}; by cause below"
    return Card("Rows that could not be used", f"{unused:,}", more, warn=True)
