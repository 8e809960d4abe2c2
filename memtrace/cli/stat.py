"""``memtrace stat``: perf kmem's tables of any trace."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from memtrace.report.wording import visible

if TYPE_CHECKING:
    from memtrace.trace.kmem_stat import KmemStat, PageStat, SlabStat, Table

_LINE = "-" * 105
_SLAB_ROW = " %-34s | %9d/%-5d | %9d/%-5d | %8d | %9d | %6.3f%%"
_SLAB_HEAD = " {:<34} | %-15s | %-15s | %-8s | %-9s | %s"
_SLAB_MORE = _SLAB_HEAD.format("...") % ("...", "...", "...", "...", "...")
_PEAK = " %12d | %12d | %12d |"


@click.command("stat")
@click.argument("trace", metavar="TRACE")
@click.option("--slab", is_flag=True, help="The slab allocator. [default, unless --page]")
@click.option("--page", is_flag=True, help="The page allocator.")
@click.option("--caller", is_flag=True, help="A row for each call site.")
@click.option("--alloc", is_flag=True, help="A row for each object, or page.")
@click.option("-s", "--sort", "keys", metavar="KEY[,KEY…]", help="Sort rows by these, largest first; see below.")
@click.option("-l", "--line", "lines", type=click.IntRange(min=1), metavar="N", help="Show only N rows of a table.")
@click.option("--time", "window", metavar="A,B", help="Count only events between these times, like 1s,2.5s or 1s,.")
@click.option("--live", is_flag=True, help="Of pages, show only those that were not freed.")
@click.option("--raw-ip", is_flag=True, help="Leave call sites addresses; of perf.data, which has them.")
@click.option("--peak", is_flag=True, help="Add how much of a call site was alive, at the end and at most.")
@click.option("--json", "as_json", is_flag=True, help="Print the summaries and tables as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print one table as CSV.")
def command(
    trace: str, slab: bool, page: bool, caller: bool, alloc: bool, keys: str | None, lines: int | None,
    window: str | None, live: bool, raw_ip: bool, peak: bool, as_json: bool, as_csv: bool,
) -> None:
    """Print what `perf kmem stat` would say of TRACE, which is a trace of any kind.

    Sizes are bytes, pages KiB; times of --time count from the trace's first event. Ping-pong counts objects that
    were freed on another CPU than they were allocated on; Frag is the share of what was allocated that nobody had
    asked for. Sort keys of the slab tables are ptr, callsite, bytes, hit, pingpong and frag [default: frag,hit,bytes];
    of the page tables page, callsite, bytes, hit, order, migtype and gfp [default: bytes,hit].

    \b
    memtrace stat trace.parquet --caller -l 20
    memtrace stat trace.parquet --caller --peak -s bytes
    memtrace stat trace.parquet --page --caller -s hit --json
    """
    from memtrace import compiled
    from memtrace.progress import Progress
    from memtrace.trace.kmem_stat import PAGE_DEFAULT, PAGE_SORTS, SLAB_DEFAULT, SLAB_SORTS, kmem_stat, sort_keys
    from memtrace.trace.source import open_trace

    slab = slab or not page
    if as_json and as_csv:
        raise click.UsageError("expected one of --json and --csv.")
    if as_csv and [slab and caller, slab and alloc, page and caller, page and alloc].count(True) != 1:
        raise click.UsageError("--csv prints one table; expected --slab or --page, and --caller or --alloc.")
    slab_keys = sort_keys(keys, SLAB_SORTS, SLAB_DEFAULT) if slab else ()
    page_keys = sort_keys(keys, PAGE_SORTS, PAGE_DEFAULT) if page else ()
    times = _window(window)
    compiled.check()
    with Progress("reading", unit="B") as reading:
        reader = open_trace(trace, progress=reading, name_sites=not raw_ip)
    with reader, Progress("counting", reader.rows or 0) as counting:
        stat = kmem_stat(reader, live=live, window=times, progress=counting)
        tables = _Tables(stat, slab_keys, page_keys, caller, alloc)
    if raw_ip and reader.format != "perf.data":
        click.echo(f"--raw-ip: {trace} is {reader.format}, which has call sites as they are shown; only perf.data has "
                   "addresses to show instead.", err=True)
    if slab and stat.without_size:
        click.echo(f"{stat.without_size:,} allocations do not say how many bytes were given; taken to be as asked for.",
                   err=True)
    n = -1 if lines is None else lines
    if as_json:
        click.echo(json.dumps(tables.as_dict(n), indent=1))
    elif as_csv:
        click.echo(tables.csv(n), nl=False)
    else:
        click.echo("\n".join(tables.text(n, peak, live)))


def _window(text: str | None) -> tuple[int, int | None]:
    from memtrace.errors import ConfigError
    from memtrace.units import parse_time

    if text is None:
        return 0, None
    first, comma, last = text.partition(",")
    if not comma:
        raise ConfigError(f'--time "{text}": one time; expected A,B, of which one may be left out.')
    begin, end = parse_time(first or "0", "--time"), parse_time(last, "--time") if last.strip() else None
    if end is not None and end < begin:
        raise ConfigError(f'--time "{text}": ends before it begins; expected A,B with A <= B.')
    return begin, end


class _Tables:
    """What was asked for, and its three forms."""

    def __init__(
        self, stat: KmemStat, slab_keys: tuple[str, ...], page_keys: tuple[str, ...], caller: bool, alloc: bool
    ) -> None:
        self.slab: SlabStat | None = stat.slab() if slab_keys else None
        self.page: PageStat | None = stat.pages() if page_keys else None
        self.shown: list[tuple[str, str, Table]] = []
        for part, found, keys in (("slab", self.slab, slab_keys), ("page", self.page, page_keys)):
            if found is None:
                continue
            each = getattr(found, "pointers" if part == "slab" else "pages")
            for name, wanted, table in (("caller", caller, found.callers), ("alloc", alloc, each)):
                if wanted:
                    table.sort(keys)
                    self.shown.append((part, name, table))

    def as_dict(self, lines: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.slab is not None:
            found["slab"] = {"summary": self.slab.summary()}
        if self.page is not None:
            orders = [{"order": o, "migratetype": m, "blocks": n} for (o, m), n in sorted(self.page.orders.items())]
            found["page"] = {"summary": self.page.totals, "orders": orders, "gfp_flags": self.page.gfp_flags}
        for part, name, table in self.shown:
            found[part][name] = table.rows(lines)
        return found

    def csv(self, lines: int) -> str:
        table = self.shown[0][2]
        out = io.StringIO()
        writer = csv.DictWriter(out, list(table.columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.rows(lines))
        return out.getvalue()

    def text(self, lines: int, peak: bool, live: bool) -> Iterator[str]:
        if self.slab is not None:
            yield from self._slab_text(self.slab, lines, peak)
        if self.page is not None:
            yield from self._page_text(self.page, lines, live)

    def _slab_text(self, stat: SlabStat, lines: int, peak: bool) -> Iterator[str]:
        for part, name, table in self.shown:
            if part == "slab":
                peaks = peak and name == "caller"
                extra = "    Live alloc |    Max alloc |    Max waste |" if peaks else ""
                first = "Callsite" if name == "caller" else "Alloc Ptr"
                yield from ("", _LINE + "-" * len(extra))
                head = ("Total_alloc/Per", "Total_req/Per", "Hit", "Ping-pong", "Frag")
                yield _SLAB_HEAD.format(first) % head + (f"    |{extra}" if peaks else "")
                yield _LINE + "-" * len(extra)
                for row in table.rows(lines):
                    yield _slab_row(row, name, peaks)
                if 0 <= lines < len(table):
                    yield _SLAB_MORE
                yield _LINE + "-" * len(extra)
        yield from ("", "SUMMARY (SLAB allocator)", "========================")
        yield f"Total bytes requested: {stat.requested}"
        yield f"Total bytes allocated: {stat.allocated}"
        yield f"Total bytes freed:     {stat.freed}"
        if stat.allocated > stat.freed:
            yield f"Net total bytes allocated: {stat.allocated - stat.freed}"
        yield f"Total bytes wasted on internal fragmentation: {stat.allocated - stat.requested}"
        yield f"Internal fragmentation: {stat.summary()['fragmentation_pct']:f}%"
        cross = "0" if not stat.allocs_naming_a_node else f"unknown, {stat.allocs_naming_a_node} name a node"
        yield f"Cross CPU allocations: {cross}/{stat.allocs}"

    def _page_text(self, stat: PageStat, lines: int, live: bool) -> Iterator[str]:
        tables = [(name, table) for part, name, table in self.shown if part == "page"]
        if tables:
            yield from ("", "#", "# GFP flags", "# ---------")
            width = max((len(short) for short in stat.gfp_flags), default=0)
            for short, flags in stat.gfp_flags.items():
                yield f"# {short:>{width}}: {visible(flags)}"
        for name, table in tables:
            first = f" {'Page':<16} |" if name == "alloc" else ""
            yield from ("", _LINE)
            kept = "Live" if live else "Total"
            yield f"{first} {kept:>5} alloc (KB) | Hits      | Order | Mig.type | {'GFP flags':<19} | Callsite"
            yield _LINE
            for row in table.rows(lines):
                page = f" {_page(row['page']):>16} |" if name == "alloc" else ""
                yield (f"{page} {row['bytes'] // 1024:>16} | {row['hit']:>9} | {row['order']:>5} | "
                       f"{row['migtype']:>8} | {visible(row['gfp']):<19} | {visible(row['callsite'])}")  # fmt: skip
            if 0 <= lines < len(table):
                yield (" ...              |" if name == "alloc" else "") + \
                    " ...              | ...       | ...   | ...      | ...                 | ..."
            yield _LINE
        yield from _page_summary(stat)


def _page_summary(stat: PageStat) -> Iterator[str]:
    from memtrace.trace.kmem_stat import MAX_PAGE_ORDER, MIGRATE_NAMES

    yield from ("", "SUMMARY (page allocator)", "========================")
    totals = stat.totals
    for title, key in (("Total allocation requests", "alloc"), ("Total free requests", "free"), ("", ""),
                       ("Total alloc+freed requests", "alloc_freed"), ("Total alloc-only requests", "alloc_only"),
                       ("Total free-only requests", "free_only"), ("", ""),
                       ("Total allocation failures", "fail")):  # fmt: skip
        if not key:
            yield ""
            continue
        n = totals[key + "s"] if key in ("alloc", "free", "fail") else totals[key]
        yield f"{title:<30}: {n:>16}   [ {totals[key + '_bytes'] // 1024:>16} KB ]"
    yield ""
    names = ("Unmovable", "Movable", "Reclaimable", "Highatomic", "CMA", "Isolated")
    yield "Order  " + "  ".join(f"{name:>12}" for name in names[:5])
    yield "-----  " + "  ".join("-" * 12 for _ in names[:5])
    last = max([MAX_PAGE_ORDER - 1, *(order for order, _ in stat.orders)])
    for order in range(last + 1):
        found = [stat.orders.get((order, kind), 0) for kind in range(len(MIGRATE_NAMES) - 1)]
        yield f"{order:>5}  " + "  ".join(f"{n or '.':>12}" for n in found)


def _slab_row(row: dict[str, Any], name: str, peaks: bool) -> str:
    hit = row["hit"]
    first = visible(row["callsite"]) if name == "caller" else f"{row['ptr']:#x}"
    line = _SLAB_ROW % (first, row["bytes_alloc"], row["bytes_alloc"] // hit, row["bytes_req"], row["bytes_req"] // hit,
                        hit, row["pingpong"], row["frag_pct"])  # fmt: skip
    return line + (" |" + _PEAK % (row["live_alloc"], row["max_alloc"], row["max_waste"]) if peaks else "")


def _page(page: int) -> str:
    """A pfn, or a pointer where no pfn was recorded."""
    return str(page) if page < 1 << 52 else f"{page:#x}"
