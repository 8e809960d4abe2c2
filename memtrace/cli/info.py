"""``memtrace info``: what a trace holds, or what a kernel profile says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memtrace.trace.summary import SiteUse, TraceInfo

SHOWN_MARKERS = 12


@click.command("info")
@click.argument("trace", metavar="TRACE", required=False)
@click.option("--kernel", metavar="VERSION", help="Explain a kernel profile instead: every switch and its value.")
@click.option("--kernels", is_flag=True, help="List the kernel profiles instead.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(trace: str | None, kernel: str | None, kernels: bool, as_json: bool) -> None:
    """Say what TRACE holds, and what can and cannot be concluded from it.

    TRACE is Parquet, CSV, ftrace text or perf script text, plain or compressed; - is standard input.

    \b
    memtrace info trace.parquet
    memtrace info --kernels
    memtrace info --kernel 6.18
    """
    if [trace is not None, kernel is not None, kernels].count(True) != 1:
        raise click.UsageError("expected one of TRACE, --kernel VERSION and --kernels.")
    if trace is None:
        _explain_kernels(kernel, as_json)
        return
    from memtrace import compiled
    from memtrace.progress import Progress
    from memtrace.trace.source import open_trace
    from memtrace.trace.summary import summarise

    compiled.check()
    with Progress("reading", unit="B") as reading:
        reader = open_trace(trace, progress=reading)
    with reader, Progress("counting", reader.rows or 0) as counting:
        info = summarise(reader, counting)
    if as_json:
        click.echo(json.dumps(info.as_dict(), indent=1))
    else:
        click.echo("\n".join(_lines(info)))


def _explain_kernels(kernel: str | None, as_json: bool) -> None:
    from memtrace.cli import kernel_info
    from memtrace.kernels import kernel_names, load_profile

    if as_json:
        found = [kernel_info.as_dict(load_profile(name)) for name in ([kernel] if kernel else kernel_names())]
        click.echo(json.dumps(found[0] if kernel else found, indent=1))
    elif kernel is not None:
        click.echo("\n".join(kernel_info.profile_lines(load_profile(kernel))))
    else:
        click.echo("\n".join(kernel_info.list_lines()))


def _lines(info: TraceInfo) -> Iterator[str]:
    from memtrace.units import format_time

    seconds = info.span_ns / 1e9
    rate = f", {info.rows / seconds:,.0f} events/s" if seconds else ""
    yield f"{info.path}: {info.format}, sha256 {info.sha256[:16]}…"
    yield f"  {info.rows:,} rows in {format_time(info.span_ns)}{rate}"
    shares = ", ".join(f"{cpu}: {n:,}" for cpu, n in zip(info.cpus[:16], info.rows_per_cpu, strict=False))
    yield f"  CPUs      {len(info.cpus)} ({shares}{', …' if len(info.cpus) > 16 else ''})"
    yield f"  tasks     {info.tasks or 'not recorded'}"
    yield f"  pointers  {info.pointers}"
    yield f"  kernel    {info.kernel}"
    yield f"  lost      {info.lost_events:,} events"
    yield "\nEvents"
    for name, n in info.events.items():
        yield f"  {n:>12,}  {name}"
    yield from _counts("Problems", info.problems, info)
    yield from _counts("What had to be inferred, or was set aside", info.unmatched, None)
    yield from _uses("Caches by bytes allocated", info.top_caches_by_bytes)
    yield from _uses("Caches by allocations", info.top_caches_by_count)
    yield from _uses("Call sites by bytes allocated", info.top_sites_by_bytes)
    yield from _uses("Call sites by allocations", info.top_sites_by_count)
    if info.n_markers:
        yield f"\nMarkers ({info.n_markers:,})"
        for row, ts_ns, text in info.markers[:SHOWN_MARKERS]:
            yield f"  row {row:>10,}  {format_time(ts_ns):>8}  {text}"
        if info.n_markers > SHOWN_MARKERS:
            yield f"  … and {info.n_markers - SHOWN_MARKERS:,} more"
    if info.notes:
        yield "\nWhat it can and cannot tell"
        for note in info.notes:
            yield f"  - {note}"


def _counts(title: str, counts: dict[str, int], info: TraceInfo | None) -> Iterator[str]:
    if not counts:
        return
    yield f"\n{title}"
    unit = "row" if info is None or info.format == "parquet" else "line"
    for cause, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        place = info.problem_rows.get(cause, 0) if info is not None else 0
        yield f"  {n:>12,}  {cause}" + (f" (first at {unit} {place:,})" if place else "")


def _uses(title: str, uses: list[SiteUse]) -> Iterator[str]:
    from memtrace.units import format_size

    if not uses:
        return
    yield f"\n{title}"
    yield f"  {'allocs':>12}  {'requested':>10}  {'allocated':>10}"
    for use in uses:
        requested, allocated = format_size(use.bytes_requested), format_size(use.bytes_allocated)
        yield f"  {use.allocs:>12,}  {requested:>10}  {allocated:>10}  {use.name}"
