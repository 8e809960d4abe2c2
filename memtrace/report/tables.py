"""The report's tables and lists, as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..units import PAGE_SIZE, format_size, format_time
from . import style
from .frames import RunFrames, df_caches_at_peak, df_waste, share

CACHES = 30
CALL_SITES = 30
NAME_WIDTH = 64


def esc(text: object) -> str:
    """Text for any place in HTML, attributes too; what cannot be seen spelled out."""
    return html.escape(style.visible(text), quote=True)


def name(text: object) -> str:
    """A name from the trace: shortened in the middle, whole (up to 500 characters) when pointed at."""
    shown = style.shorten(style.visible(style.shorten(text, 4 * NAME_WIDTH)), NAME_WIDTH)
    whole = style.visible(style.shorten(text, 500))
    title = f' title="{esc(whole)}"' if whole != shown else ""
    return f"<bdi{title}>{esc(shown)}</bdi>"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], names: Sequence[int] = (),
          words: Sequence[int] = ()) -> str:
    """
    An HTML table.

    Parameters
    ----------
    heads
        Column titles.
    rows
        Cells; numbers are given thousands separators, text is escaped.
    names
        Columns that hold names from the trace.
    words
        Columns that hold other text. All the others are numbers.
    """
    kinds = ["name" if i in names else "words" if i in words else "n" for i in range(len(heads))]
    top = "".join(f'<th{_class("n" if kind == "n" else "")} scope="col">{esc(head)}</th>'
                  for kind, head in zip(kinds, heads, strict=True))
    body = "".join("<tr>" + "".join(
        f"<td{_class(_width(cell) if kind == 'name' else kind)}>{name(cell) if kind == 'name' else _cell(cell)}</td>"
        for kind, cell in zip(kinds, row, strict=True)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _width(cell: object) -> str:
    """Short names stay on one line, long ones may break anywhere."""
    return "name" if len(style.visible(style.shorten(cell, NAME_WIDTH))) <= 34 else "name long"


def _cell(cell: object) -> str:
    if isinstance(cell, Mark):
        return f'<span class="mark">{esc(cell)}</span>'
    if isinstance(cell, str):
        return esc(cell) if cell else ""
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.4g}" if isinstance(cell, float) else esc(cell)


class Mark(str):
    """Text that warns."""


def _under(text: str) -> str:
    return f'<p class="under">{esc(text)}</p>'


def caches(run: RunFrames) -> str:
    """The caches with most memory at the sample where all slabs together were largest."""
    peak = df_caches_at_peak(run)
    known = len(peak)
    peak = peak[peak["slab_bytes"] > 0]
    if peak.empty:
        return _under("No cache held a slab.")
    rows = []
    for row in peak.head(CACHES).itertuples(index=False):
        unused = share(row.waste_bytes, row.slab_bytes)
        rows.append((str(row.cache), format_size(row.slab_bytes), row.num_slabs, row.active_objs, row.num_objs,
                     row.size, row.pagesperslab, row.nr_partial, f"{unused:.1f} %"))
    left = len(peak) - len(rows)
    return table(("cache", "slab memory", "slabs", "active objects", "objects", "object size, B", "pages a slab",
                  "partial slabs", "waste"), rows, names=(0,)) + _under(
        f"At {format_time(int(peak['t_ns'].iloc[0]))}, the sample with most slab memory, largest first"
        + (f"; {left} with less are left out" if left else "")
        + (f"; {known - len(peak)} caches had no slab then" if known > len(peak) else "")
        + ". Active objects are counted as /proc/slabinfo counts them: those in CPU slabs and CPU partial slabs are "
        "active even when they are free. Waste is the share of the slab pages that nobody asked for: free objects on "
        "partial lists, what is left over in each slab, and rounding, as much for an object as the traced ones of "
        "its cache had.")


def callsites(run: RunFrames) -> str:
    """Call sites whose requests were rounded up most."""
    waste = df_waste(run)
    if waste.empty:
        return _under("No allocation was replayed.")
    rows = [(str(row.call_site), str(row.cache), format_size(row.waste_bytes),
             f"{share(row.waste_bytes, row.bytes_allocated):.1f} %", row.allocs, format_size(row.bytes_requested),
             format_size(row.live_bytes), format_size(row.peak_bytes), row.pingpong)
            for row in waste.head(CALL_SITES).itertuples(index=False)]
    left = len(waste) - len(rows)
    return table(("call site", "cache", "waste", "of allocated", "allocs", "requested", "live at the end", "peak",
                  "freed on another CPU"), rows, names=(0, 1)) + _under(
        "Waste is allocated minus requested bytes, summed over all allocations of the run, not what is held at one "
        "moment" + (f". {left:,} call sites with less waste are left out." if left else "."))


def counts(run: RunFrames) -> str:
    """Everything counted by cause, those that never happened left out."""
    rows = [(cause, n, run.cause_meaning(cause)) for cause, n in run.counts.items() if n]
    if not rows:
        return _under("Every row of the trace was used as it stands.")
    rows.sort(key=lambda row: (-row[1], row[0]))
    return table(("cause", "count", "what it means"), rows, names=(0,), words=(2,))


def notes(run: RunFrames) -> str:
    """Sentences about what this trace and this starting state cannot tell."""
    said = [str(note) for note in run.manifest.get("notes", [])]
    return "<ul>" + "".join(f"<li>{esc(note)}</li>" for note in said) + "</ul>" if said else ""


def costs(run: RunFrames) -> str:
    """The prices that simulated times are made of, with their sources."""
    rows = [(str(cost.get("name", "")), float(cost.get("fixed_ns", 0)), float(cost.get("per_ns", 0)),
             Mark("assumed") if cost.get("assumed", True) else "", str(cost.get("source", "")))
            for cost in run.manifest.get("costs", [])]
    if not rows:
        return ""
    return table(("work", "ns", "ns for each", "basis", "source"), rows, names=(0,), words=(3, 4)) + _under(
        "Simulated times are sums of these and of waiting for locks. They compare runs with one another; they are not "
        "measurements of your machine. Decisions (which slab, which page) do not depend on them.")


def what_ran(run: RunFrames) -> str:
    """What was replayed, on what, starting from what."""
    facts = "".join(f"<dt>{esc(what)}</dt><dd>{esc(value)}</dd>" for what, value in _facts(run) if value)
    return f'<dl class="facts">{facts}</dl>'


def _facts(run: RunFrames) -> list[tuple[str, str]]:
    manifest, config, machine = run.manifest, run.config, run.machine
    trace = manifest.get("trace", {})
    zones = machine.get("zones", [])
    pages = sum(int(zone.get("managed", 0)) for zone in zones)
    nodes = len({zone.get("node") for zone in zones})
    kernel, allocator = config.get("kernel", {}), str(config.get("allocator", "?")).upper()
    memory = f"{_count(nodes, 'node')}, {format_size(pages * PAGE_SIZE)} managed" if zones else ""
    how = ("compiled" if manifest["compiled"] else "interpreted") if "compiled" in manifest else ""
    return [
        ("Trace", _joined(Path(str(trace.get("path", ""))).name, f"{run.trace_rows:,} rows" if run.trace_rows else "",
                          format_time(run.end_ns) + " of simulated time")),
        ("Machine", _joined(str(machine.get("name", "")), _count(run.cpus, "CPU"), memory,
                            f"described by: {machine['source']}" if machine.get("source") else "")),
        ("Kernel", _joined(f"Linux {kernel.get('name', '?')}", f"{allocator} allocator")),
        ("Replay", _joined(f"{config.get('engine', '?')} engine", how, f"{config.get('timing', '?')} timing",
                           f"{len(run.sample_times('zones')):,} samples")),
        ("Starting state", run.start_text[:1].upper() + run.start_text[1:]),
    ]


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def footer(run: RunFrames) -> str:
    """How this page came about."""
    versions: dict[str, Any] = run.manifest.get("versions", {})
    command = run.manifest.get("command", "")
    line = " ".join(str(word) for word in command) if isinstance(command, list) else str(command)
    digest = run.manifest.get("trace", {}).get("digest", "")
    said = [f"memtrace {versions['memtrace']}" if versions.get("memtrace") else "memtrace",
            f"command: {style.shorten(line, 400)}" if line else "", f"trace digest {digest}" if digest else "",
            "tables: metrics/*.parquet, figures: figures/*.svg"]
    return esc(" · ".join(part for part in said if part))
