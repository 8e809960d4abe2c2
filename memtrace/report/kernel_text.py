"""
A run's samples in the formats of /proc, byte for byte, so that people's scripts read them.

The ``*_line`` functions know the formats (MODEL 4.3 to 4.6, compared with real files in the tests) and no
tables; the functions named after a file take the sample from a run folder. What a kernel prints and the
model does not have (page cache statistics, NUMA counters, cpusets) is left out, as kernels built without
them leave it out; nothing is filled with zeros to look complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from ..errors import MetricsError
from .frames import RunFrames

SLABINFO_HEADER = (
    "slabinfo - version: 2.1\n"
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    " : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
)

SLABINFO_STATISTICS_HEADER = (
    SLABINFO_HEADER.replace("2.1\n", "2.1 (statistics)\n").rstrip("\n")
    + " : globalstat <listallocs> <maxobjs> <grown> <reaped> <error> <maxfreeable> <nodeallocs> <remotefrees>"
    " <alienoverflow> : cpustat <allochit> <allocmiss> <freehit> <freemiss>\n"
)
"""Of a SLAB kernel that counts (MODEL 7.10)."""
SLABINFO_COUNTERS = (
    "listallocs", "alloc_slab", "reaped", "nodeallocs", "remotefrees", "alienoverflow", "alloc_fastpath", "allocmiss",
    "free_fastpath", "freemiss",
)  # fmt: skip
"""Columns of ``cpu_caches`` that SLAB's statistics in /proc/slabinfo are sums of."""

PAGETYPE_COUNT_LIMIT = 100_000
"""pagetypeinfo stops counting a list here and prints ``>`` before it (MODEL 4.4)."""


def slabinfo_line(name: str, active_objs: int, num_objs: int, size: int, objperslab: int, pagesperslab: int,
                  tunables: Sequence[int], slabdata: Sequence[int]) -> str:
    """One cache of /proc/slabinfo; ``tunables`` and ``slabdata`` are three numbers each (MODEL 4.6)."""
    return (f"{name:<17s} {active_objs:6d} {num_objs:6d} {size:6d} {objperslab:4d} {pagesperslab:4d}"
            " : tunables {:4d} {:4d} {:4d}".format(*tunables) + " : slabdata {:6d} {:6d} {:6d}\n".format(*slabdata))


def slabinfo_statistics(counts: Mapping[str, int], maxobjs: int, maxfreeable: int) -> str:
    """What a counting SLAB kernel adds to a line of /proc/slabinfo; ``counts`` by SLABINFO_COUNTERS."""
    c = counts
    return (f" : globalstat {c['listallocs']:7d} {maxobjs:6d} {c['alloc_slab']:5d} {c['reaped']:4d} {0:4d} "
            f"{maxfreeable:4d} {c['nodeallocs']:4d} {c['remotefrees']:4d} {c['alienoverflow']:4d}"
            f" : cpustat {c['alloc_fastpath']:6d} {c['allocmiss']:6d} {c['free_fastpath']:6d} {c['freemiss']:6d}\n")


def buddyinfo_line(node: int, zone: str, counts: Iterable[int]) -> str:
    """One zone of /proc/buddyinfo; ``counts`` are free blocks by order (MODEL 4.3)."""
    return f"Node {node}, zone {zone:>8s} " + "".join(f"{count:6d} " for count in counts) + "\n"


def pagetypeinfo_header(pageblock_order: int, orders: int) -> str:
    """What stands before a node's first row in /proc/pagetypeinfo (MODEL 4.4)."""
    title = "Free pages count per migrate type at order"
    return (f"Page block order: {pageblock_order}\nPages per block:  {1 << pageblock_order}\n\n"
            f"{title:<43s} " + "".join(f"{order:6d} " for order in range(orders)) + "\n")


def pagetypeinfo_line(node: int, zone: str, migratetype: str, counts: Iterable[int]) -> str:
    """Free blocks of one zone and migratetype by order (MODEL 4.4)."""
    cells = (f">{PAGETYPE_COUNT_LIMIT:6d} " if count >= PAGETYPE_COUNT_LIMIT else f"{count:6d} " for count in counts)
    return f"Node {node:4d}, zone {zone:>8s}, type {migratetype:>12s} " + "".join(cells) + "\n"


def pagetypeinfo_blocks_header(migratetypes: Iterable[str]) -> str:
    """Title of the second part of /proc/pagetypeinfo, with the empty line before it."""
    title = "Number of blocks type"
    return f"\n{title:<23s}" + "".join(f"{name:>12s} " for name in migratetypes) + "\n"


def pagetypeinfo_blocks_line(node: int, zone: str, counts: Iterable[int]) -> str:
    """Pageblocks of one zone by migratetype."""
    return f"Node {node}, zone {zone:>8s} " + "".join(f"{count:12d} " for count in counts) + "\n"


def zoneinfo_zone(node: int, zone: str) -> str:
    """First line of a zone in /proc/zoneinfo."""
    return f"Node {node}, zone {zone:>8s}\n"


def zoneinfo_stat(name: str, value: int) -> str:
    """One ``nr_…`` line of a node or a zone in /proc/zoneinfo."""
    return f"      {name:<12s} {value}\n"


def zoneinfo_pages(name: str, value: int) -> str:
    """One line of a zone's page counts and watermarks; the first is named ``pages free``."""
    return f"  pages free     {value}\n" if name == "free" else f"        {name:<8s} {value}\n"


def zoneinfo_protection(reserves: Iterable[int]) -> str:
    """The zone's lowmem_reserve, one number a zone of the node."""
    return f"        protection: ({', '.join(str(pages) for pages in reserves)})\n"


def zoneinfo_cpu(cpu: int, count: int, high: int, batch: int, threshold: int) -> str:
    """One CPU's page list in /proc/zoneinfo, as 6.1 prints it."""
    return (f"    cpu: {cpu}\n              count: {count}\n              high:  {high}\n"
            f"              batch: {batch}\n  vm stats threshold: {threshold}\n")


def zoneinfo_end(node_unreclaimable: int, start_pfn: int) -> str:
    """Last lines of a zone in /proc/zoneinfo."""
    return f"  node_unreclaimable:  {node_unreclaimable}\n  start_pfn:           {start_pfn}\n"


def stat_threshold(managed_pages: int, cpus: int) -> int:
    """Pages by which a CPU's counters may drift before they are folded in (MODEL 2.8.6, checked there)."""
    units_of_128_mib = managed_pages >> 15
    return min(125, 2 * cpus.bit_length() * (1 + units_of_128_mib.bit_length()))


def slabinfo(run: RunFrames, t_ns: int) -> str:
    """/proc/slabinfo at the sample of time ``t_ns``: newest cache first, as the kernel's list runs."""
    rows = run.sample("caches", t_ns)
    slab = run.allocator == "slab"
    counters = run.sample("cpu_caches", t_ns).groupby("cache")[list(SLABINFO_COUNTERS)].sum() if slab else None
    lines = []
    for row in rows.iloc[::-1].itertuples():
        line = slabinfo_line(
            _word(row.cache), row.active_objs, row.num_objs, row.size, row.objperslab, row.pagesperslab,
            (row.limit, row.batchcount, row.sharedfactor), (row.active_slabs, row.num_slabs, row.sharedavail))
        if counters is not None:
            known = row.cache in counters.index
            counts = {name: int(counters[name][row.cache]) if known else 0 for name in SLABINFO_COUNTERS}
            line = line.rstrip("\n") + slabinfo_statistics(counts, row.maxobjs, row.maxfreeable)
        lines.append(line)
    return (SLABINFO_STATISTICS_HEADER if slab else SLABINFO_HEADER) + "".join(lines)


def buddyinfo(run: RunFrames, t_ns: int) -> str:
    """/proc/buddyinfo at the sample of time ``t_ns``."""
    counts = _free_blocks(run.sample("buddy", t_ns))
    return "".join(buddyinfo_line(node, zone, row) for (node, zone), row in counts.items())


def pagetypeinfo(run: RunFrames, t_ns: int) -> str:
    """/proc/pagetypeinfo at the sample of time ``t_ns``; the header comes once a node, as the kernel prints it."""
    free = run.sample("buddy", t_ns)
    blocks = run.sample("pageblock_types", t_ns)
    out = []
    for node in _in_order(free["node"]):
        of_node = free[free["node"] == node]
        orders = int(of_node["order"].max()) + 1
        out.append(pagetypeinfo_header(run.pageblock_order, orders))
        for (zone, migratetype), rows in of_node.groupby(["zone", "migratetype"], sort=False):
            counts = rows.set_index("order")["nr_free"].reindex(range(orders), fill_value=0)
            out.append(pagetypeinfo_line(int(node), str(zone), str(migratetype), counts.tolist()))
        names = _in_order(of_node["migratetype"])
        out.append(pagetypeinfo_blocks_header(names))
        for zone, rows in blocks[blocks["node"] == node].groupby("zone", sort=False):
            counts = rows.set_index("migratetype")["nr_blocks"].reindex(names, fill_value=0)
            out.append(pagetypeinfo_blocks_line(int(node), str(zone), counts.tolist()))
    return "".join(out)


def zoneinfo(run: RunFrames, t_ns: int) -> str:
    """/proc/zoneinfo at the sample of time ``t_ns``, as far as the model has its numbers."""
    zones = run.sample("zones", t_ns)
    pcp = run.sample("pcp", t_ns)
    reserves = run.lowmem_reserve()
    out = []
    for zone in zones.itertuples():
        out.append(zoneinfo_zone(zone.node, zone.zone))
        out.append(zoneinfo_pages("free", zone.free_pages))
        out += [zoneinfo_pages(name, getattr(zone, name))
                for name in ("boost", "min", "low", "high", "spanned", "present", "managed")]
        out.append(zoneinfo_pages("cma", 0))
        if reserves.get((zone.node, zone.zone)):
            out.append(zoneinfo_protection(reserves[zone.node, zone.zone]))
        out.append(zoneinfo_stat("nr_free_pages", zone.free_pages))
        out.append("  pagesets\n")
        lists = pcp[(pcp["node"] == zone.node) & (pcp["zone"] == zone.zone)]
        threshold = stat_threshold(zone.managed, run.cpus)
        out += [zoneinfo_cpu(row.cpu, row.count, row.high, row.batch, threshold)
                for row in lists.sort_values("cpu").itertuples(index=False)]
        out.append(zoneinfo_end(0, zone.start_pfn))
    return "".join(out)


FILES: dict[str, Callable[[RunFrames, int], str]] = {
    "slabinfo": slabinfo,
    "buddyinfo": buddyinfo,
    "pagetypeinfo": pagetypeinfo,
    "zoneinfo": zoneinfo,
}
"""Every file that ``memtrace show`` can print."""


def render(run: RunFrames, name: str, at_ns: int | None) -> tuple[int, str]:
    """
    One file at the last sample at or before ``at_ns`` (None: at the end).

    Returns
    -------
    The time of that sample in ns, and the text.

    Raises
    ------
    MetricsError
        When the run has no sample that early, or none at all.
    """
    times = run.sample_times("zones")
    if not len(times):
        raise MetricsError(f"{run.path}: no samples in zones.parquet; expected at least the one at the end of "
                           "the trace. Replay the trace again.")
    if at_ns is not None and at_ns < times[0]:
        raise MetricsError(f"{run.path}: no sample at or before {at_ns} ns; expected --at of at least {times[0]} ns, "
                           "the first sample. Replay with a shorter --sample to see earlier times.")
    t_ns = int(times[-1] if at_ns is None else times[times <= at_ns][-1])
    return t_ns, FILES[name](run, t_ns)


def _word(name: str) -> str:
    """A cache name that cannot be taken for anything but one field of one line, whatever the trace holds."""
    return "".join(char if char.isprintable() and not char.isspace() else "?" for char in name) or "?"


def _in_order(column: pd.Series) -> list:
    """Distinct values in order of first appearance."""
    return list(dict.fromkeys(column.tolist()))


def _free_blocks(rows: pd.DataFrame) -> dict[tuple[int, str], list[int]]:
    """Free blocks by order of each (node, zone), all migratetypes; zones in the order of the table."""
    orders = int(rows["order"].max()) + 1 if len(rows) else 0
    return {
        (int(node), str(zone)): part.groupby("order")["nr_free"].sum().reindex(range(orders), fill_value=0).tolist()
        for (node, zone), part in rows.groupby(["node", "zone"], sort=False)
    }
